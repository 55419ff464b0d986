#!/bin/sh
# Runs a gateway in the foreground until it is told to stop (QUIT, TERM, Ctrl-C).
# usage: start.sh [--upstream URL] [--preset NAME] [--listen ADDRESS] [--workers N] [--shared yes]
#                 [--options LUA] [--config LUA] [--health LUA] [--status-listen ADDRESS]
#                 [--per-address N] [--prefix FOLDER]
#   --upstream  http(s)://HOST:PORT of an OpenAI-compatible API, or of TEI; without it a made-up one
#               is started too, which answers after 2 ms
#   --preset    what the upstream is: openai, tei, vllm, infinity (openai)
#   --listen    where to listen (127.0.0.1:8080; unix:/path works, too)
#   --shared    yes: the workers hand their requests to one batching worker, see README.md
#   --options   options of the batcher, e.g. 'max_batch_size = 64, batch_timeout_s = 0.01'
#   --config    more of what the gateway may be given, e.g. 'auth = "passthrough", join = true',
#               'queue = { slots = 8, reserve = 1 }' (chat waits for one of 8 places upstream)
#   --health    ages beyond which /health says 503, e.g. 'oldest_queued_s = 30, oldest_running_s = 60'
#   --status-listen  where /metrics, /health, /ready, /status and the live page /tb/ are (by default
#               where it listens, and to this machine alone)
#   --per-address    requests at once from one address (2048)
#   --prefix    a folder for pid, log and temporary files (by default a new one, removed at the end)
# environment: API_KEY (sent upstream), NGINX_MODULES (/usr/lib/nginx/modules), SSL_CERT_FILE
set -eu

here=$(cd "$(dirname "$0")" && pwd)
listen=127.0.0.1:8080 workers=1 upstream='' prefix='' shared=no health='' options='' config='' preset=openai
status='' per_address=2048
while [ $# -gt 0 ]; do
  case $1 in
    --listen) listen=$2 ;;
    --workers) workers=$2 ;;
    --upstream) upstream=${2%/} ;;
    --preset) preset=$2 ;;
    --options) options=$2 ;;
    --config) config=$2 ;;
    --health) health=$2 ;;
    --status-listen) status=$2 ;;
    --per-address) per_address=$2 ;;
    --prefix) prefix=$2 ;;
    --shared) shared=$2 ;;
    *) sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2; exit 2 ;;
  esac
  [ $# -ge 2 ] || { echo "start.sh: $1 needs a value" >&2; exit 2; }
  shift 2
done
case "$upstream$preset" in
  *[\"\\]* | *"
"*) echo 'start.sh: --upstream and --preset hold no quotes, backslashes or line breaks' >&2; exit 2 ;;
esac

umask 077 # what --config holds may be keys
remove=''
[ -n "$prefix" ] || { prefix=$(mktemp -d) && remove=$prefix; }
started=''
# shellcheck disable=SC2086
clean_up() {
  [ -z "$started" ] || { kill -QUIT $started && wait $started; } 2>/dev/null || true
  [ -z "$remove" ] || rm -rf "$remove"
}
trap clean_up EXIT

user=''
[ "$(id -u)" != 0 ] || user='user root;' # the workers read this checkout

# A value as the right side of sed's s|||.
plain() { printf %s "$1" | sed 's/[&|\\]/\\&/g'; }

resolver=$(awk '/^nameserver/ && $2 !~ /%/ {print $2 ~ /:/ ? "[" $2 "]" : $2}' /etc/resolv.conf 2>/dev/null | xargs)
ca=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
if [ -r "$ca" ]; then
  ca="lua_ssl_trusted_certificate $ca; lua_ssl_verify_depth 4; proxy_ssl_trusted_certificate $ca; proxy_ssl_verify on;"
else
  ca=''
  case $upstream in https:*) echo "start.sh: no certificates to verify the upstream with: set SSL_CERT_FILE" >&2; exit 2 ;; esac
fi

files=$(awk '/^Max open files/ {print $5}' /proc/self/limits) # descriptors that a worker may have
case $files in *[!0-9]* | ??????*) files=32768 ;; esac
[ "$files" -le 32768 ] || files=32768

# pages ADDRESS SERVES: a server of its own for what the gateway says of itself
pages() { printf 'server { listen %s; location / { %s } }' "$1" "$2"; }
by_lua='content_by_lua_block { gateway:page() }'
by_front="proxy_set_header Host \$http_host; proxy_set_header X-Real-IP \$remote_addr; proxy_pass http://unix:$prefix/status.sock;"
local_only='allow 127.0.0.1; allow ::1; allow unix:; deny all;'

# fill TEMPLATE LISTEN WORKERS PAGE STATUS_SERVER >FILE
fill() {
  sed -e "s|@MODULES@|$(plain "${NGINX_MODULES:-/usr/lib/nginx/modules}")|g" -e "s|@USER@|$user|" \
    -e "s|@HERE@|$(plain "$here")|g" -e "s|@LISTEN@|$(plain "$2")|" -e "s|@WORKERS@|$(plain "$3")|" \
    -e "s|@LUA@|$(plain "$here/../../lua/?.lua;$here/../../lua/?/init.lua;;")|" -e "s|@LOG@|stderr|" \
    -e "s|@RESOLVER@|${resolver:+resolver $resolver;}|" -e "s|@CA@|$(plain "$ca")|" -e "s|@REALIP@|$realip|" \
    -e "s|@FILES@|$files|g" -e "s|@CONNECTIONS@|$((files / 2))|" \
    -e "s|@PER_ADDRESS@|$(plain "$per_address")|" -e "s|@PAGES@|$(plain "$4")|" -e "s|@STATUS@|$(plain "$5")|" \
    -e "s|@CONFIG@|$(plain "$given")|" -e "s|@SOCKET@|$(plain "$prefix")/batching.sock|" "$1"
}

# background NAME: an nginx of its own folder, stopped at the end
background() {
  nginx -p "$prefix/$1/" -c nginx.conf -g 'daemon off;' &
  started="$started $!"
}

if [ -z "$upstream" ]; then
  upstream=http://unix:$prefix/made-up.sock:
  mkdir -p "$prefix/made-up"
  given='' realip=''
  fill "$here/../../tests/nginx/upstream.conf" "unix:$prefix/made-up.sock" 1 '' '' >"$prefix/made-up/nginx.conf"
  background made-up
fi
given="upstreams = { { url = \"$upstream\", preset = \"$preset\", api_key = os.getenv \"API_KEY\" } },"
given="$given batch = { options = { $options } }, health = { $health }, $config"
realip=''
if [ "$shared" = yes ]; then
  mkdir -p "$prefix/batching"
  realip='set_real_ip_from unix:; real_ip_header X-Real-IP;'
  fill "$here/nginx.conf" "unix:$prefix/batching.sock" 1 '' \
    "$(pages "unix:$prefix/status.sock" "$by_lua")" >"$prefix/batching/nginx.conf"
  background batching
  while [ ! -S "$prefix/status.sock" ] && kill -0 $! 2>/dev/null; do sleep 0.05; done
  [ -S "$prefix/status.sock" ] || { echo 'start.sh: the batching worker did not start' >&2; exit 1; }
  template=$here/front.conf serves=$by_front
else
  template=$here/nginx.conf serves=$by_lua
fi
if [ -n "$status" ]; then
  fill "$template" "$listen" "$workers" '' "$(pages "$status" "$serves")" >"$prefix/nginx.conf"
else
  fill "$template" "$listen" "$workers" \
    "location ~ ^/(metrics|health|ready|status|tb|tb/.*)\$ { $local_only $serves }" '' >"$prefix/nginx.conf"
fi
trap 'kill -QUIT $nginx' INT TERM QUIT
nginx -p "$prefix/" -c nginx.conf -g 'daemon off;' &
nginx=$!
echo "gateway at $listen, $workers worker(s), files in $prefix" >&2
while kill -0 $nginx 2>/dev/null; do wait $nginx || true; done
