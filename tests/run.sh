#!/bin/sh
# Runs every test program and all specs; ends with one line, the sum over all runners:
# N passed, N failed, N skipped. Exit status 1 if anything failed.
# usage: run.sh C_TEST ...   (environment: B, BUSTED)

# Tests talk to this machine only, and never through a proxy.
export no_proxy=127.0.0.1,localhost,.invalid

passed=0 failed=0 skipped=0
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT

# Counts from a cmocka program: "[  PASSED  ] 3 test(s)." A program that ends badly
# without counting a failure counts as one.
run_c() {
  echo "== $1"
  "$1" >"$out/c" 2>&1
  status=$?
  p=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$out/c" | tail -n 1)
  f=$(sed -n 's/^\[  FAILED  \] \([0-9]*\) test.*/\1/p' "$out/c" | tail -n 1)
  s=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) test.*/\1/p' "$out/c" | tail -n 1)
  p=${p:-0} f=${f:-0} s=${s:-0}
  if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
  if [ "$f" -ne 0 ]; then cat "$out/c"; else echo "   $p passed"; grep '^ *skipped:' "$out/c"; fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# The specs print TAP: "ok 1 - name", "not ok 2 - name", "ok 3 - # SKIP name". count_specs STATUS FILE
count_specs() {
  f=$(grep -c '^not ok' "$2")
  s=$(grep -c '^ok .*# SKIP' "$2")
  p=$(($(grep -c '^ok ' "$2") - s))
  if [ "$1" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
  if [ "$f" -ne 0 ]; then cat "$2"; else grep '# SKIP' "$2"; echo "   $p passed"; fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# In two processes, since most of the time somebody waits; those that build are in one of them.
run_specs() {
  echo "== specs"
  servers='' others=''
  for path in tests/lua/*; do
    case $path in
      */gateway | */backend | */listen | */sim) servers="$servers $path" ;;
      *_spec.lua) others="$others $path" ;;
      *.lua | */guides) ;;
      *) others="$others $path" ;;
    esac
  done
  # shellcheck disable=SC2086
  $BUSTED --output=TAP --pattern=_spec $servers >"$out/servers" 2>&1 &
  # shellcheck disable=SC2086
  $BUSTED --output=TAP --pattern=_spec $others >"$out/others" 2>&1
  count_specs $? "$out/others"
  wait $!
  count_specs $? "$out/servers"
}

# A program that passes as a whole: run_whole PROGRAM ARGUMENT...
run_whole() {
  if "$@" >"$out/whole" 2>&1; then
    passed=$((passed + 1))
    echo "   1 passed"
  else
    cat "$out/whole"
    failed=$((failed + 1))
  fi
}

# run_replay TARGET: over its corpus
run_replay() {
  echo "== fuzz corpus: $1"
  run_whole "$B/tests/fuzz_$1_replay" "tests/fuzz/corpus_$1"/*
}

# Two records at once: seconds. `make search` has four.
run_search() {
  echo "== every state of a small batcher"
  run_whole "$B/tests/search" 2
  tail -n 1 "$out/whole"
}

for program in "$@"; do run_c "$program"; done
run_search
for corpus in tests/fuzz/corpus_*; do run_replay "${corpus#tests/fuzz/corpus_}"; done
run_specs

if [ "$skipped" -gt 0 ]; then
  echo "$passed passed, $failed failed, $skipped skipped"
else
  echo "$passed passed, $failed failed"
fi
[ "$failed" -eq 0 ]
