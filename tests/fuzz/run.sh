#!/bin/sh
# libFuzzer: the core against its invariants, the conservation identity and the model; JSON
# against its second encoder and itself; vectors cut out of answers against a plain model on JSON;
# replies of Redis whole against in pieces.
# environment: B (build folder), FUZZ_SECONDS (60) for each
set -eu
command -v clang >/dev/null || { echo "fuzz: needs clang (make deps fuzz installs it)" >&2; exit 1; }
strict='-O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all'
mkdir -p "$B/fuzz/found" "$B/fuzz/found_json" "$B/fuzz/found_vectors" "$B/fuzz/found_redis"

# fuzz NAME CORPUS FOUND OPTION...
fuzz() {
  name=$1 corpus=$2 found=$3
  shift 3
  "$B/fuzz/$name" -max_total_time="${FUZZ_SECONDS:-60}" -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="$B/fuzz/" "$@" "$B/fuzz/$found" "$corpus"
}

clang -std=c11 -D_GNU_SOURCE $strict -Iinclude -Itests/src/core -o "$B/fuzz/fuzz_core" tests/fuzz/fuzz_core.c \
  $(ls tests/src/core/*.c | grep -v '/test_') src/core/*.c -lcmocka -lm
fuzz fuzz_core tests/fuzz/corpus found

lua=$(pkg-config --cflags luajit)
for file in src/json/*.cpp; do
  clang++ -std=c++17 -fno-exceptions -fno-rtti $strict $lua -c "$file" -o "$B/fuzz/$(basename "$file" .cpp).o"
done
clang -std=c11 -D_GNU_SOURCE $strict $lua -o "$B/fuzz/fuzz_json" tests/fuzz/fuzz_json.c src/json/*.c \
  "$B/fuzz/decode.o" "$B/fuzz/number.o" -lluajit-5.1 -lstdc++ -lm
ASAN_OPTIONS=detect_leaks=0 fuzz fuzz_json tests/fuzz/corpus_json found_json

clang -std=c11 -D_GNU_SOURCE $strict $lua -Iinclude -rdynamic -o "$B/fuzz/fuzz_vectors" tests/fuzz/fuzz_vectors.c \
  src/vectors/*.c "$B/gen/cdef_vectors.c" -Wno-overlength-strings src/json/*.c "$B/fuzz/decode.o" "$B/fuzz/number.o" \
  -lluajit-5.1 -lstdc++ -lm
ASAN_OPTIONS=detect_leaks=0 fuzz fuzz_vectors tests/fuzz/corpus_vectors found_vectors

clang -std=c11 -D_GNU_SOURCE $strict -Iinclude -o "$B/fuzz/fuzz_redis" tests/fuzz/fuzz_redis.c src/redis/bytes.c \
  src/redis/replies.c $(pkg-config --libs hiredis)
fuzz fuzz_redis tests/fuzz/corpus_redis found_redis
