/* test_core_rims.c - what lies at a rim: equal times, a bound met exactly, what nobody asks about twice. */
#include "rig.h"

static tb_config scripted_config(void)
{
    tb_config config = small_config();
    config.policy = TB_POLICY_SCRIPT;
    config.max_concurrent_batches = 2;
    config.batch_timeout_us = 50000;
    return config;
}

static int ask(rig *r)
{
    return tb_ask(r->b, r->now_us);
}

/* The policy chooses the first record. */
static tb_id choose_first(rig *r)
{
    tb_queue queue;
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_int_equal(tb_choose_add(r->b, 1), TB_ADD_IN);
    return tb_choose_end(r->b);
}

static void equal_deadlines_in_order(void **state)
{
    enum { MANY = 9 };
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id ids[MANY];
    occupy(r);
    for (int i = 0; i < MANY; i++) ids[i] = submit_timeout(r, 1, 500);
    assert_int_equal(tb_cancel(r->b, ids[2], r->now_us), TB_OK);
    turn_at(r, r->now_us + 500);
    assert_int_equal(r->event_count, MANY - 1);
    for (uint32_t i = 0; i < MANY - 1; i++) assert_event(r, i, TB_EVENT_EXPIRED, ids[i < 2 ? i : i + 1]);
    rig_end(r);
}

static void records_of_no_cost_fill_a_padded_batch(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.cost_model = TB_COST_PADDED;
    config.target_batch_cost = 3;
    rig *r = rig_start(&config);
    submit_many(r, 2, 0);
    assert_int_equal(turn(r), 0);
    submit_cost(r, 0);
    assert_int_equal(turn(r), 1); /* one of cost 1 would make four of cost 1 */
    assert_went(r, 1, TB_REASON_FULL);
    assert_int_equal(batch_of(r, r->batches[0]).size, 3);
    rig_end(r);
}

static void a_record_alone_is_a_full_batch(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    assert_int_equal(tb_key_alone(r->b, 5, 1, r->now_us), TB_OK);
    tb_id id = submit(r, (tb_submission){.cost = 1, .key = 5});
    assert_int_equal(turn(r), 1); /* nothing may join it: it does not linger */
    assert_went(r, 1, TB_REASON_FULL);
    assert_batch(r, r->batches[0], id, 0.0);
    rig_end(r);
}

static void a_choice_keeps_to_size_and_limit(void **state)
{
    (void)state;
    tb_config config = scripted_config();
    rig *r = rig_start(&config);
    tb_queue queue;
    submit_many(r, 5, 10);
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    for (int i = 1; i <= 4; i++) assert_int_equal(tb_choose_add(r->b, i), TB_ADD_IN);
    assert_int_equal(tb_choose_add(r->b, 5), TB_ADD_BUDGET); /* max_batch_size is 4 */
    tb_choose_reset(r->b);
    tb_choose_limit(r->b, 20);
    assert_int_equal(tb_choose_add(r->b, 1), TB_ADD_IN);
    assert_int_equal(tb_choose_add(r->b, 2), TB_ADD_IN); /* it is met exactly */
    assert_int_equal(tb_choose_add(r->b, 3), TB_ADD_BUDGET);
    tb_choose_abandon(r->b);
    rig_end(r);
}

static void no_batch_goes_when_stop_is_over(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id id = submit_cost(r, 1);
    tb_stop(r->b, 10, r->now_us);
    r->now_us += 10;
    assert_true(tb_form(r->b, r->now_us) == 0); /* tb_poll() has yet to fail it */
    turn(r);
    assert_event(r, 0, TB_EVENT_STOPPED, id);
    assert_int_equal(tb_state(r->b), TB_STOPPED);
    rig_end(r);
}

/* Whatever the policy: there may be cuts, then. */
static void the_default_takes_what_is_cut(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.prefetch_batches = 1;
    rig *r = rig_start(&config);
    tb_id ids[13];
    for (int i = 0; i < 13; i++) ids[i] = submit_cost(r, 1);
    assert_int_equal(turn(r), 1);
    assert_state(r, ids[4], TB_RECORD_CUT);
    finish(r, r->batches[0]);
    tb_id batch = tb_form_default(r->b, r->now_us);
    assert_batch(r, batch, ids[4], ids[5], ids[6], ids[7], 0.0);
    finish(r, batch);
    batch = tb_form_default(r->b, r->now_us);
    assert_batch(r, batch, ids[8], ids[9], ids[10], ids[11], 0.0);
    finish(r, batch);
    assert_true(tb_form_default(r->b, r->now_us) == 0); /* neither full nor due */
    rig_end(r);
}

static void events_leave_nothing_of_before(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    config.max_queue_size = 1;
    set(r, &config);
    occupy(r);
    submit_timeout(r, 1, 100);
    tb_id waits = submit_waiting(r, 1);
    tb_event events[2];
    memset(events, 0x55, sizeof events);
    assert_int_equal(tb_poll(r->b, events, 2, r->now_us + 100), 2);
    assert_true(events[0].kind == TB_EVENT_EXPIRED && events[0].reserved == 0);
    assert_true(events[1].kind == TB_EVENT_ADMITTED && events[1].reserved == 0 && events[1].id == waits);
    rig_end(r);
}

static void counts_up_to_a_value(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    submit_many(r, 4, 20);
    assert_int_equal(turn(r), 1);
    assert_true(tb_stats_at_most(r->b, TB_OF_BATCH_SIZE, 3) == 0);
    assert_true(tb_stats_at_most(r->b, TB_OF_BATCH_SIZE, 4) == 1);
    assert_true(tb_stats_at_most(r->b, TB_OF_BATCH_COST, 79) == 0);
    assert_true(tb_stats_at_most(r->b, TB_OF_BATCH_COST, 80) == 1);
    rig_end(r);
}

static void seconds_are_rounded(void **state)
{
    (void)state;
    tb_config config;
    tb_config_init(&config);
    uint32_t i = 0;
    while (strcmp(tb_option_at(i)->name, "batch_timeout_s") != 0) i++;
    assert_int_equal(tb_config_set(&config, i, 1.001), TB_OK); /* x 1e6 is a little less than 1001000 */
    assert_true(config.batch_timeout_us == 1001000);
    assert_int_equal(tb_config_set(&config, i, 0.0000014), TB_OK);
    assert_true(config.batch_timeout_us == 1);
}

/* Memory for numbers grows by powers of two, and their own is not the last to fit. */
static void keys_and_groups_at_powers_of_two(void **state)
{
    (void)state;
    tb_config config = scripted_config();
    rig *r = rig_start(&config);
    assert_int_equal(tb_view_open(r->b, TB_VIEW_KEYS, 0), TB_OK);
    for (uint32_t number = 16; number <= 4096; number *= 2) {
        assert_true(submit(r, (tb_submission){.cost = 1, .key = number, .group = number}) > 0);
        assert_int_equal(tb_key_alone(r->b, number, 1, r->now_us), TB_OK);
        assert_null(tb_verify(r->b));
    }
    rig_end(r);
}

static void alike_is_the_first_to_arrive(void **state)
{
    (void)state;
    static const double costs[] = {5, 7, 5, 3, 7, 5, 7, 3};
    static const uint32_t first[] = {1, 2, 1, 4, 2, 1, 2, 4};
    tb_config config = scripted_config();
    rig *r = rig_start(&config);
    tb_queue queue;
    for (int i = 0; i < 8; i++) submit_cost(r, costs[i]);
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_int_equal(tb_view_alike(r->b, 1), 0); /* the view is not open */
    assert_int_equal(tb_view_open(r->b, TB_VIEW_COST, 0), TB_OK);
    for (uint32_t i = 0; i < 8; i++) assert_int_equal(tb_view_alike(r->b, i + 1), first[i]);
    assert_int_equal(tb_view_alike(r->b, 9), 0);
    tb_choose_abandon(r->b);
    rig_end(r);
}

/* --- when a policy is asked ------------------------------------------------------------ */

static void asked_while_a_slot_is_idle(void **state)
{
    (void)state;
    tb_config config = scripted_config();
    rig *r = rig_start(&config);
    submit_many(r, 3, 100);
    assert_true(ask(r) && choose_first(r) > 0);
    assert_true(ask(r) && tb_form_default(r->b, r->now_us) > 0);
    assert_true(!ask(r)); /* none is idle */
    rig_end(r);

    r = rig_start(&config);
    submit_many(r, 2, 100);
    assert_true(ask(r) && tb_form_default(r->b, r->now_us) > 0);
    assert_true(ask(r)); /* whoever decided */
    rig_end(r);
}

static void asked_when_due_once_more(void **state)
{
    (void)state;
    tb_config config = scripted_config();
    rig *r = rig_start(&config);
    tb_id first = submit_cost(r, 1);
    r->now_us += 100;
    submit_cost(r, 1);
    assert_true(ask(r) && !ask(r));
    r->now_us += 49900;
    assert_true(ask(r) && !ask(r)); /* the first is due */
    assert_int_equal(tb_cancel(r->b, first, r->now_us), TB_OK);
    assert_true(!ask(r));
    r->now_us += 100;
    assert_true(ask(r)); /* the second is */
    rig_end(r);
}

static void asked_after_a_flush(void **state)
{
    (void)state;
    tb_config config = scripted_config();
    rig *r = rig_start(&config);
    submit_cost(r, 1);
    r->now_us += 50000;
    assert_true(ask(r)); /* it is due */
    tb_ask_again(r->b, r->now_us + 500);
    assert_true(!ask(r));
    tb_flush(r->b, r->now_us);
    assert_true(ask(r));
    rig_end(r);
}

static void asked_when_someone_has_to_wait(void **state)
{
    (void)state;
    tb_config config = scripted_config();
    config.max_queue_cost = 100;
    rig *r = rig_start(&config);
    submit_cost(r, 60);
    assert_true(ask(r) && !ask(r));
    tb_id waits = submit_waiting(r, 50);
    assert_state(r, waits, TB_RECORD_WAITING);
    assert_true(ask(r)); /* the queue is bounded now */
    rig_end(r);
}

/* A slot that an abandoned call holds is none that is idle; once it is free the policy is asked. */
static void held_slots(void **state)
{
    (void)state;
    tb_config config = scripted_config();
    config.inference_timeout_us = 100;
    config.max_abandoned_calls = 0;
    config.abandon_us = 5000;
    rig *r = rig_start(&config);
    tb_queue queue;
    submit_cost(r, 1);
    assert_true(ask(r) && choose_first(r) > 0);
    tb_event event;
    r->now_us += 100;
    assert_int_equal(tb_poll(r->b, &event, 1, r->now_us), 1);
    assert_int_equal(event.kind, TB_EVENT_BATCH_TIMED_OUT);
    submit_cost(r, 1);
    assert_true(ask(r));
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_int_equal(queue.idle_slots, 1);
    tb_choose_abandon(r->b);
    assert_true(!ask(r));
    r->now_us += 5000;
    assert_int_equal(tb_poll(r->b, &event, 1, r->now_us), 0);
    assert_true(ask(r));
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_int_equal(queue.idle_slots, 2);
    tb_choose_abandon(r->b);
    rig_end(r);
}

/* With fewer slots than batches that run, none is idle, and not 2^32 less a few. */
static void fewer_slots_than_batches(void **state)
{
    (void)state;
    tb_config config = scripted_config();
    rig *r = rig_start(&config);
    tb_queue queue;
    submit_many(r, 3, 100);
    assert_true(choose_first(r) > 0 && choose_first(r) > 0);
    config.max_concurrent_batches = 1;
    set(r, &config);
    assert_int_equal(tb_choose(r->b, &queue, r->now_us), TB_OK);
    assert_int_equal(queue.idle_slots, 0);
    tb_choose_abandon(r->b);
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("C2: records of equal deadlines expire in the order of arrival", equal_deadlines_in_order),
        TEST("F2, F9: records of no cost fill a padded batch when one of cost 1 would not fit",
             records_of_no_cost_fill_a_padded_batch),
        TEST("F2, R7: a record that must run alone is a full batch", a_record_alone_is_a_full_batch),
        TEST("F1: a choice keeps to max_batch_size, and to a limit exactly", a_choice_keeps_to_size_and_limit),
        TEST("C3: when stop has run out of time no batch goes any more", no_batch_goes_when_stop_is_over),
        TEST("what fifo would do, with batches cut ahead, is to send the first", the_default_takes_what_is_cut),
        TEST("an event leaves nothing in its place of what was there", events_leave_nothing_of_before),
        TEST("statistics: what is at most a value counts up to and with it", counts_up_to_a_value),
        TEST("options: seconds are rounded to microseconds", seconds_are_rounded),
        TEST("keys and groups: memory grows for a number that is a power of two", keys_and_groups_at_powers_of_two),
        TEST("views: of equal costs, alike is the first to arrive", alike_is_the_first_to_arrive),
        TEST("C4: a policy is asked when all is made due", asked_after_a_flush),
        TEST("a policy is asked again while a slot is idle and its last answer was a batch",
             asked_while_a_slot_is_idle),
        TEST("a policy is asked each time that the queue becomes due", asked_when_due_once_more),
        TEST("F2: a policy is asked when the first has to wait in line", asked_when_someone_has_to_wait),
        TEST("R5: a held slot is not idle, and a policy is asked when it is free", held_slots),
        TEST("X4: with fewer slots than batches none is idle", fewer_slots_than_batches),
    };
    return cmocka_run_group_tests_name("rims", tests, NULL, NULL);
}
