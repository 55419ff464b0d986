#!/bin/sh
# The live page in a real browser: of a gateway with two workers, and of a program that listens by itself. It moves,
# is read by mouse and keyboard, fits its window by day and by night, and survives a restart.
# Needs chromium, node, nginx with Lua, libmicrohttpd.   (environment: B)

for program in chromium node nginx; do
  command -v $program >/dev/null 2>&1 || { echo "   skipped: no $program (make deps test-extra)"; exit 77; }
done
[ -r "${NGINX_MODULES:-/usr/lib/nginx/modules}/ngx_http_lua_module.so" ] ||
  { echo "   skipped: no Lua module for nginx (make deps test installs it)"; exit 77; }
[ -e "$B/libtokenbatcher_listen.so" ] || { echo "   skipped: no libtokenbatcher_listen.so (make deps all)"; exit 77; }
LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;;" node tests/extra/live.js
