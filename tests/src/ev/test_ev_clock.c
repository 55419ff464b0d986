/* test_ev_clock.c - the quick clock: what it makes of readings, and beside CLOCK_MONOTONIC. */
#include "../../../src/ev/clock.h"

#include "test_ev.h"

static const int64_t START_US = INT64_C(10000) * 1000000;

enum { TICKS_PER_US = 2500, NEAR = 100, FAR = TB__TIE_TICKS_MOST };

/* A tie whose readings of the counter are `apart`; the counter began with the clock. */
static int64_t tie(struct tb__ev_clock *clock, double at_us, uint64_t apart)
{
    uint64_t ticks = (uint64_t)(at_us * TICKS_PER_US);
    return tb__ev_clock_tie(clock, ticks - apart / 2, START_US * 1000 + (int64_t)(at_us * 1000), ticks + apart / 2);
}

static int64_t at(struct tb__ev_clock *clock, double at_us)
{
    return tb__ev_clock_at(clock, (uint64_t)(at_us * TICKS_PER_US));
}

static void two_ties_make_a_rate(void **state)
{
    (void)state;
    struct tb__ev_clock clock = {.has_ticks = true};
    assert_true(at(&clock, 5) == -1);
    assert_true(tie(&clock, 10.25, NEAR) == START_US + 10);
    assert_true(at(&clock, 11) == -1);
    assert_true(tie(&clock, 500, NEAR) == START_US + 500); /* too near to show a rate: the first tie stays */
    assert_true(at(&clock, 501) == -1);
    assert_true(tie(&clock, 1010.25, NEAR) == START_US + 1010);
    assert_true(at(&clock, 1011.5) == START_US + 1011);
    assert_true(at(&clock, 4000.5) == START_US + 4000);
}

static void a_tie_grows_old(void **state)
{
    (void)state;
    struct tb__ev_clock clock = {.has_ticks = true};
    double old_us = (double)(1 << TB__TIE_TICKS_BITS) / TICKS_PER_US;
    tie(&clock, 10, NEAR);
    tie(&clock, 2010, NEAR);
    assert_true(at(&clock, 2010 + old_us - 1) > 0);
    assert_true(at(&clock, 2010 + old_us + 1) == -1);
    assert_true(at(&clock, 2009) == -1); /* the counter went back */
}

static void a_pause_makes_the_rate_unknown(void **state)
{
    (void)state;
    struct tb__ev_clock clock = {.has_ticks = true};
    tie(&clock, 10, NEAR);
    tie(&clock, 2010, NEAR);
    assert_true(tie(&clock, 2000000, NEAR) == START_US + 2000000);
    assert_true(at(&clock, 2000000 + 1) == -1);
    tie(&clock, 2000000 + 1000, NEAR);
    assert_true(at(&clock, 2000000 + 1001.5) == START_US + 2000000 + 1001);
}

/* Else it would be ahead by half of what lies between the readings. */
static void a_tie_that_was_interrupted_ties_nothing(void **state)
{
    (void)state;
    struct tb__ev_clock clock = {.has_ticks = true};
    assert_true(tie(&clock, 10, FAR) == START_US + 10);
    assert_true(clock.tied_ns == 0);
    tie(&clock, 20, NEAR);
    tie(&clock, 2020, NEAR);
    struct tb__ev_clock before = clock;
    assert_true(tie(&clock, 5000, 70 * TICKS_PER_US) == START_US + 5000);
    assert_true(clock.tied_ns == before.tied_ns && clock.rate == before.rate);
    assert_true(at(&clock, 5001.5) == START_US + 5001);
}

static void it_never_goes_back(void **state)
{
    (void)state;
    struct tb__ev_clock clock = {.has_ticks = true};
    tie(&clock, 10, NEAR);
    tie(&clock, 2010, NEAR);
    assert_true(at(&clock, 3000.5) == START_US + 3000);
    assert_true(at(&clock, 2990) == START_US + 3000);
    assert_true(tie(&clock, 2995, NEAR) == START_US + 3000);
}

/* Between two readings of the one lies that of the other; where the thread is put aside in between, too. */
static void it_is_monotonic_time(void **state)
{
    enum { CALLS = 300000, OFF_US = 20 };
    tb_ev *ev = *state;
    double last_us = 0;
    for (int i = 0; i < CALLS; i++) {
        double before_us = (double)tb_ev_now(), us = tb_ev_clock(ev), after_us = (double)tb_ev_now();
        assert_true(us >= before_us - OFF_US && us <= after_us + OFF_US);
        assert_true(us >= last_us && us == (double)(int64_t)us);
        last_us = us;
    }
}

static void a_record_is_submitted_at_it(void **state)
{
    tb_ev *ev = *state;
    tb_config config;
    tb_stats stats;
    tb_config_init(&config);
    tb_batcher *b = tb_new(&config);
    double before_us = tb_ev_clock(ev);
    assert_int_equal(tb_start(b, (int64_t)before_us), TB_OK);
    assert_true(tb_ev_submit_plain(ev, b, 3) > 0);
    double due_us = (double)tb_next(b) - (double)config.batch_timeout_us;
    assert_true(due_us >= before_us && due_us <= tb_ev_clock(ev));
    tb_stats_read(b, &stats, tb_ev_now());
    assert_true(stats.queue_cost == 3);
    tb_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_ties_make_a_rate),
        cmocka_unit_test(a_tie_grows_old),
        cmocka_unit_test(a_pause_makes_the_rate_unknown),
        cmocka_unit_test(a_tie_that_was_interrupted_ties_nothing),
        cmocka_unit_test(it_never_goes_back),
        WITH_DRIVER(it_is_monotonic_time),
        WITH_DRIVER(a_record_is_submitted_at_it),
    };
    return cmocka_run_group_tests_name("ev_clock", tests, NULL, NULL);
}
