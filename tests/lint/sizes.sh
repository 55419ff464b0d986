#!/bin/sh
# Files of at most 400 lines, functions of at most 70, in C and Lua. A spec is one long describe(),
# so neither counts there. Prints what is larger; exit 1 if there is any.
# usage: sizes.sh [ROOT]   the folder with src, tests, lua and examples   (environment: LUAJIT)

cd "${1:-.}" || exit 2

found() {
  C_FILES=$(find src tests -name '*.c' -o -name '*.cpp')
  LUA_FILES=$(find lua examples tests/lint -name '*.lua')
  wc -l $C_FILES $LUA_FILES $(find src tests -name '*.h') | awk '$1 > 400 && $2 != "total" {print $2 ": " $1 " lines"}'
  ctags -I MISUSE+ -x --kinds-C=f --kinds-C++=f --fields=+ne --_xformat='%{end} %n %N %F' $C_FILES |
    awk '$1 - $2 > 69 {print $4 ":" $2 ": " $3 " has " $1 - $2 + 1 " lines"}'
  # luajit -bl names each function as NAME:first-last
  for file in $LUA_FILES; do ${LUAJIT:-luajit} -bl "$file" | sed "s|^-- BYTECODE -- .*:|$file |"; done |
    sed -n 's/^\([^ ]*\.lua\) \([0-9]*\)-\([0-9]*\)$/\1 \2 \3/p' |
    awk '$2 > 0 && $3 - $2 > 69 {print $1 ":" $2 ": a function of " $3 - $2 + 1 " lines"}'
}

large=$(found | sort)
[ -z "$large" ] && exit 0
echo "$large"
exit 1
