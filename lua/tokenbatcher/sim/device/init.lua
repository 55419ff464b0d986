--- Devices that batch by themselves, as vLLM, SGLang, TGI and TensorRT-LLM do: `--device`.
--
--   continuous:a=16.6ms,b=33us,c=37us,d=0.144us,kv=41408     coefficients of an iteration (iteration.lua)
--   preset:rtx4090-llama3.1-8b,seqs=64                       one that ships (presets.lua), changed
--
-- Times are seconds, or have a unit: s, ms, us. Limits: seqs (sequences at once, 256), tokens (of an iteration,
-- 2048), kv (tokens of the cache; none: no limit), block (16), admit (known: what is there of a sequence
-- must fit, vLLM; reserve: prompt and output, nobody is preempted), max_output (what reserve holds at the least),
-- factor (on all times). scheduler.lua decides as such a server does.

local errors = require "tokenbatcher.base.errors"
local iteration = require "tokenbatcher.sim.device.iteration"
local presets = require "tokenbatcher.sim.device.presets"
local Scheduler = require "tokenbatcher.sim.device.scheduler"

local M = {}

local UNITS = { [""] = 1, s = 1, ms = 1e-3, us = 1e-6 }
local MOST = 1e9
local MAX_SEQS = 65536

local function time(text)
  local digits, unit = text:match "^([%d.eE+-]+)(%a*)$"
  local value = tonumber(digits)
  if not (value and UNITS[unit] and value >= 0 and value < math.huge) then
    return nil, "a time of 0 or more is needed, in seconds or with ms or us"
  end
  return value * UNITS[unit]
end

local function whole(from, to)
  return function(text)
    local value = tonumber(text)
    if value and value % 1 == 0 and value >= from and value <= to then return value end
    return nil, ("a whole number from %d to %.0f is needed"):format(from, to)
  end
end

local function one_of(...)
  local words = { ... }
  return function(text)
    for _, word in ipairs(words) do
      if word == text then return text end
    end
    return nil, "one of " .. table.concat(words, ", ") .. " is needed"
  end
end

local function factor(text)
  local value = tonumber(text)
  if value and value > 0 and value < math.huge then return value end
  return nil, "a number above 0 is needed"
end

local READ = {
  a = time, b = time, c = time, d = time, over = time, head = time, decode = time, context = time,
  knee = whole(1, MOST), seqs = whole(1, MAX_SEQS), tokens = whole(1, MOST), kv = whole(1, 1e15),
  block = whole(1, 4096), admit = one_of("known", "reserve"), max_output = whole(1, MOST), factor = factor,
}
local LIMITS = { "seqs", "tokens", "kv", "block", "admit", "max_output" }
local DEFAULTS = { seqs = 256, tokens = 2048, block = 16, admit = "known" }
local NEEDED = { "a", "b", "c", "d" }

local function names_of(is_preset)
  local names = { "factor" }
  for _, name in ipairs(LIMITS) do names[#names + 1] = name end
  for _, name in ipairs(is_preset and {} or iteration.TERMS) do names[#names + 1] = name end
  return names
end

-- "a=1,b=2" to values by name. @return table, or nil and a message
local function read(text, is_preset)
  local known, given = names_of(is_preset), {}
  for part in (text .. ","):gmatch "([^,]*)," do
    local name, value = part:match "^%s*([%w_]+)%s*=%s*(.-)%s*$"
    if not name then return nil, ("name=value is needed, got '%s'"):format(part) end
    local is_known = false
    for _, other in ipairs(known) do is_known = is_known or other == name end
    if not is_known then
      return nil, ("unknown name '%s'; did you mean '%s'?"):format(name, errors.nearest(name, known))
    end
    if given[name] then return nil, name .. " is given twice" end
    local message
    given[name], message = READ[name](value)
    if not given[name] then return nil, ("%s=%s: %s"):format(name, value, message) end
  end
  return given
end

local function limits_of(given, preset)
  local limits = {}
  for _, name in ipairs(LIMITS) do
    limits[name] = given[name] or preset and preset.limits[name] or DEFAULTS[name]
  end
  if limits.tokens < limits.seqs then
    return nil, ("tokens=%d is below seqs=%d: each sequence takes a token in an iteration"):format(limits.tokens,
      limits.seqs)
  end
  if limits.max_output and limits.admit ~= "reserve" then return nil, "max_output is for admit=reserve" end
  return limits
end

local function limits_text(limits)
  local parts = {}
  for _, name in ipairs(LIMITS) do
    if limits[name] then parts[#parts + 1] = ("%s=%s"):format(name, tostring(limits[name])) end
  end
  return table.concat(parts, ",")
end

local Device = {}
Device.__index = Device

--- A server that nobody has used yet. @param is_stepping boolean|nil  no jumps: the same, slower
function Device:new(is_stepping)
  local limits = { is_stepping = is_stepping }
  for name, value in pairs(self.limits) do limits[name] = value end
  return Scheduler.new(self.model, limits)
end

-- A device from what it is made of: terms (seconds) or table, limits, factor.
local function make(of, name, checked)
  local self = setmetatable({
    terms = of.terms, table = of.table, limits = of.limits, factor = of.factor, name = name, checked = checked,
    about = of.about,
  }, Device)
  self.model = of.terms and iteration.linear(of.terms, of.factor) or iteration.table(of.table, of.factor)
  self.text = self:spec()
  return self
end

local function terms_text(terms, by)
  local parts = {}
  for _, name in ipairs(iteration.TERMS) do
    local value = terms[name]
    if value and name == "knee" then
      parts[#parts + 1] = ("knee=%d"):format(value)
    elseif value then
      parts[#parts + 1] = ("%s=%.6gms"):format(name, 1e3 * value * by)
    end
  end
  return table.concat(parts, ",")
end

--- As --device takes it: with all numbers, where they have a form.
function Device:spec()
  if self.terms then
    return ("continuous:%s,%s"):format(terms_text(self.terms, self.factor), limits_text(self.limits))
  end
  local by = self.factor ~= 1 and (",factor=%.6g"):format(self.factor) or ""
  return ("preset:%s,%s%s"):format(self.name, limits_text(self.limits), by)
end

--- The same device with another factor, or other limits. @param limits table|nil  in place of its own, by name;
-- false: none
function Device:with(by, limits)
  local merged = {}
  for name, value in pairs(self.limits) do merged[name] = value end
  for name, value in pairs(limits or {}) do merged[name] = value or nil end
  return make({ terms = self.terms, table = self.table, limits = merged, factor = by, about = self.about },
    self.name, self.checked)
end

local function of_preset(name, rest)
  local preset = presets.find(name)
  if not preset then
    local names = presets.names()
    return nil, ("there is no preset '%s'; did you mean '%s'? (tokenbatcher devices lists them)"):format(name,
      errors.nearest(name, names))
  end
  local given, message = {}, nil
  if rest then given, message = read(rest, true) end
  if not given then return nil, message end
  local limits
  limits, message = limits_of(given, preset)
  if not limits then return nil, message end
  return make({ terms = preset.terms, table = preset.table, limits = limits, factor = given.factor or 1,
    about = preset.of }, name, preset.checked)
end

local function of_terms(text)
  local given, message = read(text, false)
  if not given then return nil, message end
  for _, name in ipairs(NEEDED) do
    if not given[name] then return nil, ("%s is missing: a, b, c and d are needed"):format(name) end
  end
  if (given.knee == nil) ~= (given.over == nil) then
    return nil, "knee (tokens) and over (time for each token above it) belong together"
  end
  local terms = {}
  for _, name in ipairs(iteration.TERMS) do terms[name] = given[name] end
  local limits
  limits, message = limits_of(given, nil)
  if not limits then return nil, message end
  return make({ terms = terms, limits = limits, factor = given.factor or 1 })
end

--- @param text string  as above
-- @return {text, limits, name (of a preset), checked, about, new(is_stepping), with(factor, limits)}, or nil and a
-- message
function M.parse(text)
  local kind, rest = text:match "^%s*(%a+):%s*(.*)$"
  local device, message
  if kind == "continuous" then
    device, message = of_terms(rest)
  elseif kind == "preset" then
    local name, changes = rest:match "^([^,]*),?(.*)$"
    device, message = of_preset(name, changes ~= "" and changes or nil)
  else
    message = "continuous:a=..,b=..,c=..,d=.. or preset:NAME is needed"
  end
  if device then return device end
  return nil, ("--device '%s': %s"):format(text, message)
end

return M
