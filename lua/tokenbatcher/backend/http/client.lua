--- The HTTP client of one clock: a source of the loop (see loop.add_source) that
-- suspends the task of each request until the library reports it as finished.
--
-- When nobody waits for a task any more (its inference call timed out, say), its request is
-- cancelled, its connection closed, and in the task the call raises `cancelled`, so that
-- it can clean up. A task that then makes another request ends there (tasks.require_wanted):
-- retrying for ever, it would keep the loop busy for nobody.

local clock = require "tokenbatcher.runtime.clock"
local http_ffi = require "tokenbatcher.backend.http.http_ffi"
local loop = require "tokenbatcher.runtime.loop"
local tasks = require "tokenbatcher.runtime.tasks"
local tbffi = require "tokenbatcher.core.ffi"

local C, bytes = http_ffi.lib, http_ffi.bytes

local M = {}

local MOST_IDS = 64
local ids = tbffi.new("double[?]", MOST_IDS)
local response = tbffi.new "tb_http_response"

local Client = {}
Client.__index = Client

--- The client of the clock in use; made on first use.
function M.current()
  local pump = clock.pump
  if pump.http_client then return pump.http_client end
  local handle = http_ffi.client()
  local ok, message = pump.attach(C.tb_http_fd(handle))
  if not ok then error("tokenbatcher: the loop cannot wait for HTTP: " .. message, 0) end
  local client = setmetatable({ handle = handle, pump = pump, tasks = {}, in_flight = 0 }, Client)
  pump.http_client = client
  loop.add_source(client)
  return client
end

function Client:turn()
  repeat
    local n = C.tb_http_turn(self.handle, ids, MOST_IDS)
    for i = 0, n - 1 do tasks.wake(self.tasks[ids[i]], true) end
  until n < MOST_IDS
end

function Client:next_us()
  local at = tonumber(C.tb_http_next(self.handle))
  return at >= 0 and at or nil
end

--- Nobody could look for so long: that does not count against the requests.
function Client:excuse(us)
  C.tb_http_excuse(self.handle, math.floor(us))
end

function Client:is_busy()
  return self.in_flight > 0
end

function Client:close()
  self.pump.detach(C.tb_http_fd(self.handle))
  http_ffi.close(self.handle)
end

-- A task's on_abandon and on_unwanted while its request is in flight.
local function call_off(task)
  tasks.wake(task, false)
end

local function read(handle, id)
  C.tb_http_read(handle, id, response)
  return {
    outcome = response.outcome, status = response.status, error = tbffi.text(response.error),
    body = bytes(response.body, response.body_size), headers = bytes(response.headers, response.headers_size),
    retry_after_s = tonumber(response.retry_after_s), was_sent = response.was_sent == 1,
  }
end

--- Perform a request (a tb_http_request), suspending the running task.
-- @return table {outcome, status, body, headers, error, retry_after_s, was_sent}, or nil and
-- why it was not started (of tb_http_refusal). Raises `cancelled`.
function Client:perform(request)
  local task = tasks.waiter()
  tasks.require_wanted "request"
  local id = C.tb_http_start(self.handle, request)
  if id < 0 then return nil, id end
  self.tasks[id], self.in_flight = task, self.in_flight + 1
  task.on_abandon, task.on_unwanted = call_off, call_off
  local is_finished = tasks.suspend(task, "http")
  task.on_abandon, task.on_unwanted = nil, nil
  self.tasks[id], self.in_flight = nil, self.in_flight - 1
  local result = is_finished and read(self.handle, id)
  C.tb_http_release(self.handle, id)
  if result then return result end
  tasks.raise_cancelled(task, "request")
end

return M
