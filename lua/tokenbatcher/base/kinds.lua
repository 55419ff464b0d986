--- base: what needs nothing of ours, and nothing but LuaJIT. It knows no other room.
--
-- Kinds of values that options and parameters can have, such as "policy": the room that knows
-- a kind says here how a value of it is read, so that those who check values need not know that
-- room.

local M = {}

local readers = {}

--- @param kind string  "policy", "estimator"
-- @param reader table  resolve(value) -> what it means, or nil and a message; parse(text) -> a
--   value, or nil and a message, for kinds that people write on a command line
function M.register(kind, reader)
  readers[kind] = reader
end

local function reader_of(kind)
  return readers[kind] or error(("no room has said what a %s is: require 'tokenbatcher' first"):format(kind), 0)
end

--- @return any  what a value means, or nil and a message
function M.resolve(kind, value)
  return reader_of(kind).resolve(value)
end

--- @return any  a value from a text, or nil and a message
function M.parse(kind, text)
  return reader_of(kind).parse(text)
end

return M
