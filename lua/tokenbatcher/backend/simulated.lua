--- backend: inference functions that ship: a simulated device (this file), a server (openai.lua, by
-- http/), worker threads (threads.lua). It knows base, core, runtime and, of batching, what an
-- inference function returns (run.lua); scripts, the command line and users know it. Each file is
-- loaded when it is first asked for, and its own library (libcurl, threads) with it.
--
-- tb.backend.simulated{base_s, per_token_s}: an inference function that takes as long
-- as a device with a fixed cost per call and a cost per token would, and answers from
-- the input: {tokens = n, text = the first 32 bytes, or a little less where that would
-- cut a character of UTF-8}. It computes nothing.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local tasks = require "tokenbatcher.runtime.tasks"

local TEXT_BYTES = 32
local DEFAULTS = { base_s = 0.02, per_token_s = 0.00005 }

local function check(given)
  if type(given) ~= "table" then errors.misuse("simulated: options must be a table, got a " .. type(given)) end
  for key, value in pairs(given) do
    if DEFAULTS[key] == nil then
      errors.misuse(("simulated: unknown option '%s'; did you mean '%s'?"):format(errors.text(key),
        errors.nearest(errors.text(key), { "base_s", "per_token_s" })))
    end
    if type(value) ~= "number" or not (value >= 0 and value < math.huge) then
      errors.misuse(("simulated: option '%s' must be a number of seconds >= 0, got %s"):format(key, errors.show(value)))
    end
  end
end

local function text_of(record)
  if type(record) == "table" then record = record.text or record.prompt or record.question end
  if type(record) ~= "string" then return nil end
  local text = record:sub(1, TEXT_BYTES)
  local next_byte = record:byte(TEXT_BYTES + 1)
  local cuts_a_character = next_byte and next_byte >= 0x80 and next_byte < 0xC0
  return cuts_a_character and text:gsub("[\192-\255][\128-\191]*$", "") or text
end

--- @param given table|nil  base_s, seconds a call (0.02); per_token_s, seconds a token (0.00005)
-- @return function  for inference_fn
return function(given)
  check(given or {})
  local base_s = given and given.base_s or DEFAULTS.base_s
  local per_token_s = given and given.per_token_s or DEFAULTS.per_token_s
  return function(records, info)
    tasks.require_suspend "simulated"
    tasks.sleep_until(clock.now_us() + (base_s + per_token_s * info.cost) * 1e6)
    local results = {}
    for i = 1, #records do results[i] = { tokens = info.costs[i], text = text_of(records[i]) } end
    return results
  end
end
