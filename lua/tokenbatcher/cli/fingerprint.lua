--- What an input was, line by line: by it, the one that a job is gone on with is known to be the same.
--
-- A hash of each of its first 1,000 lines. Of those behind them one hash, into which line after line goes, as it
-- stood behind the newest line, and behind up to 32 others, about evenly spread: the `marks`. So an input that differs
-- is noticed before the lines from the last mark on are asked for, and what is kept does not grow with it.

local siphash = require "tokenbatcher.base.siphash_ffi"

local M = {}
local Fingerprint = {}
Fingerprint.__index = Fingerprint

M.HASHED = 1000
local KEY = "tokenbatcher job" -- 16 bytes: hashes are to be compared, not kept secret
local MARKS, STEP = 32, 1000 -- the most marks; lines between two, doubled whenever there would be more

function M.hash(line) return siphash.hash(KEY, line) end

--- Of what was read nothing yet.
function M.new()
  return setmetatable({ hashes = {}, lines = 0, chain = KEY, marks = {}, step = STEP }, Fingerprint)
end

local function thin_out(self)
  local kept = {}
  self.step = 2 * self.step
  for _, mark in ipairs(self.marks) do
    if (mark.lines - M.HASHED) % self.step == 0 then kept[#kept + 1] = mark end
  end
  self.marks = kept
end

local function add_mark(self)
  self.marks[#self.marks + 1] = { lines = self.lines, hash = self.chain }
  if #self.marks == MARKS then thin_out(self) end
end

--- The next line.
function Fingerprint:add(line)
  self.lines = self.lines + 1
  if self.lines <= M.HASHED then
    self.hashes[self.lines] = M.hash(line)
    return
  end
  self.chain = siphash.hash(self.chain, line)
  if (self.lines - M.HASHED) % self.step == 0 then add_mark(self) end
end

-- --- as text --------------------------------------------------------------------------

local HASH_WIDTH = 19 -- with quotes and comma
local MARK_WIDTH = 37 -- of a line's number of 16 digits, and a hash
local START, LATER = '"input":[', ',"later":['
local LATER_WIDTH = #LATER + (MARKS + 1) * MARK_WIDTH + 2

--- Where the text of a line's hash begins, and what it is. @param n number  of the line, of the first 1,000
function Fingerprint:hash_text(n)
  return #START + (n - 1) * HASH_WIDTH - (n > 1 and 1 or 0), (n > 1 and ',"%s"]' or '"%s"]'):format(self.hashes[n])
end

--- Where the text of the marks begins, and what it is: the newest first.
function Fingerprint:marks_text()
  local parts = {}
  if self.lines > M.HASHED then parts[1] = ('%d,"%s"'):format(self.lines, self.chain) end
  for _, mark in ipairs(self.marks) do
    if mark.lines < self.lines then parts[#parts + 1] = ('%d,"%s"'):format(mark.lines, mark.hash) end
  end
  local text = LATER .. table.concat(parts, ",") .. "]"
  return #START + M.HASHED * HASH_WIDTH, text .. (" "):rep(LATER_WIDTH - #text)
end

--- All of it: members of an object. Every text has the same length, so that what changes can be written in its place.
function Fingerprint:text()
  local list = #self.hashes > 0 and '"' .. table.concat(self.hashes, '","') .. '"' or ""
  local width, marks = self:marks_text()
  local text = START .. list .. "]"
  return text .. (" "):rep(width - #text) .. marks
end

local function read_hashes(self, text, at)
  while #self.hashes < M.HASHED do
    local hash, behind = text:match('^,?"(%x+)"()', at)
    if not hash or #hash ~= 16 then break end
    self.hashes[#self.hashes + 1], at = hash, behind
  end
  self.lines = #self.hashes
  return at
end

local function read_marks(self, text, at)
  at = text:match('^%]%s*,"later":%[()', at)
  while at do
    local lines, hash, behind = text:match('^,?(%d+),"(%x+)"()', at)
    if not hash or #hash ~= 16 then break end
    self.marks[#self.marks + 1], at = { lines = tonumber(lines), hash = hash }, behind
  end
  local newest = table.remove(self.marks, 1)
  if not newest then return end
  self.lines, self.chain = newest.lines, newest.hash
  if self.marks[1] then self.step = self.marks[1].lines - M.HASHED end -- the first is one step behind those
  if (self.lines - M.HASHED) % self.step == 0 then self.marks[#self.marks + 1] = newest end
end

--- Read what text() wrote: as far as it is whole, since a machine that goes down may tear it.
-- @param at number  where it begins
function M.parse(text, at)
  local self = M.new()
  at = text:match('^"input":%[()', at)
  if not at then return self end
  at = read_hashes(self, text, at)
  if #self.hashes == M.HASHED then read_marks(self, text, at) end
  return self
end

-- --- is it the same? ------------------------------------------------------------------

--- For each mark, and for the newest line: {lines, hash}, in their order.
local function all_marks(self)
  local list = {}
  for _, mark in ipairs(self.marks) do list[#list + 1] = mark end
  if self.lines > M.HASHED and (not list[1] or list[#list].lines < self.lines) then
    list[#list + 1] = { lines = self.lines, hash = self.chain }
  end
  return list
end

local Proof = {}
Proof.__index = Proof

--- What compares lines behind the 1,000th, one after the other, with those that there were.
function Fingerprint:proof()
  return setmetatable({ marks = all_marks(self), next = 1, chain = KEY, lines = M.HASHED, proven = M.HASHED }, Proof)
end

--- The next line. Nothing is known of a line before it is in proof:is_over() or `proven` has come to it.
-- @return true, or nil, and the numbers of the first and the last line of which one differs
function Proof:add(line)
  local mark = self.marks[self.next]
  if not mark then return true end
  self.lines, self.chain = self.lines + 1, siphash.hash(self.chain, line)
  if self.lines < mark.lines then return true end
  if self.chain ~= mark.hash then return nil, self.proven + 1, mark.lines end
  self.proven, self.next = mark.lines, self.next + 1
  return true
end

--- Is there nothing left to compare?
function Proof:is_over() return self.marks[self.next] == nil end

return M
