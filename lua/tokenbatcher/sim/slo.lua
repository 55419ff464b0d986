--- When an answer counts: --slo, --slo-class, what a recording says of each record, or the option slo.
--
-- A rule is an expression of seconds, over tokens, output_tokens and priority of the record; or, before a device, a
-- condition over ttft, tpot and e2e (seconds) as well: "ttft <= 0.25 + 0.00016*tokens and tpot <= 0.05". A record has
-- the rule of its class, where there is one, else that of --slo. Where neither is given it has what the trace says, or
-- the option slo.

local errors = require "tokenbatcher.base.errors"
local expression = require "tokenbatcher.base.expression"
local option = require "tokenbatcher.batching.slo"

local ceil, huge = math.ceil, math.huge

local M = {}
local Slo = {}
Slo.__index = Slo

local OF_RECORD = { "tokens", "output_tokens", "priority" }
local OF_ANSWER = { "ttft", "tpot", "e2e", "tokens", "output_tokens", "priority" }

local function names_any(text, names)
  for _, name in ipairs(names) do
    if expression.names(text, name) then return true end
  end
  return false
end

-- @return {text, seconds = function or meets = function, asks_outputs}, or nil and a message
local function rule_of(flag, text, has_device)
  local is_condition = expression.is_condition(text)
  local asks_device = names_any(text, { "ttft", "tpot", "e2e" })
  if (is_condition or asks_device) and not has_device then
    return nil, ("%s '%s': %s needs --device"):format(flag, text, asks_device and "ttft, tpot or e2e" or "a condition")
  end
  local names = is_condition and OF_ANSWER or OF_RECORD
  local fn, message = expression.compile(text, names, is_condition)
  if not fn then return nil, ("%s '%s': %s (names: %s)"):format(flag, text, message, table.concat(names, ", ")) end
  local number = tonumber(text)
  if number and not (number > 0 and number < huge) then
    return nil, ("%s needs a number of seconds above 0, got '%s'"):format(flag, text)
  end
  return { text = text, flag = flag, seconds = not is_condition and fn or nil, meets = is_condition and fn or nil,
    asks_outputs = expression.names(text, "output_tokens") }
end

--- @param args table  slo (text or a number, or nil), slo_class (list of "NAME=EXPR"), device (or nil)
-- @return the rules, nil where none are given; or false and a message
function M.parse(args)
  local classes, slo = args.slo_class or {}, args.slo
  if type(slo) == "number" then slo = ("%.17g"):format(slo) end
  if not slo and #classes == 0 then return nil end
  local self = setmetatable({ rules = {}, by_class = {}, texts = {} }, Slo)
  if slo then
    local message
    self.plain, message = rule_of("--slo", slo, args.device)
    if not self.plain then return false, message end
    self.rules[1], self.texts[1] = self.plain, tonumber(slo) and ("%.14g s"):format(slo) or slo
  end
  for _, text in ipairs(classes) do
    local name, value = text:match "^([^=]+)=(.+)$"
    if not name then return false, ("--slo-class needs NAME=EXPRESSION, got '%s'"):format(text) end
    if self.by_class[name] then return false, ("--slo-class %s is given twice"):format(name) end
    local rule, message = rule_of("--slo-class " .. name, value, args.device)
    if not rule then return false, message end
    self.by_class[name], self.rules[#self.rules + 1] = rule, rule
    self.texts[#self.texts + 1] = name .. ": " .. value
  end
  for i, rule in ipairs(self.rules) do rule.number = i end
  self.number = #classes == 0 and tonumber(slo) or nil
  self.text = table.concat(self.texts, "; ")
  return self
end

--- Those of a run without --slo: what the trace says of a record, or this option. @param resolved table|nil  of slo.lua
function M.of_option(resolved)
  return setmetatable({ rules = {}, by_class = {}, option = resolved, is_own = true }, Slo)
end

local function bad(rule, value, source)
  error(("%s '%s' gives %s for a record of %.14g tokens; a number of seconds above 0 is needed"):format(
    rule.flag, rule.text, errors.show(value), source.cost), 0)
end

-- Of a record that has no rule.
local function own_us(self, source)
  if not self.is_own then return huge end
  local slo_us = source.slo_us
  if slo_us and slo_us > 0 then return slo_us end
  local given = self.option
  if not given or given.ask and source.record == nil then return huge end
  return 1e6 * (option.of(given, source.record, ceil(source.cost), source) or huge)
end

--- @param source table  an arrival, see trace.lua
-- @return number  microseconds; math.huge: always good; below 0: by the rule of that number, from its answer
function Slo:of(source)
  local rule = source.class and self.by_class[source.class] or self.plain
  if not rule then return own_us(self, source) end
  rule.is_used = true
  if rule.meets then return -rule.number end
  if rule.asks_outputs and source.output < 0 then
    error(("%s asks for output_tokens, and there are arrivals without: a trace that has them is needed, or output=... "
      .. "of --arrivals"):format(rule.flag), 0)
  end
  local seconds = rule.seconds(ceil(source.cost), source.output, source.priority)
  if not (seconds > 0 and seconds < huge) then bad(rule, seconds, source) end
  return 1e6 * seconds
end

--- Is an answer good by a rule of an answer? @param number number  of the rule
function Slo:is_met(number, ttft_s, tpot_s, e2e_s, tokens, output, priority)
  return self.rules[number].meets(ttft_s, tpot_s, e2e_s, tokens, output, priority)
end

--- The names of the classes that no record was of so far, sorted.
function Slo:unused_classes()
  local out = {}
  for name, rule in pairs(self.by_class or {}) do
    if not rule.is_used then out[#out + 1] = name end
  end
  table.sort(out)
  return out
end

--- Do all records have a time that is known when they come?
function Slo:is_time()
  for _, rule in ipairs(self.rules) do
    if rule.meets then return false end
  end
  return true
end

return M
