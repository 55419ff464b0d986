--- For people: what is in a stream, and its dead letters.

local connection = require "tokenbatcher.backend.redis.connection"
local errors = require "tokenbatcher.base.errors"
local names = require "tokenbatcher.backend.redis.names"
local server = require "tokenbatcher.backend.redis.server"
local urls = require "tokenbatcher.backend.redis.url"

local M = {}
local Admin = {}
Admin.__index = Admin

local CONNECT_S = 5
local PAGE = 100

--- Connect, call fn(admin), close. Suspends. @return what fn returns; or nil and an err
function M.with(url, fn)
  local to, problem = urls.parse(url)
  if not to then return nil, errors.new("redis_unavailable", problem) end
  local redis = connection.new(to, { name = "tokenbatcher-admin", scripts = { "retry" } })
  local value, err
  if redis:wait_ready(CONNECT_S) then
    value, err = fn(setmetatable({ redis = redis }, Admin))
  else
    local why = redis.why or "no answer"
    err = errors.new("redis_unavailable", ("cannot connect to Redis at %s: %s"):format(to.shown, why))
  end
  redis:quit()
  return value, err
end

--- @return table {stream, group, backlog, pending, consumers, oldest_ms or nil, dead}, or nil and an err
function Admin:state(stream, group)
  local redis = self.redis
  local length, err = redis:call("XLEN", stream)
  if not length then return nil, err end
  local about
  about, err = server.group(redis, stream, group)
  if not about then return nil, err end
  local dead
  dead, err = redis:call("XLEN", names.dead(stream))
  if not dead then return nil, err end
  local first, now = redis:call("XRANGE", stream, "-", "+", "COUNT", 1), redis:call "TIME"
  local oldest_ms = first and first[1] and now
    and math.max(0, tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000) - tonumber(first[1][1]:match "^%d+"))
  return {
    stream = stream, group = group, backlog = math.max(0, length - (about.pending or 0)), pending = about.pending or 0,
    consumers = about.consumers or 0, oldest_ms = oldest_ms or nil, dead = dead,
  }
end

--- Call fn(letter) with each dead letter, {id, {name, value, ...}}. @param ids table  a list; empty: all
-- @return how many; or nil and an err
function Admin:each_dead(stream, ids, fn)
  local key, n = names.dead(stream), 0
  for _, id in ipairs(ids) do
    local list, err = self.redis:call("XRANGE", key, id, id)
    if not list then return nil, err end
    if list[1] then
      n = n + 1
      fn(list[1])
    end
  end
  local from = "-"
  while #ids == 0 do
    local list, err = self.redis:call("XRANGE", key, from, "+", "COUNT", PAGE)
    if not list then return nil, err end
    for _, letter in ipairs(list) do fn(letter) end
    n = n + #list
    if #list < PAGE then break end
    from = "(" .. list[#list][1]
  end
  return n
end

-- Those that are there now; what is added meanwhile is not meant.
local function ids_of(self, stream, ids)
  if #ids > 0 then return ids end
  local all = {}
  local n, err = self:each_dead(stream, ids, function(letter) all[#all + 1] = letter[1] end)
  return n and all, err
end

-- fn(list) for up to PAGE ids at a time; the sum of what it returns.
local function in_pages(ids, fn)
  local sum = 0
  for first = 1, #ids, PAGE do
    local n, err = fn { unpack(ids, first, math.min(#ids, first + PAGE - 1)) }
    if not n then return nil, err end
    sum = sum + n
  end
  return sum
end

--- Back into the stream. @return how many; or nil and an err
function Admin:retry(stream, ids)
  local list, err = ids_of(self, stream, ids)
  if not list then return nil, err end
  return in_pages(list, function(page) return self.redis:run("retry", { stream, names.dead(stream) }, page) end)
end

--- Delete. @return how many; or nil and an err
function Admin:drop(stream, ids)
  local list, err = ids_of(self, stream, ids)
  if not list then return nil, err end
  return in_pages(list, function(page) return self.redis:call_list { "XDEL", names.dead(stream), unpack(page) } end)
end

return M
