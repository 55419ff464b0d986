--- Will this Redis do? Its version, and what it does when its memory is full: one that evicts loses records.

local errors = require "tokenbatcher.base.errors"
local pause = require "tokenbatcher.backend.redis.pause"

local M = {}

local function refusal(text) return nil, errors.new("redis_unfit", text) end

-- An answer of Redis, while it may still say something else in a moment.
local function patiently(connection, ...)
  local value, err = connection:call(...)
  for _ = 1, 50 do
    if value or err.redis ~= "LOADING" then break end
    pause.bell():wait(0.2)
    value, err = connection:call(...)
  end
  return value, err
end

--- @param warn function(text)  @return true; or nil and an err
function M.check(connection, warn)
  local about, err = patiently(connection, "INFO", "server")
  if not about then
    if err.redis ~= "NOPERM" then return nil, err end
    warn "the version of Redis cannot be asked for (INFO is forbidden): it must be 7.0 or later"
  else
    local major = tonumber(about:match "redis_version:(%d+)")
    if not major or major < 7 then
      local version = about:match "redis_version:(%S+)" or "of an unknown version"
      return refusal(("Redis 7.0 or later is needed, this is %s"):format(version))
    end
  end
  about, err = connection:call("INFO", "memory")
  local policy = about and about:match "maxmemory_policy:(%S+)"
  if not policy then
    if err and err.redis ~= "NOPERM" then return nil, err end
    warn "what Redis does when its memory is full cannot be asked for: maxmemory-policy must be noeviction"
  elseif policy ~= "noeviction" then
    return refusal(("maxmemory-policy is %s: Redis would throw away records; set it to noeviction"):format(policy))
  end
  return true
end

--- The group as Redis describes it, {name, pending, consumers, ...}; {}: it is not there. Or nil and an err.
function M.group(connection, stream, group)
  local list, err = connection:call("XINFO", "GROUPS", stream)
  if not list then
    if err.redis == "ERR" then return {} end -- no such key
    return nil, err
  end
  for _, item in ipairs(list) do
    local about = {}
    for i = 1, #item, 2 do about[item[i]] = item[i + 1] end
    if about.name == group then return about end
  end
  return {}
end

function M.has_group(connection, stream, group)
  local about = M.group(connection, stream, group)
  return about ~= nil and about.name ~= nil
end

return M
