#!/bin/sh
# The tests under the sanitizers: C tests and fuzz corpus under ASan + UBSan, the threaded
# ones under TSan, the specs of the Lua face with the library under ASan + UBSan
# (LeakSanitizer off: LuaJIT frees nothing at exit), the C tests, a script and the executable
# under valgrind.
# environment: B (build folder)
set -eu
unset ASAN_OPTIONS
strict='-fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1'

build_tests() {
  make -s B="$1" CFLAGS="$2" "$1/libtokenbatcher.a" replays \
    $(ls tests/src/*/test_*.c | sed "s|.*/\(.*\)\.c|$1/tests/\1|")
}
run() {
  echo "   $*"
  "$@" >"$B/sanitize.log" 2>&1 || { cat "$B/sanitize.log"; echo "sanitize: failed: $*" >&2; exit 1; }
}
mkdir -p "$B"

echo "== ASan and UBSan: C tests"
build_tests "$B/asan" "-fsanitize=address,undefined $strict"
for test in "$B"/asan/tests/test_*; do
  case $test in *test_alloc*) continue ;; esac # it wraps malloc, as ASan does
  run "$test"
done
for corpus in tests/fuzz/corpus_*; do
  case $corpus in *_core | *_http | *_redis) leaks=1 ;; *) leaks=0 ;; esac # LuaJIT frees nothing at exit
  run env ASAN_OPTIONS=detect_leaks=$leaks "$B/asan/tests/fuzz_${corpus#tests/fuzz/corpus_}_replay" "$corpus"/*
done
run env TB_MONKEY_ROUNDS=400 "$B/asan/tests/test_engine_monkey"

echo "== TSan: the inbox, the loop, engines, Redis's look-ups"
build_tests "$B/tsan" "-fsanitize=thread $strict"
for test in "$B"/tsan/tests/test_ev* "$B"/tsan/tests/test_engine* "$B"/tsan/tests/test_redis*; do run "$test"; done

echo "== ASan and UBSan: specs"
make -s B="$B/asan" CFLAGS="-fsanitize=address,undefined $strict" "$B/asan/libtokenbatcher.so" \
  "$B/asan/libtokenbatcher_script.so" "$B/asan/libtokenbatcher_http.so" "$B/asan/libtokenbatcher_redis.so" "$B/asan/libtokenbatcher_listen.so" "$B/asan/libtokenbatcher_json.so"
export TOKENBATCHER_LIB="$PWD/$B/asan/libtokenbatcher.so"
asan=$(gcc -print-file-name=libasan.so) ubsan=$(gcc -print-file-name=libubsan.so)
for spec in $(find tests/lua -name "*_spec.lua" | sort); do
  case $spec in # these start other programs, or time the JIT
    *cli*|*install*|*trees*|*guides*|*mutate*|*lint/*|*compile*|*examples*|*nginx*|*gateway*|*library*) continue ;;
  esac
  run env LD_PRELOAD="$asan $ubsan" ASAN_OPTIONS=detect_leaks=0 luajit \
    -e "package.path = 'lua/?.lua;lua/?/init.lua;' .. package.path" /usr/bin/busted --ignore-lua \
    --pattern=_spec "$spec"
done
unset TOKENBATCHER_LIB

echo "== valgrind"
make -s B="$B" "$B/libtokenbatcher.a" "$B/libtokenbatcher.so" "$B/tokenbatcher" $(ls tests/src/*/test_*.c | sed "s|.*/\(.*\)\.c|$B/tests/\1|")
for test in "$B"/tests/test_*; do
  case $test in *test_model*) export TB_OPS=5000 ;; *_monkey) export TB_MONKEY_ROUNDS=6 ;; esac
  # an abandoned thread keeps its stack, which is "possibly lost"
  run valgrind -q --fair-sched=yes --leak-check=full --errors-for-leak-kinds=definite --error-exitcode=9 "$test"
done
run valgrind -q --error-exitcode=9 luajit examples/quickstart.lua
run valgrind -q --error-exitcode=9 "$B/tokenbatcher" run examples/simulated_accelerator.lua \
  --input examples/prompts.jsonl
echo "sanitize: nothing found"
