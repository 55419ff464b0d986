/* test_core_stop.c - running batches, start and stop: R5, R6, C1, C3, C5, X4. */
#include "rig.h"

static rig *rig_with_inference_timeout(int64_t timeout_us)
{
    tb_config config = small_config();
    config.inference_timeout_us = timeout_us;
    return rig_start(&config);
}

static void inference_times_out(void **state)
{
    (void)state;
    rig *r = rig_with_inference_timeout(500);
    submit_many(r, 8, 1);
    turn(r);
    tb_id batch = r->batches[0];
    int64_t start_us = r->now_us;
    assert_true(tb_next(r->b) == start_us + 500);
    turn_at(r, start_us + 499);
    assert_int_equal(r->event_count, 0);
    turn_at(r, start_us + 500);
    assert_event(r, 0, TB_EVENT_BATCH_TIMED_OUT, batch);
    assert_int_equal(r->batch_count, 1); /* the slot is free again */
    assert_true(stats(r).total_failed == 4 && stats(r).running_batches == 1);
    assert_true(stats(r).service_us.count == 1 && stats(r).service_us.max == 500);
    assert_int_equal(tb_batch_finish(r->b, batch, TB_COMPLETED, r->now_us), TB_ENOENT);
    rig_end(r);
}

static void an_answer_before_the_poll_counts(void **state)
{
    (void)state;
    rig *r = rig_with_inference_timeout(500);
    submit_many(r, 4, 1);
    turn(r);
    r->now_us += 900;
    finish(r, r->batches[0]); /* the timeout had passed but was not served */
    turn(r);
    assert_int_equal(r->event_count, 0);
    assert_true(stats(r).total_completed == 4 && stats(r).total_failed == 0);
    rig_end(r);
}

static void retry_runs_the_timeout_anew(void **state)
{
    (void)state;
    rig *r = rig_with_inference_timeout(500);
    submit_many(r, 4, 1);
    turn(r);
    tb_id batch = r->batches[0];
    int64_t start_us = r->now_us;
    r->now_us += 400;
    assert_int_equal(tb_batch_retry(r->b, batch, r->now_us), TB_OK);
    turn_at(r, start_us + 899);
    assert_int_equal(r->event_count, 0);
    turn_at(r, start_us + 900);
    assert_event(r, 0, TB_EVENT_BATCH_TIMED_OUT, batch);
    rig_end(r);
}

static void records_settle_one_by_one(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id id[4];
    for (int i = 0; i < 4; i++) id[i] = submit_cost(r, 1);
    turn(r);
    tb_id batch = r->batches[0];
    r->now_us += 10;
    assert_int_equal(tb_settle(r->b, id[1], TB_COMPLETED, r->now_us), TB_OK);
    assert_batch(r, batch, id[0], id[2], id[3], 0.0);
    assert_int_equal(tb_settle(r->b, id[3], TB_FAILED, r->now_us), TB_OK);
    assert_int_equal(tb_settle(r->b, id[0], TB_EXPIRED, r->now_us), TB_OK);
    assert_int_equal(tb_settle(r->b, id[0], TB_COMPLETED, r->now_us), TB_ENOENT);
    assert_int_equal(tb_cancel(r->b, id[2], r->now_us), TB_OK);
    assert_true(batch_of(r, batch).size == 0);
    submit_many(r, 4, 1);
    assert_int_equal(turn(r), 0); /* the batch keeps its slot */
    finish(r, batch);
    assert_int_equal(turn(r), 1);
    tb_stats s = stats(r);
    assert_true(s.total_completed == 1 && s.total_failed == 1 && s.total_expired == 1);
    assert_true(s.total_cancelled == 1 && s.latency_us.count == 1 && s.latency_us.max == 10);
    assert_true(s.total_batches == 2 && s.service_us.count == 1);
    rig_end(r);
}

static void every_outcome_counts(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    for (int outcome = TB_COMPLETED; outcome <= TB_EXPIRED; outcome++) {
        submit_many(r, 4, 1);
        assert_int_equal(turn(r), 1);
        assert_int_equal(tb_batch_finish(r->b, r->batches[0], outcome, r->now_us), TB_OK);
    }
    tb_stats s = stats(r);
    assert_true(s.total_completed == 4 && s.total_failed == 4 && s.total_expired == 4);
    assert_true(s.latency_us.count == 4 && s.service_us.count == 3 && s.running_batches == 0);
    rig_end(r);
}

static void running_batches_keep_their_timeout(void **state)
{
    (void)state;
    rig *r = rig_with_inference_timeout(500);
    tb_config config;
    submit_many(r, 4, 1);
    turn(r);
    tb_get(r->b, &config);
    config.inference_timeout_us = 10;
    set(r, &config);
    turns_until(r, r->now_us + 499);
    assert_true(stats(r).running_batches == 1);
    turns_until(r, r->now_us + 1);
    assert_true(stats(r).running_batches == 0);
    rig_end(r);
}

static void set_is_all_or_nothing(void **state)
{
    (void)state;
    tb_config config = small_config(), kept;
    rig *r = rig_start(&config);
    config.batch_timeout_us = 7;
    config.max_queue_size = 0;
    assert_int_equal(tb_set(r->b, &config, r->now_us), TB_EOPTION);
    tb_get(r->b, &kept);
    assert_true(kept.batch_timeout_us == 1000 && kept.max_queue_size == 5000);
    submit_cost(r, 1);
    turn(r);
    config.max_queue_size = 2;
    set(r, &config);
    tb_get(r->b, &kept);
    assert_true(kept.batch_timeout_us == 7 && kept.max_queue_size == 2);
    turn(r);
    assert_true(tb_next(r->b) == r->now_us + 7); /* what is queued obeys the new knobs */
    assert_true(submit_cost(r, 1) > 0);
    assert_true(submit_cost(r, 1) == TB_EFULL);
    rig_end(r);
}

static void stop_drains(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 4;
    rig *r = rig_start(&config);
    submit_many(r, 4, 1);
    for (int i = 0; i < 2; i++) assert_true(submit_waiting(r, 1) > 0);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us); /* twice is fine */
    assert_int_equal(turn(r), 1);
    assert_int_equal(event_count(r, TB_EVENT_ADMITTED), 2);
    finish(r, r->batches[0]);
    turn(r);
    assert_went(r, 1, TB_REASON_DRAIN); /* no lingering */
    assert_int_equal(tb_state(r->b), TB_DRAINING);
    finish(r, r->batches[0]);
    turn(r);
    assert_int_equal(r->event_count, 1);
    assert_event(r, 0, TB_EVENT_DRAINED, 0);
    assert_int_equal(tb_state(r->b), TB_STOPPED);
    assert_true(stats(r).total_completed == 6);
    turn_at(r, r->now_us + 1);
    assert_int_equal(r->event_count, 0);
    assert_true(tb_next(r->b) == TB_NEVER_US);
    rig_end(r);
}

static void stop_of_an_empty_batcher(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    turn(r);
    assert_event(r, 0, TB_EVENT_DRAINED, 0);
    tb_stop(r->b, 5, r->now_us); /* when stopped nothing happens */
    turn(r);
    assert_int_equal(r->event_count, 0);
    assert_int_equal(tb_state(r->b), TB_STOPPED);
    rig_end(r);
}

static void stop_runs_out_of_time(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 6;
    config.prefetch_batches = 1;
    rig *r = rig_start(&config);
    tb_id id[12];
    for (int i = 0; i < 4; i++) id[i] = submit_cost(r, 1);
    turn(r);
    tb_id batch = r->batches[0];
    for (int i = 4; i < 10; i++) id[i] = submit_cost(r, 1);
    turn(r); /* 4 run, 4 are cut, 2 queued */
    for (int i = 10; i < 12; i++) id[i] = submit_cost(r, 1);
    for (int i = 0; i < 2; i++) submit_cost(r, 1);
    tb_id waiting = submit_waiting(r, 1), behind = submit_waiting(r, 1);
    assert_int_equal(tb_settle(r->b, id[0], TB_COMPLETED, r->now_us), TB_OK);
    tb_stop(r->b, 300, r->now_us);
    tb_stop(r->b, 900, r->now_us); /* the earlier end counts */
    turn(r);
    assert_true(tb_next(r->b) == r->now_us + 300);
    turn_at(r, r->now_us + 299);
    assert_int_equal(r->event_count, 0);
    turn_at(r, r->now_us + 1);
    assert_int_equal(event_count(r, TB_EVENT_STOPPED), 10);
    assert_int_equal(event_count(r, TB_EVENT_REFUSED), 2);
    assert_int_equal(event_count(r, TB_EVENT_BATCH_STOPPED), 1);
    assert_event(r, r->event_count - 1, TB_EVENT_DRAINED, 0);
    assert_int_equal(tb_state(r->b), TB_STOPPED);
    tb_stats s = stats(r);
    assert_true(s.total_submitted == 14 && s.total_completed == 1 && s.total_failed == 13);
    assert_true(s.total_rejected == 2);
    assert_state(r, waiting, TB_RECORD_NONE);
    assert_state(r, behind, TB_RECORD_NONE);
    assert_int_equal(tb_batch_finish(r->b, batch, TB_COMPLETED, r->now_us), TB_ENOENT);
    rig_end(r);
}

static void an_earlier_end_counts(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    submit_many(r, 4, 1);
    turn(r);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    tb_stop(r->b, 500, r->now_us);
    tb_stop(r->b, 0, r->now_us);
    turn(r);
    assert_event(r, 0, TB_EVENT_BATCH_STOPPED, r->event_count ? r->events[0].id : 0);
    assert_int_equal(tb_state(r->b), TB_STOPPED);
    rig_end(r);
}

static void an_empty_batch_does_not_hold_up_stop(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_concurrent_batches = 2;
    rig *r = rig_start(&config);
    tb_id id[8];
    for (int i = 0; i < 8; i++) id[i] = submit_cost(r, 1);
    assert_int_equal(turn(r), 2);
    tb_id first = r->batches[0], second = r->batches[1];
    for (int i = 0; i < 4; i++) assert_int_equal(tb_cancel(r->b, id[i], r->now_us), TB_OK);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    turn(r);
    assert_int_equal(r->event_count, 0); /* the other still has records */
    for (int i = 4; i < 8; i++) assert_int_equal(tb_cancel(r->b, id[i], r->now_us), TB_OK);
    turn(r);
    assert_int_equal(r->event_count, 3);
    assert_int_equal(event_count(r, TB_EVENT_BATCH_STOPPED), 2);
    assert_event(r, 2, TB_EVENT_DRAINED, 0);
    assert_int_equal(tb_batch_finish(r->b, first, TB_COMPLETED, r->now_us), TB_ENOENT);
    assert_int_equal(tb_batch_finish(r->b, second, TB_COMPLETED, r->now_us), TB_ENOENT);
    assert_true(stats(r).total_cancelled == 8 && stats(r).total_failed == 0);
    rig_end(r);
}

static void start_after_stop(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    assert_int_equal(tb_start(r->b, r->now_us), TB_ERUNNING);
    submit_many(r, 4, 1);
    turn_at(r, r->now_us + 5000);
    tb_stop(r->b, 100000, r->now_us);
    assert_int_equal(tb_start(r->b, r->now_us), TB_ERUNNING); /* draining is not stopped */
    finish(r, r->batches[0]);
    turn(r);
    assert_int_equal(tb_state(r->b), TB_STOPPED);

    r->now_us = 1000; /* the clock may start anew */
    assert_int_equal(tb_start(r->b, r->now_us), TB_OK);
    assert_int_equal(tb_state(r->b), TB_RUNNING);
    tb_id id = submit_timeout(r, 1, 300);
    assert_int_equal(turn(r), 0);
    assert_true(tb_next(r->b) == 1150);
    turn_at(r, 1150);
    assert_batch(r, r->batches[0], id, 0.0);
    assert_true(batch_of(r, r->batches[0]).deadline_us == 1300);
    finish(r, r->batches[0]);
    turns_until(r, 1000000000); /* the end of the first stop means nothing any more */
    assert_int_equal(tb_state(r->b), TB_RUNNING);
    assert_true(stats(r).total_completed == 5); /* adds up over restarts */
    rig_end(r);
}

static void one_instant_in_order(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.inference_timeout_us = 100;
    config.max_queue_size = 1;
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    submit_many(r, 1, 100);
    turn(r);
    tb_id batch = r->batches[0], late = submit_timeout(r, 1, 100), waiting = submit_waiting(r, 1);
    turn_at(r, start_us + 100);
    assert_event(r, 0, TB_EVENT_BATCH_TIMED_OUT, batch);
    assert_event(r, 1, TB_EVENT_EXPIRED, late);
    assert_event(r, 2, TB_EVENT_ADMITTED, waiting);
    assert_int_equal(r->event_count, 3);
    rig_end(r);
}

static void the_clock_never_goes_back(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    submit_cost(r, 1);
    turn_at(r, start_us + 500);
    r->now_us = start_us - 5000;
    submit_timeout(r, 1, 1000); /* at 500, says the core */
    r->now_us = start_us + 500;
    turn(r);
    assert_true(tb_next(r->b) == start_us + 1000);
    assert_int_equal(turn_at(r, start_us + 1000), 1);
    assert_true(batch_of(r, r->batches[0]).deadline_us == start_us + 1500);
    assert_int_equal(tb_batch_finish(r->b, r->batches[0], TB_COMPLETED, 0), TB_OK);
    assert_true(stats(r).latency_us.max == 1000 && stats(r).service_us.max == 0);
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("R5: when inference_timeout_s passes the batch fails and its slot is free",
             inference_times_out),
        TEST("R5: an answer that comes before the timeout is served counts",
             an_answer_before_the_poll_counts),
        TEST("R6: a retry runs inference_timeout_s anew", retry_runs_the_timeout_anew),
        TEST("R6: records settle one by one; the batch keeps its slot", records_settle_one_by_one),
        TEST("C5: finishing counts each record by its outcome", every_outcome_counts),
        TEST("X4: running batches keep their settings", running_batches_keep_their_timeout),
        TEST("X4: set is all or nothing, and holds for what is queued", set_is_all_or_nothing),
        TEST("C3: stop dispatches what is queued and waiting, then is stopped", stop_drains),
        TEST("C3: stop of an empty batcher, and of a stopped one", stop_of_an_empty_batcher),
        TEST("C3: when stop runs out of time what is left fails; who waits is rejected",
             stop_runs_out_of_time),
        TEST("C3: called again, the earlier end counts", an_earlier_end_counts),
        TEST("C3: batches without records do not hold up stop",
             an_empty_batch_does_not_hold_up_stop),
        TEST("C3: start works after stop, with a new clock, and not before", start_after_stop),
        TEST("C2: at one instant: batches timed out, expiries, admissions", one_instant_in_order),
        TEST("time: a now below an earlier one counts as the earlier one",
             the_clock_never_goes_back),
    };
    return cmocka_run_group_tests_name("stop", tests, NULL, NULL);
}
