/* test_core_batch.c - what makes a batch and when it goes: F1-F3, F6, F9, X2. */
#include "rig.h"

static void the_budget_is_strict(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id a = submit_cost(r, 60), b = submit_cost(r, 40), c = submit_cost(r, 1);
    assert_int_equal(turn(r), 1);
    assert_batch(r, r->batches[0], a, b, 0.0);
    assert_true(batch_of(r, r->batches[0]).cost == 100);
    assert_state(r, c, TB_RECORD_QUEUED);
    rig_end(r);
}

static void oversize_goes_alone(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_concurrent_batches = 3;
    rig *r = rig_start(&config);
    tb_id a = submit_cost(r, 0), big = submit_cost(r, 101), c = submit_cost(r, 1);
    assert_int_equal(turn(r), 2);
    assert_batch(r, r->batches[0], a, 0.0); /* full: the next does not fit */
    assert_batch(r, r->batches[1], big, 0.0);
    assert_true(batch_of(r, r->batches[1]).cost == 101);
    assert_true(stats(r).total_oversize == 1 && stats(r).dispatched[TB_REASON_FULL] == 2);
    assert_state(r, c, TB_RECORD_QUEUED);
    rig_end(r);
}

static void oversize_is_refused(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.on_oversize = TB_OVERSIZE_REJECT;
    rig *r = rig_start(&config);
    assert_true(submit_cost(r, 100.5) == TB_EOVERSIZE);
    assert_true(submit_waiting(r, 101) == TB_EOVERSIZE);
    assert_true(submit_cost(r, 100) > 0);
    assert_true(stats(r).total_rejected == 2 && stats(r).total_submitted == 1);
    assert_true(stats(r).total_oversize == 0);
    rig_end(r);
}

static void full_by_size(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    submit_many(r, 3, 1);
    assert_int_equal(turn(r), 0);
    submit_many(r, 3, 1);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL);
    assert_int_equal(batch_of(r, r->batches[0]).size, 4);
    rig_end(r);
}

static void full_by_budget(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    submit_cost(r, 99);
    assert_int_equal(turn(r), 0); /* something of cost 1 would fit */
    submit_cost(r, 1);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL);
    finish(r, r->batches[0]);
    submit_cost(r, 100);
    submit_cost(r, 0); /* would fit, but the batch is full already */
    turn(r);
    assert_went(r, 1, TB_REASON_FULL);
    assert_int_equal(batch_of(r, r->batches[0]).size, 1);
    rig_end(r);
}

static void full_because_the_next_does_not_fit(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id a = submit_cost(r, 50), b = submit_cost(r, 51), c = submit_cost(r, 2);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL);
    assert_batch(r, r->batches[0], a, 0.0);
    finish(r, r->batches[0]);
    assert_int_equal(turn(r), 0);
    assert_int_equal(turns_until(r, r->now_us + 1000), 1);
    assert_batch(r, r->batches[0], b, c, 0.0); /* it had stayed at the head */
    rig_end(r);
}

static void padded_cost(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.cost_model = TB_COST_PADDED;
    rig *r = rig_start(&config);
    tb_id a = submit_cost(r, 10), b = submit_cost(r, 33), c = submit_cost(r, 5),
          d = submit_cost(r, 34);
    assert_int_equal(turn(r), 1); /* a fourth would make it 4 x 33 at least */
    assert_batch(r, r->batches[0], a, b, c, 0.0);
    tb_batch read = batch_of(r, r->batches[0]);
    assert_true(read.cost == 99 && read.sum == 48 && read.largest == 33 && read.padded == 99);
    finish(r, r->batches[0]);
    tb_id e = submit_cost(r, 51);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL); /* 2 x 51 does not fit */
    assert_batch(r, r->batches[0], d, 0.0);
    finish(r, r->batches[0]);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL); /* with any other it would be 102 */
    assert_batch(r, r->batches[0], e, 0.0);
    tb_stats s = stats(r);
    assert_true(s.total_batch_cost == 99 + 34 + 51 && s.padded_cost == 99 + 34 + 51);
    assert_true(s.sum_cost == 48 + 34 + 51);
    rig_end(r);
}

static void still_full_after_a_cancel(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    submit_many(r, 4, 1);
    tb_id behind = submit_cost(r, 1);
    assert_int_equal(tb_cancel(r->b, behind, r->now_us), TB_OK);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL);
    finish(r, r->batches[0]);

    tb_id a = submit_cost(r, 1), blocker = submit_cost(r, 100);
    assert_int_equal(tb_cancel(r->b, blocker, r->now_us), TB_OK);
    assert_int_equal(turn(r), 0); /* no longer full */
    assert_int_equal(tb_cancel(r->b, a, r->now_us), TB_OK);

    config.cost_model = TB_COST_PADDED;
    set(r, &config);
    tb_id b = submit_cost(r, 40), c = submit_cost(r, 10), member = submit_cost(r, 0);
    assert_state(r, member, TB_RECORD_QUEUED);
    assert_int_equal(tb_cancel(r->b, member, r->now_us), TB_OK);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL); /* 3 x 40 would not fit */
    assert_batch(r, r->batches[0], b, c, 0.0);
    rig_end(r);
}

static void padded_full_without_a_member(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.cost_model = TB_COST_PADDED;
    config.max_batch_size = 3;
    config.target_batch_cost = 16;
    rig *r = rig_start(&config);
    tb_id a = submit_cost(r, 5), b = submit_cost(r, 4), c = submit_cost(r, 0);
    assert_int_equal(tb_cancel(r->b, c, r->now_us), TB_OK);
    assert_int_equal(turn(r), 0); /* 3 x 5 would fit */
    tb_id d = submit_cost(r, 6);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL); /* 3 x 6 does not */
    assert_batch(r, r->batches[0], a, b, 0.0);
    assert_state(r, d, TB_RECORD_QUEUED);
    finish(r, r->batches[0]);
    tb_id e = submit_cost(r, 1), f = submit_cost(r, 0);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL); /* 2 x 6 is in, 3 x 6 is not */
    assert_batch(r, r->batches[0], d, e, 0.0);
    assert_state(r, f, TB_RECORD_QUEUED);
    rig_end(r);
}

static void lingers_batch_timeout(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    submit_cost(r, 1);
    assert_int_equal(turn(r), 0);
    assert_true(tb_next(r->b) == start_us + 1000);
    r->now_us += 900;
    submit_cost(r, 1);
    assert_int_equal(turn(r), 0);
    assert_true(tb_next(r->b) == start_us + 1000);
    assert_int_equal(turn_at(r, start_us + 999), 0);
    turn_at(r, start_us + 1000);
    assert_went(r, 1, TB_REASON_TIMEOUT);
    assert_int_equal(batch_of(r, r->batches[0]).size, 2);
    assert_true(batch_of(r, r->batches[0]).started_us == start_us + 1000);
    assert_true(tb_next(r->b) == TB_NEVER_US);
    rig_end(r);
}

static void no_lingering_at_all(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.batch_timeout_us = 0;
    rig *r = rig_start(&config);
    submit_cost(r, 1);
    turn(r);
    assert_went(r, 1, TB_REASON_TIMEOUT);
    rig_end(r);
}

static void half_a_timeout_makes_due(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    submit_cost(r, 1);
    submit_timeout(r, 1, 301);
    assert_int_equal(turn(r), 0);
    assert_int_equal(turns_until(r, start_us + 149), 0);
    turn_at(r, start_us + 150);
    assert_went(r, 1, TB_REASON_TIMEOUT);
    assert_int_equal(batch_of(r, r->batches[0]).size, 2);
    finish(r, r->batches[0]);
    tb_id gone = submit_timeout(r, 1, 100); /* due no longer, once it is gone */
    submit_cost(r, 1);
    turn_at(r, r->now_us + 10);
    assert_int_equal(tb_cancel(r->b, gone, r->now_us), TB_OK);
    assert_int_equal(turns_until(r, start_us + 1149), 0);
    assert_int_equal(turn_at(r, start_us + 1150), 1);
    rig_end(r);
}

static void waiting_counts_as_lingering(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 2;
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    tb_id busy = occupy(r);
    tb_id first = submit_cost(r, 1), second = submit_cost(r, 1), third = submit_waiting(r, 1);
    turn_at(r, start_us + 600);
    assert_state(r, third, TB_RECORD_WAITING);
    assert_int_equal(tb_cancel(r->b, first, r->now_us), TB_OK);
    assert_int_equal(tb_cancel(r->b, second, r->now_us), TB_OK);
    turn(r);
    finish(r, busy);
    assert_int_equal(turns_until(r, start_us + 999), 0);
    assert_int_equal(turn_at(r, start_us + 1000), 1);
    assert_batch(r, r->batches[0], third, 0.0);
    assert_true(stats(r).wait_us.max == 1000);
    rig_end(r);
}

static void max_wait_makes_due(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_wait_us = 200;
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    submit_cost(r, 1);
    assert_int_equal(turns_until(r, start_us + 199), 0);
    turn_at(r, start_us + 200);
    assert_went(r, 1, TB_REASON_TIMEOUT);
    finish(r, r->batches[0]);
    config.max_wait_us = 5000; /* above batch_timeout it changes nothing */
    set(r, &config);
    submit_cost(r, 1);
    turn(r);
    assert_true(tb_next(r->b) == start_us + 1200);
    rig_end(r);
}

static void the_cap_is_exact(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_concurrent_batches = 3;
    rig *r = rig_start(&config);
    submit_many(r, 20, 1);
    assert_int_equal(turn(r), 3);
    assert_true(stats(r).running_batches == 3 && stats(r).queue_size == 8);
    tb_id first = r->batches[0], second = r->batches[1];
    finish(r, second);
    finish(r, first);
    assert_int_equal(turn(r), 2);
    assert_int_equal(turn(r), 0);
    assert_true(stats(r).running_batches == 3 && stats(r).queue_size == 0);
    rig_end(r);
}

static void ids_and_costs_in_order(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id expected[4], ids[4] = {0, 0, 0, 77};
    double costs[4] = {0};
    for (int i = 0; i < 4; i++) expected[i] = submit_cost(r, i + 0.5);
    assert_int_equal(turn(r), 1);
    tb_batch read;
    assert_int_equal(tb_batch_read(r->b, r->batches[0], &read, ids, costs, 3), TB_OK);
    assert_int_equal(read.size, 4);
    for (int i = 0; i < 3; i++) assert_true(ids[i] == expected[i] && costs[i] == i + 1);
    assert_true(ids[3] == 77 && costs[3] == 0); /* not beyond the capacity */
    assert_true(read.deadline_us == TB_NEVER_US);
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("F1: a batch's cost never exceeds the budget", the_budget_is_strict),
        TEST("F1: a record above the budget goes alone, and is counted", oversize_goes_alone),
        TEST("F1: with on_oversize = reject it is refused", oversize_is_refused),
        TEST("F2: a batch of max_batch_size records is full", full_by_size),
        TEST("F2: a batch is full when nothing of cost 1 would fit", full_by_budget),
        TEST("F2: a batch is full when the next does not fit; that one stays at the head",
             full_because_the_next_does_not_fit),
        TEST("F2: a full batch stays full when the record behind it, or a member, is cancelled",
             still_full_after_a_cancel),
        TEST("F2, F9: what is full by padding is found out anew when records come and go",
             padded_full_without_a_member),
        TEST("F9: padded cost is size times the largest, for what fits and everywhere",
             padded_cost),
        TEST("F3: dispatches a batch that is not full when its oldest has waited batch_timeout_s",
             lingers_batch_timeout),
        TEST("F3: batch_timeout_s = 0 is due at once", no_lingering_at_all),
        TEST("F3: half of a record's timeout_s makes the queue due, while it is there",
             half_a_timeout_makes_due),
        TEST("F3: time spent waiting for room counts", waiting_counts_as_lingering),
        TEST("X2: max_wait_s makes the queue due", max_wait_makes_due),
        TEST("F6: max_concurrent_batches is exact in both directions", the_cap_is_exact),
        TEST("R1: a batch is read in the order of submission", ids_and_costs_in_order),
    };
    return cmocka_run_group_tests_name("batch", tests, NULL, NULL);
}
