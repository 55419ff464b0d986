/* test_core_group.c - what may share a batch: groups (F1) and keys whose records run alone (R7). */
#include "rig.h"

static tb_id submit_group(rig *r, uint32_t group, double cost)
{
    return submit(r, (tb_submission){.cost = cost, .group = group});
}

static tb_id submit_key(rig *r, uint32_t key, double cost)
{
    return submit(r, (tb_submission){.cost = cost, .key = key});
}

static void mark(rig *r, uint32_t key, int on)
{
    assert_int_equal(tb_key_alone(r->b, key, on, r->now_us), TB_OK);
}

static void groups_never_share(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_concurrent_batches = 4;
    rig *r = rig_start(&config);
    tb_id a = submit_group(r, 0, 1), b = submit_group(r, 5, 1), c = submit_group(r, 5, 1), d = submit_group(r, 6, 1);
    assert_int_equal(turn(r), 2); /* a change of group ends a batch, which is full */
    assert_batch(r, r->batches[0], a, 0.0);
    assert_batch(r, r->batches[1], b, c, 0.0);
    assert_true(batch_of(r, r->batches[0]).group == 0 && batch_of(r, r->batches[1]).group == 5);
    assert_true(stats(r).dispatched[TB_REASON_FULL] == 2);
    assert_state(r, d, TB_RECORD_QUEUED); /* nobody is behind it: it lingers */
    assert_int_equal(turns_until(r, r->now_us + 1000), 1);
    assert_batch(r, r->batches[0], d, 0.0);
    assert_true(submit_group(r, 1u << TB_SLOT_BITS, 1) == TB_ERECORD);
    rig_end(r);
}

static void the_first_group_finds_others_waiting(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id a = submit_cost(r, 1), b = submit_cost(r, 1);
    assert_int_equal(turn(r), 0); /* the open batch holds both */
    tb_id c = submit_group(r, 1, 1);
    assert_int_equal(turn(r), 1);
    assert_batch(r, r->batches[0], a, b, 0.0);
    assert_state(r, c, TB_RECORD_QUEUED);
    rig_end(r);
}

static void cuts_end_with_the_group(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.prefetch_batches = 3;
    rig *r = rig_start(&config);
    tb_id busy = occupy(r);
    tb_id a = submit_group(r, 1, 1), b = submit_group(r, 1, 1), c = submit_group(r, 2, 1), d = submit_group(r, 1, 1);
    turn(r);
    assert_true(stats(r).prefetched_batches == 2 && stats(r).prefetched_records == 3);
    assert_int_equal(tb_cancel(r->b, c, r->now_us), TB_OK); /* d moves up, and joins them */
    turn(r);
    assert_true(stats(r).prefetched_batches == 0);
    finish(r, busy);
    assert_int_equal(turns_until(r, r->now_us + 1000), 1);
    assert_batch(r, r->batches[0], a, b, d, 0.0);
    rig_end(r);
}

static void a_lone_key_runs_alone(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_concurrent_batches = 4;
    rig *r = rig_start(&config);
    mark(r, 7, 1);
    tb_id a = submit_key(r, 1, 1), b = submit_key(r, 7, 1), c = submit_key(r, 7, 1), d = submit_key(r, 1, 1);
    assert_int_equal(turn(r), 3); /* fifo ends a batch before them */
    assert_batch(r, r->batches[0], a, 0.0);
    assert_batch(r, r->batches[1], b, 0.0);
    assert_batch(r, r->batches[2], c, 0.0);
    assert_true(stats(r).total_oversize == 0);
    assert_state(r, d, TB_RECORD_QUEUED);
    tb_id last = submit_key(r, 7, 101); /* above the budget, as everybody: counted */
    assert_int_equal(turn(r), 1);
    assert_batch(r, r->batches[0], d, 0.0);
    finish(r, r->batches[0]);
    assert_int_equal(turn(r), 1); /* one that must run alone fills a batch */
    assert_batch(r, r->batches[0], last, 0.0);
    assert_true(stats(r).total_oversize == 1);
    rig_end(r);
}

static void marks_make_cuts_anew(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_batch_size = 2;
    config.prefetch_batches = 4;
    rig *r = rig_start(&config);
    tb_id busy = occupy(r);
    tb_id a = submit_key(r, 1, 1), b = submit_key(r, 2, 1), c = submit_key(r, 1, 1), d = submit_key(r, 1, 1);
    turn(r);
    assert_true(stats(r).prefetched_batches == 2);
    mark(r, 2, 1);
    mark(r, 2, 1); /* nothing happens the second time */
    turn(r);
    assert_true(stats(r).prefetched_batches == 3); /* a; b; c and d */
    finish(r, busy);
    assert_int_equal(turn(r), 1);
    assert_batch(r, r->batches[0], a, 0.0);
    mark(r, 2, 0);
    turn(r);
    assert_true(stats(r).prefetched_batches == 1 && stats(r).queue_size == 1); /* b and c; d */
    finish(r, r->batches[0]);
    assert_int_equal(turn(r), 1);
    assert_batch(r, r->batches[0], b, c, 0.0);
    assert_state(r, d, TB_RECORD_QUEUED);
    rig_end(r);
}

static void a_mark_outlives_its_records(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_concurrent_batches = 2;
    rig *r = rig_start(&config);
    mark(r, 3, 1);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    turn(r);
    assert_int_equal(tb_start(r->b, r->now_us), TB_OK);
    submit_key(r, 3, 1);
    assert_int_equal(turn(r), 1);
    finish(r, r->batches[0]);
    mark(r, 3, 0);
    submit_key(r, 3, 1);
    assert_int_equal(turn(r), 0);
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("F1: records of two groups never share a batch; a change of group ends one, which is full",
             groups_never_share),
        TEST("F1: the first record that has a group parts from those that have none",
             the_first_group_finds_others_waiting),
        TEST("F1, F4: cuts end where the group does, and are made anew", cuts_end_with_the_group),
        TEST("R7: records of a marked key run in batches of one, not counted as oversize",
             a_lone_key_runs_alone),
        TEST("R7, F4: cuts are made anew when a key is marked, and when it no longer is",
             marks_make_cuts_anew),
        TEST("R7: a key stays marked until it is not, whoever has come and gone", a_mark_outlives_its_records),
    };
    return cmocka_run_group_tests_name("group", tests, NULL, NULL);
}
