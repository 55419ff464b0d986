--- What an nginx worker gives: a clock, a log, and timers, in which jobs run.
--
-- THE SPECIAL PROBLEM OF TIMERS THAT NEVER COME. Beyond lua_max_running_timers nginx drops a
-- timer with a line in its log, and beyond lua_max_pending_timers or worker_connections there
-- is none to be had. So a job that has not begun after a second is given another timer, by the
-- pump or by anyone who waits; whichever comes first runs it, the other finds it begun.

local nginx_log = require "tokenbatcher.runtime.host.nginx_log_ffi"
local tbffi = require "tokenbatcher.core.ffi"
local C = tbffi.lib

local ngx = rawget(_G, "ngx")
if not (ngx and ngx.timer) then
  error("tokenbatcher: this module is for nginx workers (OpenResty), and this is none", 0)
end

local semaphore = require "ngx.semaphore"

local M = {}

-- Kong has another ngx.timer.at, whose timers no longer come once the worker exits, and says where nginx's own is.
local timer_at = rawget(_G, "native_timer_at") or ngx.timer.at
M.timer_at = timer_at

--- How long to wait before looking whether all that was started has begun.
M.WATCH_S = 1
local WATCH_US = M.WATCH_S * 1e6

local LEVELS = { warn = ngx.WARN, error = ngx.ERR }

function M.now()
  return tonumber(C.tb_ev_now())
end

M.is_exiting = ngx.worker.exiting

--- A line about the worker, whatever request it serves.
function M.log(level, text) nginx_log.log(LEVELS[level], "tokenbatcher: " .. text) end

local unstarted = {} -- job -> when a timer was last asked for
local complained_at

local function begin(_, job)
  if not unstarted[job] then return end
  unstarted[job] = nil
  job:job()
end

local function ask_for_timer(job, now)
  unstarted[job] = now
  local ok, err = timer_at(0, begin, job)
  if ok or complained_at and now - complained_at < WATCH_US then return end
  complained_at = now
  M.log("error", ("nginx gives no timer (%s): raise lua_max_pending_timers and worker_connections; "
    .. "trying again"):format(tostring(err)))
end

--- Call job:job() soon, in a timer of its own.
function M.begin_soon(job) ask_for_timer(job, M.now()) end

function M.has_unstarted() return next(unstarted) ~= nil end

function M.is_unstarted(job) return unstarted[job] ~= nil end

-- --- limits under which nothing would ever run ---------------------------------

local NEEDED = "a batch runs in a timer of its own beside the one that drives its batcher, so that with less than 2 "
  .. "no batch ever runs"

local function nothing() end

-- Runs in a timer: does another one begin beside it?
local function probe(is_premature)
  if is_premature then return end
  local began = semaphore.new(0)
  local is_pending = timer_at(0, function() began:post(1) end)
  if not is_pending or began:wait(M.WATCH_S) or ngx.worker.exiting() then return end
  M.log("error", "nginx began no timer beside another: raise lua_max_running_timers; " .. NEEDED)
end

local is_checked = false

--- Once in a worker, when its first batcher starts: says so where nginx lets less than two timers be
-- pending, or run, at once.
function M.check_limits()
  if is_checked then return end
  is_checked = true
  local has_one, why = timer_at(0, probe)
  local has_two, reason = timer_at(0, nothing)
  if has_one and has_two then return end
  M.log("error", ("nginx gives no two timers (%s): raise lua_max_pending_timers; %s"):format(tostring(why or reason),
    NEEDED))
end

local watched_at = 0
local watchers = {}

--- fn(now) is called whenever watch() looks.
function M.also_watch(fn) watchers[#watchers + 1] = fn end

--- Once in a while: has all begun that was started, is all there that has begun?
function M.watch()
  local now = M.now()
  if now - watched_at < WATCH_US then return end
  watched_at = now
  for job, at in pairs(unstarted) do
    if now - at >= WATCH_US then ask_for_timer(job, now) end
  end
  for i = 1, #watchers do watchers[i](now) end
end

return M
