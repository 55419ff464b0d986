#!/bin/sh
# In each room of src, a file calls only those before it in the room's order: every symbol that its
# object needs and that the room defines is defined by an object named earlier. Prints each breach,
# and each file that no order names; exit 1 if there are any.
# usage: rooms_c.sh [FOLDER]   FOLDER holds ROOM/NAME.o (build/src)

# One line a room: its files in order.
orders() {
  cat <<'END'
core error options slots stats heap order lanes linger view pending batch calls form choose look queue batcher verify_views verify
ev file libev timer wake inbox sources loop
http transfer multi request client
script state worker jobs threads watchers callbacks protect bridge engine
host main
END
}

folder=${1:-build/src}

# What an object defines, and what it needs: lines "d SYMBOL" and "u SYMBOL".
symbols() {
  nm "$1" | awk '$1 == "U" && $2 ~ /^tb_/ {print "u", $2} NF == 3 && $2 ~ /[A-Z]/ && $3 ~ /^tb_/ {print "d", $3}'
}

check_room() {
  room=$1
  shift
  [ -d "$folder/$room" ] || return 0
  for object in "$folder/$room"/*.o; do
    name=$(basename "$object" .o)
    case " $* " in *" $name "*) ;; *) echo "src/$room/$name.c: the room's order does not name it" ;; esac
  done
  for name; do
    [ -f "$folder/$room/$name.o" ] || { echo "src/$room/$name.c: named in the order, but there is none"; continue; }
    symbols "$folder/$room/$name.o" | sed "s/^/$name /"
  done | awk -v room="$room" '
    NF != 3 {print; next}
    !($1 in rank) {rank[$1] = ++files}
    $2 == "d" {home[$3] = $1}
    $2 == "u" {needs[++n] = $1 " " $3}
    END {
      for (i = 1; i <= n; i++) {
        split(needs[i], need, " ")
        if (need[2] in home && rank[home[need[2]]] >= rank[need[1]])
          print "src/" room "/" need[1] ".c calls up: " need[2] " is in " home[need[2]] ".c"
      }
    }'
}

breaches=$(orders | while read -r line; do check_room $line; done)
[ -z "$breaches" ] && exit 0
echo "$breaches"
exit 1
