# tests.mk - tests, checks and measurements; included by the Makefile.

TEST_CFLAGS = -std=c11 -D_GNU_SOURCE -pthread -Iinclude -Isrc/core -Itests/src/core -Wall -Wextra -Wshadow $(CFLAGS)
CMOCKA      = -lcmocka -lm

# tests/src mirrors src: every test_*.c is a program; the others in core are shared by those there.
vpath test_%.c tests/src/core tests/src/ev tests/src/vectors tests/src/http tests/src/redis tests/src/listen tests/src/script
C_TESTS     = $(patsubst %.c,$B/tests/%,$(notdir $(sort $(wildcard tests/src/*/test_*.c))))
C_SHARED    = $(filter-out tests/src/core/test_%.c,$(wildcard tests/src/core/*.c))
# Calls that a test can make fail (tests/src/failing.h).
failing     = $(foreach name,malloc calloc realloc $(1),-Wl,--wrap=$(name))
FAIL_ALLOC  = $(call failing)

$B/tests/test_alloc: LINK_EXTRA = $(FAIL_ALLOC)
$B/tests/test_ev_failing: LINK_EXTRA = $(call failing,epoll_create1 epoll_ctl eventfd timerfd_create pthread_mutex_init)
$B/tests/test_redis_failing: LINK_EXTRA = $(call failing,epoll_create1 epoll_ctl eventfd socket connect send recv pthread_create)
$B/tests/test_http_failing: LINK_EXTRA = $(call failing,epoll_create1 epoll_ctl curl_global_init curl_multi_init \
  curl_easy_init curl_url curl_multi_add_handle curl_slist_append)
$B/tests/test_engine_failing: LINK_EXTRA = $(call failing,eventfd pthread_create)
$B/tests/test_engine_alloc: LINK_EXTRA = $(FAIL_ALLOC)
$B/tests/test_%: test_%.c $(C_SHARED) $(wildcard tests/src/*/*.h) $B/libtokenbatcher.a | $B/.has/cmocka.h
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $< $(if $(findstring test_ev,$<),,$(C_SHARED)) $(LINK_EXTRA) \
	  $B/libtokenbatcher.a $(CMOCKA) -lev

# Engines: LuaJIT's symbols come from the program; -rdynamic: a script calls back into it.
$B/tests/test_engine%: tests/src/script/test_engine%.c tests/src/script/test_engine.h $B/libtokenbatcher_script.so
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -rdynamic -o $@ $< -L$B -Wl,-rpath,$(abspath $B) -ltokenbatcher_script \
	  -ltokenbatcher -lluajit-5.1 -lev $(CMOCKA)

# Loaded when it listens.
$B/tests/test_engine_listen: $B/libtokenbatcher_listen.so

# From the objects: only calls in what is linked can be made to fail.
$B/tests/test_engine_alloc $B/tests/test_engine_failing: $B/tests/%: tests/src/script/%.c tests/src/failing.h tests/src/script/test_engine.h $(SCRIPT_OBJ) $B/libtokenbatcher.a
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -rdynamic -o $@ $< $(LINK_EXTRA) $(SCRIPT_OBJ) -Wl,--whole-archive $B/libtokenbatcher.a \
	  -Wl,--no-whole-archive -lluajit-5.1 -lev -ldl $(CMOCKA)

# libcurl's own functions may be stood in for by the program's: see the slow look-up.
$B/tests/test_http $B/tests/test_http_trouble $B/tests/test_http_failing: $B/tests/%: tests/src/http/%.c tests/src/http/test_http.h $(HTTP_OBJ)
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $< $(LINK_EXTRA) $(HTTP_OBJ) $(CMOCKA) $$(pkg-config --libs libcurl)

$B/tests/test_redis $B/tests/test_redis_trouble $B/tests/test_redis_failing: $B/tests/%: tests/src/redis/%.c tests/src/redis/test_redis.h $(REDIS_OBJ)
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $< $(LINK_EXTRA) $(REDIS_OBJ) $(CMOCKA) $$(pkg-config --libs hiredis)

$B/tests/test_listen $B/tests/test_listen_trouble: $B/tests/%: tests/src/listen/%.c tests/src/listen/test_listen.h $(LISTEN_OBJ)
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $< $(LISTEN_OBJ) $(CMOCKA) $$(pkg-config --libs libmicrohttpd)

# From within: it copies the core's own state.
SEARCH_SRC = $(wildcard tests/search/*.c) $(filter-out %/drive.c %/rig.c,$(C_SHARED))
$B/tests/search: $(SEARCH_SRC) $(wildcard tests/search/*.h tests/src/core/*.h src/core/*.h) $B/libtokenbatcher.a
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $(SEARCH_SRC) $B/libtokenbatcher.a $(CMOCKA)

# Each fuzzer over its corpus, without libFuzzer.
REPLAYS = $(patsubst tests/fuzz/fuzz_%.c,$B/tests/fuzz_%_replay,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

$B/tests/fuzz_core_replay: tests/fuzz/fuzz_core.c tests/fuzz/replay.h $(C_SHARED) $B/libtokenbatcher.a
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -DTB_FUZZ_MAIN -o $@ $< $(C_SHARED) $B/libtokenbatcher.a $(CMOCKA)

$B/tests/fuzz_json_replay: tests/fuzz/fuzz_json.c tests/fuzz/lua_fuzz.h tests/fuzz/replay.h $(JSON_OBJ)
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) $(LUA_CFLAGS) -DTB_FUZZ_MAIN -o $@ $(filter-out %.h,$^) -lluajit-5.1 $(JSON_LIB)

# The script finds the functions in the program: -rdynamic.
$B/tests/fuzz_vectors_replay: tests/fuzz/fuzz_vectors.c tests/fuzz/lua_fuzz.h tests/fuzz/replay.h $(JSON_OBJ) $(VECTORS_OBJ) $B/gen/cdef_vectors.o
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) $(LUA_CFLAGS) -DTB_FUZZ_MAIN -rdynamic -o $@ $(filter-out %.h,$^) -lluajit-5.1 $(JSON_LIB)

# Lua finds the library where it was built.
$B/tests/fuzz_traces_replay $B/tests/fuzz_messages_replay: $B/tests/fuzz_%_replay: tests/fuzz/fuzz_%.c tests/fuzz/lua_fuzz.h tests/fuzz/replay.h $(JSON_OBJ)
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) $(LUA_CFLAGS) -DTB_FUZZ_MAIN -o $@ $(filter-out %.h,$^) -lluajit-5.1 $(JSON_LIB)

$B/tests/fuzz_http_replay: tests/fuzz/fuzz_http.c tests/fuzz/replay.h $(HTTP_OBJ)
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -DTB_FUZZ_MAIN -o $@ $< $(HTTP_OBJ) $$(pkg-config --libs libcurl) -lm

$B/tests/fuzz_redis_replay: tests/fuzz/fuzz_redis.c tests/fuzz/replay.h $(REDIS_OBJ)
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -DTB_FUZZ_MAIN -o $@ $< $(REDIS_OBJ) $$(pkg-config --libs hiredis)

$B/tests/bench_%: tests/bench/bench_%.c $B/libtokenbatcher.a
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $< $B/libtokenbatcher.a -lev -lm

$B/tests/soak_engine: tests/soak/soak_engine.c
$B/tests/bench_engine: tests/bench/bench_engine.c
$B/tests/bench_engine $B/tests/soak_engine: $B/libtokenbatcher_script.so
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $(filter %.c,$^) -L$B -Wl,-rpath,$(abspath $B) -ltokenbatcher_script -ltokenbatcher \
	  -lluajit-5.1 -lev

$B/tests/bench_http: tests/bench/bench_http.c
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $< $$(pkg-config --cflags --libs libcurl)

# The core once more without histograms, to show what they cost.
$B/tests/bench_without_histograms: tests/bench/bench_core.c $(CORE_SRC) src/core/core.h src/core/hot.h
	@mkdir -p $(@D)
	$Qfor file in $(CORE_SRC); do \
	  $(CC) $(ALL_CFLAGS) -DTB_WITHOUT_HISTOGRAMS -c $$file -o $(@D)/without_$$(basename $$file .c).o || exit 1; done
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $< $(@D)/without_*.o -lm

# And without assertions.
$B/tests/bench_ndebug: tests/bench/bench_core.c $(CORE_SRC) src/core/core.h src/core/hot.h
	@mkdir -p $(@D)
	$Qfor file in $(CORE_SRC); do \
	  $(CC) $(ALL_CFLAGS) -DNDEBUG -Wno-unused-function -c $$file -o $(@D)/ndebug_$$(basename $$file .c).o || exit 1; done
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $< $(@D)/ndebug_*.o -lm

include tests/mutate/mutate.mk

test: all $(C_TESTS) $(QUICK_TESTS) $B/tests/search $(REPLAYS) ## run all tests; the last line sums them up
	$QBUSTED='$(BUSTED)' B='$B' sh tests/run.sh $(C_TESTS)

test-extra: all ## tests that need more (`make deps test-extra`): pages in Chromium, clients from npm, Prometheus
	$QB='$B' sh tests/extra/run.sh $(ONLY)

lint: all ## style, dependencies between rooms, static analysis, generated text is current
	$QB='$B' LUAJIT='$(LUAJIT)' sh tests/lint.sh

# What records are compared with, where there is npm.
$B/peers/node_modules:
	@mkdir -p $B/peers
	$Qif command -v npm >/dev/null; then cd $B/peers && npm install --no-audit --no-fund --silent --prefix . \
	  dataloader@2 async@3 || echo "npm could not install dataloader and async: records are not compared with them"; fi

bench: all $B/peers/node_modules $B/tests/bench_core $B/tests/bench_without_histograms $B/tests/bench_ndebug $B/tests/bench_ev $B/tests/bench_engine $B/tests/bench_http ## measure against the budgets
	$QB='$B' LUAJIT='$(LUAJIT)' $(LUAJIT) tests/bench/report.lua

bench-gateway: all ## the gateway measured with wrk: what batching costs and gains (minutes)
	$(LUAJIT) tests/bench/gateway.lua $(PLOT)

bench-redis: all ## Redis: processor time a record beside XADD's, and how far workers scale (a minute)
	$QTOKENBATCHER_BUILD='$B' $(LUAJIT) tests/bench/bench_redis.lua

search: $B/tests/search ## every state of small batchers of four records (minutes, a gigabyte)
	$Q$B/tests/search 4

soak: all $(C_TESTS) $B/tests/soak_engine ## long runs: minutes of load, a million records
	$QB='$B' LUAJIT='$(LUAJIT)' sh tests/soak/run.sh

fuzz: all $B/gen/cdef_vectors.c ## libFuzzer on what comes from outside, FUZZ_SECONDS (60) for each target, or ONLY some
	$QB='$B' sh tests/fuzz/run.sh

replays: $(REPLAYS)

sanitize: all ## the tests under ASan, UBSan, TSan and valgrind
	$QB='$B' sh tests/sanitize.sh

coverage: ## lines and branches that the C tests take, SPECS=1: and the specs; fails below what is asked (tests/coverage.sh)
	$QB='$B' sh tests/coverage.sh

# For LuaRocks: what there are headers for. A rock does without JSON as it came (then lua-cjson
# does), without HTTP, without Redis, without `listen` and without worker threads.
ROCK_PARTS = json:rapidjson/reader.h http:curl/curl.h redis:hiredis/read.h listen:microhttpd.h script:luajit.h
rock: $B/libtokenbatcher.so
	@for part in $(ROCK_PARTS); do name=libtokenbatcher_$${part%%:*}.so; \
	  if echo "#include <$${part#*:}>" | $(CXX) $(LUA_CFLAGS) -E -x c++ - >/dev/null 2>&1; then \
	    $(MAKE) --no-print-directory -s $B/$$name || exit 1; \
	  else echo "no $${part#*:}: the rock is without $$name"; fi; done

install-rock: $B/libtokenbatcher.so
	@[ -n '$(LUADIR)' ] || { echo "install-rock: LIBDIR= and LUADIR= are needed: where to"; exit 1; }
	for library in libtokenbatcher $(foreach p,$(ROCK_PARTS),libtokenbatcher_$(firstword $(subst :, ,$p))); do \
	  [ ! -e $B/$$library.so ] || install -D -m 644 $B/$$library.so '$(LIBDIR)/'$$library.so || exit 1; done
	cd lua && find tokenbatcher -name '*.lua' -not -path '*/cli/*' -exec install -D -m 644 {} '$(LUADIR)/{}' \;
