#!/bin/sh
# One machine that plays many: a redis-server on a unix socket in a folder of its own, two workers with a simulated
# device, and a producer that sends the 240 sample prompts. Prints the first answers, who gave how many, and what is
# left; then all of it ends. Nothing else that runs here is touched.
# usage: start.sh [--workers N] [--keep yes] [--input FILE] [--set option=value]
#   --keep yes  leave it running until it is told to stop (Ctrl-C, TERM), to try things out: it says how
set -eu

here=$(cd "$(dirname "$0")" && pwd)
program=$here/../../build/tokenbatcher
workers=2 keep=no input=$here/../prompts.jsonl set=max_batch_size=16
while [ $# -gt 0 ]; do
  case $1 in
    --workers) workers=$2 ;;
    --keep) keep=$2 ;;
    --input) input=$2 ;;
    --set) set=$2 ;;
    *) sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2; exit 2 ;;
  esac
  [ $# -ge 2 ] || { echo "start.sh: $1 needs a value" >&2; exit 2; }
  shift 2
done
[ -x "$program" ] || { echo "start.sh: build/tokenbatcher is missing: run make" >&2; exit 1; }
command -v redis-server >/dev/null || { echo "start.sh: redis-server is missing (Debian: redis-server)" >&2; exit 1; }

folder=$(mktemp -d)
url=redis+unix://$folder/redis.sock
started=''
clean_up() {
  trap - EXIT INT TERM
  # shellcheck disable=SC2086
  [ -z "$started" ] || { kill -TERM $started && wait $started; } 2>/dev/null || true
  kill -TERM "$redis" 2>/dev/null && wait "$redis" 2>/dev/null || true
  rm -rf "$folder"
}

redis-server --port 0 --unixsocket "$folder/redis.sock" --dir "$folder" --save '' --appendonly yes \
  --maxmemory-policy noeviction --logfile "$folder/redis.log" &
redis=$!
trap clean_up EXIT
trap 'exit 0' INT TERM
until redis-cli -s "$folder/redis.sock" ping >/dev/null 2>&1; do
  kill -0 "$redis" 2>/dev/null || { cat "$folder/redis.log" >&2; exit 1; }
  sleep 0.05
done

i=0
while [ "$i" -lt "$workers" ]; do
  i=$((i + 1))
  "$program" work "$here/worker.lua" --redis "$url" --stream prompts --consumer "worker$i" --set "$set" \
    2>"$folder/worker$i.log" &
  started="$started $!"
done

"$program" send --redis "$url" --stream prompts --input "$input" --output "$folder/answers.jsonl" 2>"$folder/send.log"
head -n 3 "$folder/answers.jsonl"
cat "$folder/send.log"
"$program" queue --redis "$url" --stream prompts

if [ "$keep" = yes ]; then
  echo "it runs on: try"
  echo "  $program send --redis $url --stream prompts <$input"
  echo "  python3 $here/producer.py $folder/redis.sock"
  echo "  $program queue --redis $url --stream prompts"
  wait
fi

# shellcheck disable=SC2086
kill -TERM $started
# shellcheck disable=SC2086
wait $started || true
started=''
for log in "$folder"/worker*.log; do
  echo "$(basename "$log" .log): $(sed -n 's/^records *//p' "$log")"
done
