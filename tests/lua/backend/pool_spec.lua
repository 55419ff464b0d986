-- The pool of worker threads by itself (src/script/threads.h): what a rest leaves behind.

local exact = require "tokenbatcher.base.exact_ffi"
local buffer = require "string.buffer"
local cli = dofile "tests/lua/cli_helper.lua"
local ffi = require "ffi"
local pool_ffi = require "tokenbatcher.backend.threads_ffi"
local tbffi = require "tokenbatcher.core.ffi"

local C = pool_ffi.lib
local GUARD_S = 30

ffi.cdef [[
typedef struct { char opaque[64]; } pool_spec_shared;
int pool_spec_sem_init(pool_spec_shared *semaphore, int shared, unsigned value) __asm__("sem_init");
int pool_spec_sem_post(pool_spec_shared *semaphore) __asm__("sem_post");
int pool_spec_sem_wait(pool_spec_shared *semaphore) __asm__("sem_wait");
struct pool_spec_poll { int fd; short events, revents; };
int pool_spec_poll(struct pool_spec_poll *fds, unsigned long n, int timeout_ms) __asm__("poll");
]]

local function semaphore()
  local shared = ffi.new "pool_spec_shared"
  ffi.C.pool_spec_sem_init(shared, 0, 0)
  return shared, tonumber(ffi.cast("uintptr_t", ffi.cast("void *", shared)))
end

-- Records are {began, go}: a worker posts the first, and waits for the second.
local SCRIPT = [[
  local ffi = require "ffi"
  ffi.cdef "int sem_wait(void *semaphore); int sem_post(void *semaphore);"
  local function at(n) return ffi.cast("void *", n) end
  return { inference_fn = function(records)
    for i, r in ipairs(records) do
      if r.began then ffi.C.sem_post(at(r.began)) end
      if r.go then ffi.C.sem_wait(at(r.go)) end
      records[i] = r.name
    end
    return records
  end }]]

local function new_pool(threads)
  return assert(pool_ffi.threads(buffer.encode { script = cli.file("pool.lua", SCRIPT), options = {},
    path = package.path, cpath = package.cpath }, threads, 0))
end

local function submit(pool, record)
  local _, bytes = exact.sent(buffer.encode, { records = { record }, info = {} })
  local job = C.tb_threads_submit(pool, bytes, #bytes)
  assert.is_true(job > 0)
  return job
end

local answers = tbffi.new("tb_answer[?]", 8)

-- The next answers, when there are any. @return list of {job, name or false if given up}
local function take(pool)
  local fds = ffi.new("struct pool_spec_poll[1]", { { fd = C.tb_threads_fd(pool), events = 1 } })
  assert.equal(1, ffi.C.pool_spec_poll(fds, 1, GUARD_S * 1000), "no answer comes")
  local out = {}
  for i = 0, C.tb_threads_take(pool, answers, 8) - 1 do
    local bytes = pool_ffi.take_bytes(answers[i])
    out[#out + 1] = { answers[i].job, answers[i].is_given_up == 0 and buffer.decode(bytes).results[1] }
  end
  return out
end

local function numbers_of(pool)
  local numbers = tbffi.new "tb_threads_numbers"
  C.tb_threads_read(pool, numbers)
  return numbers
end

describe("a pool of worker threads that rests", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("drops the jobs that wait: none of them is answered by the next threads", function()
    local pool = new_pool(1)
    local began, began_at = semaphore()
    local go, go_at = semaphore()
    local hangs = submit(pool, { name = "hangs", began = began_at, go = go_at })
    ffi.C.pool_spec_sem_wait(began)
    submit(pool, { name = "dropped" })
    submit(pool, { name = "dropped, too" })
    assert.equal(2, numbers_of(pool).waiting)
    C.tb_threads_rest(pool)
    local numbers = numbers_of(pool)
    assert.same({ 0, 0, 1, 1 }, { numbers.waiting, numbers.threads, numbers.abandoned, numbers.hanging })
    local after = submit(pool, { name = "after" })
    assert.same({ { after, "after" } }, take(pool))
    ffi.C.pool_spec_sem_post(go)
    assert.same({ { hangs, false } }, take(pool)) -- that it has ended is told
    C.tb_threads_rest(pool)
  end)

  it("keeps answers that nobody has taken yet", function()
    local pool = new_pool(1)
    local began, began_at = semaphore()
    local job = submit(pool, { name = "done" })
    local second = submit(pool, { name = "begun", began = began_at })
    ffi.C.pool_spec_sem_wait(began) -- so the first is done; the second will be, or is abandoned
    C.tb_threads_rest(pool)
    assert.same({ job, "done" }, take(pool)[1])
    assert.is_true(second > job)
  end)

  it("starts threads again for the next job, as many as there should be", function()
    local pool = new_pool(2)
    assert.same({ { 1, "first" } }, { submit(pool, { name = "first" }) and take(pool)[1] })
    assert.equal(2, numbers_of(pool).threads)
    C.tb_threads_rest(pool)
    assert.equal(0, numbers_of(pool).threads)
    assert.same({ { 2, "second" } }, { submit(pool, { name = "second" }) and take(pool)[1] })
    assert.equal(2, numbers_of(pool).threads)
  end)
end)

describe("a pool of worker threads", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  -- One thread, which hangs until the semaphore that is returned is posted.
  local function hanging()
    local pool = new_pool(1)
    local began, began_at = semaphore()
    local go, go_at = semaphore()
    local job = submit(pool, { name = "hangs", began = began_at, go = go_at })
    ffi.C.pool_spec_sem_wait(began)
    return pool, go, job
  end

  it("has from one thread to 256", function()
    assert.is_nil(pool_ffi.threads("", 0, 0))
    assert.is_nil(pool_ffi.threads("", 257, 0))
    assert.is_not_nil(pool_ffi.threads("", 256, 0)) -- they start with the first job
  end)

  it("lets 16,384 jobs wait, and refuses the next", function()
    local pool, go = hanging()
    for _ = 1, C.TB_THREADS_JOBS do assert(C.tb_threads_submit(pool, "", 0) > 0) end
    assert.equal(C.TB_THREADS_FULL, C.tb_threads_submit(pool, "", 0))
    ffi.C.pool_spec_sem_post(go)
    C.tb_threads_rest(pool)
  end)

  it("forgets a job that waits when it is given up, and no other", function()
    local pool, go, first = hanging()
    local a, b, c = submit(pool, { name = "a" }), submit(pool, { name = "b" }), submit(pool, { name = "c" })
    assert.equal(0, C.tb_threads_abandon(pool, b))
    assert.equal(2, numbers_of(pool).waiting)
    ffi.C.pool_spec_sem_post(go)
    local seen = {}
    while #seen < 3 do
      for _, answer in ipairs(take(pool)) do seen[#seen + 1] = answer end
    end
    assert.same({ { first, "hangs" }, { a, "a" }, { c, "c" } }, seen)
  end)

  it("forgets an answer that is given up before it is taken", function()
    local pool = new_pool(1)
    local a, b = submit(pool, { name = "a" }), submit(pool, { name = "b" })
    local began, began_at = semaphore()
    submit(pool, { name = "c", began = began_at })
    ffi.C.pool_spec_sem_wait(began) -- a and b are done
    assert.equal(0, C.tb_threads_abandon(pool, a))
    assert.same({ b, "b" }, take(pool)[1])
  end)
end)
