#!/bin/sh
# A real Prometheus scrapes two workers that share a stream of a Redis of their own: promtool has nothing to say of
# their pages and of the gateway's, the sums are those of what was sent, and the alert rules fire when they should.
# (environment: B)

for program in prometheus promtool redis-server redis-cli curl; do
  command -v $program >/dev/null 2>&1 || { echo "   skipped: no $program (make deps test-extra)"; exit 77; }
done
folder=$(mktemp -d) pids=''
# shellcheck disable=SC2086
trap '[ -z "$pids" ] || kill $pids 2>/dev/null; wait; rm -rf "$folder"' EXIT
exe=$(realpath "$B/tokenbatcher")

# until SECONDS COMMAND...: waits until it succeeds
until_true() {
  limit=$(($(date +%s) + $1)); shift
  until "$@"; do [ "$(date +%s)" -lt "$limit" ] || { echo "   in vain: $*"; return 1; }; done
}
fail() { echo "   $*"; exit 1; }

promtool check rules examples/grafana/alerts.yml >"$folder/out" 2>&1 || fail "$(cat "$folder/out")"
promtool test rules tests/extra/alerts_test.yml >"$folder/out" 2>&1 || fail "$(cat "$folder/out")"
echo "   the alert rules fire when they should"

redis-server --port 0 --unixsocket "$folder/redis" --save '' --daemonize no >/dev/null 2>&1 &
pids=$!
answers() { redis-cli -s "$folder/redis" ping >/dev/null 2>&1; }
until_true 30 answers || exit 1
cat >"$folder/script.lua" <<'END'
return { inference_fn = function(records) return records end, inference_timeout_s = 10, max_batch_size = 16, name = "w" }
END
for worker in 1 2; do
  "$exe" work "$folder/script.lua" --redis "redis+unix://$folder/redis" --stream s --consumer "worker$worker" \
    --listen 127.0.0.1:0 2>"$folder/worker$worker" &
  pids="$pids $!"
done
address_of() { sed -n 's|.*listening at http://\(.*\)/$|\1|p' "$folder/worker$1"; }
listens() { [ -n "$(address_of "$1")" ] && grep -q 'worker .*: stream' "$folder/worker$1"; }
until_true 30 listens 1 && until_true 30 listens 2 || exit 1

cat >"$folder/prometheus.yml" <<END
global: { scrape_interval: 500ms, evaluation_interval: 500ms }
rule_files: [$(realpath examples/grafana/alerts.yml)]
scrape_configs:
  - job_name: tokenbatcher
    static_configs: [{ targets: ["$(address_of 1)", "$(address_of 2)"] }]
END
port=$(luajit -e 'local s = require("socket").bind("127.0.0.1", 0) print((select(2, s:getsockname())))')
prometheus --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/data" \
  --web.listen-address="127.0.0.1:$port" --log.level=error 2>"$folder/prometheus.log" &
pids="$pids $!"
# ask QUERY: the value of a query with one result
ask() {
  curl -s --data-urlencode "query=$1" "http://127.0.0.1:$port/api/v1/query" |
    sed -n 's/.*"value":\[[^,]*,"\([^"]*\)"\].*/\1/p'
}
says() { [ "$(ask "$1")" = "$2" ]; }
until_true 60 says 'sum(up)' 2 || fail "$(cat "$folder/prometheus.log")"

n=1000
seq $n | sed 's/.*/{"text":"&"}/' | "$exe" send --redis "redis+unix://$folder/redis" --stream s >"$folder/answers" \
  2>/dev/null || exit 1
[ "$(wc -l <"$folder/answers")" = $n ] || fail "$(wc -l <"$folder/answers") answers"
until_true 30 says 'sum(tokenbatcher_completed_total)' $n || exit 1
says 'sum(tokenbatcher_worker_records_total{outcome="answered"})' $n || fail "the workers' own counts differ"
says 'count(tokenbatcher_worker_records_total{outcome="answered"} > 0)' 2 || fail "one worker did all"
says 'sum(tokenbatcher_batch_size_records_sum)' $n || fail "the histogram's sum differs"
says 'sum(tokenbatcher_worker_redis_connected)' 2 || fail "who is connected?"
says 'count(ALERTS)' '' || fail "an alert fires: $(ask 'count by (alertname) (ALERTS)')"
echo "   $n records through two workers, and the sums of Prometheus are theirs"

for worker in 1 2; do
  curl -s "http://$(address_of $worker)/metrics" | promtool check metrics >"$folder/out" 2>&1 || fail "$(cat "$folder/out")"
done
mkdir -p "$folder/nginx"
sh examples/openresty/start.sh --listen "unix:$folder/gateway" --workers 2 --prefix "$folder/nginx" 2>"$folder/nginx.log" &
gateway=$!
pids="$pids $gateway"
is_up() { curl -sf --unix-socket "$folder/gateway" http://gateway/health >/dev/null 2>&1; }
if command -v nginx >/dev/null 2>&1; then
  until_true 30 is_up || fail "$(cat "$folder/nginx.log")"
  curl -s --unix-socket "$folder/gateway" http://gateway/v1/embeddings -d '{"model":"m","input":"x"}' >/dev/null
  counts() { # a worker tells the others a moment later
    curl -s --unix-socket "$folder/gateway" http://gateway/metrics >"$folder/page"
    grep -q 'tokenbatcher_http_requests_total{' "$folder/page"
  }
  until_true 30 counts || exit 1
  kill $gateway
  wait $gateway
  promtool check metrics <"$folder/page" >"$folder/out" 2>&1 || fail "$(cat "$folder/out")"
fi
echo "   promtool has nothing to say of their pages and of the gateway's"
