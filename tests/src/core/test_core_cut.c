/* test_core_cut.c - late binding and sealing ahead: F4, C1, X4. */
#include "rig.h"

/* One slot, taken by a batch of 2; then batches of 2, so many of them cut ahead. */
static rig *busy_rig(uint32_t prefetch)
{
    tb_config config = small_config();
    config.max_batch_size = 2;
    config.prefetch_batches = prefetch;
    rig *r = rig_start(&config);
    submit_many(r, 2, 1);
    assert_int_equal(turn(r), 1);
    return r;
}

static void finish_running(rig *r, tb_id *batch)
{
    finish(r, *batch);
    turn(r);
    assert_int_equal(r->batch_count, 1);
    *batch = r->batches[0];
}

static void due_but_not_full_stays_open(void **state)
{
    (void)state;
    rig *r = busy_rig(2);
    tb_id batch = r->batches[0], a = submit_cost(r, 1);
    turns_until(r, r->now_us + 5000);
    assert_state(r, a, TB_RECORD_QUEUED);
    assert_true(tb_next(r->b) == TB_NEVER_US);
    tb_id b = submit_cost(r, 1);
    finish_running(r, &batch);
    assert_went(r, 1, TB_REASON_FULL);
    assert_batch(r, batch, a, b, 0.0);
    rig_end(r);
}

static void full_ones_are_cut(void **state)
{
    (void)state;
    rig *r = busy_rig(2);
    tb_id id[7], batch = r->batches[0];
    for (int i = 0; i < 7; i++) id[i] = submit_cost(r, 2);
    assert_int_equal(turn(r), 0);
    tb_stats s = stats(r);
    assert_true(s.prefetched_batches == 2 && s.prefetched_records == 4);
    assert_true(s.queue_size == 3 && s.queue_cost == 6);
    for (int i = 0; i < 7; i++) assert_state(r, id[i], i < 4 ? TB_RECORD_CUT : TB_RECORD_QUEUED);
    assert_int_equal(tb_settle(r->b, id[0], TB_COMPLETED, r->now_us), TB_ESTATE);
    finish_running(r, &batch);
    assert_went(r, 1, TB_REASON_FULL);
    assert_batch(r, batch, id[0], id[1], 0.0);
    assert_true(stats(r).prefetched_batches == 2 && stats(r).queue_size == 1);
    rig_end(r);
}

static void nothing_is_cut_without_prefetch(void **state)
{
    (void)state;
    rig *r = busy_rig(0);
    submit_many(r, 7, 1);
    turn(r);
    assert_true(stats(r).prefetched_records == 0 && stats(r).queue_size == 7);
    rig_end(r);
}

static void cuts_make_room(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_batch_size = 2;
    config.prefetch_batches = 1;
    config.max_queue_size = 2;
    rig *r = rig_start(&config);
    submit_many(r, 2, 1);
    turn(r);
    tb_id a = submit_cost(r, 1), b = submit_cost(r, 1), c = submit_waiting(r, 1);
    turn(r); /* the cut made room, and nobody else will wake the pump */
    assert_state(r, a, TB_RECORD_CUT);
    assert_state(r, b, TB_RECORD_CUT);
    assert_state(r, c, TB_RECORD_QUEUED);
    assert_event(r, 0, TB_EVENT_ADMITTED, c);
    submit_cost(r, 1);
    assert_true(submit_cost(r, 1) == TB_EFULL);
    rig_end(r);
}

static void cancel_moves_the_cuts_up(void **state)
{
    (void)state;
    rig *r = busy_rig(2);
    tb_id id[5], batch = r->batches[0];
    for (int i = 0; i < 5; i++) id[i] = submit_cost(r, 1);
    turn(r);
    assert_int_equal(tb_cancel(r->b, id[1], r->now_us), TB_OK);
    turn(r);
    assert_true(stats(r).prefetched_records == 4 && stats(r).queue_size == 0);
    finish_running(r, &batch);
    assert_batch(r, batch, id[0], id[2], 0.0);
    finish_running(r, &batch);
    assert_batch(r, batch, id[3], id[4], 0.0);
    rig_end(r);
}

static void a_cut_that_is_no_longer_full_dissolves(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.prefetch_batches = 1;
    rig *r = rig_start(&config);
    submit_many(r, 4, 1);
    turn(r);
    tb_id batch = r->batches[0], a = submit_cost(r, 60), blocker = submit_cost(r, 60);
    turn(r);
    assert_state(r, a, TB_RECORD_CUT); /* full, as the next does not fit */
    assert_int_equal(tb_cancel(r->b, blocker, r->now_us), TB_OK);
    assert_int_equal(turn(r), 0);
    assert_state(r, a, TB_RECORD_QUEUED);
    assert_true(stats(r).prefetched_batches == 0 && stats(r).queue_cost == 60);
    tb_id c = submit_cost(r, 40);
    finish_running(r, &batch);
    assert_batch(r, batch, a, c, 0.0); /* it grew meanwhile */
    rig_end(r);
}

static void dissolved_cuts_may_exceed_the_bounds(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_batch_size = 2;
    config.prefetch_batches = 2;
    config.max_queue_size = 3;
    rig *r = rig_start(&config);
    tb_id batch;
    submit_many(r, 2, 1);
    turn(r);
    batch = r->batches[0];
    submit_many(r, 2, 1);
    turn(r);
    submit_many(r, 3, 1);
    turn(r);
    submit_many(r, 1, 1);
    turn(r);
    config.prefetch_batches = 0;
    set(r, &config);
    turn(r);
    assert_true(stats(r).queue_size == 6 && stats(r).prefetched_records == 0);
    assert_true(submit_cost(r, 1) == TB_EFULL);
    tb_id waiting = submit_waiting(r, 1);
    finish_running(r, &batch);
    finish_running(r, &batch);
    assert_state(r, waiting, TB_RECORD_QUEUED);
    rig_end(r);
}

static void set_cuts_anew(void **state)
{
    (void)state;
    rig *r = busy_rig(2);
    tb_config config;
    tb_id id[6], batch = r->batches[0];
    for (int i = 0; i < 6; i++) id[i] = submit_cost(r, 1);
    turn(r);
    tb_get(r->b, &config);
    config.max_batch_size = 3;
    set(r, &config);
    turn(r);
    assert_true(stats(r).prefetched_batches == 2 && stats(r).prefetched_records == 6);
    finish_running(r, &batch);
    assert_batch(r, batch, id[0], id[1], id[2], 0.0);
    config.max_batch_size = 1;
    set(r, &config);
    finish_running(r, &batch);
    assert_batch(r, batch, id[3], 0.0);
    assert_state(r, id[5], TB_RECORD_CUT);
    rig_end(r);
}

static void a_slot_that_set_adds_is_used(void **state)
{
    (void)state;
    rig *r = busy_rig(1);
    tb_config config;
    tb_id id[3];
    for (int i = 0; i < 3; i++) id[i] = submit_cost(r, 1);
    turn(r);
    tb_get(r->b, &config);
    config.max_concurrent_batches = 2;
    set(r, &config);
    assert_int_equal(turn(r), 1);
    assert_batch(r, r->batches[0], id[0], id[1], 0.0);
    rig_end(r);
}

static void a_cut_that_loses_all(void **state)
{
    (void)state;
    rig *r = busy_rig(2);
    tb_id batch = r->batches[0], a = submit_cost(r, 1), b = submit_cost(r, 1);
    turn(r);
    assert_int_equal(tb_cancel(r->b, a, r->now_us), TB_OK);
    assert_int_equal(tb_cancel(r->b, b, r->now_us), TB_OK);
    assert_null(tb_verify(r->b));
    finish(r, batch);
    assert_int_equal(turn(r), 0);
    assert_true(stats(r).prefetched_batches == 0 && stats(r).prefetched_records == 0);
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("F4: while every slot is busy a batch that is due but not full stays open",
             due_but_not_full_stays_open),
        TEST("F4: full batches are cut ahead, and count in neither queue_size nor queue_cost",
             full_ones_are_cut),
        TEST("F4: prefetch_batches = 0 cuts nothing", nothing_is_cut_without_prefetch),
        TEST("F4, S4: a cut makes room, and who waits gets in in the same turn", cuts_make_room),
        TEST("C1, F4: cancelling a cut record moves the cuts behind it up",
             cancel_moves_the_cuts_up),
        TEST("F4: a cut that is no longer full dissolves, and grows",
             a_cut_that_is_no_longer_full_dissolves),
        TEST("F4: where cuts dissolve, the queue may exceed its bounds until it drains",
             dissolved_cuts_may_exceed_the_bounds),
        TEST("X4, F4: set moves the cuts", set_cuts_anew),
        TEST("X4, F6: a slot that set adds is used at once", a_slot_that_set_adds_is_used),
        TEST("F4: cuts whose records are all cancelled are gone", a_cut_that_loses_all),
    };
    return cmocka_run_group_tests_name("cut", tests, NULL, NULL);
}
