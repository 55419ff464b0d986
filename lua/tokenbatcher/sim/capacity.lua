--- How much a policy can take: the highest rate of these arrivals at which a share of them is answered on time. Times
-- are divided by a speed-up, doubled or halved until one is found at which it is kept and one at which it is not; then
-- the middle of the two is tried (geometrically), until they are 1 % apart. With several seeds the lower limit of the
-- share decides, and all speed-ups and policies have the same arrivals.

local floor = math.floor

local M = {}

local DOUBLINGS, APART = 20, 1.01
local AROUND = { 0.9, 1.1 } -- of what was found: is it kept below, and lost above?

local function at_speedup(variant, speedup)
  local settings = {}
  for i, setting in ipairs(variant.settings) do settings[i] = setting end
  settings[#settings + 1] = { name = "speedup", text = ("%.4g"):format(speedup), value = speedup }
  return { policy = variant.policy, policy_text = variant.policy_text, settings = settings }
end

-- Its share on time, by which is decided. @param run function(variant) -> row, or nil and a message
local function share_at(variant, speedup, run)
  local row, message = run(at_speedup(variant, speedup))
  if not row then error(message, 0) end
  local half = row.half_width and row.half_width.goodput
  return row.goodput - (half and half == half and half or 0), row
end

-- A speed-up at which it is kept (nil: there is none) and one at which it is not (nil: none was found).
local function bracket(variant, from, wanted, run)
  local is_kept = share_at(variant, from, run) >= wanted
  local low, high = is_kept and from or nil, not is_kept and from or nil
  for _ = 1, DOUBLINGS do
    if low and high then break end
    local speedup = low and low * 2 or high / 2
    if share_at(variant, speedup, run) >= wanted then low = speedup else high = speedup end
  end
  return low, high
end

--- @param variant table  see experiment.lua, without a speedup among its settings
-- @param from number  the first speed-up  @param wanted number  share, above 0 to 1
-- @param run function(variant) -> row, or nil and a message: see seeds.run
-- @return {variant (at what was found), speedup, rate (a second), share, above {speedup, share}, is_monotone}; a
-- message in its place where there is no such rate; raises what run says
function M.find(variant, from, wanted, run)
  local low, high = bracket(variant, from, wanted, run)
  if not low then return ("fewer are on time at 1/%d of the speed, too"):format(2 ^ DOUBLINGS) end
  if not high then return ("as many are on time at %d times the speed, too"):format(2 ^ DOUBLINGS) end
  while high / low > APART do
    local middle = math.sqrt(low * high)
    if share_at(variant, middle, run) >= wanted then low = middle else high = middle end
  end
  local share, row = share_at(variant, low, run)
  local is_monotone = share_at(variant, AROUND[1] * low, run) >= wanted
    and share_at(variant, AROUND[2] * high, run) < wanted
  return {
    variant = at_speedup(variant, low), speedup = low, share = share, is_monotone = is_monotone,
    rate = row.arrivals_span_s > 0 and row.arrivals / row.arrivals_span_s or 0,
    above = { speedup = high, share = (share_at(variant, high, run)) },
  }
end

--- What find() returned, for --json. @return list of {name, value}
function M.figures(found, wanted)
  return {
    { "wanted", wanted }, { "arrivals_per_s", found.rate }, { "speedup", found.speedup }, { "on_time", found.share },
    { "not_at_speedup", found.above.speedup }, { "not_at_on_time", found.above.share },
    { "is_monotone", found.is_monotone },
  }
end

local function line_of(label, f, width)
  label = ("%-" .. width .. "s"):format(label)
  if type(f) == "string" then return label .. "  " .. f end
  return ("%s  %10.4g %9.4g %10.2f   %.4g (%.2f %%)%s"):format(label, f.rate, f.speedup, floor(1e4 * f.share) / 100,
    f.above.speedup, floor(1e4 * f.above.share) / 100,
    f.is_monotone and "" or "  (not monotone: not so at 0.9 or 1.1 times that)")
end

--- For people. @param found table  list of {label, what find() returned}
function M.text(found, wanted)
  local width = 20
  for _, one in ipairs(found) do width = math.max(width, #one[1]) end
  local lines = { ("%-" .. width .. "s  arrivals/s   speedup  on time %%   not at"):format(
    ("%g %% on time"):format(100 * wanted)) }
  for _, one in ipairs(found) do lines[#lines + 1] = line_of(one[1], one[2], width) end
  return table.concat(lines, "\n") .. "\n"
end

return M
