# mutate.mk - tests beside the shared libraries instead of around the static ones: a mutant is another library and the
# same tests. Included by tests.mk.

MUTATE_OBJ   = $(patsubst tests/src/core/%.c,$B/mutate/%.o,$(C_SHARED))
MUTATE_TESTS = $(patsubst %.c,$B/mutate/%,$(notdir $(sort $(wildcard tests/src/core/test_*.c tests/src/ev/test_*.c))))
QUICK_TESTS  = $(addprefix $B/mutate/,test_core_batch test_core_rims test_core_inside)# of the sample in make test
MUTATE_LISTS = $(sort $(wildcard tests/mutate/mutants/*.txt))

$B/mutate/%.o: tests/src/core/%.c $(wildcard tests/src/core/*.h) $(HEADERS)
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -c $< -o $@

$B/mutate/test_%: test_%.c $(MUTATE_OBJ) $(wildcard tests/src/*/*.h) | $B/libtokenbatcher.so
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $< $(if $(findstring test_ev,$<),,$(MUTATE_OBJ)) -L$B -Wl,-rpath,$(abspath $B) \
	  -ltokenbatcher $(CMOCKA) -lev

$B/mutate/test_ev_clock: src/ev/clock.h

# These are around the core all the same, since they look inside, or make its allocations fail.
INSIDE_TESTS = $(patsubst tests/src/core/%.c,$B/mutate/%,$(shell grep -lE '"([^"]*/)?(core|broken)\.h"' tests/src/core/test_*.c)) \
  $B/mutate/test_alloc
$B/mutate/test_alloc: LINK_EXTRA = $(FAIL_ALLOC)
$(INSIDE_TESTS): $B/mutate/%: $B/mutate/%.o $(MUTATE_OBJ) $B/libtokenbatcher.a
	$(call say,LD)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $(filter %.o,$^) $(LINK_EXTRA) $B/libtokenbatcher.a $(CMOCKA)

.PHONY: mutate mutate-core mutate-inside mutate-engines
mutate-inside: $(INSIDE_TESTS) $B/mutate/search
mutate-core: $(MUTATE_TESTS) $B/mutate/search
mutate-engines: $(filter $B/tests/test_engine%,$(C_TESTS))

mutate: all ## small wrong changes to the source, each of which a test must see (most of an hour)
	$QLUAJIT='$(LUAJIT)' nice -n 10 $(LUAJIT) tests/mutate/run.lua $(if $(ONLY),--only '$(ONLY)') $(MUTATE_LISTS)

# The search is around the core, too: a mutant costs a link.
$B/mutate/search_%.o: tests/search/%.c $(wildcard tests/search/*.h tests/src/core/*.h src/core/*.h)
	@mkdir -p $(@D)
	$(call say,CC)
	$Q$(CC) $(TEST_CFLAGS) -c $< -o $@

$B/mutate/search: $(patsubst tests/search/%.c,$B/mutate/search_%.o,$(wildcard tests/search/*.c)) \
  $(filter-out %/drive.o %/rig.o,$(MUTATE_OBJ)) $B/libtokenbatcher.a
	$(call say,LD)
	$Q$(CC) $(TEST_CFLAGS) -o $@ $^ $(CMOCKA)
