--- A message of a stream, whoever has added it, as an entry of ours: what it says of itself, in our units. Nothing
-- in it is trusted. The fields are those of the README here.

local json = require "tokenbatcher.base.json"
local utf8 = require "tokenbatcher.base.utf8"

local M = {}

--- Bytes.
M.MOST_NAME = 512 -- of an id, a key, a group, the name of a reply stream
M.MOST_RECORD = 1048576 -- of a record, unless the user says otherwise

local MOST_MS = 1e15

local function whole(text, least)
  if not text:find "^%d+$" or #text > 15 then return nil end
  local number = tonumber(text)
  return number >= least and number <= MOST_MS and number or nil
end

local function name(text) return #text <= M.MOST_NAME and text or nil end

-- field -> what is kept of it, or nil: it is bad; and what it must be.
local READ = {
  cost = { function(text) return whole(text, 0) end, "a whole number from 0" },
  key = { name, "at most 512 bytes" },
  group = { name, "at most 512 bytes" },
  priority = { function(text)
    local number = #text <= 32 and text:find "^%-?[%d.]+[eE]?[+-]?%d*$" and tonumber(text)
    return number and number == number and math.abs(number) < math.huge and number or nil
  end, "a number" },
  timeout_ms = { function(text) return whole(text, 1) end, "a whole number from 1" },
  batch_timeout_ms = { function(text) return whole(text, 0) end, "a whole number from 0" },
  deadline_ms = { function(text) return whole(text, 0) end, "milliseconds since 1970" },
  v = { function(text) return text == "1" and 1 or nil end, "1" },
}
local ORDER = { "v", "cost", "key", "group", "priority", "timeout_ms", "batch_timeout_ms", "deadline_ms" }

--- May answers go there?
function M.is_reply_stream(text, prefix)
  return #text > #prefix and #text <= M.MOST_NAME and text:sub(1, #prefix) == prefix
end

local function as_table(fields)
  local out = {}
  for i = #fields - 1, 1, -2 do out[fields[i]] = fields[i + 1] end -- of several, the first
  return out
end

-- Where an answer would go, and by which name; or nil, a reason and what is wrong.
local function address(given, prefix)
  local reply_to, id = given.reply_to, given.id
  if reply_to == nil or reply_to == "" then return { id = id and name(id) or "" } end
  if not M.is_reply_stream(reply_to, prefix) then
    return nil, "bad_reply_to", "reply_to must begin with " .. prefix .. " and have at most 512 bytes"
  end
  if id == nil or id == "" or not name(id) then
    return nil, "bad_record", "a record with reply_to needs an id of 1 to 512 bytes"
  end
  return { id = id, reply_to = reply_to }
end

-- Milliseconds since 1970, by the clock of Redis: the first half of an entry's id.
function M.added_ms(sid)
  return tonumber(sid:match "^(%d+)%-") or 0
end

--- The record as JSON. @return value, or nil and a message
function M.from_json(text)
  local value, message = json.decode(text)
  if message then return nil, "broken JSON: " .. message end
  local at = utf8.first_error(text)
  if at then return nil, ("invalid UTF-8 at byte %d"):format(at) end
  return value
end

--- @param sid string  its id in the stream  @param fields table  {name, value, name, value, ...}
-- @param rules table  prefix: of reply streams; most_record: bytes; decode(text) -> record, or nil and a message
-- @return entry {sid, id, reply_to, record, cost, key, group, priority, timeout_ms, batch_timeout_ms, deadline_ms}
-- and, if it is bad, the reason and a message: then it has no record
function M.read(sid, fields, rules)
  local given = as_table(fields)
  local entry, reason, problem = address(given, rules.prefix)
  entry = entry or {}
  entry.sid = sid
  if reason then return entry, reason, problem end
  local text = given.record
  if text == nil then return entry, "bad_record", "it has no field 'record'" end
  if #text > rules.most_record then
    return entry, "bad_record", ("the record has %d bytes, and %d are allowed"):format(#text, rules.most_record)
  end
  for _, field in ipairs(ORDER) do
    if given[field] ~= nil then
      entry[field] = READ[field][1](given[field])
      if entry[field] == nil then
        return entry, "bad_record", ("the field '%s' must be %s"):format(field, READ[field][2])
      end
    end
  end
  entry.record, problem = rules.decode(text)
  if entry.record == nil then return entry, "bad_record", problem or "it cannot be decoded" end
  return entry
end

return M
