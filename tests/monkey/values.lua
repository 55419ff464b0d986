--- values: anything at all, for a monkey. Seeded; numbers, texts and tables that break things more often than not.

local ffi = require "ffi"

local random = math.random

local M = {}

--- One of a list.
function M.one_of(list) return list[random(#list)] end
local one_of = M.one_of

--- True once in `n` times.
function M.once_in(n) return random(n) == 1 end
local once_in = M.once_in

local NUMBERS = { 0, 1, 2, 3, 5, 0.5, 1e-7, 10, 100, 256, 32000, -1, -0.5, 1e8, 2 ^ 31, 2 ^ 32, 2 ^ 53, 2 ^ 53 - 1,
  1e12, 1e15, 1e300, -1e300, math.huge, -math.huge, 0 / 0 }
local TEXTS = { "", "a", "b", "\0", "\255\254", "fifo", "eager", "fair", "sum", "padded", "alone", "reject", "wait",
  "bisect", "fail", "fixed", "0.5", "1e3", "nan", "%s%d", ("x"):rep(300), "line\nline", "text", "__index",
  "virtual", "real", "on_time:slo_s=1" }

local function raising(value)
  return function() error(value, 0) end
end

local function odd_table(depth)
  local kind = random(7)
  if kind == 1 then return setmetatable({}, { __index = raising "the monkey's __index" }) end
  if kind == 2 then return setmetatable({}, { __tostring = raising "the monkey's __tostring" }) end
  if kind == 3 then return setmetatable({}, { __call = function() return M.any(depth + 1) end }) end
  if kind == 4 then return setmetatable({}, { __metatable = "locked", __len = raising "the monkey's __len" }) end
  if kind == 5 then return setmetatable({ message = 7 }, { __tostring = function() return 7 end }) end
  if kind == 6 then return { [1] = 1, [3] = 3, [-1] = 0, [0.5] = "", [true] = 1 } end
  local knot = {}
  knot[1], knot.self = knot, knot
  return knot
end

local function plain_table(depth)
  local out = {}
  for _ = 1, random(0, 4) do
    local value = M.any(depth + 1)
    if once_in(2) then out[#out + 1] = value else out[one_of(TEXTS)] = value end
  end
  return out
end

--- Functions that scripts hand in: they answer, or raise, whatever. @param more function[]|nil  further ones
function M.any_function(more)
  if more and once_in(2) then return one_of(more) end
  local kind = random(6)
  if kind == 1 then return raising "the monkey raises" end
  if kind == 2 then return raising(nil) end
  if kind == 3 then return raising { code = 7, message = {} } end
  if kind == 4 then return function(...) return ... end end
  if kind == 5 then return function() end end
  return function() return M.any(2) end
end

local MAKERS = {
  function() return nil end,
  function() return once_in(2) end,
  function() return one_of(NUMBERS) end,
  function() return random(0, 50) end,
  function() return one_of(TEXTS) end,
  function(depth) return depth < 3 and plain_table(depth) or {} end,
  odd_table,
  function() return M.any_function() end,
  function() return coroutine.create(function() end) end,
  function() return io.stdout end,
  function() return ffi.new("int64_t", random(-5, 5)) end,
  function() return ffi.new "struct { int x; }" end,
  function() return M.thing() end,
}

--- A value of any type.
function M.any(depth)
  return one_of(MAKERS)(depth or 1)
end

--- One of what the monkey has at hand; set by who has it.
function M.thing() return nil end

--- A table of some of these names: half of their values are drawn as `good` says, the others are anything.
-- @param good table  from name to function() -> value
function M.options(names, good)
  local out = {}
  for _ = 1, random(0, 5) do
    local name = one_of(names)
    if good[name] and not once_in(3) then out[name] = good[name]() else out[name] = M.any() end
  end
  return out
end

return M
