#!/bin/sh
# The page of simulate --report in a real browser: runs are chosen, time is zoomed, a batch is read, two runs
# are compared, by mouse and keyboard. Needs chromium and node.   (environment: B)

for program in chromium node; do
  command -v $program >/dev/null 2>&1 || { echo "   skipped: no $program (make deps test-extra)"; exit 77; }
done
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
simulate() { "$B/tokenbatcher" simulate --arrivals "gamma:rate=20,cv=4,tokens=lognormal(6,1)" --limit 2000 "$@" >/dev/null; }
simulate --service "0.05 + 0.00004*tokens" --slo 1 --policy fifo --policy eager \
  --policy examples/policies/shortest_first.lua --report "$folder/one.html" &&
  simulate --service "0.2 + 0.0001*tokens" --set max_concurrent_batches=3 --report "$folder/slots.html" || exit 1
node tests/extra/lab.js "$folder"
