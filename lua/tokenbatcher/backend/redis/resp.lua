--- Reads Redis's protocol (RESP2) from a cosocket: replies as values, as connection.lua has them; an error is
-- {err = text}.

local M = {}
local Reader = {}
Reader.__index = Reader

local PIECE = 65536 -- bytes asked for at once
local LINE_BYTES = 65536 -- of a status, an error, a number
local TEXT_BYTES = 536870912 -- of a string: Redis has no longer ones
local DEPTH = 8 -- of arrays in arrays

local BROKEN = "what came is not Redis's protocol (RESP2)"

--- @param socket table  connected
-- @param silence_s number  its timeout for reading: Redis owes the replies that are read
function M.reader(socket, silence_s)
  return setmetatable({ socket = socket, silence_s = silence_s, kept = "", at = 1 }, Reader)
end

-- What there is. @return string, or nil and what is wrong
local function receive(self)
  local data, err = self.socket:receiveany(PIECE)
  if data then return data end
  if err == "timeout" then return nil, ("no answer for %.1f s"):format(self.silence_s) end
  return nil, err == "closed" and "Redis has closed the connection" or err
end

local function fill(self)
  local data, why = receive(self)
  if not data then return nil, why end
  self.kept = self.at > #self.kept and data or self.kept:sub(self.at) .. data
  self.at = 1
  return true
end

-- A line without its end.
local function read_line(self)
  while true do
    local stop = self.kept:find("\r\n", self.at, true)
    if stop then
      local line = self.kept:sub(self.at, stop - 1)
      self.at = stop + 2
      return line
    end
    if #self.kept - self.at > LINE_BYTES then return nil, BROKEN end
    local ok, why = fill(self)
    if not ok then return nil, why end
  end
end

-- n bytes, of which not all are here.
local function collect(self, n)
  local parts, left = { self.kept:sub(self.at) }, n - (#self.kept - self.at + 1)
  self.kept, self.at = "", 1
  while left > 0 do
    local data, why = receive(self)
    if not data then return nil, why end
    if #data > left then data, self.kept = data:sub(1, left), data:sub(left + 1) end
    parts[#parts + 1], left = data, left - #data
  end
  return table.concat(parts)
end

local function read_bytes(self, n)
  if #self.kept - self.at + 1 < n then return collect(self, n) end
  local first = self.at
  self.at = first + n
  return self.kept:sub(first, first + n - 1)
end

local function read_text(self, size)
  if size == -1 then return false end
  if size < 0 or size > TEXT_BYTES then return nil, BROKEN end
  local text, why = read_bytes(self, size + 2)
  if not text then return nil, why end
  if text:sub(-2) ~= "\r\n" then return nil, BROKEN end
  return text:sub(1, -3)
end

local read_part

local function read_list(self, size, depth)
  if size == -1 then return false end
  if size < 0 or depth == DEPTH then return nil, BROKEN end
  local list = {}
  for i = 1, size do
    local value, why = read_part(self, depth + 1)
    if value == nil then return nil, why end
    list[i] = value
  end
  return list
end

function read_part(self, depth)
  local line, why = read_line(self)
  if not line then return nil, why end
  local kind, rest = line:sub(1, 1), line:sub(2)
  if kind == "+" then return rest end
  if kind == "-" then return { err = rest } end
  local number = rest:find "^%-?%d+$" and tonumber(rest)
  if not number then return nil, BROKEN end
  if kind == ":" then return number end
  if kind == "$" then return read_text(self, number) end
  if kind == "*" then return read_list(self, number, depth) end
  return nil, BROKEN
end

--- The next reply, suspending the light thread. @return value; or nil and what is wrong
function Reader:read() return read_part(self, 0) end

return M
