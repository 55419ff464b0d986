#!/bin/sh
# libFuzzer on the core, against its invariants, the conservation identity and the model.
# environment: B (build folder), FUZZ_SECONDS (60)
set -eu
command -v clang >/dev/null || { echo "fuzz: needs clang (make deps fuzz installs it)" >&2; exit 1; }
mkdir -p "$B/fuzz/found"
clang -std=c11 -D_GNU_SOURCE -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
  -Iinclude -Itests/src/core -o "$B/fuzz/fuzz_core" tests/fuzz/fuzz_core.c \
  $(ls tests/src/core/*.c | grep -v '/test_') src/core/*.c -lcmocka -lm
"$B/fuzz/fuzz_core" -max_total_time="${FUZZ_SECONDS:-60}" -max_len=4096 -print_final_stats=1 \
  -artifact_prefix="$B/fuzz/" "$B/fuzz/found" tests/fuzz/corpus
