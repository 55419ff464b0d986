#!/bin/sh
# The two commands on bare Debians, in folders that debootstrap makes; for root, with a network.
# usage: debian.sh SUITE [CHECK ...]     SUITE: bookworm, trixie, sid; CHECK: run test (default: both) user luajit
#   clang spaces deb
# environment: MIRROR (https://deb.debian.org/debian by default, what debootstrap takes)
set -eu
suite=${1:?usage: debian.sh SUITE [CHECK ...]}
shift
[ $# -gt 0 ] || set -- run test
[ "$(id -u)" = 0 ] || { echo "debian.sh: this is for root" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "debian.sh: no debootstrap here (Debian's package debootstrap)" >&2; exit 1; }

folder=$(mktemp -d)
finish() {
  for root in "$folder"/*/; do
    umount "$root/proc" 2>/dev/null || :
    umount -R "$root/dev" 2>/dev/null || :
  done
  rm -rf --one-file-system "$folder"
}
trap finish EXIT
trap 'exit 1' INT TERM
base=$folder/base
debootstrap --variant=minbase --include=ca-certificates,git,make "$suite" "$base" ${MIRROR:-} >"$folder/log" 2>&1 ||
  { tail -n 20 "$folder/log" >&2; exit 1; }
git clone -q . "$base/src"
git -C "$base/src" remote remove origin

# A root of its own, named after the check: inside NAME COMMAND
inside() {
  [ -d "$folder/$1" ] || cp -a "$base" "$folder/$1"
  mountpoint -q "$folder/$1/proc" || { mount -t proc proc "$folder/$1/proc"; mount --rbind /dev "$folder/$1/dev"
    mount --make-rslave "$folder/$1/dev"; }
  env -i HOME=/root PATH=/usr/bin:/bin:/usr/sbin:/sbin TERM=dumb LC_ALL=C.UTF-8 \
    install="env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends" chroot "$folder/$1" sh -ec "$2"
}
check() {
  case $1 in
    run) inside run 'cd /src && make deps run' ;;
    test) inside test 'cd /src && .ci/run' ;;
    # somebody who may use sudo, whose PATH has no /usr/sbin
    user) inside user '$install sudo >/dev/null
      useradd -m me && echo "me ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/me && cp -r /src /home/me/src
      chown -R me /home/me/src && su me -c "cd /home/me/src && PATH=/usr/bin:/bin make -j4 deps run && make deps test"' ;;
    # whoever has the other LuaJIT keeps it
    luajit) inside luajit '$install luajit libluajit-5.1-dev >/dev/null
      cd /src && make deps run && make deps test && dpkg-query -W luajit' ;;
    clang) inside clang '$install clang >/dev/null
      cd /src && make CC=clang CXX=clang++ deps run' ;;
    spaces) inside spaces 'mv /src "/a place" && cd "/a place" && make deps test' ;;
    # the packages, built in one root and installed in another, which has nothing else
    deb) inside deb 'cd /src && make deps deb' && mkdir -p "$folder/packages" &&
      cp "$folder"/deb/src/build/deb/*.deb "$folder/packages/" && cp -a "$base" "$folder/empty" &&
      rm -rf "$folder/empty/src" && cp -r "$folder/packages" "$folder/empty/packages" &&
      cp examples/quickstart.lua examples/simulated_accelerator.lua examples/prompts.jsonl "$folder/empty/" &&
      inside empty 'cd /packages && apt-get update -q && rm -f ./*dbgsym*
        $install ./*.deb gcc libc6-dev pkg-config
        cd / && tokenbatcher run simulated_accelerator.lua --input prompts.jsonl | head -n 3
        luajit quickstart.lua
        pkg-config --libs tokenbatcher-engine-static
        tokenbatcher-gateway --prefix /tmp/gateway --listen unix:/tmp/listen & gateway=$!
        n=0; until [ -s /tmp/gateway/nginx.pid ] || [ $((n += 1)) -gt 600 ]; do sleep 0.1; done
        kill -QUIT "$(cat /tmp/gateway/nginx.pid)" && wait "$gateway"' ;;
    *) echo "debian.sh: no check is called $1" >&2; return 1 ;;
  esac
}

failed=0
for name in "$@"; do
  start=$(date +%s)
  if check "$name" >"$folder/log" 2>&1; then result=ok; else
    result=FAILED failed=1
    grep -A 12 "^not ok" "$folder/log" || :
    tail -n 20 "$folder/log"
  fi
  echo "$suite $name: $result in $(($(date +%s) - start)) s: $(grep -E '[0-9]+ passed' "$folder/log" | tail -n 1)"
done
exit "$failed"
