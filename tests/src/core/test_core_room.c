/* test_core_room.c - a queue that can take no more: F2, S5. */
#include "rig.h"

/* Long lingering, so that nothing goes because it is due. */
static tb_config patient_config(void)
{
    tb_config config = small_config();
    config.batch_timeout_us = 1000000;
    return config;
}

static void the_size_is_reached(void **state)
{
    (void)state;
    tb_config config = patient_config();
    config.max_queue_size = 3; /* a batch would have 4 */
    rig *r = rig_start(&config);
    submit_many(r, 2, 1);
    assert_int_equal(turn(r), 0);
    submit_many(r, 1, 1);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL);
    assert_int_equal(batch_of(r, r->batches[0]).size, 3);
    rig_end(r);
}

static void only_while_a_slot_is_idle(void **state)
{
    (void)state;
    tb_config config = patient_config();
    config.max_queue_size = 3;
    config.prefetch_batches = 2;
    rig *r = rig_start(&config);
    occupy(r);
    submit_many(r, 3, 1);
    turn(r);
    assert_true(stats(r).queue_size == 3 && stats(r).prefetched_records == 0); /* nothing is cut for it */
    rig_end(r);
}

static void someone_was_refused(void **state)
{
    (void)state;
    tb_config config = patient_config();
    config.max_queue_cost = 50;
    rig *r = rig_start(&config);
    submit_cost(r, 40);
    assert_int_equal(turn(r), 0);
    assert_true(submit_cost(r, 20) == TB_EFULL);
    assert_true(tb_next(r->b) <= r->now_us); /* there is something to do */
    turn(r);
    assert_went(r, 1, TB_REASON_FULL);
    finish(r, r->batches[0]);
    submit_cost(r, 40);
    assert_int_equal(turn(r), 0); /* that was before the last dispatch */
    assert_int_equal(tb_submit_check(r->b, (double[]){20}, 1, 0, NULL), TB_EFULL);
    assert_int_equal(turn(r), 1);
    rig_end(r);
}

static void other_refusals_are_none(void **state)
{
    (void)state;
    tb_config config = patient_config();
    config.max_queue_size = 3;
    config.on_oversize = TB_OVERSIZE_REJECT;
    rig *r = rig_start(&config);
    submit_cost(r, 1);
    assert_true(submit_cost(r, 1000) == TB_EOVERSIZE);
    assert_true(submit_cost(r, NAN) == TB_ECOST);
    assert_int_equal(tb_submit_check(r->b, (double[]){1, 1, 1, 1}, 4, 0, NULL), TB_ETOOLARGE);
    tb_refuse(r->b, 1);
    assert_int_equal(turn(r), 0);
    assert_true(stats(r).total_rejected == 1 + 4 + 1);
    rig_end(r);
}

static void someone_waits(void **state)
{
    (void)state;
    tb_config config = patient_config();
    config.max_queue_cost = 50;
    rig *r = rig_start(&config);
    tb_id a = submit_cost(r, 40), b = submit_waiting(r, 20);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL);
    assert_batch(r, r->batches[0], a, 0.0);
    finish(r, r->batches[0]);
    assert_int_equal(turn(r), 0); /* nobody is kept out now */
    assert_state(r, b, TB_RECORD_QUEUED);
    rig_end(r);
}

/* Two slots: what the first batch leaves has room for those in line, who are let in first. */
static void who_has_room_is_let_in_first(void **state)
{
    (void)state;
    tb_config config = patient_config();
    config.max_concurrent_batches = 2;
    config.max_queue_size = 5;
    rig *r = rig_start(&config);
    submit_many(r, 5, 1);
    for (int i = 0; i < 3; i++) assert_true(submit_waiting(r, 1) > 0);
    assert_int_equal(turn(r), 2);
    assert_int_equal(batch_of(r, r->batches[0]).size, 4);
    assert_int_equal(batch_of(r, r->batches[1]).size, 4);
    rig_end(r);
}

static void eager_goes_below_its_minimum(void **state)
{
    (void)state;
    tb_config config = patient_config();
    config.policy = TB_POLICY_EAGER;
    config.min_batch_size = 4;
    config.max_queue_size = 2;
    rig *r = rig_start(&config);
    submit_cost(r, 1);
    assert_int_equal(turn(r), 0);
    submit_cost(r, 1);
    turn(r);
    assert_went(r, 1, TB_REASON_FULL);
    rig_end(r);
}

static void a_policy_is_asked_and_told(void **state)
{
    (void)state;
    tb_config config = patient_config();
    tb_queue queue;
    config.policy = TB_POLICY_SCRIPT;
    config.min_batch_size = 4;
    config.max_queue_size = 3;
    config.max_queue_cost = 50;
    rig *r = rig_start(&config);
    submit_cost(r, 40);
    assert_int_equal(tb_ask(r->b, r->now_us), 0);
    assert_true(submit_cost(r, 20) == TB_EFULL);
    assert_int_equal(tb_next(r->b), 0);
    assert_int_equal(tb_ask(r->b, r->now_us), 1);
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_true(queue.is_full && queue.is_bounded && !queue.is_due);
    assert_int_equal(tb_choose_add(r->b, 1), TB_ADD_IN);
    tb_id batch = tb_choose_end(r->b);
    assert_true(batch > 0);
    finish(r, batch);
    submit_cost(r, 1);
    assert_int_equal(tb_ask(r->b, r->now_us), 0);
    tb_id waits = submit_waiting(r, 50);
    assert_int_equal(tb_ask(r->b, r->now_us), 1);
    assert_int_equal(tb_ask(r->b, r->now_us), 0); /* nothing is new */
    assert_true(submit_cost(r, 1) == TB_EFULL);   /* refused is news, */
    assert_int_equal(tb_ask(r->b, r->now_us), 1);
    assert_true(submit_cost(r, 1) == TB_EFULL); /* once */
    assert_int_equal(tb_ask(r->b, r->now_us), 0);
    assert_int_equal(tb_cancel(r->b, waits, r->now_us), TB_OK);
    tb_id last = tb_form_default(r->b, r->now_us);
    assert_true(last > 0 && batch_of(r, last).reason == TB_REASON_FULL);
    rig_end(r);
}

static void full_by_a_group(void **state)
{
    (void)state;
    tb_config config = patient_config();
    tb_queue queue;
    config.policy = TB_POLICY_SCRIPT;
    rig *r = rig_start(&config);
    for (uint32_t i = 0; i < 6; i++) submit(r, (tb_submission){.cost = 1, .group = i % 3});
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_true(queue.size == 6 && !queue.is_full); /* a fifo prefix would be: its group changes */
    tb_choose_abandon(r->b);
    for (uint32_t i = 0; i < 2; i++) submit(r, (tb_submission){.cost = 1, .group = 2});
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_true(queue.is_full && !queue.is_bounded);
    assert_true(!tb_group_full(r->b, 0) && !tb_group_full(r->b, 1) && tb_group_full(r->b, 2));
    tb_choose_abandon(r->b);
    tb_views_close(r->b); /* a policy's views go, what the core needs stays */
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_true(queue.is_full);
    assert_int_equal(tb_choose_add(r->b, tb_group_first(r->b, 2)), TB_ADD_IN);
    assert_int_equal(tb_choose_add(r->b, 1), TB_ADD_GROUP);
    tb_batch chosen = batch_of(r, tb_choose_end(r->b));
    assert_true(chosen.size == 1 && chosen.group == 2);
    rig_end(r);
}

static void too_large_is_not_full(void **state)
{
    (void)state;
    tb_config config = patient_config();
    config.max_queue_size = 4;
    config.max_queue_cost = 100;
    rig *r = rig_start(&config);
    double many[5] = {1, 1, 1, 1, 1}, dear[20];
    uint32_t culprit = 0;
    for (int i = 0; i < 20; i++) dear[i] = 30;
    assert_int_equal(tb_submit_check(r->b, many, 5, 0, &culprit), TB_ETOOLARGE);
    assert_int_equal(culprit, 4);
    assert_int_equal(tb_submit_check(r->b, dear, 20, 0, &culprit), TB_ETOOLARGE);
    assert_int_equal(culprit, 3);
    assert_string_equal(tb_error_name(TB_ETOOLARGE), "batch_too_large");
    assert_int_equal(tb_submit_check(r->b, (double[]){1000}, 1, 0, NULL), TB_OK); /* one alone always fits */
    assert_int_equal(tb_submit_check(r->b, many, 5, TB_MAY_WAIT, NULL), TB_OK);
    submit_cost(r, 1);
    assert_int_equal(tb_submit_check(r->b, many, 4, 0, &culprit), TB_EFULL); /* it would fit an empty queue */
    assert_int_equal(culprit, 3);
    assert_true(stats(r).total_rejected == 5 + 20 + 4);
    rig_end(r);
}

static void bounds_below_a_batch_are_told(void **state)
{
    (void)state;
    tb_config config;
    tb_config_init(&config);
    assert_int_equal(tb_config_never_full(&config), 0);
    config.max_queue_size = config.max_batch_size - 1;
    assert_int_equal(tb_config_never_full(&config), TB_BOUND_SIZE);
    config.max_queue_cost = config.target_batch_cost;
    assert_int_equal(tb_config_never_full(&config), TB_BOUND_SIZE);
    config.max_queue_cost -= 1;
    assert_int_equal(tb_config_never_full(&config), TB_BOUND_SIZE | TB_BOUND_COST);
    config.max_queue_size++;
    assert_int_equal(tb_config_never_full(&config), TB_BOUND_COST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("F2: a queue that holds max_queue_size records is full", the_size_is_reached),
        TEST("F2: but not while every slot is busy", only_while_a_slot_is_idle),
        TEST("F2: it is full when someone was refused for room since the last dispatch", someone_was_refused),
        TEST("F2: nobody is refused for room by oversize, a bad cost, a list that can never fit",
             other_refusals_are_none),
        TEST("F2: it is full when someone waits in line for whom there is no room", someone_waits),
        TEST("F2: who waits and has room is let in before anything goes for it", who_has_room_is_let_in_first),
        TEST("F2, F5: eager then goes below min_batch_size", eager_goes_below_its_minimum),
        TEST("F2: a policy is asked when it becomes so, and told", a_policy_is_asked_and_told),
        TEST("F2: for a policy full means that some group fills a batch", full_by_a_group),
        TEST("S5: a list that can never fit is too large, not refused for room", too_large_is_not_full),
        TEST("F2: bounds that keep a batch from ever being full are told", bounds_below_a_batch_are_told),
    };
    return cmocka_run_group_tests_name("room", tests, NULL, NULL);
}
