#!/bin/sh
# Long runs: minutes of load. Stops at the first that fails.
# environment: B (build folder), LUAJIT, SOAK_RECORDS (5,000,000), SOAK_OPS (20,000,000),
# SOAK_REQUESTS (100,000), SOAK_LINES (1,000,000), SOAK_CHAOS_S (60), SOAK_ABORTS (10,000), SOAK_ROUNDS (5)
set -eu

echo "== records on the real clock: every answer checked, memory flat"
$LUAJIT tests/soak/load.lua "${SOAK_RECORDS:-5000000}"

echo "== an engine in a C program, records from four threads"
"$B/tests/soak_engine"

echo "== inference in worker threads, some of them abandoned"
$LUAJIT tests/soak/threads.lua

echo "== the core beside the model"
TB_OPS="${SOAK_OPS:-20000000}" "$B/tests/test_model"

echo "== ids over all generations of a slot"
TB_SLOW=1 "$B/tests/test_core_ids"

echo "== 2,000,000 lines through the command line"
sh tests/soak/lines.sh

echo "== a job of a million lines, an outage a minute, kill -9 ten times"
$LUAJIT tests/soak/job.lua "${SOAK_LINES:-1000000}"

echo "== the same over HTTP: outages, overload and broken connections, every payment in a ledger, memory flat"
$LUAJIT tests/soak/jobs.lua "${SOAK_LINES:-1000000}"

echo "== HTTP requests: every answer checked, memory and descriptors flat"
$LUAJIT tests/soak/http.lua "${SOAK_REQUESTS:-100000}"

echo "== runs of 3,000 records and their replays: how far off (a quiet machine is needed)"
$LUAJIT tests/soak/replay.lua

if command -v redis-server >/dev/null; then
  echo "== a million records through Redis: its memory back to where it was, one thread, no descriptor more"
  $LUAJIT tests/soak/redis_memory.lua "${SOAK_LINES:-1000000}"
  echo "== chaos: workers, Redis and connections die; SOAK_CHAOS_S seconds of each kind, by another seed each time"
  for kind in everysec always flushall cut proxy; do
    for seed in 1 2 3; do $LUAJIT tests/soak/chaos_redis.lua $kind "${SOAK_CHAOS_S:-60}" $seed; done
  done
else
  echo "skipped: no redis-server (Debian: redis-server)"
fi

echo "== a real embedding model"
$LUAJIT tests/soak/embeddings.lua
echo "== the gateway: minutes of load, failing upstream, reloads, a million requests"
$LUAJIT tests/soak/gateway.lua
echo "== the queue before chat: beside a flood, throughput, clients that leave, reloads, shares (a quiet machine is needed)"
$LUAJIT tests/soak/queue.lua
