--- JSON: text to values and back. The work is done by a library of ours in C (src/json, with
-- RapidJSON inside), loaded with the first text or value; where it is not, lua-cjson decodes,
-- and the encoder below encodes. Nothing is written that is not JSON (NaN, a string that is
-- not UTF-8), and always on one line.
--
-- What is decoded can be written again as it came: [] stays a list and {} an object (by their
-- metatables: __jsontype, __jsonorder), keys keep their order (new ones follow, sorted), -0
-- its sign, integers above 2^53 all their digits (see exact_ffi.lua), null is `json.null`, the
-- light userdata NULL. Of a number that has a point or an exponent the value is kept, not the
-- writing: 1.0 becomes 1, 1e2 100. Of a key that comes twice the last value counts.
--
-- What a script makes has its keys sorted, so that the same results give the same bytes.

local library_files = require "tokenbatcher.base.library"
local numbers = require "tokenbatcher.base.number_text"
local utf8 = require "tokenbatcher.base.utf8"

local find, gsub = string.find, string.gsub

local M = {}

local MAX_DEPTH = 1000

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n",
  ["\r"] = "\\r", ["\t"] = "\\t" }
for code = 0, 31 do
  local char = string.char(code)
  ESCAPES[char] = ESCAPES[char] or ("\\u%04x"):format(code)
end

local LIBRARY, MAIN_LIBRARY, OPEN = "libtokenbatcher_json.so", "libtokenbatcher.so", "luaopen_tokenbatcher_json"
local VERSION = 1
local LOST = "JSON is decoded by lua-cjson: integers above 2^53 are rounded, empty lists become objects, keys lose "
  .. "their order, and some that is no JSON is taken (1., 1e999, control characters in strings)"

-- The metatable of lists; a script may give it to its own: [] and not {} where they are empty.
local list_mark = { __jsontype = "array" }

local decode, encode -- once something is loaded
local null, lost

-- --- what does the work -------------------------------------------------------

-- The library as a module; nil and the paths tried.
local function open_library()
  local linked = package.preload["tokenbatcher.json"] -- the executable
  if linked then return linked() end
  local tried = {}
  for _, path in ipairs(library_files.candidates(LIBRARY, MAIN_LIBRARY)) do
    local open, message = package.loadlib(path, OPEN)
    local library = open and open()
    if library and library.version == VERSION then return library end
    tried[#tried + 1] = "\n  " .. path .. ": " .. (library and "of another version" or tostring(message))
  end
  return nil, table.concat(tried)
end

local function load_library()
  local library, tried = open_library()
  if not library then return nil, tried end
  local exact = require "tokenbatcher.base.exact_ffi"
  decode, encode = library.new(list_mark, exact.new, exact.text)
  null = library.null
  utf8.use(library.utf8_error)
  return true
end

local function cjson_decoder(cjson)
  local own = cjson.new()
  own.decode_invalid_numbers(false)
  if own.decode_array_with_array_mt then -- OpenResty's
    own.decode_array_with_array_mt(true)
    cjson.array_mt.__jsontype = list_mark.__jsontype
  end
  return function(text)
    local at = utf8.first_error(text)
    if at then return nil, ("invalid UTF-8 (byte %d)"):format(at) end
    local ok, value = pcall(own.decode, text)
    if ok then return value end
    return nil, value
  end
end

local function load_codec()
  local ok, tried = load_library()
  if ok then return end
  encode = M.encode_in_lua
  local found, cjson = pcall(require, "cjson")
  if found then
    decode, null, lost = cjson_decoder(cjson), cjson.null, LOST
    return
  end
  decode = function()
    error("tokenbatcher: JSON is decoded by " .. LIBRARY .. " or by lua-cjson, and neither is there; tried:"
      .. tried, 0)
  end
end

--- @return any value (json.null for null), or nil and a message with the byte where it is
-- wrong. Raises where neither library is.
function M.decode(text)
  if not decode then load_codec() end
  return decode(text)
end

--- @return string, or nil and a message. An empty table is {}, unless it is marked as a list.
function M.encode(value)
  if not encode then load_codec() end
  return encode(value)
end

--- Mark a table as a list: [] where it is empty. @return the table
function M.list(items)
  return setmetatable(items, list_mark)
end

--- What is not kept as it came, because a library is missing: a sentence, or nil.
function M.lost()
  if not decode then load_codec() end
  return lost
end

local function has_break(text)
  return find(text, "\n", 1, true) or find(text, "\r", 1, true)
end

--- A text as one line: JSON that is written over several lines without them, any other text
-- with a line break in it as a JSON string. One line break at its end is not counted.
function M.one_line(text)
  if not has_break(text) then return text end
  text = gsub(text, "\r?\n$", "")
  if not has_break(text) then return text end
  local value = M.decode(text)
  local line = value ~= nil and M.encode(value)
  return line or M.quote(text)
end

setmetatable(M, { __index = function(self, name)
  if name ~= "null" then return nil end
  if not decode then load_codec() end
  self.null = null
  return null
end })

-- --- the encoder without a library --------------------------------------------

-- Raised inside encode() only.
local function complain(message)
  error { message = message }
end

local function quoted(value)
  if find(value, '[%c"\\]') then value = gsub(value, '[%z\1-\31"\\]', ESCAPES) end
  return '"' .. value .. '"'
end

local function string_text(value)
  local at = utf8.first_error(value)
  if at then complain(("a string that is not UTF-8 (byte %d) has no JSON form"):format(at)) end
  return quoted(value)
end

--- A text for people as a JSON string, whatever bytes are in it.
function M.quote(text)
  return quoted(utf8.clean(text))
end

local function number_text(value)
  if value ~= value or value == math.huge or value == -math.huge then
    complain("the number " .. tostring(value) .. " has no JSON form")
  end
  return value == 0 and 1 / value < 0 and "-0" or numbers.shortest(value)
end

-- The length of a table that is a list (keys 1 to n), or nil.
local function list_length(value)
  local n = #value
  if n == 0 then return nil end
  local keys = 0
  for _ in pairs(value) do keys = keys + 1 end
  if keys ~= n then return nil end
  for i = 1, n do
    if value[i] == nil then return nil end
  end
  return n
end

local function add_key(keys, key)
  local text = tostring(key)
  if type(key) ~= "string" and type(key) ~= "number" then
    complain("a table with a " .. type(key) .. " as a key has no JSON form")
  end
  if keys.seen[text] then complain(("a table with the keys %s and \"%s\" has no JSON form"):format(text, text)) end
  keys.seen[text] = true
  keys[#keys + 1] = key
end

local function is_before(a, b)
  if type(a) == type(b) then return a < b end
  return type(a) == "number"
end

-- Those of the table's order, if it has one, then the others: numbers, in their order, then
-- strings. As texts they must be different.
local function keys_of(value)
  local keys, rest = { seen = {} }, { seen = {} }
  local mark = getmetatable(value)
  local order = type(mark) == "table" and rawget(mark, "__jsonorder")
  for _, key in ipairs(type(order) == "table" and order or {}) do
    if type(key) == "string" and rawget(value, key) ~= nil and not keys.seen[key] then add_key(keys, key) end
  end
  rest.seen = setmetatable({}, { __index = keys.seen })
  for key in next, value do
    if type(key) ~= "string" or not keys.seen[key] then add_key(rest, key) end
  end
  table.sort(rest, is_before)
  for _, key in ipairs(rest) do keys[#keys + 1] = key end
  return keys
end

local append

local function append_list(out, value, n, depth)
  out[#out + 1] = "["
  for i = 1, n do
    if i > 1 then out[#out + 1] = "," end
    append(out, value[i], depth + 1)
  end
  out[#out + 1] = "]"
end

local function append_object(out, value, depth)
  local mark = getmetatable(value)
  if next(value) == nil and type(mark) == "table" and rawget(mark, "__jsontype") == "array" then
    out[#out + 1] = "[]"
    return
  end
  out[#out + 1] = "{"
  for i, key in ipairs(keys_of(value)) do
    if i > 1 then out[#out + 1] = "," end
    out[#out + 1] = string_text(tostring(key))
    out[#out + 1] = ":"
    append(out, value[key], depth + 1)
  end
  out[#out + 1] = "}"
end

local function cdata_text(value)
  return require("tokenbatcher.base.exact_ffi").text(value) or complain "a cdata has no JSON form"
end

function append(out, value, depth)
  local kind = type(value)
  if kind == "number" then
    out[#out + 1] = number_text(value)
  elseif kind == "string" then
    out[#out + 1] = string_text(value)
  elseif kind == "table" then
    if depth > MAX_DEPTH then complain "a value nested too deeply, or containing itself, has no JSON form" end
    local n = list_length(value)
    if n then append_list(out, value, n, depth) else append_object(out, value, depth) end
  elseif kind == "boolean" then
    out[#out + 1] = tostring(value)
  elseif value == nil or kind == "userdata" and tostring(value) == "userdata: NULL" then -- cjson.null, ngx.null
    out[#out + 1] = "null"
  elseif kind == "cdata" then
    out[#out + 1] = cdata_text(value)
  else
    complain("a " .. kind .. " has no JSON form")
  end
end

--- The same as encode(), without a library.
function M.encode_in_lua(value)
  local out = {}
  local ok, err = pcall(append, out, value, 1)
  if ok then return table.concat(out) end
  return nil, type(err) == "table" and err.message or tostring(err)
end

return M
