/* test_core_deadline.c - deadlines of records, and flush: C2, C4, F3. */
#include "rig.h"

static void the_deadline_bounds_the_wait(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_concurrent_batches = 1;
    config.max_queue_size = 2;
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    submit_many(r, 1, 100);
    assert_int_equal(turn(r), 1); /* the only slot is taken */
    tb_id late = submit_timeout(r, 1, 50), later = submit_timeout(r, 1, 60);
    tb_id waiting = submit(r, (tb_submission){.cost = 1, .timeout_us = 55, .flags = TB_MAY_WAIT});
    turn_at(r, start_us + 49);
    assert_int_equal(r->event_count, 0);
    turn_at(r, start_us + 50);
    assert_event(r, 0, TB_EVENT_EXPIRED, late);
    assert_event(r, 1, TB_EVENT_ADMITTED, waiting);
    turn_at(r, start_us + 55);
    assert_event(r, 0, TB_EVENT_EXPIRED, waiting);
    turn_at(r, start_us + 60);
    assert_event(r, 0, TB_EVENT_EXPIRED, later);
    assert_true(stats(r).total_expired == 3 && stats(r).total_batches == 1);
    rig_end(r);
}

static void expiry_while_waiting(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 1;
    config.batch_timeout_us = 1000000;
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    occupy(r);
    submit_cost(r, 1);
    tb_id waiting = submit(r, (tb_submission){.cost = 1, .timeout_us = 10, .flags = TB_MAY_WAIT});
    turn(r);
    turns_until(r, start_us + 9);
    assert_state(r, waiting, TB_RECORD_WAITING);
    turn_at(r, start_us + 10);
    assert_event(r, 0, TB_EVENT_EXPIRED, waiting);
    assert_true(stats(r).total_submitted == 3 && stats(r).total_expired == 1);
    assert_true(stats(r).waiting_submits == 0 && stats(r).total_rejected == 0);
    rig_end(r);
}

static void the_deadline_counts_from_the_call(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.batch_timeout_us = 1000000;
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    r->now_us += 70;
    tb_id a = submit(r, (tb_submission){.cost = 1, .timeout_us = 100, .submitted_us = start_us});
    turn_at(r, start_us + 99);
    assert_int_equal(r->batch_count, 1); /* half of the time has passed long ago */
    assert_batch(r, r->batches[0], a, 0.0);
    assert_true(batch_of(r, r->batches[0]).deadline_us == start_us + 100);
    turn_at(r, start_us + 1000);
    assert_state(r, a, TB_RECORD_RUNNING); /* a running record keeps its answer */
    finish(r, r->batches[0]);
    assert_true(stats(r).latency_us.max == 1000 && stats(r).wait_us.max == 99);
    rig_end(r);
}

static void never_earlier_than_the_one_ahead(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    r->now_us += 500;
    submit(r, (tb_submission){.cost = 1, .submitted_us = start_us + 400});
    tb_id b =
        submit(r, (tb_submission){.cost = 1, .submitted_us = start_us + 100, .timeout_us = 2000});
    assert_int_equal(turns_until(r, start_us + 1399), 0);
    assert_int_equal(turn_at(r, start_us + 1400), 1);
    assert_true(batch_of(r, r->batches[0]).deadline_us == start_us + 2400);
    assert_state(r, b, TB_RECORD_RUNNING);
    rig_end(r);
}

static void expiry_goes_before_dispatch(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    tb_id a = submit_timeout(r, 1, 1000), b = submit_cost(r, 1);
    r->now_us = start_us + 1000;
    assert_true(tb_form(r->b, r->now_us) == 0); /* poll has an expiry to report */
    turn(r);
    assert_event(r, 0, TB_EVENT_EXPIRED, a);
    assert_batch(r, r->batches[0], b, 0.0);
    rig_end(r);
}

static void cut_records_expire(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.prefetch_batches = 1;
    config.max_batch_size = 2;
    rig *r = rig_start(&config);
    submit_many(r, 2, 1);
    turn(r);
    tb_id a = submit_timeout(r, 1, 10), b = submit_cost(r, 1), c = submit_cost(r, 1);
    turn(r);
    assert_state(r, a, TB_RECORD_CUT);
    assert_state(r, c, TB_RECORD_QUEUED);
    turns_until(r, r->now_us + 10);
    assert_state(r, a, TB_RECORD_NONE);
    assert_state(r, b, TB_RECORD_CUT);
    assert_state(r, c, TB_RECORD_CUT); /* the cuts behind it moved up */
    assert_true(stats(r).total_expired == 1 && stats(r).prefetched_batches == 1);
    rig_end(r);
}

static void for_ever_is_no_deadline(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_concurrent_batches = 1;
    rig *r = rig_start(&config);
    submit_many(r, 4, 1);
    turn(r);
    tb_id a = submit_timeout(r, 1, INT64_MAX), b = submit_timeout(r, 1, INT64_MAX - 1);
    turns_until(r, r->now_us + 1000000000000);
    assert_state(r, a, TB_RECORD_QUEUED);
    assert_state(r, b, TB_RECORD_QUEUED);
    rig_end(r);
}

static void flush_makes_due(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 3;
    rig *r = rig_start(&config);
    tb_flush(r->b, r->now_us); /* nothing there: nothing happens */
    tb_id a = submit_cost(r, 1), b = submit_cost(r, 1);
    assert_int_equal(turn(r), 0);
    tb_flush(r->b, r->now_us);
    turn(r);
    assert_went(r, 1, TB_REASON_TIMEOUT);
    assert_batch(r, r->batches[0], a, b, 0.0);

    tb_id queued[3] = {submit_cost(r, 1), submit_cost(r, 1), submit_cost(r, 1)};
    tb_id waiting = submit_waiting(r, 1), busy = r->batches[0];
    tb_flush(r->b, r->now_us);
    for (int i = 0; i < 3; i++) assert_int_equal(tb_cancel(r->b, queued[i], r->now_us), TB_OK);
    turn(r);
    finish(r, busy);
    assert_int_equal(turn(r), 0); /* it was not queued when flush was called */
    assert_state(r, waiting, TB_RECORD_QUEUED);
    rig_end(r);
}

static void flush_of_cut_records(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.prefetch_batches = 1;
    config.max_batch_size = 2;
    rig *r = rig_start(&config);
    submit_many(r, 2, 1);
    turn(r);
    tb_id a = submit_cost(r, 1), b = submit_cost(r, 1), batch = r->batches[0];
    turn(r);
    assert_true(stats(r).prefetched_records == 2 && stats(r).queue_size == 0);
    tb_flush(r->b, r->now_us);
    assert_int_equal(tb_cancel(r->b, b, r->now_us), TB_OK); /* a is back in the queue */
    finish(r, batch);
    turn(r);
    assert_went(r, 1, TB_REASON_TIMEOUT);
    assert_batch(r, r->batches[0], a, 0.0);
    rig_end(r);
}

static void a_record_knows_its_deadline(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    int64_t called_us = r->now_us - 300;
    tb_submission late = {.cost = 1, .timeout_us = 500, .submitted_us = called_us};
    tb_id timed = submit(r, late), plain = submit_cost(r, 99);
    assert_true(tb_record_deadline(r->b, timed) == called_us + 500);
    assert_true(tb_record_deadline(r->b, plain) == TB_NEVER_US);
    assert_int_equal(turn(r), 1);
    assert_true(tb_record_deadline(r->b, timed) == called_us + 500); /* running, too */
    finish(r, r->batches[0]);
    assert_true(tb_record_deadline(r->b, timed) == TB_ENOENT);
    assert_true(tb_record_deadline(r->b, NAN) == TB_ENOENT);
    rig_end(r);
}

static void half_a_batch(uint32_t cost_model, double cost)
{
    tb_config config = small_config();
    config.cost_model = cost_model;
    config.max_batch_size = 3;
    config.inference_timeout_us = 400;
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    tb_id ids[3] = {submit_timeout(r, 5, 900), submit_timeout(r, 20, 700), submit_timeout(r, 10, 800)};
    tb_id other = submit_cost(r, 1);
    assert_int_equal(turn(r), 1);
    tb_id batch = r->batches[0];
    config.cost_model = TB_COST_SUM + TB_COST_PADDED - cost_model; /* that of the batch counts */
    set(r, &config);
    tb_batch read, half = {.size = 77};
    assert_int_equal(tb_batch_read(r->b, batch, &read, NULL, NULL, 0), TB_OK);
    assert_true(read.deadline_us == start_us + 700);
    tb_id wanted[2] = {ids[0], ids[2]}, wrong[2] = {ids[0], other};
    r->now_us += 300;
    assert_int_equal(tb_batch_half(r->b, batch, wrong, 2, &half, r->now_us), TB_ENOENT);
    assert_true(half.size == 77 && tb_next(r->b) == start_us + 400); /* nothing has changed */
    assert_int_equal(tb_batch_half(r->b, batch, wanted, 2, &half, r->now_us), TB_OK);
    assert_true(half.size == 2 && half.sum == 15 && half.largest == 10 && half.padded == 20 && half.cost == cost);
    assert_true(half.deadline_us == start_us + 800 && half.started_us == start_us);
    assert_true(tb_next(r->b) == start_us + 700); /* the timeout runs anew */
    assert_int_equal(tb_settle(r->b, ids[0], TB_COMPLETED, r->now_us), TB_OK);
    assert_int_equal(tb_batch_half(r->b, batch, wanted, 2, &half, r->now_us), TB_ENOENT);
    finish(r, batch);
    assert_int_equal(tb_batch_half(r->b, batch, wanted, 0, &half, r->now_us), TB_ENOENT);
    rig_end(r);
}

static void halves_are_described(void **state)
{
    (void)state;
    half_a_batch(TB_COST_SUM, 15);
    half_a_batch(TB_COST_PADDED, 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("C2: a record not dispatched by its deadline expires", the_deadline_bounds_the_wait),
        TEST("C2: a record may expire in the line; it was submitted, then", expiry_while_waiting),
        TEST("C2, F3: deadline and half of it count from the call of submit",
             the_deadline_counts_from_the_call),
        TEST("F3: no record counts as earlier than the one ahead of it",
             never_earlier_than_the_one_ahead),
        TEST("C2: at one instant expiries go before dispatch", expiry_goes_before_dispatch),
        TEST("C2, F4: cut records expire, and the cuts behind move up", cut_records_expire),
        TEST("C2: a timeout of the largest integer never expires a record",
             for_ever_is_no_deadline),
        TEST("C4: flush makes due what is queued, not what still waits", flush_makes_due),
        TEST("C2: a record's deadline is what the call of submit and its timeout make it, to its end",
             a_record_knows_its_deadline),
        TEST("R6: a half of a batch is described exactly, and its timeout runs anew",
             halves_are_described),
        TEST("C4, F4: flush counts for records that are cut", flush_of_cut_records),
    };
    return cmocka_run_group_tests_name("deadline", tests, NULL, NULL);
}
