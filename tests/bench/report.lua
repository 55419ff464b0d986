-- make bench: runs the measurements, prints each figure beside its budget and, where it
-- is a cost per record, the ratio to the bare ring loop of the same run.
-- usage: luajit tests/bench/report.lua      (environment: B, the build folder)

local B, LUAJIT = os.getenv "B" or "build", os.getenv "LUAJIT" or "luajit"
local RUNS = 3

local function lines_of(command)
  local pipe = assert(io.popen(command))
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = line end
  pipe:close()
  return lines
end

-- Figures by name, each a list over the runs. What cannot be measured here says so, once.
local figures, skipped = {}, {}

local function add(name, value)
  figures[name] = figures[name] or {}
  table.insert(figures[name], tonumber(value))
end

local function read(command, prefix)
  for _, line in ipairs(lines_of(command)) do
    local name, rest = line:match "^(%S+) (.*)$"
    if name == "skipped:" and not skipped[line] then
      skipped[line] = true
      skipped[#skipped + 1] = line
    end
    name = name and (prefix or "") .. name
    local p50, p99 = (rest or ""):match "p50 (%S+) us p99 (%S+) us"
    if p50 then
      add(name .. "_p50", p50)
      add(name .. "_p99", p99)
    elseif name then
      add(name, rest:match "^(%S+)")
    end
  end
end

local function median(name)
  local values = assert(figures[name], "no figure " .. name)
  table.sort(values)
  return values[math.floor((#values + 1) / 2)]
end

local function machine()
  local model = lines_of("sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1")[1] or "unknown processor"
  local system = lines_of "uname -sr"[1]
  return ("%s, %s cores, %s, %s"):format(model, lines_of "nproc"[1], system, _VERSION == "Lua 5.1" and jit.version)
end

-- name, what it is, format, unit, budget (number or nil), is it a cost per record
local ROWS = {
  { "bare_ns_per_record", "bare C ring loop, per record (the limit)", "%.1f", "ns" },
  { "core_ns_per_record", "C: submit + form + complete, per record", "%.1f", "ns", nil, true },
  { "bare_of_histograms_core_ns_per_record", "the same without wait and latency histograms", "%.1f", "ns", nil, true },
  { "core_by_struct_ns_per_record", "the same, submitted as a struct (tb_submit)", "%.1f", "ns", nil, true },
  { "core_to_bare", "C core over the bare loop", "%.2f", "x", 4.2 },
  { "ndebug_core_to_bare", "the same, built with -DNDEBUG", "%.2f", "x", 4 },
  { "lua_submit_ns_per_record", "Lua: submit + future + result, per record", "%.0f", "ns", nil, true },
  { "lua_coroutines_ns_per_record", "Lua: 256 coroutines awaiting, per record", "%.0f", "ns", nil, true },
  { "peer_ours_one", "one producer, 256 at once: a record here", "%.0f", "ns", optional = true },
  { "peer_dataloader_one", "the same in npm's dataloader (Node)", "%.0f", "ns", optional = true },
  { "peer_cargoqueue_one", "the same in async.cargoQueue (Node)", "%.0f", "ns", optional = true },
  { "peer_promises_one", "the same in a list of promises (Node)", "%.0f", "ns", optional = true },
  { "peer_one_to_dataloader", "one producer, ours over dataloader", "%.2f", "x", 0.75, optional = true },
  { "peer_one_to_cargoqueue", "one producer, ours over async.cargoQueue", "%.2f", "x", optional = true },
  { "peer_one_to_promises", "one producer, ours over a list of promises", "%.2f", "x", optional = true },
  { "peer_ours_awaiting", "256 producers, each awaiting: a record here", "%.0f", "ns", optional = true },
  { "peer_ours_ask", "the same by batcher:ask", "%.0f", "ns", optional = true },
  { "peer_dataloader_awaiting", "the same in npm's dataloader (Node)", "%.0f", "ns", optional = true },
  { "peer_cargoqueue_awaiting", "the same in async.cargoQueue (Node)", "%.0f", "ns", optional = true },
  { "peer_promises_awaiting", "the same in a list of promises (Node)", "%.0f", "ns", optional = true },
  { "peer_awaiting_to_dataloader", "256 awaiting, ours over dataloader", "%.2f", "x", 1.4, optional = true },
  { "peer_awaiting_to_cargoqueue", "256 awaiting, ours over async.cargoQueue", "%.2f", "x", optional = true },
  { "peer_awaiting_to_promises", "256 awaiting, ours over a list of promises", "%.2f", "x", optional = true },
  { "peer_ask_to_dataloader", "256 that ask, ours over dataloader", "%.2f", "x", 1.2, optional = true },
  { "peer_ask_to_cargoqueue", "256 that ask, ours over async.cargoQueue", "%.2f", "x", optional = true },
  { "peer_ask_to_promises", "256 that ask, ours over a list of promises", "%.2f", "x", optional = true },
  { "lone_record_us_p50", "lone record, eager: submit to inference_fn, p50", "%.1f", "us", 50 },
  { "lone_record_us_p99", "lone record, eager: submit to inference_fn, p99", "%.1f", "us" },
  { "bare_wake_p50", "bare eventfd, write to a sleeping thread's return, p50", "%.1f", "us" },
  { "bare_wake_p99", "bare eventfd, write to a sleeping thread's return, p99", "%.1f", "us" },
  { "lone_record_to_wake", "lone record over the bare wake, p99", "%.2f", "x", 1.5 },
  { "lone_record_no_collector_us_p99", "lone record, the collector stopped, p99", "%.1f", "us" },
  { "lone_record_never_idle_us_p99", "lone record, never idle before, p99", "%.1f", "us" },
  { "engine_one_thread_ns_per_record", "C engine: submit to callback, per record", "%.0f", "ns", nil, true },
  { "engine_four_threads_ns_per_record", "C engine: the same, from four threads, per record", "%.0f", "ns", nil, true },
  { "engine_lone_record_p50", "C engine, lone record: submit to callback, p50", "%.0f", "us" },
  { "engine_lone_record_p99", "C engine, lone record: submit to callback, p99", "%.0f", "us" },
  { "threads_one_batches_per_s", "20 ms of usleep a batch, 1 thread", "%.0f", "/s" },
  { "threads_four_batches_per_s", "20 ms of usleep a batch, 4 threads", "%.0f", "/s" },
  { "threads_four_to_one", "4 threads over 1", "%.2f", "x" },
  { "timer_beside_waiting_p50", "timer of 1 ms beside no thread: late by, p50", "%.0f", "us" },
  { "timer_beside_waiting_p99", "timer of 1 ms beside no thread: late by, p99", "%.0f", "us" },
  { "timer_beside_four_threads_p50", "timer of 1 ms beside 4 threads: late by, p50", "%.0f", "us" },
  { "timer_beside_four_threads_p99", "timer of 1 ms beside 4 threads: late by, p99", "%.0f", "us" },
  { "thread_round_trip_p50", "lone record to a thread and back, p50", "%.0f", "us" },
  { "thread_round_trip_p99", "lone record to a thread and back, p99", "%.0f", "us" },
  { "listen_listened_to_alone", "records beside a listener that nobody asks, over alone", "%.3f", "x", 1.01,
    optional = true },
  { "listen_read_to_alone", "records beside a reader of events, over alone", "%.3f", "x", 1.01, optional = true },
  { "stats_read_us", "reading batcher.stats", "%.0f", "us" },
  { "prometheus_page_us", "a page of tb.metrics.prometheus, one batcher", "%.0f", "us" },
  { "queue_1000_ns_per_record", "C, 10^3 records queued, per record", "%.1f", "ns", nil, true },
  { "queue_10000_ns_per_record", "C, 10^4 records queued, per record", "%.1f", "ns", nil, true },
  { "queue_100000_ns_per_record", "C, 10^5 records queued, per record", "%.1f", "ns", nil, true },
  { "queue_1000000_ns_per_record", "C, 10^6 records queued, per record", "%.1f", "ns", nil, true },
  { "queue_1000000_to_1000", "cost per record, 10^6 over 10^3", "%.2f", "x", 1.3 },
  { "bytes_per_record", "most bytes a queued record, 10^5 to 10^6 queued", "%.0f", "B", 96 },
  { "bytes_per_timed_record", "the same, with a deadline", "%.0f", "B", 96 },
  { "bytes_per_timed_grouped_record", "the same, with a group, too", "%.0f", "B", 96 },
  { "decision_by_cost_us", "5,000 queued, 256 picked: view by_cost", "%.0f", "us", 50 },
  { "decision_by_deadline_us", "5,000 queued, 256 picked: view by_deadline", "%.0f", "us", 50 },
  { "decision_by_priority_us", "5,000 queued, 256 picked: view by_priority", "%.0f", "us", 50 },
  { "decision_near_us", "5,000 queued, 256 picked: view near", "%.0f", "us", 50 },
  { "decision_keys_us", "5,000 queued, 256 picked: views keys and of, 50 keys", "%.0f", "us", 50 },
  { "decision_length_bucketed_us", "5,000 queued, 256 picked: policy length_bucketed", "%.0f", "us" },
  { "decision_priority_us", "5,000 queued, 256 picked: policy priority", "%.0f", "us" },
  { "decision_fair_us", "5,000 queued, 256 picked: policy fair", "%.0f", "us" },
  { "decision_deadline_us", "5,000 queued, 256 picked: policy deadline", "%.0f", "us" },
  { "decision_on_time_us", "5,000 queued, 256 picked: policy on_time", "%.0f", "us", 50 },
  { "decision_on_time_overload_us", "the same, where few can be on time", "%.0f", "us", 50 },
  { "decision_adaptive_us", "5,000 queued, 256 picked: policy adaptive", "%.0f", "us" },
  { "decision_rate_limited_us", "5,000 queued, 256 picked: policy rate_limited", "%.0f", "us" },
  { "sim_fifo_ns_per_record", "simulator, fifo, made-up arrivals, per record", "%.0f", "ns", 1000, true },
  { "sim_trace_ns_per_record", "simulator, fifo, a CSV trace read, per record", "%.0f", "ns", 1000, true },
  { "sim_length_bucketed_ns_per_record", "simulator, length_bucketed, per record", "%.0f", "ns", 3333, true },
  { "sim_deadline_ns_per_record", "simulator, deadline, per record", "%.0f", "ns", 3333, true },
  { "sim_adaptive_ns_per_record", "simulator, adaptive, per record", "%.0f", "ns", 3333, true },
  { "json_us_per_line", "JSON: decode + encode of a line", "%.2f", "us" },
  { "json_job_us_per_line", "JSON: the same as a whole job of tokenbatcher run", "%.2f", "us" },
  { "jq_us_per_line", "JSON: jq -c . of the same line", "%.2f", "us", optional = true },
  { "python_us_per_line", "JSON: Python's json, decode + encode of it", "%.2f", "us", optional = true },
  { "json_to_jq", "JSON: decode + encode of a line, against jq -c .", "%.2f", "x", 1.5, optional = true },
  { "json_job_to_jq", "JSON: the whole job, against jq -c .", "%.2f", "x", 1.5, optional = true },
  { "chat_job_lines_per_s", "chat job, 64 slots, 5 ms: lines a second", "%.0f", "", optional = true },
  { "chat_job_us_per_line", "chat job: processor time per line", "%.0f", "us", optional = true },
  { "chat_python_lines_per_s", "chat job: asyncio client in Python, lines a second", "%.0f", "", optional = true },
  { "chat_python_us_per_line", "chat job: asyncio client, processor time", "%.0f", "us", optional = true },
  { "chat_job_to_python", "chat job: lines a second, against Python", "%.2f", "x", optional = true },
  { "chat_job_to_python_cpu", "chat job: processor time, against Python", "%.2f", "x", 1, optional = true },
  { "curl_request_us_p50", "HTTP: libcurl alone, one by one: a request, p50", "%.0f", "us" },
  { "http_request_us_p50", "HTTP: the same through tb.http, one by one, p50", "%.0f", "us" },
  { "curl_requests_per_s", "HTTP: libcurl alone, one by one", "%.0f", "/s" },
  { "http_requests_per_s", "HTTP: tb.http, 32 at once", "%.0f", "/s" },
  { "http_records_per_s", "HTTP: records through backend.openai, 64 in a batch", "%.0f", "/s" },
  { "bare_timer_200us_p50", "bare timerfd 200 us: late by, p50 (the limit)", "%.0f", "us" },
  { "bare_timer_200us_p99", "bare timerfd 200 us: late by, p99 (the limit)", "%.0f", "us" },
  { "deadline_200us_p50", "deadline 200 us: late by, p50", "%.0f", "us" },
  { "deadline_200us_p99", "deadline 200 us: late by, p99", "%.0f", "us", 100 },
  { "bare_timer_1000us_p50", "bare timerfd 1 ms: late by, p50 (the limit)", "%.0f", "us" },
  { "bare_timer_1000us_p99", "bare timerfd 1 ms: late by, p99 (the limit)", "%.0f", "us" },
  { "deadline_1000us_p50", "deadline 1 ms: late by, p50", "%.0f", "us" },
  { "deadline_1000us_p99", "deadline 1 ms: late by, p99", "%.0f", "us" },
  { "bare_timer_5000us_p50", "bare timerfd 5 ms: late by, p50 (the limit)", "%.0f", "us" },
  { "bare_timer_5000us_p99", "bare timerfd 5 ms: late by, p99 (the limit)", "%.0f", "us" },
  { "deadline_5000us_p50", "deadline 5 ms: late by, p50", "%.0f", "us" },
  { "deadline_5000us_p99", "deadline 5 ms: late by, p99", "%.0f", "us" },
}

read(LUAJIT .. " tests/bench/bench_peers.lua")
for _ = 1, RUNS do
  read(B .. "/tests/bench_core")
  read(B .. "/tests/bench_without_histograms --short", "bare_of_histograms_")
  read(B .. "/tests/bench_ndebug --short", "ndebug_")
  read(LUAJIT .. " tests/bench/bench_lua.lua")
  read(B .. "/tests/bench_ev")
  local lone, wake = figures.lone_record_us_p99, figures.bare_wake_p99
  add("lone_record_to_wake", lone[#lone] / wake[#wake])
  read(B .. "/tests/bench_engine")
  read(LUAJIT .. " tests/bench/bench_threads.lua")
  read(LUAJIT .. " tests/bench/bench_listen.lua")
  read(LUAJIT .. " tests/bench/bench_policy.lua")
  read(LUAJIT .. " tests/bench/bench_sim.lua")
  read(LUAJIT .. " tests/bench/bench_json.lua")
  read(LUAJIT .. " tests/bench/bench_http.lua")
  read(LUAJIT .. " tests/bench/bench_job.lua")
end

print("machine: " .. machine())
print(("command: make bench (median of %d runs)"):format(RUNS))
print ""
print(("%-52s %10s %10s %8s"):format("figure", "measured", "budget", "x bare"))
local bare = median "bare_ns_per_record"
for _, row in ipairs(ROWS) do
  local name, text, format, unit, budget, is_cost = unpack(row, 1, 6)
  if figures[name] or not row.optional then
    local value = median(name)
    local verdict = budget and (value <= budget and "" or "  missed") or ""
    print(("%-52s %7s %-2s %7s %-2s %8s%s"):format(text, format:format(value), unit,
      budget and tostring(budget) or "-", budget and unit or "", is_cost and ("%.1f"):format(value / bare) or "",
      verdict))
  end
end
for _, line in ipairs(skipped) do print(line) end
