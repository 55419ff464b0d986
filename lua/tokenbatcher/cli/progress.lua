--- How far a run is, in one line: on a terminal, over and over; elsewhere a line a minute.

local clock = require "tokenbatcher.runtime.clock"
local output = require "tokenbatcher.cli.output_ffi"

local M = {}
local Progress = {}
Progress.__index = Progress

local EVERY_US = 200000
local MINUTE_US = 60e6
local CLEAR_LINE = "\r\27[K"
local COUNTED = 67108864 -- bytes: the lines of an input up to this size are counted
local STDERR = 2

--- @param is_terminal boolean  @param job table  answers, batcher, lines, fd, ordinal, earlier, status()
function M.new(is_terminal, job)
  return setmetatable({ is_terminal = is_terminal, job = job, at = 0, is_shown = false, width = nil }, Progress)
end

function Progress:start()
  self.started = clock.now_us()
  self.at = self.is_terminal and 0 or self.started + MINUTE_US
end

--- Take it off the terminal.
function Progress:clear()
  if self.is_shown then io.stderr:write(CLEAR_LINE) end
  self.is_shown = false
end

-- --- what there is to say ---------------------------------------------------------

-- The lines of a plain file that are not empty, or nil.
local function counted(path, size)
  if size > COUNTED then return nil end
  local file = io.open(path, "rb")
  if not file then return nil end
  local n, is_empty, chunk = 0, true, file:read(65536)
  if chunk and chunk:sub(1, 2) == "\31\139" then chunk = nil end
  while chunk do
    local at = 1
    while true do
      local stop = chunk:find("\n", at, true)
      if (stop or #chunk + 1) > at then is_empty = false end
      if not stop then break end
      if not is_empty then n = n + 1 end
      is_empty, at = true, stop + 1
    end
    chunk = file:read(65536)
  end
  file:close()
  if not is_empty then n = n + 1 end
  return n > 0 and n or nil
end

-- How many records there are in all, and whether that is a guess; nil: who knows.
local function total(self)
  local job = self.job
  if job.has_read_all then return job.ordinal end
  if self.total == nil then
    local is_file = job.input_path and output.position(job.fd)
    self.size = is_file and output.is_plain(job.fd) and output.size_of(job.fd) or nil
    self.total = self.size and counted(job.input_path, self.size) or false
  end
  if self.total then return self.total end
  local position = self.size and output.position(job.fd)
  if not position or position == 0 then return nil end
  return math.ceil(job.ordinal * self.size / position), true
end

local function duration(s)
  if s < 100 then return ("%.0f s"):format(s) end
  if s < 6000 then return ("%.0f min"):format(s / 60) end
  return ("%.1f h"):format(s / 3600)
end

local function failures(answers)
  if answers.failed == 0 then return "" end
  local parts = {}
  for code, n in pairs(answers.failures) do parts[#parts + 1] = code .. " " .. n end
  table.sort(parts)
  return (" (%d failed: %s)"):format(answers.failed, table.concat(parts, ", "))
end

local function tokens_of(job, status)
  local usage = status and status.usage
  if usage and tonumber(usage.total_tokens) then return tonumber(usage.total_tokens) end
  return job.batcher.stats and job.batcher.stats.total_batch_cost -- workers on other machines count their own
end

local function server(status)
  if not status then return "" end
  local text = (status.retries or 0) > 0 and (", %d retries"):format(status.retries) or ""
  if status.state ~= "open" and status.state ~= "probing" then return text end
  return text .. (", the server is away (%s)%s"):format(status.why or "no answer",
    status.next_probe_s and (": next try in %s"):format(duration(status.next_probe_s)) or "")
end

--- The line. @param now number  microseconds
function Progress:text(now)
  local job, status = self.job, self.job.status()
  local answers, s = job.answers, math.max(1e-6, (now - self.started) / 1e6)
  local done, all, is_guess = job.earlier + answers.written, total(self)
  local rate = answers.written / s
  local tokens = tokens_of(job, status)
  local text = ("%d%s records done%s, %.0f/s%s%s"):format(done,
    all and (" of %s%d"):format(is_guess and "about " or "", all) or "", failures(answers), rate,
    tokens and (", %.0f tokens/s"):format(tokens / s) or "", server(status))
  if all and rate > 0 and all > done then text = text .. ", " .. duration((all - done) / rate) .. " left" end
  return text
end

--- Show it, if it is time. @param now number  microseconds
function Progress:show(now)
  if now < self.at then return end
  if self.is_terminal then
    self.at = now + EVERY_US
    self.is_shown = true
    io.stderr:write(CLEAR_LINE, self:text(now):sub(1, output.width(STDERR) - 1))
  else
    self.at = now + MINUTE_US
    io.stderr:write("tokenbatcher: ", self:text(now), "\n")
  end
end

return M
