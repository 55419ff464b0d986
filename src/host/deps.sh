#!/bin/sh
# Installs Debian packages that are missing, and never removes any: a|b is either of two that
# exclude each other, a if neither is there. What cannot be had without removing something is
# named and left out; then `make` or a skipped test says what it lacks.
# usage: deps.sh PACKAGE[|PACKAGE] ...
is_there() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }
is_removing() { LC_ALL=C apt-get install -s --no-install-recommends "$@" 2>/dev/null | grep -q '^Remv'; }

command -v apt-get >/dev/null || { echo "deps: no apt-get here: this installs Debian's packages: $*" >&2; exit 1; }
missing=
for wanted in "$@"; do
  is_there "${wanted%%|*}" || is_there "${wanted#*|}" || missing="$missing ${wanted%%|*}"
done
[ -n "$missing" ] || { echo "deps: nothing is missing"; exit 0; }

as_root=
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "deps: as root, or with sudo, which is not here, please:" >&2
    echo "  apt-get install --no-install-recommends$missing" >&2; exit 1; }
  as_root=sudo
fi
echo "installing:$missing"
$as_root apt-get update -q || exit 1
if is_removing $missing; then
  kept=
  for package in $missing; do
    if is_removing "$package"; then
      echo "deps: left out: $package, which would remove what is installed here:" \
        "$(LC_ALL=C apt-get install -s --no-install-recommends "$package" | sed -n 's/^Remv \([^ ]*\).*/\1/p' | tr '\n' ' ')"
    else
      kept="$kept $package"
    fi
  done
  missing=$kept
  [ -n "$missing" ] || exit 0
fi
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
  apt-get install -y -q --no-remove --no-install-recommends $missing
