--- The option `record`: arrivals and batches as JSON lines, for `tokenbatcher simulate --trace` and
-- `tokenbatcher fit`. A line each:
--
--   {"tokenbatcher_recording":1,"name":"..."}                                    the first one
--   {"at":1.204518,"turn":9,"cost":480,"key":"a","group":"m","priority":1,"timeout_s":2,"batch_timeout_s":0.1,"slo":1}
--       a call of submit; a batch of submit_batch is as many; those refused are in it, too; all but
--       at, turn and cost if given. Those of one turn of the loop, which one decision has seen, have
--       one number. Keys and groups are pseudonyms (base/pseudonym.lua), unless the
--       option record_keys is set: the same one is the same within a recording, and says nothing else.
--   {"batch":7,"at":1.254,"records":3,"tokens":1440,"padded":1920,"cost":1440,"service_s":0.09,"failed":0,
--       "reason":"timeout"}             when it is over; "calls":n if it was bisected in so many calls
--
-- `at` is seconds since the recording began. Lines are written in blocks, at the latest a second
-- after the first of a block when something else is recorded, and at stop.
--
-- A file has one recorder at a time, by whichever names it is called (core/file_ffi.lua). One that
-- stops lets go of it, and goes on at its end when it starts again, unless somebody else has
-- written to it meanwhile.

local files = require "tokenbatcher.core.file_ffi"
local json = require "tokenbatcher.base.json"
local pseudonym = require "tokenbatcher.base.pseudonym"

local M = {}
local Recording = {}
Recording.__index = Recording

local VERSION = 1
local FLUSH_US = 1e6
local MOST_PSEUDONYMS = 1000 -- kept; others are made again

-- Those of this process, to tell one that has stopped of another that takes its file.
local all = setmetatable({}, { __mode = "k" })

-- The number of this process: workers of one server record apart.
local function process_id()
  local file = io.open("/proc/self/stat", "rb")
  local text = file and file:read "*n"
  if file then file:close() end
  return text and ("%d"):format(text) or "0"
end

--- The file that is meant. "%p" in its name stands for the number of the process.
function M.path_of(name)
  return (name:gsub("%%p", process_id))
end

local function open(self)
  local file, message = files.open(self.path)
  if file then
    self.file = file
    return true
  end
  return nil, message or ("the file '%s' is being recorded to already"):format(self.path)
end

local function header(self)
  local called = self.batcher:option "name"
  return ('{"tokenbatcher_recording":%d%s}\n'):format(VERSION, called and ',"name":' .. json.quote(called) or "")
end

-- What another one has recorded to this file is gone now.
local function take_over(self)
  local former
  for other in pairs(all) do
    if other ~= self and not other.is_lost and self.file:is_named(other.path) then
      other.is_lost, former = true, other
    end
  end
  if former then
    self.batcher:_warn(("the file '%s', to which %s has recorded, is written anew"):format(self.path,
      former.batcher == self.batcher and "it" or tostring(former.batcher)))
  end
end

--- Begin a file.
-- @param name string  the file  @param batcher table  for the header, and for what is to be warned of
-- @return a recording, or nil and a message
function M.new(name, batcher, now_us)
  local secret, message = pseudonym.secret()
  if not secret then return nil, message end
  local self = setmetatable({
    path = M.path_of(name), name = name, batcher = batcher, origin_us = now_us, last_us = now_us,
    flush_at_us = now_us + FLUSH_US, secret = secret, pseudonyms = {}, pseudonym_count = 0,
    turn = 1, has_arrivals = false,
  }, Recording)
  local ok
  ok, message = open(self)
  if not ok then return nil, message end
  take_over(self)
  ok, message = self.file:clear()
  if not ok then return nil, ("%s: %s"):format(self.path, message) end
  self:write(header(self))
  self:flush()
  if not self.file then return nil, ("%s: %s"):format(self.path, self.problem) end
  all[self] = true
  return self
end

-- Is what it has recorded still the whole file? One that was moved away is begun anew.
local function check_end(self)
  local size = self.file:size()
  if not size or size == self.size then return true end
  if size == 0 then return self.file:write(header(self)) end
  self.file:close()
  self.file = nil
  return nil, ("the file '%s' has changed since it was recorded to: give another name"):format(self.path)
end

--- Go on after a close, as if no time had passed since. @return true, or nil and a message
function Recording:resume(now_us)
  if self.file or self.problem then return true end
  if self.is_lost then
    return nil, ("the file '%s' was recorded to by another batcher meanwhile: give another name"):format(self.path)
  end
  self.origin_us, self.last_us = now_us - (self.last_us - self.origin_us), now_us
  local ok, message = open(self)
  if not ok then return nil, message end
  return check_end(self)
end

-- A disk that fails ends the recording, and nothing else.
local function fail(self, message)
  if not self.file then return end
  self.problem = message
  self.file:close()
  self.file = nil
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

local function flush_now_and_then(self, now_us)
  if now_us < self.flush_at_us then return end
  self.flush_at_us = now_us + FLUSH_US
  self:flush()
end

-- A key or a group as it stands in the file.
local function shown(self, name)
  if self.batcher:option "record_keys" then return json.quote(name) end
  local known = self.pseudonyms[name]
  if known then return known end
  if self.pseudonym_count >= MOST_PSEUDONYMS then self.pseudonyms, self.pseudonym_count = {}, 0 end
  known = '"' .. pseudonym.hash(self.secret, name) .. '"'
  self.pseudonyms[name], self.pseudonym_count = known, self.pseudonym_count + 1
  return known
end

local function is_seconds(value) return type(value) == "number" and value >= 0 and value <= 1e9 end

--- A call of submit. @param opts table|nil  its options
-- @param group string|nil  if it is not that of opts  @param slo_s number|nil  what the option slo says
function Recording:arrival(now_us, cost, opts, group, slo_s)
  if not self.file then return end
  self.last_us = now_us
  self.has_arrivals = true
  local line = ('{"at":%.6f,"turn":%d,"cost":%.14g'):format((now_us - self.origin_us) / 1e6, self.turn, cost)
  group = group or opts and opts.group
  if opts then
    if opts.key and opts.key ~= "" then line = line .. ',"key":' .. shown(self, opts.key) end
    if opts.priority and math.abs(opts.priority) < math.huge then
      line = line .. (',"priority":%.14g'):format(opts.priority)
    end
    if is_seconds(opts.timeout_s) then line = line .. (',"timeout_s":%.14g'):format(opts.timeout_s) end
    if is_seconds(opts.batch_timeout_s) then
      line = line .. (',"batch_timeout_s":%.14g'):format(opts.batch_timeout_s)
    end
  end
  if group and group ~= "" then line = line .. ',"group":' .. shown(self, group) end
  if is_seconds(slo_s) then line = line .. (',"slo":%.14g'):format(slo_s) end
  self:write(line .. "}\n")
  flush_now_and_then(self, now_us)
end

--- A call of submit_batch that was refused as a whole.
function Recording:refused(now_us, costs, n, opts, group)
  for i = 0, n - 1 do self:arrival(now_us, costs[i], opts, group) end
end

--- What has arrived until now is seen by one decision.
function Recording:turn_over()
  if not self.has_arrivals then return end
  self.turn, self.has_arrivals = self.turn + 1, false
end

--- A batch is over. @param run table  see run.lua
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
  self:flush()
  if not self.file then return end
  self.size = self.file:size()
  self.file:close()
  self.file = nil
end

return M
