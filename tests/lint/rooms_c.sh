#!/bin/sh
# In src, a file calls only those before it: rooms have an order, and so have the files of a room, which the
# room's first file states (" * Order, a file knows those before it: a b c", up to an empty line).
# Every symbol that an object needs is defined by an object of the same room that is named earlier,
# or by one of an earlier room. Prints each breach, and each source that no order names;
# exit 1 if there are any. It goes by the sources that there are: an object without one is old, and a
# room of which nothing is built (the HTTP client, without libcurl) is passed over.
# usage: rooms_c.sh [SOURCES [OBJECTS]]   folders with ROOM/NAME.c (src) and ROOM/NAME.o (build/src)

# src/base is not among them: it is headers alone.
ROOMS='core ev vectors http redis listen json script host'

sources=${1:-src}
objects=${2:-build/src}

# One line a room: its files in order.
orders() {
  for room in $ROOMS; do
    echo "$room" $(cat "$sources/$room"/*.[ch] | sed -n '/^ \* Order.*: /,/^ \*$/ {s/^ \*//; s/^ Order.*: //; p}')
  done
}

orders=$(orders)
list=$(echo "$orders" | while read -r room names; do for name in $names; do echo "$room/$name"; done; done)

# Lines "c COMPLAINT": about the list.
complaints() {
  for source in "$sources"/*/*.c "$sources"/*/*.cpp; do
    [ -f "$source" ] || continue
    file=${source#"$sources"/} file=${file%.*}
    case "
$list
" in *"
$file
"*) ;; *) echo "c src/$file.c: no order of rooms names it" ;; esac
  done
  for file in $list; do
    if [ ! -f "$sources/$file.c" ] && [ ! -f "$sources/$file.cpp" ]; then echo "c src/$file.c: named in the order, but there is none"
    elif [ -d "$objects/${file%/*}" ] && [ ! -f "$objects/$file.o" ]; then echo "c src/$file.c: is not built"; fi
  done
}

# What each object defines and needs, in the order of the list: lines "ROOM/NAME T SYMBOL" and
# "ROOM/NAME U SYMBOL".
symbols() {
  cd "$objects" || exit 2
  nm -A -P $(for file in $list; do [ ! -f "$file.o" ] || echo "$file.o"; done) |
    sed -n 's|^\(.*\)\.o: \(tb_[^ ]*\) \([A-Z]\).*|\1 \3 \2|p'
}

breaches=$({ complaints; symbols; } | awk '
  $1 == "c" {print substr($0, 3); next}
  !($1 in rank) {rank[$1] = ++files}
  $2 == "U" {needs[++n] = $1 " " $3; next}
  {home[$3] = $1}
  END {
    for (i = 1; i <= n; i++) {
      split(needs[i], need, " ")
      if (need[2] in home && rank[home[need[2]]] >= rank[need[1]])
        print "src/" need[1] ".c calls up: " need[2] " is in " home[need[2]] ".c"
    }
  }')
[ -z "$breaches" ] && exit 0
echo "$breaches"
exit 1
