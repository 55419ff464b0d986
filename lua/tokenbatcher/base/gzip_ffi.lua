--- What is compressed (gzip), through zlib, which is loaded when the first comes.

local ffi = require "ffi"

local M = {}
local Inflater = {}
Inflater.__index = Inflater

local NAMES = { "libz.so.1", "z" }
local OUTPUT_SIZE = 65536
local WINDOW = 15 + 16 -- the largest; 16: of gzip, and nothing else
local Z_OK, Z_STREAM_END, Z_BUF_ERROR = 0, 1, -5

local zlib, z_stream

-- zlib's first version and the size of the struct are compared when a stream is begun.
local function load_zlib()
  local problem
  for _, name in ipairs(NAMES) do
    local ok, lib = pcall(ffi.load, name)
    if ok then
      zlib = lib
      break
    end
    problem = problem or lib
  end
  if not zlib then return nil, "it is compressed (gzip), and zlib is not there: " .. tostring(problem) end
  ffi.cdef [[
  typedef struct tb_z_stream {
    const uint8_t *next_in; unsigned avail_in; unsigned long total_in;
    uint8_t *next_out; unsigned avail_out; unsigned long total_out;
    const char *msg; void *state, *zalloc, *zfree, *opaque;
    int data_type; unsigned long adler, reserved;
  } tb_z_stream;
  int inflateInit2_(tb_z_stream *stream, int window_bits, const char *version, int stream_size);
  int inflate(tb_z_stream *stream, int flush);
  int inflateReset(tb_z_stream *stream);
  int inflateEnd(tb_z_stream *stream);
  ]]
  z_stream = ffi.typeof "tb_z_stream"
  return true
end

--- Do these bytes begin a gzip file? nil: too few to tell.
function M.begins(bytes)
  if bytes == "\31" then return nil end
  return bytes:sub(1, 2) == "\31\139"
end

--- @return inflater, or nil and a message
function M.new()
  if not zlib then
    local ok, message = load_zlib()
    if not ok then return nil, message end
  end
  local stream = z_stream()
  if zlib.inflateInit2_(stream, WINDOW, "1", ffi.sizeof(z_stream)) ~= Z_OK then
    return nil, "zlib cannot begin: another version, or no memory"
  end
  return setmetatable({
    stream = ffi.gc(stream, zlib.inflateEnd), output = ffi.new("uint8_t[?]", OUTPUT_SIZE), input = "",
    is_between = false, -- a member is over; another may follow, or zeros as padding
  }, Inflater)
end

--- Bytes of the file. All that was given before must have been read.
function Inflater:feed(bytes)
  self.input = bytes -- kept alive while zlib reads in it
  self.stream.next_in, self.stream.avail_in = bytes, #bytes
end

local function begin_member(self)
  local stream = self.stream
  while stream.avail_in > 0 and stream.next_in[0] == 0 do
    stream.next_in, stream.avail_in = stream.next_in + 1, stream.avail_in - 1
  end
  if stream.avail_in == 0 then return end
  zlib.inflateReset(stream)
  self.is_between = false
end

--- The next bytes of what was compressed; "": feed it more; or nil and a message.
function Inflater:read()
  local stream = self.stream
  while true do
    if self.is_between then begin_member(self) end
    if self.is_between then return "" end
    stream.next_out, stream.avail_out = self.output, OUTPUT_SIZE
    local result = zlib.inflate(stream, 0)
    local size = OUTPUT_SIZE - stream.avail_out
    if result == Z_STREAM_END then
      self.is_between = true
    elseif result ~= Z_OK and result ~= Z_BUF_ERROR then
      return nil, "corrupt gzip data" .. (stream.msg ~= nil and ": " .. ffi.string(stream.msg) or "")
    end
    if size > 0 then return ffi.string(self.output, size) end
    if result ~= Z_STREAM_END then return "" end
  end
end

--- May the file end here?
function Inflater:is_whole()
  return self.is_between
end

return M
