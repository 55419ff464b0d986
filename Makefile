# TokenBatcher. `make help` lists the targets; settings come first.

PREFIX   ?= /usr/local
LIBDIR   ?= $(PREFIX)/lib
DESTDIR  ?=
ifeq ($(origin CC),default)
CC        = gcc
endif
ifeq ($(origin CXX),default)
CXX       = g++
endif
LUAJIT   ?= luajit
BUSTED   ?= busted --lua=$(LUAJIT)
OPT      ?= -O2
B        ?= build
V        ?=

WARN     = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
CFLAGS  ?= $(OPT) -g
LDFLAGS ?=
ALL_CFLAGS = -std=c11 -D_GNU_SOURCE -fPIC -fvisibility=hidden -pthread -Iinclude $(WARN) $(CFLAGS)
# No exceptions, no objects of C++'s library: JSON uses its numbers alone, which are linked in.
ALL_CXXFLAGS = -std=c++17 -fno-exceptions -fno-rtti -fno-threadsafe-statics -fPIC -fvisibility=hidden \
            $(filter-out -Wstrict-prototypes -Wmissing-prototypes,$(WARN)) $(CFLAGS)
LUA_CFLAGS := $(shell pkg-config --cflags luajit 2>/dev/null || echo -I$(or $(LUA_INCDIR),/usr/include/luajit-2.1))

# What runs needs, what tests need, what lint needs: Debian 12 packages.
# rapidjson-dev: headers for JSON, which is compiled by g++; zlib1g: compressed input, when it comes.
RUN_DEPS  = gcc g++ libc6-dev pkg-config libev-dev "luajit2|luajit" "libluajit2-5.1-dev|libluajit-5.1-dev" rapidjson-dev lua-cjson lua-cjson-dev \
            lua-argparse libcurl4-openssl-dev zlib1g libhiredis-dev libmicrohttpd-dev
TEST_DEPS = lua-busted libcmocka-dev lua-luv lua-socket openssl gnuplot-nox nginx libnginx-mod-http-lua \
            lua-resty-core wrk curl procps redis-server libfaketime
LINT_DEPS = lua-check cppcheck clang clang-tidy universal-ctags
EXTRA_DEPS = chromium nodejs prometheus $(if $(shell command -v npm),,npm)
DEPS      = $(RUN_DEPS) $(if $(filter-out run all deps install dist deb,$(MAKECMDGOALS)),$(TEST_DEPS)) \
            $(if $(filter lint sanitize fuzz,$(MAKECMDGOALS)),$(LINT_DEPS)) \
            $(if $(filter sanitize fuzz,$(MAKECMDGOALS)),"libclang-rt-14-dev|libclang-rt-19-dev") \
            $(if $(filter sanitize,$(MAKECMDGOALS)),valgrind) \
            $(if $(filter coverage,$(MAKECMDGOALS)),gcovr) \
            $(if $(filter deb,$(MAKECMDGOALS)),build-essential debhelper fakeroot libhiredis-dev libmicrohttpd-dev) \
            $(if $(filter test-extra,$(MAKECMDGOALS)),$(EXTRA_DEPS))

CORE_SRC = $(wildcard src/core/*.c)
EV_SRC   = $(wildcard src/ev/*.c)
CORE_OBJ = $(CORE_SRC:%.c=$B/%.o)
EV_OBJ   = $(EV_SRC:%.c=$B/%.o)
VECTORS_OBJ = $(patsubst %.c,$B/%.o,$(wildcard src/vectors/*.c))
SCRIPT_OBJ = $(patsubst %.c,$B/%.o,$(wildcard src/script/*.c)) $B/gen/modules.o $B/gen/cdef_script.o
JSON_OBJ = $(patsubst src/%,$B/src/%.o,$(basename $(wildcard src/json/*.c src/json/*.cpp)))
JSON_LIB = -Wl,--exclude-libs,libstdc++.a -l:libstdc++.a -lm
HTTP_OBJ = $(patsubst %.c,$B/%.o,$(wildcard src/http/*.c)) $B/gen/cdef_http.o
REDIS_OBJ = $(patsubst %.c,$B/%.o,$(wildcard src/redis/*.c)) $B/gen/cdef_redis.o
LISTEN_OBJ = $(patsubst %.c,$B/%.o,$(wildcard src/listen/*.c)) $B/gen/cdef_listen.o
LIB_OBJ  = $(CORE_OBJ) $(EV_OBJ) $(VECTORS_OBJ) $B/gen/cdef.o $B/gen/cdef_vectors.o
HEADERS  = include/tokenbatcher.h include/tokenbatcher_ev.h
LUA_SRC  = $(shell find lua/tokenbatcher -name '*.lua' | sort)

LUA_PATH := $(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;
export LUA_PATH

.PHONY: all deps run test test-extra search lint bench bench-gateway bench-redis rock install-rock soak fuzz sanitize coverage install uninstall dist deb replays clean help
.DELETE_ON_ERROR:
# `make -j4 deps run` installs before it builds.
ifneq ($(filter deps,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif
# Debian has nginx there; not everybody's PATH does.
export PATH := $(PATH):/usr/sbin:/sbin

# A line for each file that is made; with V=1 the commands, with -s neither.
SILENT = $(findstring s,$(firstword -$(MAKEFLAGS)))
Q      = $(if $(V),,@)
say    = $(if $(V)$(SILENT),,@printf '  %-4s %s\n' '$(1)' '$(if $(2),$(2),$@)')

# The HTTP client is a library of its own: without libcurl's headers all the rest is built.
# Asked when everything else is there, since `make deps all` may have just installed them.
all: $B/libtokenbatcher.so $B/libtokenbatcher.a $B/libtokenbatcher_script.so $B/libtokenbatcher_script.a $B/libtokenbatcher_json.so $B/tokenbatcher ## build the libraries and the executable
	@if pkg-config --exists libcurl; then $(MAKE) --no-print-directory $(if $(V),,-s) $B/libtokenbatcher_http.so; \
	else echo "no libcurl (make deps installs libcurl4-openssl-dev): the HTTP client is not built"; fi
	@if pkg-config --exists hiredis; then $(MAKE) --no-print-directory $(if $(V),,-s) $B/libtokenbatcher_redis.so; \
	else echo "no hiredis (make deps installs libhiredis-dev): the Redis client is not built"; fi
	@if pkg-config --exists libmicrohttpd; then $(MAKE) --no-print-directory $(if $(V),,-s) $B/libtokenbatcher_listen.so; \
	else echo "no libmicrohttpd (make deps installs libmicrohttpd-dev): what --listen needs is not built"; fi

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

deps: ## install what the other targets of this command line need (Debian packages)
	@sh src/host/deps.sh $(DEPS)

# What a room is compiled with, asked for once: who lacks it is told how to get it.
# $(call has,COMPILER,LANGUAGE)
define has
	@mkdir -p $(@D)
	@command -v $(1) >/dev/null || { echo "there is no $(1) here: \`make deps\` installs what is missing" >&2; exit 1; }
	@echo '#include <$(@:$B/.has/%=%)>' | $(1) $(LUA_CFLAGS) -E -x $(2) - >/dev/null 2>&1 || \
	  { echo "there is no $(@:$B/.has/%=%) here, which is needed: \`make deps\` installs what is missing" >&2; exit 1; }
	@touch $@
endef
.PRECIOUS: $B/.has/%.h $B/.has/rapidjson/%

$B/.has/%.h:
	$(call has,$(CC),c)

$B/.has/rapidjson/%:
	$(call has,$(CXX),c++)

# --- the libraries ---------------------------------------------------------

# A shared library is built as NAME.so.0, which is its SONAME, with NAME.so as a link to it. It
# exports what its headers name, and the function that hands out their text to Lua.
SOVERSION = 0
SO_FLAGS  = -shared $(CFLAGS) $(LDFLAGS) -Wl,-soname,$(@F).$(SOVERSION) -Wl,--version-script,$(filter %.map,$^) -o $@.$(SOVERSION)
SO_LINK   = ln -sf $(@F).$(SOVERSION) $@

# $(call map,EXTRA SYMBOLS,HEADERS)
define map
	@mkdir -p $(@D)
	$(call say,GEN)
	$Q{ echo 'TOKENBATCHER_$(SOVERSION) {'; echo '  global:'; for name in $(1) \
	  $$($(CC) -E -P -Iinclude $(2) | grep -oE '\btb_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u); do \
	  echo "    $$name;"; done; echo '  local: *;'; echo '};'; } > $@
endef

$B/gen/core.map: $(HEADERS) include/tokenbatcher_vectors.h
	$(call map,tb_cdef tb_vectors_cdef,include/tokenbatcher_ev.h include/tokenbatcher_vectors.h)

$B/gen/http.map: include/tokenbatcher_http.h
	$(call map,tb_http_cdef,$<)

$B/gen/redis.map: include/tokenbatcher_redis.h
	$(call map,tb_redis_cdef,$<)

$B/gen/listen.map: include/tokenbatcher_listen.h
	$(call map,tb_listen_cdef,$<)

$B/gen/script.map: include/tokenbatcher_engine.h src/script/threads.h $(HEADERS)
	$(call map,tb_script_cdef,include/tokenbatcher_engine.h src/script/threads.h)

$B/gen/json.map: $(MAKEFILE_LIST)
	@mkdir -p $(@D)
	$(call say,GEN)
	$Qecho '{ global: luaopen_tokenbatcher_json; local: *; };' > $@

$B/src/core/%.o: src/core/%.c $(wildcard src/core/*.h) include/tokenbatcher.h | $B/.has/ev.h
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(ALL_CFLAGS) -c $< -o $@

$B/src/ev/%.o: src/ev/%.c $(wildcard src/ev/*.h) src/base/clock.h $(HEADERS) | $B/.has/ev.h
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(ALL_CFLAGS) -c $< -o $@

$B/src/vectors/%.o: src/vectors/%.c src/vectors/scan.h include/tokenbatcher_vectors.h
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(ALL_CFLAGS) -c $< -o $@

$B/src/http/%.o: src/http/%.c src/http/client.h $(wildcard src/base/*.h) include/tokenbatcher_http.h
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(ALL_CFLAGS) -c $< -o $@

$B/src/redis/%.o: src/redis/%.c src/redis/client.h $(wildcard src/base/*.h) include/tokenbatcher_redis.h
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(ALL_CFLAGS) -c $< -o $@

$B/src/listen/%.o: src/listen/%.c src/listen/server.h $(wildcard src/base/*.h) include/tokenbatcher_listen.h
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(ALL_CFLAGS) -c $< -o $@

$B/src/json/%.o: src/json/%.c src/json/codec.h | $B/.has/luajit.h
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(ALL_CFLAGS) $(LUA_CFLAGS) -c $< -o $@

$B/src/json/%.o: src/json/%.cpp $(wildcard src/json/*.h) | $B/.has/rapidjson/reader.h $B/.has/luajit.h
	@mkdir -p $(@D)
	$(call say,CXX)
	$Q$(CXX) $(ALL_CXXFLAGS) $(LUA_CFLAGS) -c $< -o $@

# A library carries the ffi.cdef of its own headers: the two cannot drift apart.
# $(call cdef,FUNCTION,HEADER)
define cdef
	@mkdir -p $(@D)
	$(call say,GEN)
	$Q{ echo 'const char *$(1)(void);'; echo 'const char *$(1)(void) { return'; \
	  $(CC) -E -P -DTB_CDEF $(2) | sed -e 's/[\\"]/\\&/g' -e 's/.*/"&\\n"/'; \
	  echo ';}'; } > $@
endef

$B/gen/cdef.c: $(HEADERS)
	$(call cdef,tb_cdef,include/tokenbatcher_ev.h)

$B/gen/cdef_http.c: include/tokenbatcher_http.h
	$(call cdef,tb_http_cdef,$<)

$B/gen/cdef_redis.c: include/tokenbatcher_redis.h
	$(call cdef,tb_redis_cdef,$<)

$B/gen/cdef_listen.c: include/tokenbatcher_listen.h
	$(call cdef,tb_listen_cdef,$<)

$B/gen/cdef_vectors.c: include/tokenbatcher_vectors.h
	$(call cdef,tb_vectors_cdef,$<)

$B/gen/cdef_script.c: src/script/threads.h
	$(call cdef,tb_script_cdef,$<)

$B/gen/cdef.o $B/gen/cdef_http.o $B/gen/cdef_redis.o $B/gen/cdef_listen.o $B/gen/cdef_script.o $B/gen/cdef_vectors.o: %.o: %.c
	$(call say,CC)
	$Q$(CC) -std=c11 -fPIC -Wno-overlength-strings $(CFLAGS) -c $< -o $@

$B/libcore.a: $(CORE_OBJ)
	$(call say,AR)
	$Qrm -f $@ && ar rc $@ $^

$B/libtokenbatcher.a: $(LIB_OBJ)
	$(call say,AR)
	$Qrm -f $@ && ar rc $@ $^

$B/libtokenbatcher.so: $(LIB_OBJ) $B/gen/core.map
	$(call say,LD)
	$Q$(CC) $(SO_FLAGS) -pthread $(LIB_OBJ) -lev
	$Q$(SO_LINK)

$B/libtokenbatcher_http.so: $(HTTP_OBJ) $B/gen/http.map
	$(call say,LD)
	$Q$(CC) $(SO_FLAGS) $(HTTP_OBJ) $$(pkg-config --libs libcurl) -lm
	$Q$(SO_LINK)

$B/libtokenbatcher_redis.so: $(REDIS_OBJ) $B/gen/redis.map
	$(call say,LD)
	$Q$(CC) $(SO_FLAGS) -pthread $(REDIS_OBJ) $$(pkg-config --libs hiredis)
	$Q$(SO_LINK)

# Never linked into the executable: libmicrohttpd's licence (LGPL) wants it replaceable.
$B/libtokenbatcher_listen.so: $(LISTEN_OBJ) $B/gen/listen.map
	$(call say,LD)
	$Q$(CC) $(SO_FLAGS) $(LISTEN_OBJ) $$(pkg-config --libs libmicrohttpd)
	$Q$(SO_LINK)

# A Lua module: Lua's symbols come from the program.
$B/libtokenbatcher_json.so: $(JSON_OBJ) $B/gen/json.map
	$(call say,LD)
	$Q$(CC) $(SO_FLAGS) $(JSON_OBJ) $(JSON_LIB)
	$Q$(SO_LINK)

# --- scripts in C programs, and in threads: the Lua modules inside, Lua's symbols from the
# program. -z nodelete: a worker thread that was abandoned outlives whoever loaded it.

$B/src/script/%.o: src/script/%.c $(wildcard src/script/*.h src/base/*.h) include/tokenbatcher_engine.h $(HEADERS) | $B/.has/luajit.h
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(ALL_CFLAGS) $(LUA_CFLAGS) -c $< -o $@

$B/libtokenbatcher_script.so: $(SCRIPT_OBJ) $B/libtokenbatcher.so $B/gen/script.map
	$(call say,LD)
	$Q$(CC) $(SO_FLAGS) -pthread -Wl,-z,nodelete -Wl,-rpath,'$$ORIGIN' $(SCRIPT_OBJ) -L$B -ltokenbatcher -lev -ldl
	$Q$(SO_LINK)

$B/libtokenbatcher_script.a: $(SCRIPT_OBJ)
	$(call say,AR)
	$Qrm -f $@ && ar rc $@ $^

# --- the executable: LuaJIT, JSON and all Lua modules inside (and cjson, for scripts) --------

$B/gen/modules.c: src/host/embed.lua $(LUA_SRC)
	@mkdir -p $(@D)
	$(call say,GEN)
	$Q$(LUAJIT) src/host/embed.lua $(LUA_SRC) > $@

$B/src/host/%.o: src/host/%.c src/host/sync.h src/script/state.h $(HEADERS)
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(ALL_CFLAGS) -Isrc/script $(LUA_CFLAGS) -c $< -o $@

$B/gen/modules.o: $B/gen/modules.c src/script/state.h
	$(call say,CC)
	$Q$(CC) -std=c11 -fPIC -fvisibility=hidden -Isrc/script $(LUA_CFLAGS) $(CFLAGS) -c $< -o $@

HOST_OBJ = $(patsubst %.c,$B/%.o,$(wildcard src/host/*.c))

$B/tokenbatcher: $(HOST_OBJ) $(SCRIPT_OBJ) $(JSON_OBJ) $B/libtokenbatcher.a
	$(call say,LD)
	$Q$(CC) $(CFLAGS) $(LDFLAGS) -pthread -Wl,-E -Wl,-u,luaopen_cjson -o $@ $(HOST_OBJ) $(SCRIPT_OBJ) $(JSON_OBJ) \
	  -Wl,--whole-archive $B/libtokenbatcher.a -Wl,--no-whole-archive \
	  -l:libev.a -l:liblua5.1-cjson.a -l:libluajit-5.1.a $(JSON_LIB) -ldl

$B/tokenbatcher.1: src/host/man.lua $B/tokenbatcher
	$(call say,GEN)
	$Q$(LUAJIT) src/host/man.lua $B/tokenbatcher > $@

# For editors (LuaLS), bash and zsh: what the modules say of themselves.
$B/tokenbatcher.meta.lua: src/host/meta.lua $(LUA_SRC) $B/libtokenbatcher.so $B/libtokenbatcher_script.so
	$(call say,GEN)
	$Q$(LUAJIT) $< > $@

$B/tokenbatcher.bash $B/tokenbatcher.zsh: $B/tokenbatcher.%: src/host/complete.lua $(LUA_SRC) $B/libtokenbatcher.so
	$(call say,GEN)
	$Q$(LUAJIT) $< $* > $@

# --- using it ----------------------------------------------------------------

run: all ## run the sample: 240 prompts through a simulated accelerator
	$B/tokenbatcher run examples/simulated_accelerator.lua --input examples/prompts.jsonl

include tests/tests.mk

# Where to, as absolute paths. By the shell: make's own functions take a space for an end.
ROOT     = $(shell realpath -ms -- '$(DESTDIR)$(PREFIX)')
LIBROOT  = $(shell realpath -ms -- '$(DESTDIR)$(LIBDIR)')
VERSION := $(shell sed -n 's/.*define TB_VERSION "\(.*\)".*/\1/p' include/tokenbatcher.h)

FOR_USERS = $B/tokenbatcher.1 $B/tokenbatcher.meta.lua $B/tokenbatcher.bash $B/tokenbatcher.zsh

install: all $(FOR_USERS) ## into PREFIX (/usr/local) and LIBDIR (PREFIX/lib), below DESTDIR
	$(call say,COPY,to $(ROOT) and $(LIBROOT))
	$Qinstall -d '$(ROOT)/bin' '$(LIBROOT)/pkgconfig' '$(ROOT)/include' '$(ROOT)/share/man/man1'
	$Qinstall -m 755 $B/tokenbatcher '$(ROOT)/bin/'
	$Qinstall -m 644 $B/libtokenbatcher*.a $B/libtokenbatcher*.so.$(SOVERSION) '$(LIBROOT)/'
	$Qfor link in $B/libtokenbatcher*.so; do cp -P "$$link" '$(LIBROOT)/' || exit 1; done
	$Qinstall -m 644 include/*.h '$(ROOT)/include/'
	$Qinstall -m 644 $B/tokenbatcher.1 '$(ROOT)/share/man/man1/'
	$Qinstall -D -m 644 $B/tokenbatcher.meta.lua '$(ROOT)/share/tokenbatcher/meta/tokenbatcher.lua'
	$Qinstall -D -m 644 $B/tokenbatcher.bash '$(ROOT)/share/bash-completion/completions/tokenbatcher'
	$Qinstall -D -m 644 $B/tokenbatcher.zsh '$(ROOT)/share/zsh/site-functions/_tokenbatcher'
	$Qfor pc in src/*/*.pc.in; do \
	  sed -e 's|@PREFIX@|$(shell realpath -ms -- '$(PREFIX)')|' -e 's|@LIBDIR@|$(shell realpath -ms -- '$(LIBDIR)')|' \
	    -e 's|@VERSION@|$(VERSION)|' $$pc > '$(LIBROOT)/pkgconfig/'$$(basename $$pc .in) || exit 1; done
	$Qcd lua && find tokenbatcher kong apisix -name '*.lua' -exec install -D -m 644 {} '$(ROOT)/share/lua/5.1/{}' \;
	$Qcase '$(ROOT)' in /usr | /usr/local) [ "$$(id -u)" != 0 ] || ldconfig ;; esac

uninstall: ## remove what install put there, given the same PREFIX, LIBDIR and DESTDIR
	$Qrm -f '$(ROOT)/bin/tokenbatcher' '$(ROOT)/share/man/man1/tokenbatcher.1' '$(ROOT)/share/tokenbatcher/meta/tokenbatcher.lua' \
	  '$(ROOT)/share/bash-completion/completions/tokenbatcher' '$(ROOT)/share/zsh/site-functions/_tokenbatcher' \
	  '$(LIBROOT)/'libtokenbatcher*.a \
	  '$(LIBROOT)/'libtokenbatcher*.so* '$(LIBROOT)/pkgconfig/'tokenbatcher*.pc
	$Qfor header in include/*.h; do rm -f '$(ROOT)/include/'$$(basename $$header) || exit 1; done
	$Qrm -rf '$(ROOT)/share/lua/5.1/tokenbatcher' '$(ROOT)/share/lua/5.1/kong/plugins/tokenbatcher' \
	  '$(ROOT)/share/lua/5.1/apisix/plugins/tokenbatcher.lua'
	$Qfor host in kong apisix; do \
	  (cd '$(ROOT)/share/lua/5.1' && rmdir -p --ignore-fail-on-non-empty $$host/plugins 2>/dev/null) || :; done

# What is committed, with CHANGES: the commits since the last tag. `make dist` needs a checkout.
DIST = tokenbatcher-$(VERSION)
dist: ## make build/tokenbatcher-VERSION.tar.gz of what is committed, with its changes
	@git rev-parse --git-dir >/dev/null 2>&1 || { echo "dist: this is no git checkout" >&2; exit 1; }
	@mkdir -p $B/dist
	$(call say,DIST,$B/$(DIST).tar.gz)
	$Qlast=$$(git describe --tags --abbrev=0 2>/dev/null) || last=; \
	{ echo "TokenBatcher $(VERSION): changes since $${last:-the beginning}"; echo; \
	  git log --no-merges --date=short --format='%ad  %s' $${last:+$$last..}HEAD; } > $B/dist/CHANGES
	$Qgit archive --format=tar.gz --prefix=$(DIST)/ --add-file=$B/dist/CHANGES -o $B/$(DIST).tar.gz HEAD

# Their maintainer is who committed last, unless MAINTAINER says somebody else.
MAINTAINER ?= $(shell git log -1 --format='%an <%ae>')
deb: dist ## make Debian packages in build/deb
	$Qsh src/host/deb.sh $B/$(DIST).tar.gz $(VERSION) '$(MAINTAINER)' $B/deb
	@ls $B/deb/*.deb

clean: ## remove what was built
	rm -rf $B
