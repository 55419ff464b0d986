--- What is run over a mutant, by the room that it is in: the C tests, and specs on the virtual clock. Those that tell
-- soonest come first. The programs stand beside the libraries (mutate.mk), so that a mutant costs one object and a
-- link.

local function c_tests(folder, names)
  local out = {}
  for name in names:gmatch "%S+" do
    out[#out + 1] = ("TB_OPS=200000 LD_LIBRARY_PATH=$PWD/build build/%s/%s"):format(folder, name)
  end
  return out
end

local function busted(specs)
  return 'LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;;" busted --lua=luajit --no-keep-going -o TAP ' .. specs
end

local function together(...)
  local out = {}
  for _, part in ipairs { ... } do
    for _, command in ipairs(type(part) == "table" and part or { part }) do out[#out + 1] = command end
  end
  return out
end

-- Those of a folder, the slow ones last.
local function specs(folder, slow)
  local pipe, quick, last = assert(io.popen("ls " .. folder .. "/*_spec.lua")), {}, {}
  for path in pipe:lines() do
    local name = path:match "([%w_]+)_spec%.lua$"
    local list = (" " .. slow .. " "):find(" " .. name .. " ", 1, true) and last or quick
    list[#list + 1] = path
  end
  pipe:close()
  return table.concat(quick, " ") .. " " .. table.concat(last, " ")
end

local MAKE = "make -s OPT=-O1 "

-- The programs of a room that are not among the slow ones, which follow.
local function programs(room, slow)
  local pipe, names = assert(io.popen(("ls tests/src/%s/test_*.c"):format(room))), {}
  for path in pipe:lines() do
    local name = path:match "([%w_]+)%.c$"
    if not (" " .. slow .. " "):find(" " .. name .. " ", 1, true) then names[#names + 1] = name end
  end
  pipe:close()
  return table.concat(names, " ") .. " " .. slow
end

local CORE = programs("core", "test_core_stats test_switch test_alloc test_misuse test_model test_view")
local EV = programs("ev", "test_ev_threads")
local ENGINES = programs("script", "test_engine_threads test_engine_alloc"):gsub(" test_engine_alloc", "")

local SPECS = {
  base = "tests/lua/base tests/lua/batching/submission_spec.lua tests/lua/batching/forming_spec.lua "
    .. "tests/lua/batching/metrics_spec.lua tests/lua/backend/retry_spec.lua tests/lua/script/load_spec.lua",
  core = "tests/lua/core/keys_spec.lua tests/lua/core/stats_spec.lua tests/lua/testing tests/lua/policy "
    .. "tests/lua/batching/forming_spec.lua "
    .. "tests/lua/batching/submission_spec.lua tests/lua/batching/suspects_spec.lua tests/lua/batching/group_spec.lua",
  runtime = "tests/lua/runtime/timers_spec.lua tests/lua/runtime/rims_spec.lua tests/lua/runtime/api_spec.lua "
    .. "tests/lua/runtime/host_spec.lua tests/lua/batching/rims_spec.lua "
    .. "tests/lua/batching/lifecycle_spec.lua tests/lua/batching/stop_spec.lua tests/lua/batching/due_spec.lua "
    .. "tests/lua/runtime/away_spec.lua tests/lua/batching/random_spec.lua",
  batching = specs("tests/lua/batching", "due lifecycle reload recording random")
    .. " tests/lua/policy/policy_life_spec.lua tests/lua/policy/rate_limited_spec.lua tests/lua/policy/policy_spec.lua "
    .. "tests/lua/estimator tests/lua/policy/policy_guard_spec.lua",
  policy = "tests/lua/policy tests/lua/batching/suspects_spec.lua",
  estimator = "tests/lua/estimator",
  backend = "tests/lua/backend/simulated_spec.lua tests/lua/backend/retrying_spec.lua "
    .. "tests/lua/backend/retry_spec.lua tests/lua/backend/pool_spec.lua tests/lua/backend/threads_spec.lua "
    .. "tests/lua/backend/endpoints_spec.lua",
}

local suites = {
  ["c-core"] = {
    prepare = MAKE .. "mutate-core",
    build = MAKE .. "build/libtokenbatcher.so mutate-inside",
    tests = together(c_tests("mutate", CORE), "build/mutate/search 2"),
  },
  ["c-search"] = {
    prepare = MAKE .. "build/mutate/search",
    build = MAKE .. "build/mutate/search",
    tests = { "build/mutate/search 2" },
  },
  ["c-ev"] = {
    prepare = MAKE .. "mutate-core",
    build = MAKE .. "build/libtokenbatcher.so build/mutate/test_ev_clock",
    tests = c_tests("mutate", EV),
  },
  ["c-script"] = {
    prepare = MAKE .. "mutate-engines",
    build = MAKE .. "build/libtokenbatcher_script.so",
    tests = together(c_tests("tests", ENGINES),
      busted "tests/lua/backend/pool_spec.lua tests/lua/backend/threads_spec.lua",
      MAKE .. "build/tests/test_engine_alloc && build/tests/test_engine_alloc"),
  },
  -- the engine's half is embedded in the library
  ["lua-script"] = {
    prepare = MAKE .. "mutate-engines",
    build = MAKE .. "build/libtokenbatcher_script.so",
    tests = together(busted "tests/lua/script tests/lua/backend/threads_spec.lua", c_tests("tests", ENGINES)),
  },
}
for room, list in pairs(SPECS) do suites["lua-" .. room] = { tests = { busted(list) } } end

-- A few of each, for the sample that `make test` runs.
local QUICK = "test_core_batch test_core_rims test_core_inside"
suites["c-quick"] = {
  prepare = MAKE .. (QUICK:gsub("test_", "build/mutate/%0")),
  build = MAKE .. "build/libtokenbatcher.so build/mutate/test_core_inside",
  tests = c_tests("mutate", QUICK),
}
suites["lua-quick"] = {
  tests = { busted("tests/lua/runtime/timers_spec.lua tests/lua/core/keys_spec.lua tests/lua/batching/reports_spec.lua "
    .. "tests/lua/batching/join_spec.lua tests/lua/batching/cancel_spec.lua") },
}

return {
  -- with what is built: its times are kept, so that only what a mutant changes is built again
  copy = "Makefile include src lua tests examples build/src build/gen build/.has build/*.so build/*.so.0 "
    .. "build/libtokenbatcher.a build/tokenbatcher build/mutate",
  suites = suites,
  suite_of = function(file)
    local c_room = file:match "^src/(%l+)/"
    local lua_room = file:match "^lua/tokenbatcher/(%l+)/"
    return c_room and "c-" .. c_room or lua_room and "lua-" .. lua_room or file
  end,
}
