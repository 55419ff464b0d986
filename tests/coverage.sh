#!/bin/sh
# Which lines and branches of src the C tests take, and with SPECS=1 the specs of Lua, too. Builds below B/coverage.
# Prints for each file: lines in all and taken, branches in all and taken; which are not is in lines.txt and branches.txt
# there. Fails when less is taken than is asked. An assertion's failing side is no branch here: lines that begin with
# assert( are left out, those alone.
# environment: B (build folder); SPECS (0); CORE_BRANCHES (100): percent of the branches of src/core;
#   LINES_TAKEN (90): percent of the lines of each of src/ev, http, redis, script
set -eu
command -v gcovr >/dev/null || { echo "coverage: needs gcovr (make deps coverage installs it)" >&2; exit 1; }
export no_proxy=127.0.0.1,localhost,.invalid
at="$B/coverage"
# what is inlined in any case would count at its callers
flags='-O0 -g --coverage -DTB_ON_THE_WAY=static\ inline'
mkdir -p "$at"

tests=$(ls tests/src/*/test_*.c | sed "s|.*/\(.*\)\.c|$at/tests/\1|")
make -s B="$at" CFLAGS="$flags" $tests
find "$at" -name '*.gcda' -delete

run() {
  "$@" >"$at/log" 2>&1 || { cat "$at/log"; echo "coverage: failed: $*" >&2; exit 1; }
}
for test in $tests; do run "$test"; done

if [ "${SPECS:-0}" = 1 ]; then
  for library in libtokenbatcher libtokenbatcher_script libtokenbatcher_http libtokenbatcher_redis libtokenbatcher_json; do
    make -s B="$at" CFLAGS="$flags" "$at/$library.so"
  done
  TOKENBATCHER_LIB="$PWD/$at/libtokenbatcher.so" run busted --lua=luajit --output=TAP --pattern=_spec tests/lua
fi

report() { gcovr --root . --filter 'src/' --exclude-branches-by-pattern '^\s*assert\(.*' "$@" "$at"; }
report --csv -o "$at/files.csv"
report -o "$at/lines.txt" # which are not taken
report --branches -o "$at/branches.txt"
awk -F, -v core="${CORE_BRANCHES:-100}" -v asked="${LINES_TAKEN:-90}" '
  function percent(taken, all) { return all ? 100 * taken / all : 100 }
  function complain(what) { print "coverage: " what; bad = 1 }
  NR == 1 { printf "%-28s %7s %7s %6s %9s %7s %6s\n", "", "lines", "taken", "%", "branches", "taken", "%"; next }
  {
    split($1, part, "/"); room = part[1] "/" part[2]
    printf "%-28s %7d %7d %6.1f %9d %7d %6.1f\n", $1, $2, $3, percent($3, $2), $5, $6, percent($6, $5)
    lines[room] += $2; lines_taken[room] += $3; branches[room] += $5; branches_taken[room] += $6
  }
  END {
    for (room in lines) {
      printf "%-28s %7d %7d %6.1f %9d %7d %6.1f\n", room, lines[room], lines_taken[room],
        percent(lines_taken[room], lines[room]), branches[room], branches_taken[room],
        percent(branches_taken[room], branches[room]) | "sort"
    }
    close("sort")
    if (percent(branches_taken["src/core"], branches["src/core"]) < core)
      complain("src/core: less than " core " % of the branches are taken")
    n = split("ev http redis script", rooms, " ")
    for (i = 1; i <= n; i++) {
      room = "src/" rooms[i]
      if (percent(lines_taken[room], lines[room]) < asked) complain(room ": less than " asked " % of the lines are taken")
    }
    exit bad
  }' "$at/files.csv"
