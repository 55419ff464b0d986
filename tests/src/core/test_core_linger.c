/* test_core_linger.c - lingers of records' own: F3. */
#include "rig.h"

static tb_id submit_linger(rig *r, int64_t linger_us)
{
    return submit(r, (tb_submission){.cost = 1, .batch_timeout_us = linger_us});
}

static void a_shorter_one_makes_due_sooner(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    tb_id a = submit_cost(r, 1), b = submit_linger(r, 200);
    assert_int_equal(turns_until(r, start_us + 199), 0);
    turn_at(r, start_us + 200);
    assert_went(r, 1, TB_REASON_TIMEOUT);
    assert_batch(r, r->batches[0], a, b, 0.0);
    assert_true(stats(r).total_expired == 0); /* it fails nothing */
    rig_end(r);
}

static void a_longer_one_waits(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    submit_linger(r, 5000);
    assert_int_equal(turns_until(r, start_us + 4999), 0);
    assert_true(tb_next(r->b) == start_us + 5000);
    assert_int_equal(turn_at(r, start_us + 5000), 1);
    finish(r, r->batches[0]);

    start_us = r->now_us;
    submit_linger(r, 5000); /* the oldest, but not the one that counts */
    r->now_us += 100;
    submit_cost(r, 1);
    assert_int_equal(turns_until(r, start_us + 1099), 0);
    assert_int_equal(turn_at(r, start_us + 1100), 1);
    assert_int_equal(batch_of(r, r->batches[0]).size, 2);
    rig_end(r);
}

static void at_once(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id a = submit_cost(r, 1), b = submit_linger(r, TB_AT_ONCE);
    turn(r);
    assert_went(r, 1, TB_REASON_TIMEOUT);
    assert_batch(r, r->batches[0], a, b, 0.0);
    tb_id c = submit_linger(r, TB_AT_ONCE); /* gone before it is sent: nothing is due */
    assert_int_equal(tb_cancel(r->b, c, r->now_us), TB_OK);
    finish(r, r->batches[0]);
    submit_cost(r, 1);
    assert_int_equal(turn(r), 0);
    assert_true(submit_linger(r, -2) == TB_ETIMEOUT);
    rig_end(r);
}

static void it_counts_from_the_call(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    submit(r, (tb_submission){.cost = 1, .batch_timeout_us = 300, .submitted_us = start_us - 250});
    assert_int_equal(turn(r), 0);
    assert_true(tb_next(r->b) == start_us + 50);
    assert_int_equal(turn_at(r, start_us + 50), 1);
    rig_end(r);
}

static void waiting_for_room_counts(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 2;
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    tb_id busy = occupy(r), a = submit_cost(r, 1), b = submit_cost(r, 1);
    tb_id late = submit(r, (tb_submission){.cost = 1, .batch_timeout_us = 400, .flags = TB_MAY_WAIT});
    turn_at(r, start_us + 500); /* its linger passes in line */
    assert_state(r, late, TB_RECORD_WAITING);
    assert_int_equal(tb_cancel(r->b, a, r->now_us), TB_OK);
    assert_int_equal(tb_cancel(r->b, b, r->now_us), TB_OK);
    finish(r, busy);
    turn(r);
    assert_went(r, 1, TB_REASON_TIMEOUT);
    assert_batch(r, r->batches[0], late, 0.0);
    rig_end(r);
}

static void beside_a_deadline(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    tb_id busy = occupy(r);
    tb_id a = submit(r, (tb_submission){.cost = 1, .batch_timeout_us = 100, .timeout_us = 900});
    tb_id b = submit(r, (tb_submission){.cost = 1, .batch_timeout_us = 5000, .timeout_us = 600});
    turn_at(r, start_us + 100); /* a lingered; the device is busy */
    assert_int_equal(tb_cancel(r->b, a, r->now_us), TB_OK);
    finish(r, busy);
    assert_int_equal(turns_until(r, start_us + 299), 0); /* a is gone, b not at half its timeout */
    assert_int_equal(turn_at(r, start_us + 300), 1);
    assert_batch(r, r->batches[0], b, 0.0);
    tb_id c = submit(r, (tb_submission){.cost = 1, .batch_timeout_us = TB_AT_ONCE, .timeout_us = 50});
    turn_at(r, start_us + 350);
    assert_event(r, 0, TB_EVENT_EXPIRED, c); /* the slot was taken until its deadline */
    rig_end(r);
}

static void max_wait_counts_too(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_wait_us = 2000;
    rig *r = rig_start(&config);
    submit_linger(r, 50000);
    assert_int_equal(turns_until(r, r->now_us + 1999), 0);
    assert_int_equal(turns_until(r, r->now_us + 1), 1);
    rig_end(r);
}

static void groups_are_due_apart(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.policy = TB_POLICY_SCRIPT;
    rig *r = rig_start(&config);
    tb_queue queue;
    submit(r, (tb_submission){.cost = 1, .group = 1, .batch_timeout_us = 5000});
    submit(r, (tb_submission){.cost = 1, .group = 2, .batch_timeout_us = 100});
    submit(r, (tb_submission){.cost = 1, .group = 3});
    r->now_us += 100;
    assert_int_equal(tb_poll(r->b, r->events, 1, r->now_us), 0);
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_true(queue.is_due && !tb_group_due(r->b, 1) && tb_group_due(r->b, 2) && !tb_group_due(r->b, 3));
    tb_choose_abandon(r->b);
    r->now_us += 900;
    tb_poll(r->b, r->events, 1, r->now_us);
    assert_true(!tb_group_due(r->b, 1) && tb_group_due(r->b, 3));
    tb_flush(r->b, r->now_us);
    assert_true(tb_group_due(r->b, 1));
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("F3: a record's own linger makes the queue due sooner, and fails nothing",
             a_shorter_one_makes_due_sooner),
        TEST("F3: a longer one waits longer; the oldest record without one counts as ever", a_longer_one_waits),
        TEST("F3: a linger of nothing is due at once", at_once),
        TEST("F3: it counts from the call of submit", it_counts_from_the_call),
        TEST("F3: time spent waiting for room counts, for lingers of records' own too", waiting_for_room_counts),
        TEST("F3, C2: the earlier of linger and half the timeout counts; then the deadline", beside_a_deadline),
        TEST("F3, X2: max_wait_s makes due what would linger longer", max_wait_counts_too),
        TEST("F3: each group is due by its own records", groups_are_due_apart),
    };
    return cmocka_run_group_tests_name("linger", tests, NULL, NULL);
}
