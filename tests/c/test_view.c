/* test_view.c - scripted decisions: positions and views against plain sorting, what a
 * choice checks, when a policy is asked. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tokenbatcher.h"

enum { MOST = 400, STEPS = 4000 };

static uint32_t seed = 1;

static uint32_t draw(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed % below;
}

static tb_batcher *scripted(uint32_t slots, int64_t max_wait_us)
{
    tb_config config;
    tb_config_init(&config);
    config.policy = TB_POLICY_SCRIPT;
    config.target_batch_cost = 100;
    config.max_batch_size = 20;
    config.max_queue_size = MOST;
    config.max_concurrent_batches = slots;
    config.max_wait_us = max_wait_us;
    tb_batcher *b = tb_new(&config);
    assert_non_null(b);
    assert_int_equal(tb_start(b, 10000000000), TB_OK);
    return b;
}

static tb_id submit(tb_batcher *b, double cost, int64_t now)
{
    tb_submission s = {.cost = cost};
    tb_id id = tb_submit(b, &s, now);
    assert_true(id > 0);
    return id;
}

static void sound(const tb_batcher *b)
{
    const char *broken = tb_verify(b);
    if (broken) fail_msg("%s", broken);
}

/* --- views against sorting --------------------------------------------------- */

typedef struct {
    double rank;
    uint32_t position;
} ranked;

static int by_rank(const void *x, const void *y)
{
    const ranked *a = x, *b = y;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    return a->position < b->position ? -1 : a->position > b->position;
}

enum { AGING_US = 1024 };

static double rank_of(const tb_look_at *at, uint32_t view)
{
    if (view == TB_VIEW_COST) return at->cost;
    if (view == TB_VIEW_DEADLINE) return at->deadline_us < 0 ? INFINITY : at->deadline_us;
    return -at->priority - at->age_us / AGING_US;
}

static void compare_view(const tb_batcher *b, uint32_t view, uint32_t size)
{
    ranked expected[MOST];
    tb_look_at at;
    for (uint32_t i = 1; i <= size; i++) {
        assert_int_equal(tb_look(b, i, &at), TB_OK);
        assert_true(at.cost == tb_look_cost(b, i));
        expected[i - 1] = (ranked){rank_of(&at, view), i};
    }
    qsort(expected, size, sizeof *expected, by_rank);
    uint32_t position = tb_view_first(b, view), previous = 0;
    for (uint32_t i = 0; i < size; i++) {
        assert_int_equal(position, expected[i].position);
        if (previous) assert_int_equal(tb_view_previous(b, view, position), previous);
        previous = position;
        position = tb_view_next(b, view, position);
    }
    assert_int_equal(position, 0);
}

static void compare_keys(const tb_batcher *b, uint32_t size)
{
    uint32_t seen = 0;
    tb_look_at at;
    for (double key = tb_keys_first(b); key >= 0; key = tb_keys_next(b, (uint32_t)key)) {
        uint32_t previous = 0;
        for (uint32_t i = tb_key_first(b, (uint32_t)key); i; i = tb_key_next(b, i), seen++) {
            assert_int_equal(tb_look(b, i, &at), TB_OK);
            assert_true(at.key == key && i > previous);
            previous = i;
        }
        assert_true(previous > 0);
    }
    assert_int_equal(seen, size);
}

static void decide_at_random(tb_batcher *b, int64_t now, tb_id *batch)
{
    tb_queue queue;
    if (!tb_ask(b, now)) return;
    assert_int_equal(tb_choose(b, &queue, now), TB_OK);
    for (uint32_t view = TB_VIEW_COST; view < TB_VIEW_KEYS; view++) compare_view(b, view, queue.size);
    compare_keys(b, queue.size);
    for (uint32_t n = draw(30); n > 0; n--) tb_choose_add(b, 1 + draw(queue.size));
    *batch = tb_choose_end(b);
}

static void views_are_sorted(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    int64_t now = 10000000000;
    tb_id ids[64] = {0}, batch = 0;
    tb_event events[64];
    for (uint32_t view = TB_VIEW_COST; view <= TB_VIEW_KEYS; view++)
        assert_int_equal(tb_view_open(b, view, view == TB_VIEW_PRIORITY ? AGING_US : 0), TB_OK);
    for (int step = 0; step < STEPS; step++) {
        now += draw(50);
        for (uint32_t n = draw(12); n > 0; n--) {
            tb_submission s = {.cost = draw(40), .priority = draw(4), .key = draw(9)};
            s.timeout_us = draw(3) ? 0 : 1 + draw(5000);
            ids[draw(64)] = tb_submit(b, &s, now);
        }
        if (draw(4) == 0) tb_cancel(b, ids[draw(64)], now);
        while (tb_poll(b, events, 64, now) == 64) {}
        sound(b);
        if (batch) tb_batch_finish(b, batch, TB_COMPLETED, now);
        batch = 0;
        decide_at_random(b, now, &batch);
        sound(b);
    }
    tb_free(b);
}

static void a_late_view_is_complete(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    tb_queue queue;
    for (int i = 0; i < 50; i++) submit(b, 50 - i % 7, 10000000000);
    assert_int_equal(tb_ask(b, 10000000000), 1);
    assert_int_equal(tb_choose(b, &queue, 10000000000), TB_OK);
    assert_int_equal(tb_view_open(b, TB_VIEW_COST, 0), TB_OK);
    compare_view(b, TB_VIEW_COST, queue.size);
    tb_choose_abandon(b);
    size_t with = tb_memory(b);
    tb_views_close(b);
    assert_true(tb_memory(b) < with);
    sound(b);
    tb_free(b);
}

/* A record in line was accepted with its key before the view was there. */
static void a_late_view_has_room_for_the_line(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    tb_config config;
    tb_get(b, &config);
    config.max_queue_size = 1;
    assert_int_equal(tb_set(b, &config, 10000000000), TB_OK);
    tb_queue queue;
    tb_event event;
    tb_id first = submit(b, 1, 10000000000);
    tb_submission late = {.cost = 1, .key = 5000, .flags = TB_MAY_WAIT};
    tb_id waits = tb_submit(b, &late, 10000000000);
    assert_int_equal(tb_choose(b, &queue, 10000000000), TB_OK);
    assert_int_equal(tb_view_open(b, TB_VIEW_KEYS, 0), TB_OK);
    tb_choose_abandon(b);
    assert_int_equal(tb_cancel(b, first, 10000000000), TB_OK);
    assert_int_equal(tb_poll(b, &event, 1, 10000000000), 1);
    assert_true(event.kind == TB_EVENT_ADMITTED && event.id == waits);
    assert_true(tb_keys_first(b) == 5000);
    sound(b);
    tb_free(b);
}

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

static void keys_and_priorities_are_bounded(void **state)
{
    (void)state;
    tb_batcher *b = scripted(1, 0);
    const uint32_t keys[] = {1u << 24, 1u << 31, UINT32_MAX};
    assert_int_equal(tb_view_open(b, TB_VIEW_KEYS, 0), TB_OK);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        tb_submission s = {.cost = 1, .key = keys[i]};
        assert_true(tb_submit(b, &s, 10000000000) == TB_ERECORD);
    }
    tb_submission s = {.cost = 1, .priority = NAN};
    assert_true(tb_submit(b, &s, 10000000000) == TB_ERECORD);
    assert_string_equal(tb_error_name(TB_ERECORD), "bad_record");
    sound(b);
    tb_free(b);
}

#define TEST(name, function) {name, function, NULL, NULL, NULL}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("views hold every queued record in their order after each random step", views_are_sorted),
        TEST("a view opened late holds what is queued; closed, it takes no memory", a_late_view_is_complete),
        TEST("a view by key opened late has room for the keys of those in line", a_late_view_has_room_for_the_line),
        TEST("a key of 2^24 or more and a priority that is no number are refused", keys_and_priorities_are_bounded),
        TEST("F1: a choice refuses what does not fit and what does not exist", a_choice_is_checked),
        TEST("batch:limit lowers the budget and never raises it", limit_lowers_the_budget),
        TEST("reset undoes names and limit of a choice", reset_undoes_names_and_limit),
        TEST("X2: records that waited max_wait_s enter first, oldest first", the_aged_go_first),
        TEST("a policy is asked when something happened, and once", asked_when_something_happened),
        TEST("F5: below min_batch_size a policy is not asked", min_batch_size_delays_asking),
        TEST("X1: the default decides in the policy's place", the_default_decides_in_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
