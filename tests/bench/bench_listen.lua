-- What it costs to be looked at: processor time a record at full speed, beside nobody who listens, with a listener
-- whom nobody asks, and with one reader of its events. In turn, in one process; lines "name value unit".
local tb = require "tokenbatcher"

local ROUNDS, ROUND_S, IN_FLIGHT = 9, 1.2, 256

if not pcall(require, "tokenbatcher.listen.listen_ffi") then
  print "skipped: no libtokenbatcher_listen.so: what a reader costs is not measured"
  return
end

local function median(values)
  table.sort(values)
  return values[math.floor(#values / 2) + 1]
end

-- Nanoseconds of processor time a record. @param batcher table  running
local function measure(batcher, record, opts, futures)
  local n, began, until_s = 0, os.clock(), tb.now() + ROUND_S
  repeat
    for i = 1, IN_FLIGHT do futures[i] = batcher:submit(record, opts) end
    for i = 1, IN_FLIGHT do futures[i]:await() end
    n = n + IN_FLIGHT
  until tb.now() > until_s
  return (os.clock() - began) / n * 1e9
end

local function reader_of(address)
  local pipe = assert(io.popen(("timeout 60 curl -sN http://%s/events > /dev/null & echo $!"):format(address)))
  local pid = pipe:read "*n"
  pipe:close()
  return function() os.execute("kill " .. pid) end
end

local function listened(batcher)
  return assert(tb.listen { address = "127.0.0.1:0", batchers = { batcher } })
end

-- Each kind of round: begin(batcher) -> a function that ends it.
local KINDS = {
  { "alone", function() return function() end end },
  { "listened", function(batcher)
    local listener = listened(batcher)
    return function() listener:close() end
  end },
  { "read", function(batcher)
    local listener = listened(batcher)
    local leave = reader_of(listener.address)
    tb.sleep(0.3) -- it has connected
    return function()
      leave()
      listener:close()
    end
  end },
}

tb.run(function()
  local batcher = tb.TokenBatcher { inference_fn = function(records) return records end, max_queue_size = 1e7,
    policy = "eager" }
  tb.with(batcher, function()
    local spent, futures, record, opts = {}, {}, { text = "What is 2+2?" }, { estimated_tokens = 5 }
    for i = 1, IN_FLIGHT do futures[i] = false end
    measure(batcher, record, opts, futures)
    for round = 1, ROUNDS do
      for i = 1, #KINDS do
        local kind = KINDS[(i + round) % #KINDS + 1] -- each comes after each
        local finish = kind[2](batcher)
        spent[kind[1]] = spent[kind[1]] or {}
        spent[kind[1]][round] = measure(batcher, record, opts, futures)
        finish()
      end
    end
    local listened_to, read_to = {}, {}
    for round = 1, ROUNDS do
      listened_to[round] = spent.listened[round] / spent.alone[round]
      read_to[round] = spent.read[round] / spent.alone[round]
    end
    print(("listen_listened_to_alone %.4f x"):format(median(listened_to)))
    print(("listen_read_to_alone %.4f x"):format(median(read_to)))
    print(("listen_alone_ns_per_record %.1f ns"):format(median(spent.alone)))
  end)
end)
