--- How many inputs an upstream takes in one request: what it was said to, less what it has refused.
--
-- A limit is learned from a refusal (status 413 or 422, or 400) in two ways. Its words may name it ("batch size 64 >
-- maximum allowed batch size 32"). Or it is seen: a batch was refused, and then every one of its parts was taken. A
-- batch in which an input is at fault teaches nothing: that input is refused alone. Nor does a refusal without
-- words where the body was large: it may be about bytes; nor one whose words are about tokens or bytes: that is about
-- the sum of the inputs.
--
-- What is learned holds for ten minutes, in a shared dictionary of nginx's, where there is one, for all its workers and
-- over a reload. Then as many inputs as before are tried again: what the upstream refuses then is learned anew, at the
-- price of one call.

local clock = require "tokenbatcher.runtime.clock"

local ngx = rawget(_G, "ngx")

local M = {}
local Limits = {}
Limits.__index = Limits

local REFUSALS = { [400] = true, [413] = true, [422] = true }
local MOST_WORDS = 4096 -- bytes of a refusal that are read
local LARGE_BODY = 2 ^ 20 -- bytes
local MOST_TRIALS = 64 -- batches of which parts are awaited
local HOLDS_S = 600

--- @param given table  name (of what is kept), most (inputs), shm (name of a shared dictionary, or nil)
function M.new(given)
  local dict = ngx and ngx.shared and given.shm and ngx.shared[given.shm]
  return setmetatable({ key = "max_inputs " .. given.name, most = given.most, dict = dict, trials = {}, order = {} },
    Limits)
end

local function learned(self)
  if self.own and clock.now_us() >= self.until_us then self.own = nil end
  local shared = self.dict and tonumber((self.dict:get(self.key)))
  if shared and not (self.own and self.own < shared) then return shared end
  return self.own
end

--- @return table {max_inputs, learned}
function Limits:describe()
  local known = learned(self)
  if known and known < self.most then return { max_inputs = known, learned = true } end
  return { max_inputs = self.most, learned = false }
end

local function keep(self, most)
  local known = learned(self)
  if known and known <= most then return end
  self.own, self.until_us = most, clock.now_us() + HOLDS_S * 1e6
  if self.dict then self.dict:set(self.key, most, HOLDS_S) end
end

-- --- what the words say -------------------------------------------------------------------------------

-- The words of the limits of TEI, infinity (pydantic), OpenAI, vLLM and their like, around a number.
local BEFORE = { "maximum allowed batch size", "max_client_batch_size", "at most", "maximum of", "limit of", "limit is",
  "maximum is", "no more than", "less than or equal to", "up to", "max" }
local AFTER = { "or less", "or fewer", "items after validation", "items at most", "inputs at most", "items or less" }
-- And what it must be about, so that a limit of one input's tokens, characters or images is none.
local ABOUT = { "batch", "inputs", "items", "array", "list" }
local ABOUT_OTHERS = { "token", "character", "byte", "word", "string", "text", "image", "long" }
-- A call's whole may be too large in these.
local ABOUT_SUMS = { "token", "character", "byte", "body", "payload", "entity", "content length", "content too large" }

local function has_any(text, words)
  for _, word in ipairs(words) do
    if text:find(word, 1, true) then return true end
  end
  return false
end

-- "batch size 64 > 32", of a batch of 64.
local function exceeded(words, n)
  local size, most = words:match "(%d+) > (%d+)"
  size, most = tonumber(size), tonumber(most)
  return size == n and most and most >= 1 and most < n and most or nil
end

-- Does the call itself hold the number? The words may then be an input said back, cut short perhaps: a client's words
-- must not lower everybody's limit. (What parts of the batch are taken still teaches it.)
local function is_said_back(number, body)
  return body ~= nil and body:find("%f[%d]0*" .. ("%d"):format(number)) ~= nil
end

-- The number that the words give for a limit below n, or nil.
local function named(words, n)
  if not has_any(words, ABOUT) or has_any(words, ABOUT_OTHERS) then return nil end
  if exceeded(words, n) then return exceeded(words, n) end
  local best
  for at, digits, after in words:gmatch "()(%d+)()" do
    local number = #digits <= 9 and tonumber(digits)
    local before, behind = words:sub(math.max(1, at - 40), at - 1), words:sub(after, after + 30)
    local is_limit = has_any(before, BEFORE) or has_any(behind, AFTER)
    if number and is_limit and number >= 1 and number < n and not (best and best < number) then best = number end
  end
  return best
end

-- --- what is seen ---------------------------------------------------------------------------------------

local function forget(self, batch)
  self.trials[batch] = nil
  for i, known in ipairs(self.order) do
    if known == batch then
      table.remove(self.order, i)
      return
    end
  end
end

local function begin_trial(self, batch, n)
  if self.trials[batch] then return end
  if #self.order >= MOST_TRIALS then forget(self, self.order[1]) end
  self.trials[batch] = { n = n, taken = 0, largest = 0 }
  self.order[#self.order + 1] = batch
end

-- A part of a batch that was refused as a whole was taken.
local function part_taken(self, batch, n)
  local trial = self.trials[batch]
  if not trial then return end
  trial.taken, trial.largest = trial.taken + n, math.max(trial.largest, n)
  if trial.taken < trial.n then return end
  forget(self, batch)
  keep(self, trial.largest)
end

--- An answer came. @param request table  {inputs, batch or nil, body}
function Limits:learn(request, response)
  local n, batch = request.inputs, request.batch
  if response.status < 300 then
    if batch ~= nil then part_taken(self, batch, n) end
    return
  end
  if not REFUSALS[response.status] then
    if batch ~= nil then forget(self, batch) end
    return
  end
  local words = response.body:sub(1, MOST_WORDS):lower()
  local limit = n > 1 and named(words, n)
  if limit and not is_said_back(limit, request.body) then
    keep(self, limit)
  elseif batch ~= nil and n == 1 then
    forget(self, batch) -- it is this input
  elseif batch ~= nil and has_any(words, ABOUT_SUMS) then
    forget(self, batch) -- its parts are taken because they are smaller, not because they are fewer
  elseif batch ~= nil and response.status ~= 400 and #(request.body or "") < LARGE_BODY then
    begin_trial(self, batch, n)
  end
end

return M
