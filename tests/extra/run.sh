#!/bin/sh
# Tests that need more than Debian's usual packages: every script here but this one. Each prints what it
# saw, one line a fact, and exits with 0, with 1 if something is wrong, or with 77 if it cannot run here.
# usage: run.sh [NAME ...]   (environment: B)

cd "$(dirname "$0")/../.." || exit 2
passed=0 failed=0 skipped=0
for script in tests/extra/*.sh; do
  name=$(basename "$script" .sh)
  [ "$name" != run ] || continue
  case " ${*:-$name} " in *" $name "*) ;; *) continue ;; esac
  echo "== $name"
  B=${B:-build} sh "$script"
  case $? in
    0) passed=$((passed + 1)) ;;
    77) skipped=$((skipped + 1)) ;;
    *) failed=$((failed + 1)); echo "   $name FAILED" ;;
  esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
