#!/bin/sh
# libFuzzer, a target after the other, each from its corpus here and from what it found before (below B/fuzz):
#   core     operations: its invariants, the conservation identity, the model
#   json     JSON and UTF-8: against a second encoder and itself
#   vectors  vectors cut out of answers: against a plain model on JSON
#   redis    replies of Redis: whole against in pieces
#   http     an answer through a socket pair, in pieces: it ends, within its bounds
#   traces   a file of arrivals of any format, recordings included: in order, whole, the same twice
#   messages what others put into streams of Redis, and its replies as nginx reads them
# Ends with a line a target: executions, features of the code that were covered. What is found ends it at once.
# environment: B (build folder), FUZZ_SECONDS (60) for each, ONLY (all of them: names of targets)
set -eu
command -v clang >/dev/null || { echo "fuzz: needs clang (make deps fuzz installs it)" >&2; exit 1; }
strict='-O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all'
lua=$(pkg-config --cflags luajit)
mkdir -p "$B/fuzz"

cc() { clang -std=c11 -D_GNU_SOURCE $strict -Iinclude "$@"; }

json_objects() {
  for file in src/json/*.cpp; do
    clang++ -std=c++17 -fno-exceptions -fno-rtti $strict $lua -c "$file" -o "$B/fuzz/$(basename "$file" .cpp).o"
  done
}

build_core() {
  cc -Itests/src/core -o "$B/fuzz/core" tests/fuzz/fuzz_core.c $(ls tests/src/core/*.c | grep -v '/test_') src/core/*.c \
    -lcmocka -lm
}

build_json() {
  json_objects
  cc $lua -o "$B/fuzz/json" tests/fuzz/fuzz_json.c src/json/*.c "$B/fuzz/decode.o" "$B/fuzz/number.o" -lluajit-5.1 -lstdc++ -lm
}

build_vectors() {
  json_objects
  cc $lua -rdynamic -o "$B/fuzz/vectors" tests/fuzz/fuzz_vectors.c src/vectors/*.c "$B/gen/cdef_vectors.c" \
    -Wno-overlength-strings src/json/*.c "$B/fuzz/decode.o" "$B/fuzz/number.o" -lluajit-5.1 -lstdc++ -lm
}

build_redis() {
  cc -o "$B/fuzz/redis" tests/fuzz/fuzz_redis.c src/redis/bytes.c src/redis/replies.c $(pkg-config --libs hiredis)
}

build_http() {
  cc -o "$B/fuzz/http" tests/fuzz/fuzz_http.c src/http/*.c $(pkg-config --libs libcurl) -lm
}

# Lua alone, but for JSON: libFuzzer is told of its lines.
build_in_lua() {
  json_objects
  cc $lua -o "$B/fuzz/$1" "tests/fuzz/fuzz_$1.c" src/json/*.c "$B/fuzz/decode.o" "$B/fuzz/number.o" -lluajit-5.1 -lstdc++ -lm
}
build_traces() { build_in_lua traces; }
build_messages() { build_in_lua messages; }

# An input that takes 25 s is a hang. LuaJIT frees nothing at exit.
fuzz() {
  mkdir -p "$B/fuzz/found_$1"
  case $1 in json | vectors | traces | messages) leaks=0 ;; *) leaks=1 ;; esac
  ASAN_OPTIONS=detect_leaks=$leaks "$B/fuzz/$1" -max_total_time="${FUZZ_SECONDS:-60}" -timeout=25 -max_len=4096 \
    -print_final_stats=1 -artifact_prefix="$B/fuzz/$1-" "$B/fuzz/found_$1" "tests/fuzz/corpus_$1" >"$B/fuzz/$1.log" 2>&1 ||
    { tail -n 60 "$B/fuzz/$1.log"; echo "fuzz: $1 found something" >&2; exit 1; }
  sed -n "s/^#\([0-9]*\)[[:space:]]*DONE .* ft: \([0-9]*\) .*/$1: \1 executions, \2 features, nothing found/p" "$B/fuzz/$1.log"
}

for target in ${ONLY:-core json vectors redis http traces messages}; do
  "build_$target"
  fuzz "$target"
done
