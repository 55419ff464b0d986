/* test_core_eager.c - dispatching early, and what delays it: F4, F5, F7. */
#include "rig.h"

static void eager_takes_what_is_there(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.policy = TB_POLICY_EAGER;
    rig *r = rig_start(&config);
    tb_id a = submit_cost(r, 1), b = submit_cost(r, 1);
    turn(r);
    assert_went(r, 1, TB_REASON_IDLE);
    assert_batch(r, r->batches[0], a, b, 0.0); /* F7: all of one turn, one decision */
    tb_id c = submit_cost(r, 1);
    turns_until(r, r->now_us + 5000);
    assert_state(r, c, TB_RECORD_QUEUED); /* the slot is busy: it stays open */
    submit_many(r, 2, 1);
    finish(r, r->batches[0]);
    turn(r);
    assert_went(r, 1, TB_REASON_IDLE);
    assert_int_equal(batch_of(r, r->batches[0]).size, 3);
    rig_end(r);
}

static void min_batch_size_delays_eager(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.policy = TB_POLICY_EAGER;
    config.min_batch_size = 3;
    rig *r = rig_start(&config);
    int64_t start_us = r->now_us;
    submit_many(r, 2, 1);
    assert_int_equal(turn(r), 0);
    submit_cost(r, 1);
    turn(r);
    assert_went(r, 1, TB_REASON_IDLE);
    finish(r, r->batches[0]);

    submit_cost(r, 100); /* overruled by full */
    turn(r);
    assert_went(r, 1, TB_REASON_FULL);
    finish(r, r->batches[0]);

    submit_cost(r, 1); /* by due */
    assert_int_equal(turns_until(r, start_us + 999), 0);
    turn_at(r, start_us + 1000);
    assert_went(r, 1, TB_REASON_TIMEOUT);
    finish(r, r->batches[0]);

    submit_cost(r, 1); /* and by draining */
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    turn(r);
    assert_went(r, 1, TB_REASON_DRAIN);
    rig_end(r);
}

static void min_batch_size_leaves_fifo_alone(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.min_batch_size = 4;
    rig *r = rig_start(&config);
    submit_cost(r, 1);
    assert_int_equal(turns_until(r, r->now_us + 1000), 1);
    config.min_batch_size = 5;
    assert_int_equal(tb_set(r->b, &config, r->now_us), TB_EMINMAX);
    assert_null(tb_new(&config));
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("F4, F7: eager takes all that is there when a slot is idle",
             eager_takes_what_is_there),
        TEST("F5: min_batch_size delays eager; full, due and draining overrule it",
             min_batch_size_delays_eager),
        TEST("F5: min_batch_size does not delay fifo beyond due; above max_batch_size it is an "
             "error",
             min_batch_size_leaves_fifo_alone),
    };
    return cmocka_run_group_tests_name("eager", tests, NULL, NULL);
}
