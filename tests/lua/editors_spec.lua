-- The file for editors names exactly the public API: what the modules have, what the guide lists, what is handed to
-- users in a run.

local cli = dofile "tests/lua/cli_helper.lua"
local options = require "tokenbatcher.core.options"
local submit_options = require "tokenbatcher.batching.submit_options"
local tb = require "tokenbatcher"

local TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
local META

-- Names that a pattern finds, as a sorted list, each once.
local function names_in(text, pattern)
  local found, names = {}, {}
  for name in text:gmatch(pattern) do found[name] = true end
  for name in pairs(found) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function sorted(names)
  local out = {}
  for _, name in ipairs(names) do out[#out + 1] = name end
  table.sort(out)
  return out
end

local function fields_of(class)
  local block = assert(("\n" .. META):match("\n%-%-%-@class " .. class:gsub("%.", "%%.") .. "\n(.-)\n[^-]"), class)
  return names_in(block .. "\n", "%-%-%-@field ([%w_]+)%??")
end

local function methods_of(var) return names_in(META, "\nfunction " .. var .. "[:.]([%w_]+)%(") end

local function keys(...)
  local names, seen = {}, {}
  for _, t in ipairs { ... } do
    for name in pairs(t) do
      if not seen[name] and name:sub(1, 1) ~= "_" then names[#names + 1] = name end
      seen[name] = true
    end
  end
  table.sort(names)
  return names
end

describe("the file for editors", function()
  setup(function()
    cli.new_folder()
    META = cli.shell("luajit src/host/meta.lua").out
  end)

  teardown(cli.clean)

  it("is Lua, and a meta file", function()
    assert.matches("^%-%-%-@meta tokenbatcher\n", META)
    assert.is_function(assert(loadstring(META)))
    assert.is_function(loadstring(META)().run)
  end)

  it("has what the module has, and no more", function()
    local there = loadstring(META)()
    assert.is_truthy(tb.http and tb.json and tb.listen and tb.otel) -- loaded when they are asked for
    for name, value in pairs(tb) do
      if name ~= "_VERSION" then
        assert.is_true(there[name] ~= nil, "not in it: " .. name)
        assert.equal(options.is_callable(value), options.is_callable(there[name]), name)
      end
    end
    for name in pairs(there) do assert.is_true(rawget(tb, name) ~= nil, "no such thing: " .. name) end
  end)

  it("has what ships on each shelf", function()
    local there = loadstring(META)()
    for _, kind in ipairs { "policy", "estimator", "backend", "source", "queue" } do
      assert.same(sorted(getmetatable(tb[kind]).names), keys(there[kind]))
    end
    for _, kind in ipairs { "metrics", "http", "json" } do
      for name in pairs(there[kind]) do assert.is_function(tb[kind][name], kind .. "." .. name) end
    end
  end)

  it("has each option, with its text", function()
    local names = {}
    for _, entry in ipairs(options.list) do
      names[#names + 1] = entry.name
      names[#names + 1] = entry.token_name
      assert.truthy(META:find(entry.text, 1, true), entry.name)
    end
    assert.same(sorted(names), fields_of "tokenbatcher.Options")
    assert.same(sorted(submit_options.names "TokenBatcher"), fields_of "tokenbatcher.SubmitOptions")
    assert.same(sorted(submit_options.names "TokenBatcher"), fields_of "tokenbatcher.BatchSubmitOptions")
  end)

  it("has the batcher's methods that the guide lists, and no more", function()
    local calls = cli.read("lua/tokenbatcher/README.md"):match "\n## Calls\n(.-)\n## "
    local names = {}
    for row in calls:gmatch "\n(|[^\n]*batcher:[^\n]*)" do
      for name in row:match("^| ([^|]*)"):gmatch ":([%l_]+)%f[^%l_]" do names[name] = true end
    end
    assert.same(keys(names), methods_of "Batcher")
    assert.same({ "is_running", "stats" }, fields_of "tokenbatcher.Batcher")
  end)

  it("has each method of futures, queues and batches", function()
    for var, file in pairs { Future = "runtime/future", Queue = "core/view", Batch = "core/view" } do
      assert.same(names_in(cli.read("lua/tokenbatcher/" .. file .. ".lua"), "\nfunction " .. var .. ":([%w_]+)"),
        methods_of(var))
    end
    assert.same(names_in(cli.read "lua/tokenbatcher/testing/init.lua", "\nfunction Queue:([%w_]+)"),
      methods_of "TestingQueue")
  end)

  it("has what inference functions and policies are handed, and what stats hold", function()
    local infos, reports, stats, fields = {}, {}, nil, {}
    tb.run(function()
      local batcher = tb.TokenBatcher {
        inference_fn = function(records, info)
          infos[#infos + 1] = info
          if info.attempt == 1 then error "once more" end
          local out = {}
          for i in ipairs(records) do out[i] = i end
          return out
        end,
        policy = { form = function(queue, batch)
          for i = 1, queue.size do batch:add(i) end
          for _, name in ipairs(fields_of "tokenbatcher.Queue") do fields["queue." .. name] = queue[name] ~= nil end
          for _, name in ipairs(fields_of "tokenbatcher.Batch") do fields["batch." .. name] = batch[name] ~= nil end
        end, on_complete = function(report) reports[#reports + 1] = report end },
        on_error = "bisect", inference_timeout_s = 1, log = function() end,
      }
      tb.with(batcher, function()
        local futures = { batcher:submit("a", { key = "k", group = "g", timeout_s = 9, trace = TRACE }),
          batcher:submit("b", { key = "k", group = "g", timeout_s = 9, trace = TRACE }) }
        tb.gather(futures)
        stats = batcher.stats
      end)
    end, { clock = "virtual" })
    assert.is_true(#infos > 1 and #reports == 1)
    local given = keys(unpack(infos))
    for _, name in ipairs { "limits", "requests", "usage" } do given[#given + 1] = name end -- to be set by users
    assert.same(sorted(given), fields_of "tokenbatcher.Info")
    local told = " " .. table.concat(fields_of "tokenbatcher.Report", " ") .. " "
    for _, name in ipairs(keys(unpack(reports))) do assert.truthy(told:find(" " .. name .. " ", 1, true), name) end
    assert.same(keys(stats), fields_of "tokenbatcher.Stats")
    assert.same(keys(stats.wait_s), fields_of "tokenbatcher.Distribution")
    for name, is_there in pairs(fields) do assert.is_true(is_there, name) end
  end)
end)
