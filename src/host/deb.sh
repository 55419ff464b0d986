#!/bin/sh
# Makes Debian packages of what `make dist` packs: the library, its headers, the Lua modules, the
# tool, the gateway. All that Debian wants of a source is written here, below the build folder.
# usage: deb.sh TARBALL VERSION MAINTAINER FOLDER   (FOLDER is made anew; the packages are in it)
set -eu
tarball=$1 version=$2 maintainer=$3 folder=$4

rm -rf "$folder"
mkdir -p "$folder"
tar xzf "$tarball" -C "$folder"
source=$folder/tokenbatcher-$version
mkdir -p "$source/debian/source"
cd "$source/debian"

echo '3.0 (native)' >source/format
date=$(LC_ALL=C date -R ${SOURCE_DATE_EPOCH:+-d "@$SOURCE_DATE_EPOCH"})
cat >changelog <<END
tokenbatcher ($version) unstable; urgency=medium

  * See CHANGES.

 -- $maintainer  $date
END
sed "s/@MAINTAINER@/$maintainer/" >control <<'END'
Source: tokenbatcher
Section: libs
Priority: optional
Maintainer: @MAINTAINER@
Build-Depends: debhelper-compat (= 13), libcurl4-openssl-dev, libev-dev, libhiredis-dev, libmicrohttpd-dev,
 libluajit2-5.1-dev | libluajit-5.1-dev, lua-cjson-dev, lua-argparse, luajit2 | luajit, pkg-config, rapidjson-dev
Standards-Version: 4.6.2
Rules-Requires-Root: no

Package: libtokenbatcher0
Architecture: any
Multi-Arch: same
Depends: ${shlibs:Depends}, ${misc:Depends}
Description: batching within a token budget: the libraries
 Records of many producers go in, batches within a token budget come out, one
 inference function runs over each, every producer gets its own answer.
 .
 The core and its libev driver, and what is loaded on first use: HTTP, JSON,
 scripts and worker threads.

Package: libtokenbatcher-dev
Section: libdevel
Architecture: any
Multi-Arch: same
Depends: libtokenbatcher0 (= ${binary:Version}), libev-dev, libluajit2-5.1-dev | libluajit-5.1-dev, ${misc:Depends}
Description: batching within a token budget: headers
 Records of many producers go in, batches within a token budget come out, one
 inference function runs over each, every producer gets its own answer.
 .
 Headers, static libraries and what pkg-config asks for.

Package: lua-tokenbatcher
Section: interpreters
Architecture: all
Depends: libtokenbatcher0 (>= ${source:Version}), luajit2 | luajit, ${misc:Depends}
Recommends: libcurl4
Suggests: lua-resty-core
Description: batching within a token budget: modules for LuaJIT and nginx
 Records of many producers go in, batches within a token budget come out, one
 inference function runs over each, every producer gets its own answer.
 .
 The modules for LuaJIT, also inside nginx.

Package: tokenbatcher
Section: utils
Architecture: any
Depends: ${shlibs:Depends}, ${misc:Depends}
Recommends: libtokenbatcher0 (= ${binary:Version}), gnuplot-nox
Description: batching within a token budget: the command
 Records of many producers go in, batches within a token budget come out, one
 inference function runs over each, every producer gets its own answer.
 .
 The command runs a script over a file of records, simulates policies on a
 trace of arrivals, and checks both.

Package: tokenbatcher-gateway
Section: web
Architecture: all
Depends: lua-tokenbatcher (= ${source:Version}), libnginx-mod-http-lua, lua-resty-core, nginx | nginx-light,
 ${misc:Depends}
Description: batching within a token budget: a gateway on nginx
 Records of many producers go in, batches within a token budget come out, one
 inference function runs over each, every producer gets its own answer.
 .
 A gateway for OpenAI-compatible embeddings that coalesces the requests of many
 clients: tokenbatcher-gateway starts an nginx of its own.
END
{ cat <<'END'; sed -n '/^Permission/,$p' ../LICENSE | sed -e 's/^$/./' -e 's/^/ /'; } >copyright
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: tokenbatcher

Files: *
Copyright: 2026 The TokenBatcher authors
License: Expat

License: Expat
END
printf '%s\n' 'usr/lib/*/*.so.0' >libtokenbatcher0.install
printf '%s\n' usr/include 'usr/lib/*/*.a' 'usr/lib/*/*.so' usr/lib/*/pkgconfig >libtokenbatcher-dev.install
printf '%s\n' usr/share/lua usr/share/tokenbatcher/meta >lua-tokenbatcher.install
printf '%s\n' usr/bin/tokenbatcher usr/share/man usr/share/bash-completion usr/share/zsh >tokenbatcher.install
printf '%s\n' usr/bin/tokenbatcher-gateway usr/share/tokenbatcher/gateway >tokenbatcher-gateway.install
cat >tokenbatcher-gateway.1 <<'END'
.TH TOKENBATCHER-GATEWAY 1
.SH NAME
tokenbatcher-gateway \- an nginx that batches requests to an OpenAI-compatible server
.SH SYNOPSIS
.B tokenbatcher-gateway
.RI [ options ]
.SH DESCRIPTION
Runs in the foreground until it is told to stop.
.B tokenbatcher-gateway \-\-help
lists the options; /usr/share/tokenbatcher/gateway/README.md is the guide.
END
echo debian/tokenbatcher-gateway.1 >tokenbatcher-gateway.manpages
# The libraries of one source: Lua loads those that no program is linked with.
echo 'libtokenbatcher0: package-name-doesnt-match-sonames' >libtokenbatcher0.lintian-overrides
# It is a program that carries LuaJIT and libev with it.
echo 'tokenbatcher: embedded-library *' >tokenbatcher.lintian-overrides
cat >rules <<'END'
#!/usr/bin/make -f
export DEB_BUILD_MAINT_OPTIONS = hardening=+all
include /usr/share/dpkg/architecture.mk
place = PREFIX=/usr LIBDIR=/usr/lib/$(DEB_HOST_MULTIARCH) DESTDIR=$(CURDIR)/debian/tmp
gateway = debian/tmp/usr/share/tokenbatcher/gateway

%:
	dh $@

override_dh_auto_build:
	$(MAKE) all CFLAGS='$(CFLAGS) $(CPPFLAGS)' LDFLAGS='$(LDFLAGS)'

override_dh_auto_install:
	$(MAKE) install $(place)
	mv debian/tmp/usr/share/zsh/site-functions debian/tmp/usr/share/zsh/vendor-completions
	install -d debian/tmp/usr/bin $(gateway)
	cp examples/openresty/* examples/kong/* examples/apisix/* $(gateway)/
	chmod 755 $(gateway)/*.sh
	printf '#!/bin/sh\nexec sh /usr/share/tokenbatcher/gateway/start.sh "$$@"\n' > debian/tmp/usr/bin/tokenbatcher-gateway
	chmod 755 debian/tmp/usr/bin/tokenbatcher-gateway

override_dh_auto_test override_dh_auto_clean:
END
chmod 755 rules
cd ..
dpkg-buildpackage -us -uc -b -rfakeroot
