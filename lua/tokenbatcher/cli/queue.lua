--- tokenbatcher queue: what is in a stream.

local json = require "tokenbatcher.base.json"
local redis_admin = require "tokenbatcher.backend.redis.admin"
local tb = require "tokenbatcher"

local M = {}

local function age(ms)
  if not ms then return "-" end
  return ("%.1f s"):format(ms / 1000)
end

local function show(state)
  return table.concat({
    ("backlog      %d"):format(state.backlog), ("pending      %d"):format(state.pending),
    ("consumers    %d"):format(state.consumers), ("oldest       %s"):format(age(state.oldest_ms)),
    ("dead         %d"):format(state.dead),
  }, "\n") .. "\n"
end

local function show_json(state)
  return ('{"stream":%s,"group":%s,"backlog":%d,"pending":%d,"consumers":%d,"oldest_ms":%s,"dead":%d}\n'):format(
    json.quote(state.stream), json.quote(state.group), state.backlog, state.pending, state.consumers,
    state.oldest_ms and ("%d"):format(state.oldest_ms) or "null", state.dead)
end

--- @return number exit status 0, or nil and a message
function M.run(_, args)
  if not args.stream then return nil, "queue needs --stream" end
  local state, err
  tb.run(function()
    state, err = redis_admin.with(args.redis, function(admin) return admin:state(args.stream, args.group) end)
  end)
  if not state then return nil, err.message end
  io.stdout:write(args.json and show_json(state) or show(state))
  return 0
end

return M
