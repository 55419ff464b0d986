-- tb.backend.threads: blocking inference in worker threads. Threads meet and wait for each
-- other by POSIX semaphores and a barrier, whose addresses travel in the records; nothing
-- here depends on how long anything takes. What would hang is ended by GUARD_S.

local cli = dofile "tests/lua/cli_helper.lua"
local ffi = require "ffi"
local tb = require "tokenbatcher"
local H = require "tests.lua.helper"

local GUARD_S = 30

ffi.cdef [[
typedef struct { char opaque[64]; } tbtest_shared;
int pthread_barrier_init(tbtest_shared *barrier, const void *attributes, unsigned count);
int sem_init(tbtest_shared *semaphore, int shared, unsigned value);
int sem_post(tbtest_shared *semaphore);
int getpid(void);
]]

local function address(shared)
  return tonumber(ffi.cast("uintptr_t", ffi.cast("void *", shared)))
end

local function semaphore()
  local shared = ffi.new "tbtest_shared"
  ffi.C.sem_init(shared, 0, 0)
  return shared
end

-- A worker script: what its inference function does with each record is `body`, whose value
-- is the result; `at(r)` is the address in a record.
local function script(body, head)
  return cli.file("infer.lua", ([[
    local ffi = require "ffi"
    local tb = require "tokenbatcher"
    ffi.cdef "int pthread_barrier_wait(void *barrier); int sem_wait(void *semaphore); int sem_post(void *semaphore);"
    local function at(n) return ffi.cast("void *", n) end
    %s
    return { inference_fn = function(records, info)
      local results = {}
      for i, r in ipairs(records) do results[i] = (function() %s end)() end
      return results
    end }]]):format(head or "", body))
end

-- Run fn(batcher, backend) with a batch for each record.
local function with(options, fn)
  local backend = tb.backend.threads { script = options.script, threads = options.threads,
    options = options.options, max_memory_mb = options.max_memory_mb }
  options.script, options.threads, options.options, options.max_memory_mb = nil, nil, nil, nil
  options.inference_fn = backend
  options.max_batch_size = options.max_batch_size or 1
  options.policy = "eager"
  options.inference_timeout_s = options.inference_timeout_s or GUARD_S
  options.log = options.log or function(_, text) error(text) end
  return H.run(function()
    local batcher = tb.TokenBatcher(options):start()
    local result = fn(batcher, backend)
    batcher:stop()
    return result
  end, "real"), backend
end

-- Threads of this process.
local function thread_count()
  local pipe, n = io.popen(("ls /proc/%d/task"):format(ffi.C.getpid())), 0
  for _ in pipe:lines() do n = n + 1 end
  pipe:close()
  return n
end

local function wait_for(is_true)
  local ends = tb.now() + GUARD_S
  while not is_true() do
    assert(tb.now() < ends, "it did not happen")
    tb.sleep(0.001)
  end
end

local function code_of(future)
  local _, err = future:await()
  return err and err.code
end

describe("tb.backend.threads", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("carries records and results as values", function()
    with({ script = script "return r" }, function(batcher)
      local values = { "text", "", "\0bytes\255", 1.5, -0.25, 2 ^ 53, true, { { deep = { 1, 2, { x = "y" } } } } }
      for _, value in ipairs(values) do
        assert.same(value, (batcher:submit(value):await()))
      end
      assert.equal("nan", tostring(batcher:submit(0 / 0):await()):match "nan")
      assert.is_false((batcher:submit(false):await()))
    end)
  end)

  it("runs as many batches at once as there are threads: four meet at a barrier", function()
    local barrier = ffi.new "tbtest_shared"
    ffi.C.pthread_barrier_init(barrier, nil, 4)
    with({ script = script "ffi.C.pthread_barrier_wait(at(r)) return 'met'", threads = 4, max_concurrent_batches = 4 },
      function(batcher)
        local futures = {}
        for i = 1, 8 do futures[i] = batcher:submit(address(barrier)) end
        assert.same({ "met", "met", "met", "met", "met", "met", "met", "met" }, (tb.gather(futures)))
      end)
  end)

  it("gives each thread a Lua state of its own, which lives as long as the batcher runs", function()
    local path = script("calls = calls + 1 return calls", "calls = 0")
    with({ script = path, threads = 1 }, function(batcher)
      for i = 1, 3 do assert.equal(i, (batcher:submit("x"):await())) end
    end)
    assert.is_nil(rawget(_G, "calls"))
  end)

  it("leaves the loop free: coroutines and aggregation go on while a thread blocks", function()
    local gate = semaphore()
    with({ script = script "ffi.C.sem_wait(at(r)) return 'through'", threads = 1 }, function(batcher)
      local first = batcher:submit(address(gate))
      wait_for(function() return batcher.stats.running_records == 1 end)
      local second = batcher:submit(address(gate))
      for _ = 1, 5 do tb.sleep(0.001) end
      assert.is_false(first:done())
      assert.equal(1, batcher.stats.prefetched_records) -- cut, and no further
      ffi.C.sem_post(gate)
      ffi.C.sem_post(gate)
      assert.same({ "through", "through" }, (tb.gather { first, second }))
    end)
  end)

  it("passes info to the script, and usage, requests, failures and messages back", function()
    local path = cli.file("infer.lua", [[
      local tb = require "tokenbatcher"
      return { inference_fn = function(records, info)
        info.usage, info.requests = { total_tokens = 7 }, 3
        if records[1] == "whole" then return tb.failure "all of it" end
        if records[1] == "why" then return nil, "there is a reason" end
        return { info.cost .. " " .. info.size .. " " .. info.costs[2] .. " " .. info.reason, tb.failure { odd = 1 } }
      end }]])
    local seen
    with({ script = path, max_batch_size = 2, min_batch_size = 2, batch_timeout_s = 0,
      token_estimator = setmetatable({ observe = function(_, _, usage) seen = usage end },
        { __call = function() return 4 end }) },
      function(batcher)
        local futures = batcher:submit_batch { "a", "b" }
        assert.equal("8 2 4 full", (futures[1]:await()))
        local _, err = futures[2]:await()
        assert.equal("inference_failed", err.code)
        assert.same({ odd = 1 }, err.cause)
        assert.same({ total_tokens = 7 }, seen)
        _, err = batcher:submit("whole"):await()
        assert.matches("a single failure", err.message)
        _, err = batcher:submit("why"):await()
        assert.matches("returned nil for a batch of 1 record: there is a reason", err.message)
      end)
  end)

  it("fails only the batch of a script that raises, with the traceback of its thread", function()
    local path = script "if r == 'bad' then error('no such model') end if r == 'worse' then error({ 1 }) end return r"
    with({ script = path, threads = 2, max_concurrent_batches = 2 }, function(batcher)
      local futures = {}
      for i, record in ipairs { "a", "bad", "b", "worse", "c" } do futures[i] = batcher:submit(record) end
      local results, errs = tb.gather(futures)
      assert.same({ "a", nil, "b", nil, "c" }, results)
      assert.equal("inference_failed", errs[2].code)
      assert.matches("infer.lua:%d+: no such model", errs[2].message)
      assert.matches("infer.lua:%d+: in function", errs[2].traceback)
      assert.equal("inference_failed", errs[4].code)
    end)
  end)

  -- As when the stack overflows and LuaJIT has no room left for the handler.
  it("gives a batch whose traceback cannot be taken none of an earlier batch", function()
    local path = script "if r == 'other' then debug.traceback = error end error('no such model ' .. r)"
    with({ script = path, threads = 1 }, function(batcher)
      local _, err = batcher:submit("bad"):await()
      assert.matches("no such model bad", err.traceback)
      _, err = batcher:submit("other"):await()
      assert.equal("inference_failed", err.code)
      assert.not_matches("no such model bad", err.traceback)
    end)
  end)

  it("fails only the batch of a script that returns rubbish", function()
    local path = cli.file("infer.lua", [[
      local answers = { short = {}, long = { 1, 2 }, text = "text", fn = { print }, hole = { [3] = 1 },
        thread = { coroutine.create(print) }, fine = { "fine" } }
      answers.loop = { {} }
      answers.loop[1].self = answers.loop
      return { inference_fn = function(records) return answers[records[1] ] end }]])
    with({ script = path, threads = 1 }, function(batcher)
      for record, message in pairs {
        short = "returned 0 results for a batch of 1 record", long = "returned 2 results", text = "returned a string",
        fn = "results cannot leave its thread", thread = "results cannot leave its thread", hole = "hole",
        loop = "results cannot leave its thread", none = "returned nil" } do
        local _, err = batcher:submit(record):await()
        assert.equal("inference_failed", err.code)
        assert.truthy(err.message:find(message, 1, true), record .. ": " .. err.message)
        assert.equal("fine", (batcher:submit("fine"):await()))
      end
    end)
  end)

  it("fails only the batch whose record is no plain value", function()
    with({ script = script "return r", threads = 1 }, function(batcher)
      local _, err = batcher:submit({ print }):await()
      assert.matches("the records cannot travel to a thread", err.message)
      assert.equal("fine", (batcher:submit("fine"):await()))
    end)
  end)

  it("fails only the batch of a script that runs out of memory, and the thread works on", function()
    local path = script [[
      if r == "hog" then
        local kept = {}
        while true do kept[#kept + 1] = ("x"):rep(2 ^ 16) .. #kept end
      end
      return r]]
    with({ script = path, threads = 1, max_memory_mb = 32 }, function(batcher, backend)
      for _ = 1, 3 do
        local _, err = batcher:submit("hog"):await()
        assert.equal("inference_failed", err.code)
        assert.matches("not enough memory", err.message)
        assert.equal("fine", (batcher:submit("fine"):await()))
      end
      assert.equal(0, backend:stats().abandoned)
    end)
  end)

  it("says so when the memory allowed is not even enough to load the script", function()
    local path = script("return r", "local model = ('x'):rep(2 ^ 22)")
    with({ script = path, max_memory_mb = 2, threads = 1 }, function(batcher)
      local _, err = batcher:submit("x"):await()
      assert.equal("inference_failed", err.code)
      assert.matches("memory", err.message)
    end)
  end)

  it("abandons a thread that outlives inference_timeout_s: counted, replaced, its answer dropped", function()
    local gate, ended = semaphore(), semaphore()
    local count = ffi.cast("unsigned *", ended) -- of a semaphore's posts
    local path = script [[
      if r == "quick" then return r end
      ffi.C.sem_wait(at(r.gate))
      ffi.C.sem_post(at(r.ended))
      return "late"]]
    local before = thread_count()
    with({ script = path, threads = 1, inference_timeout_s = 0.05 }, function(batcher, backend)
      local n, stuck = 0
      repeat -- on a busy machine no thread may have begun by then, and nothing is abandoned
        n = n + 1
        stuck = batcher:submit { gate = address(gate), ended = address(ended) }
        assert.equal("inference_timeout", code_of(stuck))
      until backend:stats().abandoned > 0 or n == 100
      assert.equal(1, backend:stats().abandoned)
      assert.equal(1, backend:stats().threads)
      for _ = 1, 3 do
        batcher:set { inference_timeout_s = GUARD_S }
        assert.equal("quick", (batcher:submit("quick"):await())) -- by another thread
      end
      assert.equal(before + 2, thread_count())
      batcher:stop() -- joins that one, not the one that is stuck
      assert.equal(before + 1, thread_count())
      assert.equal(0, backend:stats().threads)
      ffi.C.sem_post(gate)
      wait_for(function() return count[0] == 1 and thread_count() == before end)
      assert.equal("inference_timeout", code_of(stuck))
      assert.equal(n, batcher.stats.total_failed)
      batcher:start()
      assert.equal("quick", (batcher:submit("quick"):await()))
      assert.equal(1, backend:stats().abandoned)
    end)
    assert.equal(before, thread_count())
  end)

  -- Batches until so many calls hang: one that times out before a thread has begun it does not.
  local function hang(batcher, backend, gate, calls)
    repeat
      assert.equal("inference_timeout", code_of(batcher:submit(address(gate))))
    until backend:stats().hanging == calls
  end

  it("R5: keeps at most threads + 16 calls that hang: beyond that batches fail at once, until one ends", function()
    local gate = semaphore()
    local path = script "if r ~= 0 then ffi.C.sem_wait(at(r)) end return 'done'"
    local before = thread_count()
    with({ script = path, threads = 2, inference_timeout_s = 0.01 }, function(batcher, backend)
      hang(batcher, backend, gate, 18)
      assert.equal(before + 18, thread_count())
      batcher:set { inference_timeout_s = GUARD_S }
      for _ = 1, 3 do
        local _, err = batcher:submit(0):await()
        assert.equal("inference_failed", err.code)
        assert.matches("threads: 18 calls that were given up still run, as many as may %(threads %+ 16%)", err.message)
      end
      assert.equal(before + 18, thread_count())
      assert.same({ threads = 0, busy = 0, waiting = 0, abandoned = 18, hanging = 18 }, backend:stats())
      ffi.C.sem_post(gate)
      wait_for(function() return backend:stats().hanging < 18 end)
      assert.equal("done", (batcher:submit(0):await()))
      batcher:stop()
      batcher:start() -- what hangs outlives a rest, and counts on
      assert.equal("done", (batcher:submit(0):await()))
      assert.equal(17, backend:stats().hanging)
      for _ = 1, 17 do ffi.C.sem_post(gate) end
      wait_for(function() return backend:stats().hanging == 0 end)
      assert.equal("done", (batcher:submit(0):await()))
      assert.equal(18, backend:stats().abandoned)
    end)
    wait_for(function() return thread_count() == before end)
  end)

  it("R5: fails a batch at once that waits for a thread when the last one hangs", function()
    local gate = semaphore()
    local path = script "if r ~= 0 then ffi.C.sem_wait(at(r)) end return 'done'"
    with({ script = path, threads = 1, inference_timeout_s = 0.01 }, function(batcher, backend)
      hang(batcher, backend, gate, 16)
      batcher:set { max_concurrent_batches = 2, inference_timeout_s = 0.5 }
      local hangs = batcher:submit(address(gate))
      wait_for(function() return backend:stats().busy == 1 end)
      batcher:set { inference_timeout_s = GUARD_S }
      local waits = batcher:submit(0)
      wait_for(function() return backend:stats().waiting == 1 end)
      assert.equal("inference_timeout", code_of(hangs))
      local _, err = waits:await()
      assert.matches("all threads hang in calls that were given up", err.message)
      for _ = 1, 17 do ffi.C.sem_post(gate) end
      wait_for(function() return backend:stats().hanging == 0 end)
      assert.equal("done", (batcher:submit(0):await()))
    end)
  end)

  it("R5: a call that is given up counts until its thread ends it, and no longer", function()
    local gate = semaphore()
    local path = script "if r ~= 0 then ffi.C.sem_wait(at(r)) end return 'done'"
    local ended
    with({ script = path, threads = 1, inference_timeout_s = 0.05, max_abandoned_calls = 0 }, function(batcher, backend)
      batcher:set { inference_fn = function(...)
        local ok, value = pcall(backend, ...)
        if not ok then ended = value.code end -- it may clean up
        return value
      end }
      assert.equal("inference_timeout", code_of(batcher:submit(address(gate))))
      assert.equal(1, batcher.stats.abandoned_calls)
      assert.is_nil(ended)
      ffi.C.sem_post(gate)
      wait_for(function() return batcher.stats.abandoned_calls == 0 end)
      assert.equal("cancelled", ended)
      batcher:set { inference_timeout_s = GUARD_S }
      assert.equal("done", (batcher:submit(0):await()))
    end)
  end)

  it("R5: a call that is given up while it waits for a thread has ended", function()
    local gate = semaphore()
    local path = script "if r ~= 0 then ffi.C.sem_wait(at(r)) end return 'done'"
    with({ script = path, threads = 1, max_concurrent_batches = 2 }, function(batcher, backend)
      local runs = batcher:submit(address(gate))
      wait_for(function() return backend:stats().busy == 1 end)
      batcher:set { inference_timeout_s = 0.05 }
      assert.equal("inference_timeout", code_of(batcher:submit(0)))
      wait_for(function() return batcher.stats.abandoned_calls == 0 end)
      ffi.C.sem_post(gate)
      assert.equal("done", (runs:await()))
    end)
  end)

  it("does not abandon a thread for a batch that still waited for one", function()
    local gate = semaphore()
    local path = script "if r ~= 0 then ffi.C.sem_wait(at(r)) end return 'done'"
    with({ script = path, threads = 1, max_concurrent_batches = 2 }, function(batcher, backend)
      local first = batcher:submit(address(gate))
      wait_for(function() return backend:stats().busy == 1 end)
      batcher:set { inference_timeout_s = 0.01 }
      assert.equal("inference_timeout", code_of(batcher:submit(address(gate))))
      assert.equal(0, backend:stats().abandoned)
      assert.equal(0, backend:stats().waiting)
      ffi.C.sem_post(gate)
      assert.equal("done", (first:await()))
    end)
  end)

  it("keeps a thread whose record is cancelled: it ends, and is used again", function()
    local gate = semaphore()
    local path = script "if r ~= 0 then ffi.C.sem_wait(at(r)) end return 'done'"
    with({ script = path, threads = 1 }, function(batcher, backend)
      local future = batcher:submit(address(gate))
      wait_for(function() return backend:stats().busy == 1 end)
      assert.is_true(future:cancel())
      assert.equal("cancelled", code_of(future))
      ffi.C.sem_post(gate)
      assert.equal("done", (batcher:submit(0):await()))
      assert.equal(0, backend:stats().abandoned)
    end)
  end)

  it("abandons what stop{timeout_s} cuts off", function()
    local gate = semaphore()
    with({ script = script "ffi.C.sem_wait(at(r))", threads = 2 }, function(batcher, backend)
      local future = batcher:submit(address(gate))
      wait_for(function() return backend:stats().busy == 1 end)
      batcher:stop { timeout_s = 0.001 }
      assert.equal("stopped", code_of(future))
      assert.equal(1, backend:stats().abandoned)
      assert.equal(0, backend:stats().threads)
      ffi.C.sem_post(gate)
    end)
  end)

  it("starts anew after stop, and serves several batchers", function()
    local path = script "return r * 2"
    local backend = tb.backend.threads { script = path, threads = 2 }
    for round = 1, 3 do
      H.run(function()
        local a = tb.TokenBatcher { inference_fn = backend, policy = "eager" }:start()
        local b = tb.TokenBatcher { inference_fn = backend, policy = "eager" }:start()
        for i = 1, 5 do
          local x, y = a:submit(i), b:submit(round)
          assert.equal(i * 2, (x:await()))
          assert.equal(round * 2, (y:await()))
        end
        a:stop()
        assert.equal(14, (b:submit(7):await()))
        b:stop()
        assert.equal(0, backend:stats().threads)
      end, "real")
    end
  end)

  it("lets its threads go when set{inference_fn} replaces it, after the batch under way", function()
    local gate = semaphore()
    with({ script = script "ffi.C.sem_wait(at(r)) return 'old'", threads = 2 }, function(batcher, backend)
      local future = batcher:submit(address(gate))
      wait_for(function() return backend:stats().busy == 1 end)
      batcher:set { inference_fn = function() return { "new" } end, max_concurrent_batches = 2 }
      assert.equal("new", (batcher:submit(0):await()))
      assert.equal(2, backend:stats().threads)
      ffi.C.sem_post(gate)
      assert.equal("old", (future:await()))
      wait_for(function() return backend:stats().threads == 0 end)
      batcher:set { inference_fn = backend }
      ffi.C.sem_post(gate)
      assert.equal("old", (batcher:submit(address(gate)):await()))
      batcher:set { max_batch_size = 2 }
      assert.equal(2, backend:stats().threads)
    end)
  end)

  it("a callable table that raises in on_stop costs one warning", function()
    local warned
    H.run(function()
      local fn = setmetatable({ on_stop = function() error "not now" end },
        { __call = function(_, records) return records end })
      local batcher = tb.TokenBatcher { inference_fn = fn, log = function(_, text) warned = text end }:start()
      assert.equal("x", (batcher:submit("x"):await()))
      batcher:stop()
      assert.is_false(batcher.is_running)
    end)
    assert.matches("on_stop raised: .*not now", warned)
  end)

  it("bisects a failing batch", function()
    local path = script "if r == 5 then error 'poison' end return r"
    with({ script = path, max_batch_size = 8, min_batch_size = 8, on_error = "bisect" }, function(batcher)
      local results, errs = tb.gather(batcher:submit_batch { 1, 2, 3, 4, 5, 6, 7, 8 })
      assert.same({ 1, 2, 3, 4, nil, 6, 7, 8 }, results)
      assert.matches("poison", errs[5].message)
    end)
  end)

  it("answers thousands of batches, each its own", function()
    with({ script = script "return -r", threads = 4, max_concurrent_batches = 16 }, function(batcher, backend)
      local futures = {}
      for i = 1, 3000 do futures[i] = batcher:submit(i) end
      for i = 1, 3000 do assert.equal(-i, (futures[i]:await())) end
      assert.is_true(H.is_conserved(batcher.stats))
      assert.equal(4, backend:stats().threads)
    end)
  end)

  it("is driven by a host that owns the loop, too", function()
    local backend = tb.backend.threads { script = script "return r .. '!'", threads = 1 }
    local batcher = tb.TokenBatcher { inference_fn = backend, policy = "eager" }
    local answer
    local main = tb.spawn(function()
      batcher:start()
      answer = batcher:submit("hi"):await()
      batcher:stop()
    end)
    ffi.cdef [[struct tbtest_threads_pollfd { int fd; short events; short revents; };
      int tbtest_threads_poll(struct tbtest_threads_pollfd *fds, unsigned long n, int timeout_ms) __asm__("poll");]]
    local pollfd = ffi.new "struct tbtest_threads_pollfd"
    while not main:done() do
      pollfd.fd, pollfd.events = tb.fd(), 1
      assert.equal(1, ffi.C.tbtest_threads_poll(pollfd, 1, GUARD_S * 1000))
      tb.step()
    end
    assert.equal("hi!", answer)
  end)

  describe("a script", function()
    it("that cannot be read or compiled raises where the backend is made, with file and line", function()
      assert.matches("%.lua:%d+: threads: cannot load the script: .*no/such.lua",
        H.message(tb.backend.threads, { script = "/no/such.lua" }))
      assert.matches("broken.lua:2:", H.message(tb.backend.threads, { script = cli.file("broken.lua", "\nreturn {") }))
    end)

    it("that fails when it is loaded fails its batch, and is tried again for the next", function()
      local marker = cli.path "is there"
      local path = cli.file("infer.lua", ([[
        if not io.open(%q) then error "the model is not there yet" end
        return { inference_fn = function(r) return r end }]]):format(marker))
      with({ script = path, threads = 1 }, function(batcher)
        local _, err = batcher:submit("a"):await()
        assert.matches("infer.lua:1: the model is not there yet", err.message)
        cli.file("is there", "")
        assert.equal("b", (batcher:submit("b"):await()))
      end)
    end)

    it("may be without inference_fn, or have unknown options: its batches say so", function()
      for text, message in pairs { ["return {}"] = "no inference_fn", ["return 7"] = "must return a table",
        ["return { inference_fn = 5 }"] = "infer.lua: inference_fn must be a function, got a number",
        ["return { infrence_fn = print }"] = "did you mean 'inference_fn'" } do
        with({ script = cli.file("infer.lua", text), threads = 1 }, function(batcher)
          local _, err = batcher:submit("a"):await()
          assert.matches(message, err.message)
        end)
      end
    end)

    it("gets its own options", function()
      local path = cli.file("infer.lua", [[return {
        options = { tail = { "what is added", "?" } },
        setup = function(opt) return { inference_fn = function(r) return { r[1] .. opt.tail } end } end }]])
      for tail, expected in pairs { ["!"] = "a!", [""] = "a" } do
        with({ script = path, options = { tail = tail } }, function(batcher)
          assert.equal(expected, (batcher:submit("a"):await()))
        end)
      end
      with({ script = path }, function(batcher) assert.equal("a?", (batcher:submit("a"):await())) end)
    end)

    it("is told that it cannot suspend: it has its thread for itself", function()
      with({ script = script "tb.sleep(1) return r" }, function(batcher)
        local _, err = batcher:submit("a"):await()
        assert.matches("sleep cannot wait here", err.message)
      end)
    end)
  end)

  it("refuses bad options, naming them", function()
    local path = script "return r"
    for message, given in pairs {
      ["must be a table, got a number"] = 3,
      ["unknown option 'thread'; did you mean 'threads'"] = { script = path, thread = 2 },
      ["'script' must be the path"] = {},
      ["'threads' must be a whole number from 1 to 256, got 0"] = { script = path, threads = 0 },
      ["'threads' must be a whole number from 1 to 256, got 1.5"] = { script = path, threads = 1.5 },
      ["'max_memory_mb' must be a number"] = { script = path, max_memory_mb = "much" },
      ["'options' must be a table"] = { script = path, options = 1 },
      ["'options' must hold plain values"] = { script = path, options = { print } },
    } do
      local text = H.message(tb.backend.threads, given)
      assert.truthy(text and text:find(message, 1, true), tostring(text))
      assert.matches("%.lua:%d+: threads: ", text)
    end
  end)

  it("raises under the virtual clock", function()
    local path = script "return r"
    local backend = tb.backend.threads { script = path }
    H.run(function()
      assert.matches("real clock", H.message(tb.backend.threads, { script = path }))
      local batcher = tb.TokenBatcher { inference_fn = backend }:start()
      local _, err = batcher:submit("a"):await()
      assert.matches("real clock", err.message)
      batcher:stop()
    end)
  end)

  it("keeps no process from ending: not by a batch that is abandoned, nor by one that runs", function()
    local path = cli.file("infer.lua", [[
      local ffi = require "ffi"
      ffi.cdef "int pause(void);"
      return { inference_fn = function() while true do ffi.C.pause() end end }]])
    local program = cli.file("program.lua", ([[
      local tb = require "tokenbatcher"
      local backend = tb.backend.threads { script = %q, threads = 2 }
      print(pcall(tb.run, function()
        local batcher = tb.TokenBatcher { inference_fn = backend, inference_timeout_s = 0.05, policy = "eager" }
        batcher:start()
        local _, err
        repeat _, err = batcher:submit("a"):await() until backend:stats().abandoned > 0 -- a thread had begun it
        print(err)
        batcher:set { inference_timeout_s = false }
        local future = batcher:submit "b"
        repeat tb.sleep(0.001) until backend:stats().busy > 0
        error "leaving"
      end))
      print(backend:stats().abandoned)]]):format(path))
    local r = cli.shell(("timeout -s KILL %d luajit %s"):format(GUARD_S, program))
    assert.equal(0, r.status, r.err)
    assert.matches("inference_timeout", r.lines[1])
    assert.equal("2", r.lines[#r.lines])
    r = cli.run(([[return { inference_fn = require("tokenbatcher").backend.threads { script = %q, threads = 1 },
      inference_timeout_s = 0.05, batch_timeout_s = 0 }]]):format(path), "1\n2\n")
    assert.equal(1, r.status, r.err)
    assert.matches('"code":"inference_timeout"', r.out)
  end)

  it("is part of the executable, JSON included", function()
    local path = cli.file("infer.lua", [[
      local cjson = require "cjson"
      return { inference_fn = function(records)
        local results = {}
        for i, r in ipairs(records) do results[i] = cjson.encode(r) end
        return results
      end }]])
    local r = cli.run(([[return { inference_fn = require("tokenbatcher").backend.threads { script = %q } }]])
      :format(path), '[1,2]\n{"a":null}\n')
    assert.equal(0, r.status, r.err)
    assert.equal('{"index":1,"result":"[1,2]"}', r.lines[1])
    assert.equal('{"index":2,"result":"{\\"a\\":null}"}', r.lines[2])
  end)
end)
