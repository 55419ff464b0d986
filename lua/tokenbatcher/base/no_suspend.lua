--- pcall for functions that must not suspend: no coroutine can yield through gsub, so one
-- that tries gets an error instead. Outside of coroutines it is pcall, which compiles.

local running = coroutine.running

local held_fn, held_a, held_b, held_c, held_d, held_ok, held_value

local function call_held()
  held_ok, held_value = pcall(held_fn, held_a, held_b, held_c, held_d)
end

--- @return like pcall, one value
return function(fn, a, b, c, d)
  if not running() then
    local ok, value = pcall(fn, a, b, c, d)
    return ok, value
  end
  held_fn, held_a, held_b, held_c, held_d = fn, a, b, c, d
  string.gsub(" ", " ", call_held)
  local ok, value = held_ok, held_value
  held_fn, held_a, held_b, held_c, held_d, held_value = nil, nil, nil, nil, nil, nil
  if not ok and type(value) == "string" and value:find("yield across C-call boundary", 1, true) then
    value = "it tried to suspend, which it must not"
  end
  return ok, value
end
