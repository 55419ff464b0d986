#!/bin/sh
# What the code must hold to, beyond its tests. Prints each violation; exit 1 if any.
# environment: B (build folder), LUAJIT

bad=0
complain() {
  echo "lint: $*"
  bad=1
}
# Fails with the lines found, if there are any: refuse TEXT LINES
refuse() {
  [ -z "$2" ] || { complain "$1"; echo "$2" | sed 's/^/    /'; }
}

CXX_FILES=$(git ls-files 'src/*.cpp')
LUA_FILES=$(git ls-files '*.lua')
LUA_CFLAGS=$(pkg-config --cflags luajit)

# --- who may know whom --------------------------------------------------------
rm -f "$B/libcore.a" && make -s "$B/libcore.a"
refuse "src/core needs more than memory functions and __assert_fail" \
  "$(nm -u "$B/libcore.a" | awk '$1 == "U" {print $2}' | sort -u | grep -v '^tb_' |
     grep -vxE 'malloc|calloc|realloc|free|memset|memcpy|memmove|__assert_fail|__stack_chk_fail')"
refuse "a file of src calls one that comes later" "$(sh tests/lint/rooms_c.sh src "$B/src" 2>&1)"
refuse "a room of lua/tokenbatcher knows what it may not" "$($LUAJIT tests/lint/rooms_lua.lua 2>&1)"
refuse "src/core includes something else than its own and the memory headers" \
  "$(grep -nE '^#include' src/core/* | grep -vE '"(core|hot|check|tokenbatcher).h"|<(stdlib|string|assert|stdbool)\.h>')"
refuse "src/ev knows Lua or the inside of the core" "$(grep -nE '#include.*(lua|core\.h)' src/ev/*)"
refuse "src/script knows the inside of the core or of the driver" "$(grep -nE '#include.*(core|hot|driver)\.h' src/script/*)"
refuse "src/json knows more than its own headers, RapidJSON and Lua" \
  "$(grep -nE '^ *#include "' src/json/* | grep -vE '"(codec|rapid).h"')"
refuse "a lua_State outside of src/host, src/script and src/json" \
  "$(grep -nE 'lua_State' $(git ls-files include src | grep -vE '^src/(host|script|json)/'))"
refuse "a function pointer in a public header" "$(grep -nE '\(\*' include/*.h | grep -v '^\S*:\s*\*')"
refuse "src/http knows more than libcurl and its own headers" \
  "$(grep -nE '^#include "' src/http/* | grep -vE '"(client|tokenbatcher_http|\.\./base/(clock|slots)).h"')"
refuse "src/redis knows more than hiredis and its own headers" \
  "$(grep -nE '^#include "' src/redis/* | grep -vE '"(client|tokenbatcher_redis|\.\./base/clock).h"')"
refuse "src/listen knows more than libmicrohttpd and its own headers" \
  "$(grep -nE '^#include "' src/listen/* | grep -vE '"(server|tokenbatcher_listen|\.\./base/(clock|slots)).h"')"
refuse "src/vectors knows more than libc and its own headers" \
  "$(grep -nE '^#include "' src/vectors/* | grep -vE '"(scan|tokenbatcher_vectors).h"')"
refuse "a clock outside of the pumps" \
  "$(grep -nE 'os\.(clock|time)\b|clock_gettime|gettimeofday' $(git ls-files lua src) |
     grep -vE '^(src/base/clock\.h|lua/tokenbatcher/base/wall_clock_ffi\.lua):')"

# --- size ---------------------------------------------------------------------
refuse "files over 400 lines, functions over 70" "$(LUAJIT="$LUAJIT" sh tests/lint/sizes.sh 2>&1)"

# --- text -----------------------------------------------------------------------
refuse "debts" "$(git grep -nE '\b(TODO|FIXME|XXX|HACK)\b' -- '*.c' '*.cpp' '*.h' '*.lua' '*.sh' Makefile '*.md' ':!tests/lint.sh')"
refuse "lines of more than 120 characters" "$(git grep -nE '.{121,}' -- '*.c' '*.cpp' '*.h')"
refuse "trailing white space" "$(git grep -nIE '[[:space:]]$' -- '*.c' '*.cpp' '*.h' '*.lua' '*.sh' Makefile '*.mk')"

# --- the guide's generated parts are what the code says -------------------------
$LUAJIT tests/readme_options.lua --check lua/tokenbatcher/README.md || bad=1

# --- the tools ------------------------------------------------------------------
luacheck -q $LUA_FILES || bad=1
cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
  -Iinclude src/core src/ev src/vectors src/http src/redis src/listen src/script src/json/*.c || bad=1
for compiler in gcc clang; do
  command -v "$compiler" >/dev/null || { complain "$compiler is missing: make deps lint installs it"; continue; }
  for file in src/core/*.c src/ev/*.c src/vectors/*.c src/http/*.c src/redis/*.c src/listen/*.c src/script/*.c src/json/*.c; do
    "$compiler" -std=c11 -D_GNU_SOURCE -Iinclude $LUA_CFLAGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion \
      -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror -fsyntax-only "$file" || bad=1
  done
done
for compiler in g++ clang++; do
  command -v "$compiler" >/dev/null || { complain "$compiler is missing: make deps lint installs it"; continue; }
  for file in $CXX_FILES; do
    "$compiler" -std=c++17 -fno-exceptions -fno-rtti $LUA_CFLAGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wvla \
      -Werror -fsyntax-only "$file" || bad=1
  done
done
clang-tidy --quiet src/core/*.c src/ev/*.c src/vectors/*.c src/http/*.c src/redis/*.c src/listen/*.c src/script/*.c src/json/*.c -- -std=c11 -D_GNU_SOURCE -Iinclude $LUA_CFLAGS 2>/dev/null || bad=1
clang-tidy --quiet $CXX_FILES -- -std=c++17 $LUA_CFLAGS 2>/dev/null || bad=1

[ "$bad" -eq 0 ] && echo "lint: nothing to complain about"
exit "$bad"
