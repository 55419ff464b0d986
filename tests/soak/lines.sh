#!/bin/sh
# Runs 200,000 and 2,000,000 lines through tokenbatcher run and prints the peak memory and
# the time of each. Fails when the longer run takes noticeably more memory, or loses a line.
# environment: B (build folder)

B=${B:-build}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

cat >"$dir/echo.lua" <<'LUA'
-- Answers each record with itself; on leaving, writes the peak memory of the process.
KEPT = newproxy(true)
getmetatable(KEPT).__gc = function()
  for line in io.lines "/proc/self/status" do
    local kb = line:match "^VmHWM:%s*(%d+)"
    if kb then io.stderr:write("peak ", kb, "\n") end
  end
end
return {
  token_estimator = function(record) return #record.text / 4 + 1 end,
  inference_fn = function(records)
    local results = {}
    for i = 1, #records do results[i] = records[i].n end
    return results
  end,
}
LUA

# run LINES FLAG ...: sets `peak`, in KB
run() {
  lines=$1
  shift
  seq 1 "$lines" | sed 's/.*/{"n":&,"text":"the quick brown fox jumps over the lazy dog &"}/' |
    "$B/tokenbatcher" run "$dir/echo.lua" "$@" 2>"$dir/err" |
    awk -F '[:,}]' -v ordered="$#" '
      (ordered == 0 && $2 != NR) || $2 != $4 { bad++ }
      END { print NR, bad + 0 }' >"$dir/counts"
  peak=$(sed -n 's/^peak //p' "$dir/err")
  seconds=$(sed -n 's/^records .* in \([0-9.]*\) s$/\1/p' "$dir/err")
  echo "$lines lines${*:+ $*}: peak $peak KB, $seconds s"
  if [ "$(cat "$dir/counts")" != "$lines 0" ]; then
    echo "lines.sh: lines out, and wrong ones: $(cat "$dir/counts")" >&2
    cat "$dir/err" >&2
    exit 1
  fi
}

run 200000
short=$peak
run 2000000
if [ "$peak" -gt $((short * 3 / 2 + 4096)) ]; then
  echo "lines.sh: memory grew from $short to $peak KB" >&2
  exit 1
fi
run 2000000 --unordered
