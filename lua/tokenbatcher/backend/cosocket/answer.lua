--- Reads an answer of HTTP/1.1 or 1.0 from a cosocket: its head and its body are bounded in bytes, and all of it in
-- time. A body that is gzip, although nobody asks for it, is unpacked, within the same bound.
--
-- Whatever is wrong is a code (http_timeout, http_broken, http_too_large) and a sentence that quotes nothing.

local clock = require "tokenbatcher.runtime.clock"
local gzip = require "tokenbatcher.base.gzip_ffi"
local head = require "tokenbatcher.backend.http.head"

local ngx = rawget(_G, "ngx")

local M = {}
local Reader = {}
Reader.__index = Reader

local PIECE = 65536 -- bytes asked for at once
local HEAD_BYTES = 65536 -- of each head, and of all trailers
local LINE_BYTES = 1024 -- of a chunk's size and what may follow it
local INTERIM = 16 -- answers of status 1xx

--- @param socket table  connected  @param until_us number  on the clock
function M.reader(socket, until_us)
  return setmetatable({ socket = socket, until_us = until_us, kept = "", has_begun = false }, Reader)
end

--- Milliseconds until a time, for a cosocket's timeouts; nil: it has come.
function M.left_ms(until_us)
  local left_us = until_us - clock.now_us()
  return left_us > 0 and math.ceil(left_us / 1000) or nil
end

local TIMEOUT = "no answer in time"

-- What there is. @return string, or nil, "closed" or another reason of the socket's
local function receive(self)
  local left_ms = M.left_ms(self.until_us)
  if not left_ms then return nil, "timeout" end
  self.socket:settimeout(left_ms)
  local data, err = self.socket:receiveany(PIECE)
  if data then self.has_begun = true end
  return data, err
end

-- What a reason of the socket's means where the answer is not complete.
local function failed(self, err)
  if err == "timeout" then return nil, "http_timeout", TIMEOUT end
  self.is_closed = true
  return nil, "http_broken", self.has_begun and "the connection ended before the answer did"
    or "the connection ended before an answer came"
end

-- More into `kept`. @return true, or nil, code, message
local function fill(self)
  local data, err = receive(self)
  if not data then return failed(self, err) end
  self.kept = self.kept == "" and data or self.kept .. data
  return true
end

-- --- the head ---------------------------------------------------------------------------------

-- Up to an empty line. @return string
local function read_head(self)
  local from = 1
  while true do
    local _, last = self.kept:find("\n\r?\n", from)
    if last and last <= HEAD_BYTES then
      local text = self.kept:sub(1, last)
      self.kept = self.kept:sub(last + 1)
      return text
    end
    if #self.kept > HEAD_BYTES then
      return nil, "http_too_large", ("the headers of the answer are larger than %d KiB"):format(HEAD_BYTES / 1024)
    end
    from = math.max(1, #self.kept - 2)
    local ok, code, message = fill(self)
    if not ok then return nil, code, message end
  end
end

-- @return status, headers, minor version
local function parse_head(text)
  local minor, status, at = text:match "^HTTP/1%.(%d) (%d%d%d)[^\n]*\n()"
  if not status then return nil, "http_broken", "what came is no answer of HTTP/1" end
  return tonumber(status), head.parse(text:sub(at)), tonumber(minor)
end

-- The head of the answer, behind those that announce it.
local function final_head(self)
  for _ = 1, INTERIM do
    local text, code, message = read_head(self)
    if not text then return nil, code, message end
    local status, headers, minor = parse_head(text)
    if not status then return nil, headers, minor end
    if status == 101 then return nil, "http_broken", "the answer is of another protocol" end
    if status >= 200 then return status, headers, minor end
  end
  return nil, "http_broken", ("more than %d answers that are none yet"):format(INTERIM)
end

-- --- bodies -----------------------------------------------------------------------------------

local function too_large(most)
  return nil, "http_too_large", ("the answer is larger than %.14g bytes"):format(most)
end

-- n bytes into parts.
local function take(self, n, parts)
  while n > 0 do
    if self.kept == "" then
      local ok, code, message = fill(self)
      if not ok then return nil, code, message end
    end
    local part = self.kept
    if #part > n then
      part, self.kept = part:sub(1, n), part:sub(n + 1)
    else
      self.kept = ""
    end
    parts[#parts + 1], n = part, n - #part
  end
  return true
end

local function by_length(self, length, most)
  if length > most then return too_large(most) end
  local parts = {}
  local ok, code, message = take(self, length, parts)
  if not ok then return nil, code, message end
  return table.concat(parts)
end

local function to_the_end(self, most)
  local parts, size = { self.kept }, #self.kept
  self.kept = ""
  while size <= most do
    local data, err = receive(self)
    if not data then
      if err ~= "closed" then return failed(self, err) end
      return table.concat(parts)
    end
    parts[#parts + 1], size = data, size + #data
  end
  return too_large(most)
end

-- A line without its end. @return string
local function read_line(self)
  while true do
    local line, rest = self.kept:match "^([^\n]*)\n()"
    if line then
      self.kept = self.kept:sub(rest)
      return (line:gsub("\r$", ""))
    end
    if #self.kept > LINE_BYTES then return nil, "http_broken", "a chunk of the answer has no size" end
    local ok, code, message = fill(self)
    if not ok then return nil, code, message end
  end
end

local function chunk_size(self)
  local line, code, message = read_line(self)
  if not line then return nil, code, message end
  local digits = line:match "^(%x+)%s*$" or line:match "^(%x+)%s*;"
  if not digits or #digits > 12 then return nil, "http_broken", "a chunk of the answer has no size" end
  return tonumber(digits, 16)
end

local function skip_trailers(self)
  local size = 0
  repeat
    local line, code, message = read_line(self)
    if not line then return nil, code, message end
    size = size + #line
    if size > HEAD_BYTES then return nil, "http_too_large", "the answer's trailers are too large" end
  until line == ""
  return true
end

-- The bytes of a chunk, and the line's end behind them.
local function take_chunk(self, size, parts)
  local is_done, code, message = take(self, size, parts)
  if not is_done then return nil, code, message end
  local line
  line, code, message = read_line(self)
  if line == "" then return true end
  return nil, code or "http_broken", message or "a chunk of the answer is longer than its size"
end

local function by_chunks(self, most)
  local parts, sum = {}, 0
  while true do
    local size, code, message = chunk_size(self)
    if not size then return nil, code, message end
    if size == 0 then break end
    sum = sum + size
    if sum > most then return too_large(most) end
    local is_done
    is_done, code, message = take_chunk(self, size, parts)
    if not is_done then return nil, code, message end
  end
  local is_done, code, message = skip_trailers(self)
  if not is_done then return nil, code, message end
  return table.concat(parts)
end

local LENGTH_IS_WRONG = "the answer's Content-Length is no number"

-- "5", or "5, 5" where the header came twice. @return number or nil; false: it makes no sense
local function length_of(headers)
  local text = headers["content-length"]
  if not text then return nil end
  local length
  for each in (text .. ","):gmatch "%s*([^,]*),"  do
    local digits = each:match "^(%d+)%s*$"
    if not digits or length and tonumber(digits) ~= length then return false end
    length = tonumber(digits)
  end
  return length
end

-- @return body, does the connection go on
local function read_body(self, headers, most)
  local coding, length = headers["transfer-encoding"], length_of(headers)
  if coding then
    if coding:lower() ~= "chunked" then return nil, "http_broken", "the answer's Transfer-Encoding is unknown" end
    local body, code, message = by_chunks(self, most)
    if not body then return nil, code, message end
    return body, length == nil
  end
  if length == false then return nil, "http_broken", LENGTH_IS_WRONG end
  if length then
    local body, code, message = by_length(self, length, most)
    if not body then return nil, code, message end
    return body, true
  end
  local body, code, message = to_the_end(self, most)
  if not body then return nil, code, message end
  return body, false
end

local COMPRESSED = "the answer is compressed, which was not asked for"

-- @return string; or nil, code, message
local function unpacked(body, most)
  local inflater = gzip.new()
  if not inflater then return nil, "http_broken", COMPRESSED .. ", and zlib is not there" end
  inflater:feed(body)
  local parts, size = {}, 0
  repeat
    local part = inflater:read()
    if not part then return nil, "http_broken", "the answer is gzip that is corrupt" end
    parts[#parts + 1], size = part, size + #part
    if size > most then return too_large(most) end
  until part == ""
  if not inflater:is_whole() then return nil, "http_broken", "the answer is gzip that ends early" end
  return table.concat(parts)
end

local function wants_to_close(headers, minor)
  local connection = (headers.connection or ""):lower()
  if connection:find("close", 1, true) then return true end
  return minor == 0 and not connection:find("keep-alive", 1, true)
end

--- Read an answer.
-- @param method string  of the request  @param most number  bytes of the body
-- @return response {status, headers (by lower-case name), body}, may the connection be used again; or nil, code and
-- message
function Reader:read(method, most)
  local status, headers, minor = final_head(self)
  if not status then return nil, headers, minor end
  local coding = (headers["content-encoding"] or "identity"):lower()
  local is_packed = coding == "gzip" or coding == "x-gzip"
  if not is_packed and coding ~= "identity" then return nil, "http_broken", COMPRESSED end
  local body, goes_on, message
  if method == "HEAD" or status == 204 or status == 304 then
    body, goes_on = "", true
  else
    body, goes_on, message = read_body(self, headers, most)
  end
  if body and is_packed and body ~= "" then
    local code
    body, code, message = unpacked(body, most)
    goes_on = body and goes_on or code
    headers["content-encoding"] = nil
  end
  if not body then return nil, goes_on, message end
  if headers["retry-after"] and not headers.date then headers.date = ngx.http_time(ngx.time()) end -- as RFC 9110 has it
  return { status = status, headers = headers, body = body },
    goes_on and self.kept == "" and not wants_to_close(headers, minor)
end

return M
