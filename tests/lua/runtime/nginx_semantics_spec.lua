-- The specs of the batcher's semantics, the same files, on the pump of nginx: its light
-- threads, semaphores and timers under a virtual clock. See tests/nginx/run_specs.lua.

local nginx = dofile "tests/nginx/server.lua"

local FILES = { "batching/cancel", "batching/abandoned", "estimator/estimator", "batching/forming",
  "batching/group", "batching/guards", "batching/join", "batching/linger", "batching/suspects",
  "batching/lifecycle", "batching/metrics", "batching/original", "policy/policy", "policy/policy_guard",
  "batching/random", "batching/reload", "batching/results", "policy/shipped_policies", "batching/stop",
  "batching/submission" }

-- What does not make sense there, and why. (api_spec, host_spec: run, step and fd, which nginx has not.)
local SKIPPED = {
  ["gives its descriptors back at its end"] = "about run",
  ["whose run ended with an error"] = "about run",
  ["run refuses to begin while"] = "about run and step",
  ["endless stream of failing coroutines"] = "no run that could raise it: nginx logs each",
  ["with%(%) shows where an error was raised"] = "tracebacks of light threads end at with()",
  ["keep waking each other"] = "busy on the real clock, where nginx has a clock of 4 ms",
  ["needs a batcher and a function, and a place"] = "all code of a worker is in a light thread",
  ["a nested coroutine in inference_fn"] = "light threads may wait in coroutines of their own",
  ["an estimator X3: must not run"] = "there is no run",
  ["an estimator X3: must not spawn"] = "the line named is that of the runner's own spawn",
  ["views follow records that come, go"] = "counts turns, and the end of a batch is one of its own in nginx",
  ["on the real clock a batch is never early, and not late"] = "nginx has a clock of milliseconds",
  ["is none while the loop only waits"] = "sleeps for ever, on the real clock",
  ["the guide has the table"] = "about the guide",
}

local RUN = [[
local ok, err = pcall(function()
  local run = dofile "$ROOT/tests/nginx/run_specs.lua"
  local out = assert(io.open("$FOLDER/results", "w"))
  local skipped = loadstring [==[ $SKIPPED ]==]()
  local function is_skipped(name)
    for _, pattern in ipairs(skipped) do
      if name:find(pattern) then return true end
    end
  end
  run({ "tests/lua/$FILE_spec.lua" }, is_skipped, function(state, name, message)
    out:write(state, "\t", name, "\t", (tostring(message):gsub("\n", " | ")), "\n")
  end)
  out:close()
end)
return ok and "done" or tostring(err)
]]

local function patterns()
  local list = {}
  for pattern in pairs(SKIPPED) do list[#list + 1] = ("%q"):format(pattern) end
  table.sort(list)
  return "return {" .. table.concat(list, ",") .. "}"
end

local function run(file)
  local server = nginx.start { main = "env B; env LUA_PATH; working_directory " .. nginx.root .. ";",
    http = "lua_max_running_timers 4000; lua_max_pending_timers 4000;" }
  local ok, answer = pcall(server.eval, server, (RUN:gsub("%$(%u+)", { ROOT = nginx.root, FOLDER = server.folder,
    SKIPPED = patterns(), FILE = file })))
  local results = nginx.read(server.folder .. "/results")
  server:stop()
  assert(ok, answer)
  assert.equal("done", answer)
  return results
end

local was_skipped = {}

describe("in nginx, on a virtual clock:", function()
  local missing = nginx.missing()

  for _, file in ipairs(FILES) do
    it("the batcher's semantics hold: " .. file .. "_spec.lua", function()
      if missing then return pending("skipped: " .. missing) end
      local results = run(file)
      local passed, failed = 0, {}
      for state, name, message in results:gmatch "(%w+)\t([^\t]*)\t([^\n]*)\n" do
        if state == "passed" then passed = passed + 1 end
        if state == "failed" then failed[#failed + 1] = name .. ": " .. message end
        if state == "skipped" then was_skipped[#was_skipped + 1] = name end
      end
      assert.same({}, failed)
      assert.is_true(passed > 5, "only " .. passed .. " have run")
    end)
  end

  it("what is skipped there exists", function()
    if missing then return pending("skipped: " .. missing) end
    local all = table.concat(was_skipped, "\n")
    for pattern in pairs(SKIPPED) do assert.truthy(all:find(pattern), pattern) end
  end)
end)
