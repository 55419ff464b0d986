/* test_core_abandon.c - calls that go on after their timeout, and what a stuck queue shows: R5. */
#include "rig.h"

static tb_config timed_config(int32_t max_abandoned_calls)
{
    tb_config config = small_config();
    config.inference_timeout_us = 100;
    config.max_abandoned_calls = max_abandoned_calls;
    config.abandon_us = 5000;
    return config;
}

/* A call that takes longer than its timeout: its batch, which is over. */
static tb_id time_out(rig *r)
{
    tb_id batch = occupy(r);
    turn_at(r, r->now_us + 100);
    assert_event(r, 0, TB_EVENT_BATCH_TIMED_OUT, batch);
    return batch;
}

static void ended(rig *r, tb_id batch)
{
    assert_int_equal(tb_call_ended(r->b, batch, r->now_us), TB_OK);
}

static int has_slot(rig *r)
{
    submit(r, (tb_submission){.cost = 1, .batch_timeout_us = TB_AT_ONCE});
    if (turn(r) == 0) return 0;
    finish(r, r->batches[0]);
    return 1;
}

static void without_a_limit(void **state)
{
    (void)state;
    tb_config config = timed_config(TB_NO_LIMIT);
    rig *r = rig_start(&config);
    tb_id batches[40];
    for (int i = 0; i < 40; i++) batches[i] = time_out(r);
    assert_true(stats(r).abandoned_calls == 40 && has_slot(r));
    for (int i = 0; i < 40; i++) ended(r, batches[i]);
    assert_true(stats(r).abandoned_calls == 0);
    assert_int_equal(tb_call_ended(r->b, batches[0], r->now_us), TB_ENOENT); /* once is enough */
    assert_int_equal(tb_call_ended(r->b, 0, r->now_us), TB_ENOENT);
    rig_end(r);
}

static void always_held(void **state)
{
    (void)state;
    tb_config config = timed_config(0);
    rig *r = rig_start(&config);
    tb_id batch = time_out(r);
    int64_t held_us = r->now_us;
    assert_true(stats(r).running_batches == 0 && stats(r).abandoned_calls == 1);
    assert_true(!has_slot(r));
    assert_true(tb_next(r->b) == held_us + 5000);
    assert_int_equal(tb_batch_finish(r->b, batch, TB_COMPLETED, r->now_us), TB_ENOENT);
    r->now_us += 300;
    ended(r, batch);
    assert_int_equal(turn(r), 1); /* the call has ended: what waited for it goes */
    assert_true(stats(r).busy_us == 100 + 300); /* a held slot is busy */
    rig_end(r);
}

static void held_for_so_long(void **state)
{
    (void)state;
    tb_config config = timed_config(0);
    rig *r = rig_start(&config);
    tb_id batch = time_out(r);
    assert_true(!has_slot(r));
    assert_int_equal(turns_until(r, r->now_us + 4999), 0);
    turn_at(r, r->now_us + 1);
    assert_went(r, 1, TB_REASON_TIMEOUT);
    assert_true(stats(r).abandoned_calls == 1); /* it still runs */
    ended(r, batch);
    assert_true(stats(r).abandoned_calls == 0 && stats(r).running_batches == 1);
    rig_end(r);
}

static void so_many_may_go_on(void **state)
{
    (void)state;
    tb_config config = timed_config(2);
    rig *r = rig_start(&config);
    tb_id first = time_out(r), second = time_out(r), third = time_out(r);
    assert_true(stats(r).abandoned_calls == 3 && !has_slot(r)); /* two went on, the third holds its slot */
    ended(r, first); /* any of them */
    assert_int_equal(turn(r), 1);
    finish(r, r->batches[0]);
    assert_true(stats(r).abandoned_calls == 2);
    ended(r, third);
    ended(r, second);
    assert_true(has_slot(r));
    rig_end(r);
}

static void set_frees_slots(void **state)
{
    (void)state;
    tb_config config = timed_config(0);
    config.max_concurrent_batches = 2;
    rig *r = rig_start(&config);
    tb_id first = time_out(r), second = time_out(r);
    assert_true(!has_slot(r));
    config.max_abandoned_calls = 1;
    set(r, &config);
    assert_int_equal(turn(r), 1); /* the one held longest */
    ended(r, first);
    config.max_abandoned_calls = TB_NO_LIMIT;
    set(r, &config);
    assert_true(has_slot(r));
    ended(r, second);
    rig_end(r);
}

static void stop_does_not_wait_for_them(void **state)
{
    (void)state;
    tb_config config = timed_config(0);
    rig *r = rig_start(&config);
    tb_id batch = time_out(r);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    turn(r);
    assert_event(r, 0, TB_EVENT_DRAINED, 0);
    assert_true(stats(r).abandoned_calls == 1);
    assert_int_equal(tb_start(r->b, r->now_us), TB_OK);
    assert_true(has_slot(r)); /* a start finds all slots free */
    ended(r, batch);
    rig_end(r);
}

static void draining_obeys_the_limit(void **state)
{
    (void)state;
    tb_config config = timed_config(0);
    rig *r = rig_start(&config);
    time_out(r);
    int64_t held_us = r->now_us;
    submit_cost(r, 1);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    assert_int_equal(turns_until(r, held_us + 4999), 0);
    turn_at(r, held_us + 5000); /* at the latest: stop never waits for ever */
    assert_went(r, 1, TB_REASON_DRAIN);
    rig_end(r);
}

static void a_stopped_call_is_abandoned_too(void **state)
{
    (void)state;
    tb_config config = timed_config(0);
    rig *r = rig_start(&config);
    tb_id batch = occupy(r);
    tb_stop(r->b, 10, r->now_us);
    turn_at(r, r->now_us + 10);
    assert_event(r, 0, TB_EVENT_BATCH_STOPPED, batch);
    assert_int_equal(tb_state(r->b), TB_STOPPED);
    assert_true(stats(r).abandoned_calls == 1);
    ended(r, batch); /* also when stopped */
    assert_true(stats(r).abandoned_calls == 0);
    rig_end(r);
}

static void the_oldest_are_forgotten(void **state)
{
    (void)state;
    enum { KEPT = 4096 };
    tb_config config = timed_config(TB_NO_LIMIT);
    rig *r = rig_start(&config);
    tb_id first = time_out(r), second = time_out(r);
    for (int i = 2; i < KEPT + 1; i++) time_out(r);
    assert_true(stats(r).abandoned_calls == KEPT);
    assert_int_equal(tb_call_ended(r->b, first, r->now_us), TB_ENOENT);
    ended(r, second);
    rig_end(r);
}

static void a_stuck_queue_shows(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 1;
    config.max_concurrent_batches = 2;
    rig *r = rig_start(&config);
    assert_true(stats(r).oldest_queued_us == 0 && stats(r).oldest_running_us == 0);
    tb_id first = occupy(r);
    r->now_us += 1000;
    tb_id second = occupy(r);
    tb_id queued = submit_cost(r, 1);
    r->now_us += 50;
    tb_id waiting = submit_waiting(r, 1);
    r->now_us += 3000;
    assert_true(stats(r).oldest_running_us == 4050 && stats(r).oldest_queued_us == 3050);
    finish(r, first);
    turn(r);
    assert_state(r, queued, TB_RECORD_RUNNING);
    assert_true(stats(r).oldest_running_us == 3050 && stats(r).oldest_queued_us == 3000);
    assert_int_equal(tb_cancel(r->b, waiting, r->now_us), TB_OK);
    assert_true(stats(r).oldest_queued_us == 0);
    finish(r, second);
    assert_true(stats(r).oldest_running_us == 0);
    rig_end(r);
}

static void who_waits_in_line_is_queued_here(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_cost = 10;
    rig *r = rig_start(&config);
    occupy(r);
    tb_id queued = submit_cost(r, 10);
    submit_waiting(r, 5);
    r->now_us += 70;
    assert_int_equal(tb_cancel(r->b, queued, r->now_us), TB_OK); /* not let in yet */
    assert_true(stats(r).queue_size == 0 && stats(r).oldest_queued_us == 70);
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("R5: without max_abandoned_calls a timeout frees the slot; the calls that go on are counted",
             without_a_limit),
        TEST("R5: max_abandoned_calls = 0: the slot stays taken until its call ends", always_held),
        TEST("R5: or abandon_s after its timeout", held_for_so_long),
        TEST("R5: max_abandoned_calls = 2: two go on, the third holds its slot until any ends", so_many_may_go_on),
        TEST("R5, X4: a higher max_abandoned_calls frees slots", set_frees_slots),
        TEST("R5, C3: stop does not wait for a call that nobody waits for", stop_does_not_wait_for_them),
        TEST("R5, C3: what is queued when stop begins goes by the rule", draining_obeys_the_limit),
        TEST("R5: a call of a stopped batch is abandoned, too", a_stopped_call_is_abandoned_too),
        TEST("R5: beyond 4,096 the oldest count as ended", the_oldest_are_forgotten),
        TEST("stats: how long the oldest has been queued, and has run", a_stuck_queue_shows),
        TEST("stats: who waits in line is queued, for its age", who_waits_in_line_is_queued_here),
    };
    return cmocka_run_group_tests_name("abandon", tests, NULL, NULL);
}
