/* test_choose.c - scripted decisions: what a choice checks, when a policy is asked, who decides
 * in its place. */
#include "scripted.h"

/* --- the choice ---------------------------------------------------------------- */

static void a_choice_is_checked(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    int64_t now = 10000000000;
    tb_queue queue;
    tb_batch read;
    tb_id big = submit(b, 150, now), a = submit(b, 60, now), c = submit(b, 40, now), ids[3];
    submit(b, 1, now);
    assert_int_equal(tb_ask(b, now), 1);
    assert_int_equal(tb_choose(b, &queue, now), TB_OK);
    assert_true(queue.size == 4 && queue.total_cost == 251 && queue.is_full && !queue.is_due);
    assert_int_equal(tb_choose_add(b, 0), TB_ENOENT);
    assert_int_equal(tb_choose_add(b, 5), TB_ENOENT);
    assert_int_equal(tb_choose_add(b, 1.5), TB_ENOENT);
    assert_int_equal(tb_choose_add(b, NAN), TB_ENOENT);
    assert_int_equal(tb_choose_add(b, 3), 1);
    assert_int_equal(tb_choose_add(b, 1), 0); /* an oversize record fits only an empty batch */
    assert_int_equal(tb_choose_add(b, 2), 1);
    assert_int_equal(tb_choose_add(b, 3), 1); /* already there */
    assert_int_equal(tb_choose_add(b, 4), 0); /* the budget is strict */
    tb_id batch = tb_choose_end(b);
    assert_int_equal(tb_batch_read(b, batch, &read, ids, NULL, 3), TB_OK);
    assert_true(read.size == 2 && ids[0] == c && ids[1] == a && read.cost == 100);
    assert_int_equal(read.reason, TB_REASON_POLICY);
    assert_int_equal(tb_record_state(b, big), TB_RECORD_QUEUED);
    sound(b);
    tb_free(b);
}

static void limit_lowers_the_budget(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    int64_t now = 10000000000;
    tb_queue queue;
    submit(b, 30, now);
    submit(b, 30, now);
    assert_int_equal(tb_ask(b, now), 1);
    assert_int_equal(tb_choose(b, &queue, now), TB_OK);
    tb_choose_limit(b, 59);
    tb_choose_limit(b, 1e9);
    assert_true(tb_choose_budget(b) == 59);
    assert_int_equal(tb_choose_add(b, 1), 1);
    assert_int_equal(tb_choose_add(b, 2), 0);
    tb_choose_abandon(b);
    sound(b);
    tb_free(b);
}

static void reset_undoes_names_and_limit(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 1000);
    int64_t now = 10000000000;
    tb_queue queue;
    tb_batch read;
    tb_id first = submit(b, 30, now), second = submit(b, 30, now + 900), ids[2];
    now += 1000;
    assert_int_equal(tb_ask(b, now), 1);
    assert_int_equal(tb_choose(b, &queue, now), TB_OK);
    tb_choose_limit(b, 31);
    assert_int_equal(tb_choose_add(b, 2), 0); /* the aged one is in, ahead of it */
    tb_choose_reset(b);
    tb_choose_read(b, &read);
    assert_true(read.size == 0 && read.cost == 0 && tb_choose_budget(b) == 100);
    assert_int_equal(tb_choose_add(b, 2), 1); /* the aged one again */
    assert_int_equal(tb_batch_read(b, tb_choose_end(b), &read, ids, NULL, 2), TB_OK);
    assert_true(read.size == 2 && ids[0] == first && ids[1] == second);
    sound(b);
    tb_free(b);
}

static void the_aged_go_first(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 1000);
    int64_t now = 10000000000;
    tb_queue queue;
    tb_batch read;
    tb_id ids[3];
    tb_id first = submit(b, 10, now), second = submit(b, 10, now + 500), third = submit(b, 10, now + 900);
    now += 1500;
    assert_int_equal(tb_ask(b, now), 1);
    assert_int_equal(tb_choose(b, &queue, now), TB_OK);
    assert_true(queue.is_due);
    assert_int_equal(tb_choose_add(b, 3), 1);
    assert_int_equal(tb_batch_read(b, tb_choose_end(b), &read, ids, NULL, 3), TB_OK);
    assert_true(read.size == 3 && ids[0] == first && ids[1] == second && ids[2] == third);
    tb_free(b);
}

static void nobody_overtakes_the_aged(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 1000);
    int64_t now = 10000000000;
    tb_queue queue;
    tb_batch read;
    submit(b, 90, now);
    submit(b, 10, now + 900);
    now += 1000;
    assert_int_equal(tb_ask(b, now), 1);
    assert_int_equal(tb_choose(b, &queue, now), TB_OK);
    tb_choose_limit(b, 50);
    assert_int_equal(tb_choose_add(b, 2), 0);
    assert_int_equal(tb_choose_add(b, 2), 0);
    assert_true(tb_choose_end(b) == 0);
    assert_int_equal(tb_batch_read(b, tb_form_default(b, now), &read, NULL, NULL, 0), TB_OK);
    assert_true(read.size == 2 && read.cost == 100);
    sound(b);
    tb_free(b);
}

static void views_end_with_the_script(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    int64_t now = 10000000000;
    tb_config config;
    tb_queue queue;
    for (int i = 0; i < 4; i++) submit(b, 100, now);
    assert_int_equal(tb_ask(b, now), 1);
    assert_int_equal(tb_choose(b, &queue, now), TB_OK);
    assert_int_equal(tb_view_open(b, TB_VIEW_KEYS, 0), TB_OK);
    tb_choose_abandon(b);
    tb_get(b, &config);
    config.policy = TB_POLICY_FIFO;
    assert_int_equal(tb_set(b, &config, now), TB_OK);
    assert_true(tb_form(b, now) > 0); /* and cuts ahead */
    submit(b, 7, now);
    config.policy = TB_POLICY_SCRIPT;
    assert_int_equal(tb_set(b, &config, now), TB_OK);
    sound(b);
    tb_batch_finish(b, 1024, TB_COMPLETED, now);
    assert_int_equal(tb_choose(b, &queue, now), TB_OK);
    assert_true(queue.size == 4 && tb_look_cost(b, 4) == 7);
    tb_choose_abandon(b);
    sound(b);
    tb_free(b);
}

/* --- when it is asked ------------------------------------------------------------ */

static void asked_when_something_happened(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    int64_t now = 10000000000;
    tb_queue queue;
    assert_int_equal(tb_ask(b, now), 0); /* nothing is queued */
    submit(b, 1, now);
    assert_int_equal(tb_ask(b, now), 1);
    assert_int_equal(tb_ask(b, now), 0); /* asked already */
    assert_int_equal(tb_next(b), now + 50000);
    tb_ask_again(b, now + 70);
    assert_int_equal(tb_next(b), now + 70);
    assert_int_equal(tb_ask(b, now + 69), 0);
    assert_int_equal(tb_ask(b, now + 70), 1); /* the time that it asked for */
    now += 50000;
    assert_int_equal(tb_ask(b, now), 1); /* the queue became due */
    assert_int_equal(tb_ask(b, now), 0);
    tb_ask_again(b, now + 5);
    assert_int_equal(tb_next(b), now + 5);
    assert_int_equal(tb_ask(b, now + 5), 1);
    assert_int_equal(tb_choose(b, &queue, now + 5), TB_OK);
    assert_int_equal(tb_choose_add(b, 1), 1);
    tb_id batch = tb_choose_end(b);
    submit(b, 1, now + 6);
    assert_int_equal(tb_ask(b, now + 6), 0); /* no slot is idle */
    tb_batch_finish(b, batch, TB_COMPLETED, now + 7);
    assert_int_equal(tb_ask(b, now + 7), 1); /* a slot came free */
    tb_stop(b, TB_NO_TIMEOUT, now + 8);
    assert_int_equal(tb_ask(b, now + 8), 1); /* draining */
    tb_free(b);
}

static void min_batch_size_delays_asking(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    tb_config config;
    int64_t now = 10000000000;
    tb_get(b, &config);
    config.min_batch_size = 3;
    assert_int_equal(tb_set(b, &config, now), TB_OK);
    submit(b, 1, now);
    submit(b, 1, now);
    assert_int_equal(tb_ask(b, now), 0);
    assert_int_equal(tb_next(b), now + 50000);
    submit(b, 1, now);
    assert_int_equal(tb_ask(b, now), 1);
    tb_free(b);
}

static void the_default_decides_in_its_place(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    int64_t now = 10000000000;
    tb_batch read;
    submit(b, 1, now);
    assert_true(tb_form(b, now) == 0 && tb_form_default(b, now) == 0);
    now += 50000;
    assert_int_equal(tb_ask(b, now), 1);
    assert_int_equal(tb_batch_read(b, tb_form_default(b, now), &read, NULL, NULL, 0), TB_OK);
    assert_int_equal(read.reason, TB_REASON_TIMEOUT);
    sound(b);
    tb_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("F1: a choice refuses what does not fit and what does not exist", a_choice_is_checked),
        TEST("batch:limit lowers the budget and never raises it", limit_lowers_the_budget),
        TEST("X2: when a limit leaves the first aged record no room, nobody goes", nobody_overtakes_the_aged),
        TEST("a policy in C ends the views of the scripted one", views_end_with_the_script),
        TEST("reset undoes names and limit of a choice", reset_undoes_names_and_limit),
        TEST("X2: records that waited max_wait_s enter first, oldest first", the_aged_go_first),
        TEST("a policy is asked when something happened, and once", asked_when_something_happened),
        TEST("F5: below min_batch_size a policy is not asked", min_batch_size_delays_asking),
        TEST("X1: the default decides in the policy's place", the_default_decides_in_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
