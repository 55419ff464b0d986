#!/bin/sh
# Runs the example gateway in the foreground until it is told to stop (QUIT, TERM, Ctrl-C).
# usage: start.sh [--upstream URL] [--listen ADDRESS] [--workers N] [--shared yes]
#                 [--options LUA] [--health LUA] [--prefix FOLDER]
#   --upstream  http://HOST:PORT of an OpenAI-compatible API; without it a made-up one is
#               started too, which answers after 2 ms
#   --listen    where to listen (127.0.0.1:8080; unix:/path works, too)
#   --shared    yes: the workers hand their requests to one batching worker, see README.md
#   --options   options of every batcher, e.g. 'max_batch_size = 64, batch_timeout_s = 0.01'
#   --health    ages beyond which /health says 503, e.g. 'oldest_queued_s = 30, oldest_running_s = 60'
#   --prefix    a folder for pid, log and temporary files (by default a new one, removed at the end)
# environment: API_KEY (sent upstream), NGINX_MODULES (/usr/lib/nginx/modules)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
listen=127.0.0.1:8080 workers=1 upstream='' prefix='' shared=no health=''
options='max_batch_size = 64, batch_timeout_s = 0.005'
while [ $# -gt 0 ]; do
  case $1 in
    --listen) listen=$2 ;;
    --workers) workers=$2 ;;
    --upstream) upstream=${2%/} ;;
    --options) options=$2 ;;
    --health) health=$2 ;;
    --prefix) prefix=$2 ;;
    --shared) shared=$2 ;;
    *) sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3- >&2; exit 2 ;;
  esac
  [ $# -ge 2 ] || { echo "start.sh: $1 needs a value" >&2; exit 2; }
  shift 2
done

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

# fill TEMPLATE LISTEN WORKERS >FILE
fill() {
  sed -e "s|@MODULES@|$(plain "${NGINX_MODULES:-/usr/lib/nginx/modules}")|" -e "s|@USER@|$user|" \
    -e "s|@HERE@|$(plain "$here")|g" -e "s|@LISTEN@|$(plain "$2")|" -e "s|@WORKERS@|$(plain "$3")|" \
    -e "s|@UPSTREAM@|$(plain "$upstream")|" -e "s|@OPTIONS@|$(plain "$options")|" -e "s|@HEALTH@|$(plain "$health")|" \
    -e "s|@LOG@|stderr|" \
    -e "s|@SOCKET@|$(plain "$prefix")/batching.sock|" "$1"
}

# background NAME: an nginx of its own folder, stopped at the end
background() {
  nginx -p "$prefix/$1/" -c nginx.conf -g 'daemon off;' &
  started="$started $!"
}

if [ -z "$upstream" ]; then
  upstream=http://unix:$prefix/made-up.sock:
  mkdir -p "$prefix/made-up"
  fill "$here/../../tests/nginx/upstream.conf" "unix:$prefix/made-up.sock" 1 >"$prefix/made-up/nginx.conf"
  background made-up
fi
if [ "$shared" = yes ]; then
  mkdir -p "$prefix/batching"
  fill "$here/nginx.conf" "unix:$prefix/batching.sock" 1 >"$prefix/batching/nginx.conf"
  background batching
  fill "$here/front.conf" "$listen" "$workers" >"$prefix/nginx.conf"
else
  fill "$here/nginx.conf" "$listen" "$workers" >"$prefix/nginx.conf"
fi
trap 'kill -QUIT $nginx' INT TERM QUIT
nginx -p "$prefix/" -c nginx.conf -g 'daemon off;' &
nginx=$!
echo "gateway at $listen, $workers worker(s), files in $prefix" >&2
while kill -0 $nginx 2>/dev/null; do wait $nginx || true; done
