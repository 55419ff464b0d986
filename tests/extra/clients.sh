#!/bin/sh
# Real clients of OpenAI's API, from npm, against the example gateway: 64 requests at once of each, some of which
# leave, base64 and numbers mixed, and every vector checked.   (environment: B)

for program in npm node nginx curl; do
  command -v $program >/dev/null 2>&1 || { echo "   skipped: no $program (make deps test-extra)"; exit 77; }
done
mkdir -p "$B/clients" && cp tests/extra/clients/* "$B/clients/" || exit 1
npm install --prefix "$B/clients" --no-audit --no-fund --loglevel=error >"$B/clients/log" 2>&1 ||
  { cat "$B/clients/log"; exit 1; }
LUA_PATH='lua/?.lua;lua/?/init.lua;;' luajit tests/extra/clients.lua "$B/clients"
