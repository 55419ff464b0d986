/* test_look.c - what a script may ask for and not get: positions that are none, views that are not open, groups and
 * keys that nobody has; and the few ways through a decision that a policy seldom takes.
 */
#include "../../../src/core/core.h"
#include "scripted.h"

static const int64_t NOW = 10000000000;

static tb_batcher *queue_of(uint32_t n)
{
    tb_batcher *b = scripted(1, 0);
    for (uint32_t i = 0; i < n; i++) submit(b, 1 + i % 3, NOW);
    return b;
}

static void open_choice(tb_batcher *b, uint32_t size)
{
    tb_queue queue;
    assert_int_equal(tb_choose(b, &queue, NOW), TB_OK);
    assert_int_equal(queue.size, size);
}

static void open_views(tb_batcher *b, uint32_t from)
{
    for (uint32_t view = from; view <= TB_VIEW_GROUPS; view++) assert_int_equal(tb_view_open(b, view, 0), TB_OK);
}

static void positions_that_are_none(void **state)
{
    (void)state;
    static const double NONE[] = {0, -1, 4, 1.5, NAN, INFINITY, 1e300};
    tb_batcher *b = queue_of(3);
    tb_look_at at;
    open_choice(b, 3);
    for (size_t i = 0; i < sizeof NONE / sizeof *NONE; i++) {
        assert_int_equal(tb_look(b, NONE[i], &at), TB_ENOENT);
        assert_true(tb_look_cost(b, NONE[i]) == TB_ENOENT);
        assert_int_equal(tb_choose_add(b, NONE[i]), TB_ENOENT);
    }
    open_views(b, TB_VIEW_COST);
    for (uint32_t none = 0; none <= 4; none += 4) {
        for (uint32_t view = TB_VIEW_COST; view < TB_VIEW_KEYS; view++) {
            assert_int_equal(tb_view_next(b, view, none), none == 0 ? tb_view_first(b, view) : 0);
            assert_int_equal(tb_view_previous(b, view, none), 0);
        }
        assert_int_equal(tb_view_alike(b, none), 0);
        assert_int_equal(tb_key_next(b, none), 0);
        assert_int_equal(tb_group_next(b, none), 0);
    }
    assert_true(tb_keys_next(b, 1u << 20) < 0 && tb_groups_next(b, 1u << 20) < 0);
    assert_int_equal(tb_key_first(b, 1u << 20), 0);
    assert_int_equal(tb_group_first(b, 1u << 20), 0);
    tb_choose_abandon(b);
    assert_int_equal(tb_look(b, 1, &at), TB_ENOENT); /* no decision is in progress */
    tb_free(b);
}

static void views_that_are_not_open(void **state)
{
    (void)state;
    tb_batcher *b = queue_of(3);
    open_choice(b, 3);
    for (uint32_t view = TB_VIEW_COST; view < TB_VIEW_KEYS; view++) {
        assert_int_equal(tb_view_first(b, view), 0);
        assert_int_equal(tb_view_next(b, view, 1), 0);
        assert_int_equal(tb_view_previous(b, view, 1), 0);
    }
    assert_int_equal(tb_view_alike(b, 1), 0);
    assert_true(tb_keys_first(b) < 0 && tb_groups_first(b) < 0);
    assert_int_equal(tb_key_next(b, 1), 0);
    assert_int_equal(tb_group_next(b, 1), 0);
    assert_int_equal(tb_group_full(b, 0), 0);
    tb_choose_abandon(b);
    sound(b);
    tb_free(b);
}

/* Costs 1 2 3 1 2 3 ...: the first arrival of each is at position 1, 2 or 3. */
static void alike_is_the_first_arrival_of_a_cost(void **state)
{
    (void)state;
    tb_batcher *b = queue_of(60);
    open_choice(b, 60);
    assert_int_equal(tb_view_open(b, TB_VIEW_COST, 0), TB_OK);
    for (uint32_t i = 1; i <= 60; i++) assert_int_equal(tb_view_alike(b, i), 1 + (i - 1) % 3);
    tb_choose_abandon(b);
    tb_free(b);
}

/* Another aging is another order: the view is made anew. */
static void aging_may_change(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    tb_submission old = {.cost = 1}, young = {.cost = 1, .priority = 1};
    assert_true(tb_submit(b, &old, NOW) > 0 && tb_submit(b, &young, NOW + 5000) > 0);
    assert_int_equal(tb_view_open(b, TB_VIEW_PRIORITY, 1000), TB_OK);
    open_choice(b, 2);
    assert_int_equal(tb_view_first(b, TB_VIEW_PRIORITY), 1); /* five levels by age */
    tb_choose_abandon(b);
    assert_int_equal(tb_view_open(b, TB_VIEW_PRIORITY, 10000), TB_OK);
    sound(b);
    open_choice(b, 2);
    assert_int_equal(tb_view_first(b, TB_VIEW_PRIORITY), 2); /* half a level */
    tb_choose_abandon(b);
    tb_free(b);
}

/* They are a script's: with another policy they are gone, and need no closing. */
static void another_policy_has_no_views(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    tb_config config;
    tb_submission s = {.cost = 1, .key = 5, .group = 3};
    for (int i = 0; i < 6; i++) assert_true(tb_submit(b, &s, NOW) > 0);
    open_views(b, TB_VIEW_COST);
    tb_views_close(b); /* but for the account of groups */
    assert_true(tb_keys_first(b) < 0 && tb_groups_first(b) == 3);
    tb_get(b, &config);
    config.policy = TB_POLICY_FIFO;
    assert_int_equal(tb_set(b, &config, NOW), TB_OK);
    assert_true(tb_groups_first(b) < 0);
    tb_views_close(b);
    sound(b);
    config.policy = TB_POLICY_SCRIPT;
    assert_int_equal(tb_set(b, &config, NOW), TB_OK);
    assert_true(tb_groups_first(b) == 3);
    sound(b);
    tb_free(b);
}

/* Keys and groups of large numbers, which come late: what is kept by number grows. */
static void numbers_grow(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    open_choice(b, 0);
    open_views(b, TB_VIEW_KEYS);
    tb_choose_abandon(b);
    for (uint32_t number = 1; number < 100000; number *= 7) {
        tb_submission s = {.cost = 1, .key = number, .group = number};
        assert_true(tb_submit(b, &s, NOW) > 0);
        assert_int_equal(tb_key_alone(b, number, 1, NOW), TB_OK);
        sound(b);
        assert_int_equal(tb_group_full(b, number), 1);
        assert_int_equal(tb_key_alone(b, number, 0, NOW), TB_OK);
        assert_int_equal(tb_group_full(b, number), 0);
    }
    double key = tb_keys_first(b), group = tb_groups_first(b);
    for (uint32_t number = 1; number < 100000; number *= 7) {
        assert_true(key == number && group == number);
        key = tb_keys_next(b, number);
        group = tb_groups_next(b, number);
    }
    sound(b);
    tb_free(b);
}

/* Records that come and go between decisions: the array of positions is full before anybody asks, and rewinds. */
static void positions_rewind(void **state)
{
    (void)state;
    tb_batcher *b = queue_of(4);
    open_choice(b, 4);
    tb_choose_abandon(b);
    static tb_id ids[5000];
    for (uint32_t i = 0; i < 5000; i++) {
        ids[i] = submit(b, 1, NOW);
        if (i < 10) continue;
        uint32_t gone = i % 7 ? i - 3 : i - 10; /* out of order */
        if (gone % 7 && i % 7 == 3) gone = i;
        tb_cancel(b, ids[gone], NOW);
        if (i % 50 == 0) sound(b);
        if (i % 1700 != 0) continue;
        open_choice(b, b->queued);
        tb_choose_abandon(b);
    }
    sound(b);
    assert_true(b->choice.used <= 2 * b->choice.capacity && b->choice.capacity < 3000);
    open_choice(b, b->queued);
    tb_look_at first;
    assert_int_equal(tb_look(b, 1, &first), TB_OK);
    assert_int_equal(tb_record_state(b, first.id), TB_RECORD_QUEUED);
    tb_choose_abandon(b);
    tb_free(b);
}

static void limits(void **state)
{
    (void)state;
    tb_batcher *b = queue_of(3);
    open_choice(b, 3);
    static const double NO_LIMIT[] = {NAN, INFINITY, 1e300};
    for (int i = 0; i < 3; i++) {
        tb_choose_limit(b, NO_LIMIT[i]);
        assert_true(tb_choose_budget(b) == 100);
    }
    tb_choose_limit(b, 2.9);
    assert_true(tb_choose_budget(b) == 2);
    tb_choose_limit(b, 50); /* it only ever falls */
    assert_true(tb_choose_budget(b) == 2);
    tb_choose_limit(b, -1);
    assert_true(tb_choose_budget(b) == 0);
    assert_int_equal(tb_choose_add(b, 1), TB_ADD_BUDGET);
    assert_true(tb_choose_end(b) == 0);
    tb_free(b);
}

static void an_empty_queue_is_shown_as_it_is(void **state)
{
    (void)state;
    tb_batcher *b = queue_of(0);
    tb_queue queue;
    assert_int_equal(tb_choose(b, &queue, NOW), TB_OK);
    assert_true(queue.size == 0 && !queue.is_due && !queue.is_full && queue.total_cost == 0);
    tb_choose_abandon(b);
    assert_true(tb_form_default(b, NOW) == 0);
    tb_free(b);
}

/* Below min_batch_size nobody is asked, and nothing is waited for but the linger. */
static void gathering(void **state)
{
    (void)state;
    for (int groups = 0; groups < 2; groups++) {
        tb_batcher *b = scripted(1, 0);
        tb_config config;
        tb_get(b, &config);
        config.min_batch_size = 3;
        config.batch_timeout_us = 5000;
        assert_int_equal(tb_set(b, &config, NOW), TB_OK);
        tb_submission s = {.cost = 30, .group = groups ? 1 : 0};
        assert_true(tb_submit(b, &s, NOW) > 0);
        assert_int_equal(tb_ask(b, NOW), 0);
        assert_true(tb_next(b) == NOW + 5000);
        s.cost = 90; /* the two fill a batch: somebody is asked though they are two */
        assert_true(tb_submit(b, &s, NOW) > 0);
        assert_true(tb_next(b) <= NOW);
        assert_int_equal(tb_ask(b, NOW), 1);
        assert_true(tb_next(b) == NOW + 5000);
        assert_int_equal(tb_ask(b, NOW + 5000), 1); /* due */
        assert_true(tb_next(b) == TB_NEVER_US);
        s.cost = 1;
        assert_true(tb_submit(b, &s, NOW + 5000) > 0);
        assert_int_equal(tb_ask(b, NOW + 5000), 1);
        tb_ask_again(b, NOW + 6000);
        assert_true(tb_next(b) == NOW + 6000);
        sound(b);
        tb_free(b);
    }
}

/* Below min_batch_size, asked when the queue became due: it has nothing more to wait for. */
static void asked_once_when_due(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    tb_config config;
    tb_get(b, &config);
    config.min_batch_size = 3;
    config.batch_timeout_us = 5000;
    assert_int_equal(tb_set(b, &config, NOW), TB_OK);
    submit(b, 1, NOW);
    assert_int_equal(tb_ask(b, NOW + 5000), 1);
    assert_true(tb_next(b) == TB_NEVER_US);
    assert_int_equal(tb_ask(b, NOW + 9000), 0);
    sound(b);
    tb_free(b);
}

/* Padded: the largest of a group has gone. Whether the rest fills a batch is found out when somebody asks. */
static void the_largest_has_gone(void **state)
{
    (void)state;
    static const double REST[] = {1, 50};
    for (int fills = 0; fills < 2; fills++) {
        tb_batcher *b = scripted(1, 0);
        tb_config config;
        tb_queue queue;
        tb_get(b, &config);
        config.cost_model = TB_COST_PADDED;
        config.min_batch_size = 10;
        assert_int_equal(tb_set(b, &config, NOW), TB_OK);
        tb_submission s = {.cost = 60, .group = 2};
        tb_id largest = tb_submit(b, &s, NOW);
        s.cost = REST[fills];
        assert_true(largest > 0 && tb_submit(b, &s, NOW) > 0 && tb_submit(b, &s, NOW) > 0);
        assert_int_equal(tb_cancel(b, largest, NOW), TB_OK);
        assert_true(tb_next(b) <= NOW); /* it may be full */
        assert_int_equal(tb_ask(b, NOW), fills);
        sound(b);
        assert_int_equal(tb_choose(b, &queue, NOW), TB_OK);
        assert_int_equal(queue.is_full, fills);
        tb_choose_abandon(b);
        tb_free(b);
    }
}

/* What fifo does where a policy has failed: after events, and with a slot. */
static void the_default_has_its_turn(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    tb_event event;
    tb_submission s = {.cost = 1, .timeout_us = 10}, urgent = {.cost = 1, .batch_timeout_us = TB_AT_ONCE};
    assert_true(tb_submit(b, &urgent, NOW) > 0 && tb_submit(b, &s, NOW) > 0);
    assert_true(tb_form_default(b, NOW + 10) == 0); /* somebody has expired, which comes first */
    assert_int_equal(tb_poll(b, &event, 1, NOW + 10), 1);
    assert_int_equal(event.kind, TB_EVENT_EXPIRED);
    assert_true(tb_form_default(b, NOW + 10) > 0);
    assert_true(tb_submit(b, &urgent, NOW + 10) > 0);
    assert_true(tb_form_default(b, NOW + 10) == 0); /* no slot is idle */
    tb_stop(b, 1000, NOW + 10);
    assert_true(tb_form(b, NOW + 1010) == 0 && tb_form_default(b, NOW + 1010) == 0); /* what is left fails first */
    assert_int_equal(tb_poll(b, &event, 1, NOW + 1010), 1);
    assert_int_equal(event.kind, TB_EVENT_STOPPED);
    tb_free(b);
}

/* One that was cut ahead is cancelled: the batch that goes is made anew of those that are left. */
static void the_default_makes_stale_cuts_anew(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    tb_config config;
    tb_batch read;
    tb_id ids[6], in_it[2];
    tb_get(b, &config);
    config.policy = TB_POLICY_FIFO;
    config.max_batch_size = 2;
    config.prefetch_batches = 1;
    assert_int_equal(tb_set(b, &config, NOW), TB_OK);
    for (int i = 0; i < 6; i++) ids[i] = submit(b, 1, NOW);
    tb_id first = tb_form(b, NOW);
    assert_true(first > 0 && tb_form(b, NOW) == 0); /* two run, two are cut */
    assert_int_equal(tb_record_state(b, ids[2]), TB_RECORD_CUT);
    assert_int_equal(tb_cancel(b, ids[2], NOW), TB_OK);
    assert_int_equal(tb_batch_finish(b, first, TB_COMPLETED, NOW), TB_OK);
    tb_id next = tb_form_default(b, NOW);
    assert_int_equal(tb_batch_read(b, next, &read, in_it, NULL, 2), TB_OK);
    assert_true(read.size == 2 && in_it[0] == ids[3] && in_it[1] == ids[4]);
    sound(b);
    tb_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("look: a position that is none is answered", positions_that_are_none),
        TEST("look: a view that is not open is empty", views_that_are_not_open),
        TEST("look: alike is the first arrival of a cost", alike_is_the_first_arrival_of_a_cost),
        TEST("look: the view by priority follows another aging", aging_may_change),
        TEST("look: another policy has no views", another_policy_has_no_views),
        TEST("look: keys and groups may have large numbers", numbers_grow),
        TEST("look: positions rewind where nobody asks for long", positions_rewind),
        TEST("look: a limit falls only, and may be any number", limits),
        TEST("look: an empty queue is shown as it is", an_empty_queue_is_shown_as_it_is),
        TEST("look: below min_batch_size, full and due alone are waited for", gathering),
        TEST("look: who was asked when due is not asked again for nothing", asked_once_when_due),
        TEST("look: without its largest, a group may still fill a batch, or not", the_largest_has_gone),
        TEST("look: the default policy has its turn after events, and with a slot", the_default_has_its_turn),
        TEST("look: the default policy makes stale cuts anew", the_default_makes_stale_cuts_anew),
    };
    return cmocka_run_group_tests_name("look", tests, NULL, NULL);
}
