--- The option `record`: arrivals and batches as JSON lines, for `tokenbatcher simulate --trace` and
-- `tokenbatcher fit`. A line each:
--
--   {"tokenbatcher_recording":1,"name":"..."}                                    the first one
--   {"at":1.204518,"cost":480,"key":"a","priority":1,"timeout_s":2}             a call of submit; a batch
--       of submit_batch is as many; those refused are in it, too; key, priority, timeout_s if given
--   {"batch":7,"at":1.254,"records":3,"tokens":1440,"padded":1920,"cost":1440,"service_s":0.09,"failed":0,
--       "reason":"timeout"}             when it is over; "calls":n if it was bisected in so many calls
--
-- `at` is seconds since the recording began. Lines are written in blocks, at the latest a second
-- after the first of a block when something else is recorded, and at stop.

local json = require "tokenbatcher.base.json"

local M = {}
local Recording = {}
Recording.__index = Recording

local VERSION = 1
local FLUSH_US = 1e6
local BUFFER_BYTES = 65536

-- Files being recorded to: a second batcher would write over the first one's.
local in_use = {}

-- The number of this process: workers of one server record apart.
local function process_id()
  local file = io.open("/proc/self/stat", "rb")
  local text = file and file:read "*n"
  if file then file:close() end
  return text and ("%d"):format(text) or "0"
end

local function open(self, mode)
  local file, message = io.open(self.path, mode)
  if not file then return nil, message end
  file:setvbuf("full", BUFFER_BYTES)
  self.file, in_use[self.path] = file, true
  return true
end

--- The file that is meant. "%p" in its name stands for the number of the process.
function M.path_of(name)
  return (name:gsub("%%p", process_id))
end

--- Begin a file.
-- @param name string  the file  @param batcher table  with _values.name, for the header
-- @return a recording, or nil and a message
function M.new(name, batcher, now_us)
  local path = M.path_of(name)
  if in_use[path] then return nil, ("the file '%s' is being recorded to already"):format(path) end
  local self = setmetatable({
    path = path, name = name, batcher = batcher, origin_us = now_us, last_us = now_us, flush_at_us = now_us + FLUSH_US,
  }, Recording)
  local ok, message = open(self, "wb")
  if not ok then return nil, message end
  local called = batcher._values.name
  self:write(('{"tokenbatcher_recording":%d%s}\n'):format(VERSION, called and ',"name":' .. json.quote(called) or ""))
  self:flush()
  if not self.file then return nil, ("%s: %s"):format(path, self.problem) end
  return self
end

--- Go on after a close, as if no time had passed since.
function Recording:resume(now_us)
  if self.file or self.problem then return end
  self.origin_us, self.last_us = now_us - (self.last_us - self.origin_us), now_us
  local ok, message = open(self, "ab")
  if not ok then self.batcher:_warn("cannot go on recording: " .. message) end
end

-- A disk that fails ends the recording, and nothing else.
local function fail(self, message)
  if not self.file then return end
  self.problem = message
  self.file:close()
  self.file, in_use[self.path] = nil, nil
  if self.is_begun then self.batcher:_warn(("recording has ended: %s: %s"):format(self.path, message)) end
end

function Recording:write(text)
  if not self.file then return end
  local ok, message = self.file:write(text)
  if not ok then fail(self, message) end
end

--- What is in the buffer goes to the file.
function Recording:flush()
  if not self.file then return end
  local ok, message = self.file:flush()
  if not ok then fail(self, message) end
  self.is_begun = true
end

-- A failed write has more results than one that succeeds; LuaJIT's compiled code around such a
-- call was seen to take the one for the other.
jit.off(Recording.write)
jit.off(Recording.flush)

local function flush_now_and_then(self, now_us)
  if now_us < self.flush_at_us then return end
  self.flush_at_us = now_us + FLUSH_US
  self:flush()
end

--- A call of submit. @param opts table|nil  its options
function Recording:arrival(now_us, cost, opts)
  if not self.file then return end
  self.last_us = now_us
  local line = ('{"at":%.6f,"cost":%.14g'):format((now_us - self.origin_us) / 1e6, cost)
  if opts then
    if opts.key then line = line .. ',"key":' .. json.quote(opts.key) end
    if opts.priority and math.abs(opts.priority) < math.huge then
      line = line .. (',"priority":%.14g'):format(opts.priority)
    end
    if opts.timeout_s and opts.timeout_s <= 1e9 then line = line .. (',"timeout_s":%.14g'):format(opts.timeout_s) end
  end
  self:write(line .. "}\n")
  flush_now_and_then(self, now_us)
end

--- A call of submit_batch that was refused as a whole.
function Recording:refused(now_us, costs, n, opts)
  for i = 0, n - 1 do self:arrival(now_us, costs[i], opts) end
end

--- A batch is over. @param run table  see inference.lua
function Recording:ended(run, now_us)
  if not self.file then return end
  self.last_us = now_us
  local calls = run.attempt and (',"calls":%d'):format(run.attempt) or ""
  self:write(('{"batch":%d,"at":%.6f,"records":%d,"tokens":%.14g,"padded":%.14g,"cost":%.14g,"service_s":%.6f,'
    .. '"failed":%d,"reason":"%s"%s}\n'):format(run.id, (run.started_us - self.origin_us) / 1e6, run.size, run.tokens,
    run.padded, run.cost, (now_us - run.started_us) / 1e6, run.failed, run.reason, calls))
  flush_now_and_then(self, now_us)
end

--- End it; the file is whole then.
function Recording:close()
  if not self.file then return end
  local ok, message = self.file:close()
  self.file, in_use[self.path] = nil, nil
  if not ok then self.batcher:_warn(("recording has ended: %s: %s"):format(self.path, message)) end
end

return M
