#!/bin/sh
# Installs Debian packages that are missing, and never removes any. a|b|c is one of several: any
# that is installed, or else the first that this Debian has. What cannot be had without removing
# something is named and left out; then `make` or a skipped test says what it lacks.
# usage: deps.sh PACKAGE[|PACKAGE...] ...
is_there() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }
has_candidate() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'; }
is_removing() { LC_ALL=C apt-get install -s --no-install-recommends "$@" 2>/dev/null | grep -q '^Remv'; }
any_of() { # TEST A|B|C: the first for which the test holds
  for package in $(echo "$2" | tr '|' ' '); do
    if "$1" "$package"; then echo "$package"; return; fi
  done
}

command -v apt-get >/dev/null || { echo "deps: no apt-get here: this installs Debian's packages: $*" >&2; exit 1; }
missing=
for wanted in "$@"; do
  [ -n "$(any_of is_there "$wanted")" ] || missing="$missing $wanted"
done
[ -n "$missing" ] || { echo "deps: nothing is missing"; exit 0; }

as_root=
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "deps: this needs root, or sudo, which is not here. As root:" >&2
    echo "  apt-get install --no-install-recommends$missing" | sed 's/|[^ ]*//g' >&2; exit 1; }
  as_root=sudo
fi
$as_root apt-get update -q || exit 1
wanted=$missing missing=
for choice in $wanted; do
  package=$(any_of has_candidate "$choice")
  [ -n "$package" ] || { echo "deps: this Debian has no package $choice" >&2; exit 1; }
  missing="$missing $package"
done
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
echo "installing:$missing"
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
  apt-get install -y -q --no-remove --no-install-recommends $missing
