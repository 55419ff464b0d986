/* test_core_queue.c - submission, the line, cancelling: S2-S5, C1. */
#include "rig.h"

static void costs_are_rounded_up(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    submit_cost(r, 0.25);
    assert_true(stats(r).queue_cost == 1);
    submit_cost(r, 3);
    assert_true(stats(r).queue_cost == 4);
    submit_cost(r, 0);
    submit_cost(r, -0.0);
    assert_true(stats(r).queue_cost == 4);
    rig_end(r);
}

static void bad_costs_are_refused(void **state)
{
    static const double bad[] = {NAN, INFINITY, -INFINITY, -1, -1e-9, 1.0000001e12, 1e300};
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    submit_cost(r, 7);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_true(submit_cost(r, bad[i]) == TB_ECOST);
        assert_true(submit_waiting(r, bad[i]) == TB_ECOST);
    }
    tb_stats s = stats(r);
    assert_true(s.total_submitted == 1 && s.queue_size == 1 && s.queue_cost == 7);
    assert_true(s.total_rejected == 0);
    assert_true(submit_cost(r, 1e12) > 0);
    rig_end(r);
}

static tb_id submit_plain(rig *r, double cost)
{
    return tb_submit_plain(r->b, cost, r->now_us);
}

static void plain_is_a_submission(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id first = submit_plain(r, 0.25), second = submit_cost(r, 2), third = submit_plain(r, 3);
    tb_id fourth = submit_cost(r, 4);
    assert_true(stats(r).total_submitted == 4 && stats(r).queue_cost == 10);
    assert_int_equal(turn(r), 1);
    assert_batch(r, r->batches[0], first, second, third, fourth, 0.0);
    finish(r, r->batches[0]);
    assert_true(stats(r).total_completed == 4);
    tb_id again = submit_plain(r, 5);
    assert_true(again != first && again != second && again != third && again != fourth);
    rig_end(r);
}

/* As tb_submit() does, less what that counts. */
static void plain_refusals_count_nothing(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 2;
    config.max_queue_cost = 50;
    config.on_oversize = TB_OVERSIZE_REJECT;
    rig *r = rig_start(&config);
    assert_true(submit_plain(r, NAN) == TB_ECOST && submit_plain(r, -1) == TB_ECOST);
    assert_true(submit_plain(r, 101) == TB_EOVERSIZE);
    assert_true(submit_plain(r, 49) > 0);
    assert_true(submit_plain(r, 2) == TB_EFULL); /* by cost */
    assert_true(submit_plain(r, 1) > 0);
    assert_true(submit_plain(r, 0) == TB_EFULL); /* by size */
    tb_id first_in_line = submit_waiting(r, 40);
    assert_true(stats(r).total_rejected == 0 && stats(r).total_submitted == 2);
    assert_true(first_in_line > 0);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    assert_true(submit_plain(r, NAN) == TB_ENOTRUNNING);
    assert_true(stats(r).total_rejected == 0);
    rig_end(r);
}

static void plain_never_overtakes(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_cost = 50;
    config.batch_timeout_us = 1000000;
    config.prefetch_batches = 0;
    rig *r = rig_start(&config);
    occupy(r);
    submit_cost(r, 30);
    assert_true(submit_waiting(r, 40) > 0);
    assert_true(submit_plain(r, 1) == TB_EFULL); /* it would fit */
    assert_int_equal(tb_waiting(r->b), 1);
    rig_end(r);
}

static void times_must_be_positive(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    assert_true(submit_timeout(r, 1, -1) == TB_ETIMEOUT);
    assert_true(submit_timeout(r, 1, INT64_MIN) == TB_ETIMEOUT);
    assert_true(stats(r).total_submitted == 0 && stats(r).total_rejected == 0);
    rig_end(r);
}

static void only_running_accepts(void **state)
{
    (void)state;
    tb_config config = small_config();
    tb_submission record = {.cost = 1, .flags = TB_MAY_WAIT};
    double cost = 1;
    tb_batcher *b = tb_new(&config);
    assert_int_equal(tb_state(b), TB_STOPPED);
    assert_true(tb_submit(b, &record, 5) == TB_ENOTRUNNING);
    assert_int_equal(tb_submit_check(b, &cost, 1, 0, NULL), TB_ENOTRUNNING);
    tb_free(b);

    rig *r = rig_start(&config);
    submit_cost(r, 1);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    assert_int_equal(tb_state(r->b), TB_DRAINING);
    assert_true(submit_cost(r, 1) == TB_ENOTRUNNING);
    assert_true(submit_waiting(r, NAN) == TB_ENOTRUNNING);
    assert_true(stats(r).total_rejected == 0);
    rig_end(r);
}

static void full_by_size(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 3;
    config.max_concurrent_batches = 1;
    rig *r = rig_start(&config);
    submit_many(r, 3, 1);
    assert_true(submit_cost(r, 1) == TB_EFULL);
    assert_true(stats(r).total_rejected == 1 && stats(r).total_submitted == 3);
    turn_at(r, r->now_us + 1000);
    assert_int_equal(r->batch_count, 1);
    submit_many(r, 3, 1); /* running records take no room */
    assert_true(submit_cost(r, 1) == TB_EFULL);
    rig_end(r);
}

static void full_by_cost(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_cost = 10;
    rig *r = rig_start(&config);
    submit_cost(r, 4);
    submit_cost(r, 6);
    assert_true(submit_cost(r, 1) == TB_EFULL);
    assert_true(submit_cost(r, 0) > 0);
    rig_end(r);
    r = rig_start(&config);
    assert_true(submit_cost(r, 50) > 0); /* an empty queue takes any */
    assert_true(submit_cost(r, 0) == TB_EFULL);
    rig_end(r);
}

static void the_line_is_fifo(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_cost = 10;
    rig *r = rig_start(&config);
    occupy(r);
    tb_id first = submit_cost(r, 10), big = submit_waiting(r, 8), small = submit_waiting(r, 1);
    assert_state(r, first, TB_RECORD_QUEUED);
    assert_state(r, big, TB_RECORD_WAITING);
    assert_state(r, small, TB_RECORD_WAITING);
    assert_int_equal(tb_waiting(r->b), 2);
    assert_true(stats(r).total_submitted == 2 && stats(r).waiting_submits == 2);

    assert_int_equal(tb_cancel(r->b, first, r->now_us), TB_OK);
    tb_id last = submit_waiting(r, 2);
    turn(r);
    assert_int_equal(r->event_count, 2);
    assert_event(r, 0, TB_EVENT_ADMITTED, big);
    assert_event(r, 1, TB_EVENT_ADMITTED, small);
    assert_state(r, last, TB_RECORD_WAITING);
    assert_true(stats(r).total_submitted == 4 && stats(r).waiting_submits == 1);
    rig_end(r);
}

static void small_ones_do_not_overtake(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_cost = 10;
    rig *r = rig_start(&config);
    occupy(r);
    submit_cost(r, 5);
    submit_waiting(r, 9);
    tb_id small = submit_waiting(r, 1); /* would fit */
    turn(r);
    assert_int_equal(r->event_count, 0);
    assert_state(r, small, TB_RECORD_WAITING);
    rig_end(r);
}

static void trying_never_overtakes(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 2;
    rig *r = rig_start(&config);
    tb_id first = submit_cost(r, 1);
    submit_many(r, 1, 1);
    submit_waiting(r, 1);
    assert_int_equal(tb_cancel(r->b, first, r->now_us), TB_OK);
    assert_true(submit_cost(r, 1) == TB_EFULL); /* there is room, but it is taken */
    assert_true(stats(r).total_rejected == 1);
    turn(r);
    assert_int_equal(event_count(r, TB_EVENT_ADMITTED), 1);
    rig_end(r);
}

static void a_batch_waits_once(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 1;
    rig *r = rig_start(&config);
    submit_cost(r, 1);
    tb_submission part = {.cost = 1, .flags = TB_MAY_WAIT | TB_MORE};
    tb_id a = submit(r, part), b = submit(r, part), c = submit_waiting(r, 1),
          d = submit_waiting(r, 1);
    assert_true(stats(r).waiting_submits == 2);
    assert_int_equal(tb_waiting(r->b), 4);
    turn_at(r, r->now_us + 1000);
    assert_state(r, a, TB_RECORD_QUEUED); /* they enter one by one */
    assert_true(stats(r).waiting_submits == 2 && tb_waiting(r->b) == 3);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(r->batch_count, 1);
        finish(r, r->batches[0]);
        turn(r);
    }
    assert_state(r, b, TB_RECORD_NONE);
    assert_state(r, c, TB_RECORD_NONE);
    assert_batch(r, r->batches[0], d, 0.0);
    assert_true(stats(r).waiting_submits == 0);
    rig_end(r);
}

static void check_is_all_or_nothing(void **state)
{
    (void)state;
    tb_config config = small_config();
    uint32_t culprit = 99;
    config.max_queue_size = 3;
    config.max_queue_cost = 20;
    config.on_oversize = TB_OVERSIZE_REJECT;
    rig *r = rig_start(&config);
    assert_int_equal(tb_submit_check(r->b, (double[]){30, 0}, 2, 0, &culprit), TB_ETOOLARGE);
    assert_int_equal(culprit, 1); /* the first enters an empty queue, whatever it costs */
    assert_int_equal(tb_submit_check(r->b, (double[]){1, 2, 3}, 3, 0, &culprit), TB_OK);
    assert_int_equal(tb_submit_check(r->b, (double[]){1, 2, 3, 4}, 4, 0, &culprit), TB_ETOOLARGE);
    assert_int_equal(culprit, 3);
    assert_int_equal(tb_submit_check(r->b, (double[]){1, 2, 3, 4}, 4, TB_MAY_WAIT, NULL), TB_OK);
    assert_int_equal(tb_submit_check(r->b, (double[]){1, 2, 3, 4, NAN}, 5, 0, &culprit), TB_ECOST);
    assert_int_equal(culprit, 4);
    assert_int_equal(tb_submit_check(r->b, (double[]){1, 101, -1}, 3, 0, &culprit), TB_EOVERSIZE);
    assert_int_equal(culprit, 1);
    assert_int_equal(tb_submit_check(r->b, NULL, 0, 0, NULL), TB_OK);
    tb_stats s = stats(r);
    assert_true(s.total_submitted == 0 && s.queue_size == 0 && s.total_rejected == 2 + 4 + 3);
    submit_many(r, 1, 15);
    assert_int_equal(tb_submit_check(r->b, (double[]){1, 2, 3}, 3, 0, &culprit), TB_EFULL);
    assert_int_equal(culprit, 2);
    assert_int_equal(tb_submit_check(r->b, (double[]){1, 5}, 2, 0, &culprit), TB_EFULL);
    assert_int_equal(culprit, 1);
    assert_true(stats(r).total_rejected == 2 + 4 + 3 + 3 + 2);
    rig_end(r);
}

static void has_room_tells(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_cost = 10;
    config.on_oversize = TB_OVERSIZE_REJECT;
    rig *r = rig_start(&config);
    assert_int_equal(tb_has_room(r->b, 100), 1); /* an empty queue takes any record */
    assert_int_equal(tb_has_room(r->b, 100.5), 0);
    assert_int_equal(tb_has_room(r->b, NAN), 0);
    tb_id first = submit_cost(r, 8);
    assert_int_equal(tb_has_room(r->b, 2), 1);
    assert_int_equal(tb_has_room(r->b, 2.1), 0);
    submit_waiting(r, 3);
    assert_int_equal(tb_has_room(r->b, 0), 0);
    assert_int_equal(tb_cancel(r->b, first, r->now_us), TB_OK);
    assert_int_equal(tb_has_room(r->b, 0), 0); /* the one who waits comes first */
    turn(r);
    assert_int_equal(tb_has_room(r->b, 7), 1);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    assert_int_equal(tb_has_room(r->b, 1), 0);
    assert_true(stats(r).total_rejected == 0);
    rig_end(r);
}

static void neighbours_stay(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id a = submit_cost(r, 1), b = submit_cost(r, 2), c = submit_cost(r, 3);
    assert_int_equal(tb_cancel(r->b, b, r->now_us), TB_OK);
    assert_int_equal(tb_cancel(r->b, b, r->now_us), TB_ENOENT);
    assert_true(stats(r).queue_cost == 4 && stats(r).total_cancelled == 1);
    turn_at(r, r->now_us + 1000);
    assert_batch(r, r->batches[0], a, c, 0.0);
    assert_int_equal(tb_cancel(r->b, a, r->now_us), TB_OK); /* running */
    assert_batch(r, r->batches[0], c, 0.0);
    assert_true(stats(r).running_records == 1 && stats(r).running_batches == 1);
    finish(r, r->batches[0]);
    assert_true(stats(r).total_completed == 1 && stats(r).total_cancelled == 2);
    rig_end(r);
}

static void cancelling_lets_one_in(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 1;
    rig *r = rig_start(&config);
    tb_id queued = submit_cost(r, 1), gone = submit_waiting(r, 1), next = submit_waiting(r, 1);
    assert_int_equal(tb_cancel(r->b, gone, r->now_us), TB_OK);
    assert_true(stats(r).total_submitted == 2 && stats(r).total_cancelled == 1);
    assert_int_equal(tb_cancel(r->b, queued, r->now_us), TB_OK);
    turn(r);
    assert_int_equal(r->event_count, 1);
    assert_event(r, 0, TB_EVENT_ADMITTED, next);
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("S2: a cost is rounded up to a whole number", costs_are_rounded_up),
        TEST("S2: NaN, infinity, a negative and a huge cost are refused and disturb nothing",
             bad_costs_are_refused),
        TEST("S2, S4: a plain submission is the same record, in the same queue", plain_is_a_submission),
        TEST("S4: a plain submission that is refused counts nothing", plain_refusals_count_nothing),
        TEST("S4: a plain submission never overtakes who waits, even if there is room", plain_never_overtakes),
        TEST("C2: a timeout below 0 is refused", times_must_be_positive),
        TEST("S3: stopped and stopping batchers refuse with not_running", only_running_accepts),
        TEST("S4: a queue of max_queue_size records is full; running ones take no room",
             full_by_size),
        TEST("S4: a record above max_queue_cost is refused unless the queue is empty",
             full_by_cost),
        TEST("S4: the line is served first come, first served", the_line_is_fifo),
        TEST("S4: a small record does not overtake a waiting one that is too big",
             small_ones_do_not_overtake),
        TEST("S4: trying never overtakes who waits, even if there is room", trying_never_overtakes),
        TEST("S5: records of one call count as one waiting submit", a_batch_waits_once),
        TEST("S5: submit_check answers for all, changes nothing, and counts a refusal of all",
             check_is_all_or_nothing),
        TEST("S4: tb_has_room tells whether a record would be queued now", has_room_tells),
        TEST("C1: cancelling gives the cost back and leaves the neighbours alone", neighbours_stay),
        TEST("C1: cancelling a queued record lets a waiting one in", cancelling_lets_one_in),
    };
    return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
