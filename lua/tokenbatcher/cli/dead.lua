--- tokenbatcher dead: dead letters, to be looked at, tried again or dropped.

local json = require "tokenbatcher.base.json"
local redis_admin = require "tokenbatcher.backend.redis.admin"
local tb = require "tokenbatcher"

local M = {}

-- A dead letter as a line: its fields in the order in which they are.
local function line_of(letter)
  local parts, seen = { ('"dead_id":%s'):format(json.quote(letter[1])) }, {}
  for i = 1, #letter[2], 2 do
    local name, value = letter[2][i], letter[2][i + 1]
    if not seen[name] then parts[#parts + 1] = json.quote(name) .. ":" .. json.quote(value) end
    seen[name] = true
  end
  return "{" .. table.concat(parts, ",") .. "}\n"
end

local ACTIONS = {
  list = function(admin, args)
    return admin:each_dead(args.stream, args.ids, function(letter) io.stdout:write(line_of(letter)) end)
  end,
  retry = function(admin, args) return admin:retry(args.stream, args.ids) end,
  drop = function(admin, args) return admin:drop(args.stream, args.ids) end,
}
local DONE = { retry = "back in the stream", drop = "dropped" }

--- @return number exit status 0; 1: some of the IDs are not there; or nil and a message
function M.run(_, args)
  if not args.stream then return nil, "dead needs --stream" end
  for _, id in ipairs(args.ids) do
    if not id:find "^%d+%-%d+$" then
      return nil, ("'%s' is not the ID of a dead letter, as in 1700000000000-0"):format(id)
    end
  end
  local n, err
  tb.run(function()
    n, err = redis_admin.with(args.redis, function(admin) return ACTIONS[args.action](admin, args) end)
  end)
  if not n then return nil, err.message end
  if DONE[args.action] then io.stderr:write(("tokenbatcher: %d %s\n"):format(n, DONE[args.action])) end
  return #args.ids > n and 1 or 0
end

return M
