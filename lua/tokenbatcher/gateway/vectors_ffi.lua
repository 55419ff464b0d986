--- The FFI of src/vectors: where each input's value is in the text of an answer (include/tokenbatcher_vectors.h).

local ffi = require "ffi"
local tbffi = require "tokenbatcher.core.ffi"

local lib = tbffi.lib
ffi.cdef "const char *tb_vectors_cdef(void);"
if not pcall(ffi.typeof, "tb_vectors_span") then ffi.cdef(ffi.string(lib.tb_vectors_cdef())) end

local M = { lib = lib }

local spans, n_spans = nil, 0
local buffer, n_buffer = nil, 0
local answer = ffi.new "tb_vectors_answer"

--- What tb_vectors_cut() is to look for. @param list string|nil  @param value string|nil  @param index string|nil
function M.shape(list, value, index, is_of_vectors)
  local shape = ffi.new "tb_vectors_shape"
  shape.list, shape.value, shape.index, shape.is_of_vectors = list, value, index, is_of_vectors and 1 or 0
  return { c = shape, list, value, index } -- the strings stay referenced
end

--- @return spans (valid until the next call), answer; or nil, the problem and answer
function M.cut(text, shape, n)
  if n > n_spans then spans, n_spans = ffi.new("tb_vectors_span[?]", n), n end
  local problem = lib.tb_vectors_cut(text, #text, shape.c, spans, n, answer)
  if problem == 0 then return spans, answer end
  return nil, problem, answer
end

--- One of the two conversions. @return string, or nil and the problem
function M.convert(fn, text)
  local room = lib.TB_VECTORS_ROOM * (#text + 1)
  if room > n_buffer then buffer, n_buffer = ffi.new("char[?]", room), room end
  local size = tonumber(fn(text, #text, buffer, room))
  if size < 0 then return nil, size end
  return ffi.string(buffer, size)
end

function M.sentence(problem)
  return ffi.string(lib.tb_vectors_sentence(problem))
end

return M
