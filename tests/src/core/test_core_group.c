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

static rig *start_scripted(int64_t max_wait_us)
{
    tb_config config = small_config();
    config.policy = TB_POLICY_SCRIPT;
    config.max_wait_us = max_wait_us;
    return rig_start(&config);
}

static void a_choice_says_why_not(void **state)
{
    (void)state;
    rig *r = start_scripted(0);
    tb_queue queue;
    mark(r, 7, 1);
    submit_group(r, 1, 60);
    submit_group(r, 2, 1);
    submit_group(r, 1, 41);
    submit(r, (tb_submission){.cost = 1, .group = 1, .key = 7});
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_true(queue.is_full); /* one that must run alone fills a batch */
    assert_int_equal(tb_choose_add(r->b, 1), TB_ADD_IN);
    assert_int_equal(tb_choose_add(r->b, 2), TB_ADD_GROUP);
    assert_int_equal(tb_choose_add(r->b, 3), TB_ADD_BUDGET);
    assert_int_equal(tb_choose_add(r->b, 4), TB_ADD_ALONE);
    assert_int_equal(tb_choose_add(r->b, 1), TB_ADD_IN);
    tb_choose_reset(r->b);
    assert_int_equal(tb_choose_add(r->b, 4), TB_ADD_IN);
    assert_int_equal(tb_choose_add(r->b, 4), TB_ADD_IN);
    assert_int_equal(tb_choose_add(r->b, 3), TB_ADD_ALONE); /* beside it, too */
    assert_int_equal(tb_choose_add(r->b, 2), TB_ADD_GROUP);
    tb_choose_abandon(r->b);
    rig_end(r);
}

static void the_aged_are_of_one_group(void **state)
{
    (void)state;
    rig *r = start_scripted(500);
    tb_queue queue;
    mark(r, 7, 1);
    tb_id a = submit_group(r, 1, 1), b = submit_group(r, 2, 1);
    tb_id lone = submit(r, (tb_submission){.cost = 1, .group = 1, .key = 7});
    tb_id c = submit_group(r, 1, 1);
    r->now_us += 500;
    tb_id young = submit_group(r, 1, 1);
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_int_equal(tb_choose_add(r->b, 2), TB_ADD_GROUP); /* the oldest one's group decides */
    assert_int_equal(tb_choose_add(r->b, 5), TB_ADD_IN);
    tb_id batch = tb_choose_end(r->b);
    assert_batch(r, batch, a, c, young, 0.0);
    finish(r, batch);
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_int_equal(tb_choose_add(r->b, 2), TB_ADD_GROUP); /* who was passed over is first now */
    batch = tb_choose_end(r->b);
    assert_batch(r, batch, b, 0.0);
    finish(r, batch);
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_int_equal(tb_choose_add(r->b, 1), TB_ADD_IN);
    assert_batch(r, tb_choose_end(r->b), lone, 0.0);
    rig_end(r);
}

static void set_to_a_script_keeps_the_order_of_those_that_were_cut(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.prefetch_batches = 2;
    rig *r = rig_start(&config);
    tb_id busy = occupy(r);
    tb_id a = submit_group(r, 1, 1);
    submit_group(r, 2, 1);
    tb_id c = submit_group(r, 1, 1);
    turn(r);
    assert_true(stats(r).prefetched_records == 2);
    config.policy = TB_POLICY_SCRIPT;
    set(r, &config);
    assert_string_equal(tb_verify(r->b) ? tb_verify(r->b) : "whole", "whole");
    finish(r, busy);
    tb_queue queue;
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    uint32_t first = tb_group_first(r->b, 1);
    assert_int_equal(first, 1);
    assert_int_equal(tb_group_next(r->b, first), 3);
    assert_int_equal(tb_choose_add(r->b, first), TB_ADD_IN);
    assert_int_equal(tb_choose_add(r->b, 3), TB_ADD_IN);
    assert_batch(r, tb_choose_end(r->b), a, c, 0.0);
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
        TEST("F1, R7: adding says why not: budget, group or alone", a_choice_says_why_not),
        TEST("X2: records that waited max_wait_s and may not share the oldest one's batch are passed over",
             the_aged_are_of_one_group),
        TEST("R7: a key stays marked until it is not, whoever has come and gone", a_mark_outlives_its_records),
        TEST("F1, X4: a scripted policy finds the records of a group in order, those that were cut, too",
             set_to_a_script_keeps_the_order_of_those_that_were_cut),
    };
    return cmocka_run_group_tests_name("group", tests, NULL, NULL);
}
