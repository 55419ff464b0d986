--- An upstream's own metrics as a gate: while it says that requests wait inside of it (vLLM's
-- vllm:num_requests_waiting), no more are sent there. They wait here, where it is known whose they are.
--
-- It is looked at only while somebody waits or is served; an idle worker asks nothing. What could not be read for
-- `stale_s`, or was never, closes nothing: the slots bound what is upstream anyway, and a page that is away must not
-- stop a server that works. That is said in the log, once each time.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local spawn = require "tokenbatcher.runtime.spawn"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}
local Gate = {}
Gate.__index = Gate

local MOST_BYTES = 4 * 2 ^ 20 -- of the page
local ANSWER_S = 2 -- it has so long to come

--- @param given table  see GATE in options.lua  @param parts table  upstream (its call()), is_needed() -> boolean,
-- log(level, text), name
function M.new(given, parts)
  return setmetatable({ path = given.path, metric = given.metric, most = given.most, every_s = given.every_s,
    stale_s = given.stale_s, upstream = parts.upstream, is_needed = parts.is_needed, log = parts.log,
    name = parts.name, value = nil, read_at = nil, is_watching = false, is_blind = false }, Gate)
end

--- The value of a metric in a page of Prometheus' text format, all its series together; nil: it is not there.
function M.read(page, metric)
  local sum
  for line in page:gmatch "[^\r\n]+" do
    if line:sub(1, #metric) == metric then
      local rest = line:sub(#metric + 1)
      local number = rest:match "^%s+(%S+)" or rest:match "^{.*}%s+(%S+)"
      local value = number and tonumber(number)
      if value and value >= 0 and value < math.huge then sum = (sum or 0) + value end
    end
  end
  return sum
end

-- @return the value; or nil and why there is none
local function look(self)
  local response, err = self.upstream:call { method = "GET", path = self.path, attempts = 1,
    max_response_bytes = MOST_BYTES, deadline = clock.now_us() / 1e6 + ANSWER_S }
  if not response then return nil, err.message end
  if response.status ~= 200 then return nil, "status " .. response.status end
  local value = M.read(response.body, self.metric)
  if not value then return nil, "there is no " .. self.metric .. " in it" end
  return value
end

local function note(self, value, why)
  if value then
    self.value, self.read_at = value, clock.now_us() / 1e6
    if self.is_blind then self.log("warn", ("queue of %s: %s is read again"):format(self.name, self.path)) end
    self.is_blind = false
  elseif not self.is_blind then
    self.is_blind = true
    self.log("warn", ("queue of %s: %s cannot be read (%s): after %g s its gate is open"):format(self.name, self.path,
      why, self.stale_s))
  end
end

local function watch(self)
  while self.is_needed() do
    note(self, look(self))
    tasks.sleep_until(clock.now_us() + self.every_s * 1e6)
  end
end

local function watch_guarded(self)
  local ok, err = pcall(watch, self)
  self.is_watching = false
  if not ok then self.log("error", ("queue of %s: its gate is no longer looked at: %s"):format(self.name,
    errors.text(err))) end
end

--- Somebody waits: look, from now on until nobody is there.
function Gate:watch()
  if self.is_watching then return end
  self.is_watching = true
  spawn.spawn(watch_guarded, self)
end

--- @param now number  seconds  @return boolean
function Gate:is_open(now)
  if not self.read_at or now - self.read_at > self.stale_s then return true end
  return self.value <= self.most
end

return M
