/* test_view.c - positions and views of a scripted decision against plain sorting. */
#include "scripted.h"

enum { STEPS = 4000 };

static uint32_t seed = 1;

static uint32_t draw(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed % below;
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

static int lone[9]; /* by key */

/* F2 for one group, in the words of the rule. */
static int fills(const tb_config *c, double size, double sum, double largest, int has_lone)
{
    double cost = c->cost_model == TB_COST_PADDED ? size * largest : sum;
    double with_one_more = c->cost_model == TB_COST_PADDED ? (size + 1) * fmax(largest, 1) : sum + 1;
    if (size == 0) return 0;
    return has_lone || size >= c->max_batch_size || (size > 1 && cost > c->target_batch_cost) ||
           with_one_more > c->target_batch_cost;
}

static void compare_groups(tb_batcher *b, const tb_queue *queue)
{
    uint32_t seen = 0, full = 0, due = 0;
    tb_config config;
    tb_look_at at;
    tb_get(b, &config);
    for (double group = tb_groups_first(b); group >= 0; group = tb_groups_next(b, (uint32_t)group)) {
        uint32_t previous = 0;
        double n = 0, sum = 0, largest = 0;
        int has_lone = 0;
        for (uint32_t i = tb_group_first(b, (uint32_t)group); i; i = tb_group_next(b, i), seen++, n++) {
            assert_int_equal(tb_look(b, i, &at), TB_OK);
            assert_true(at.group == group && i > previous);
            previous = i;
            sum += at.cost;
            largest = fmax(largest, at.cost);
            has_lone |= lone[(int)at.key];
        }
        assert_true(n > 0);
        assert_int_equal(tb_group_full(b, (uint32_t)group), fills(&config, n, sum, largest, has_lone));
        full += (uint32_t)tb_group_full(b, (uint32_t)group);
        due += (uint32_t)tb_group_due(b, (uint32_t)group);
    }
    assert_int_equal(seen, queue->size);
    assert_int_equal(queue->is_full, full > 0 || queue->is_bounded);
    assert_int_equal(queue->is_due, due > 0);
    assert_int_equal(tb_group_full(b, 77), 0);
    assert_int_equal(tb_group_due(b, 77), 0);
}

/* F1: what is added is of one group, and a lone record is alone. */
static void add_at_random(tb_batcher *b, uint32_t size)
{
    tb_batch chosen;
    tb_look_at first = {0}, at;
    for (uint32_t n = draw(30); n > 0; n--) {
        uint32_t position = 1 + draw(size);
        int answer = tb_choose_add(b, position);
        assert_int_equal(tb_look(b, position, &at), TB_OK);
        tb_choose_read(b, &chosen);
        if (answer == TB_ADD_IN && chosen.size == 1) first = at;
        if (answer == TB_ADD_GROUP) assert_true(at.group != first.group);
        if (answer == TB_ADD_ALONE) assert_true(at.group == first.group && (lone[(int)at.key] || lone[(int)first.key]));
        if (answer != TB_ADD_IN) continue;
        assert_true(at.group == first.group);
        assert_true(chosen.size == 1 || !lone[(int)at.key]);
    }
}

static void decide_at_random(tb_batcher *b, int64_t now, tb_id *batch)
{
    tb_queue queue;
    if (!tb_ask(b, now)) return;
    assert_int_equal(tb_choose(b, &queue, now), TB_OK);
    for (uint32_t view = TB_VIEW_COST; view < TB_VIEW_KEYS; view++) compare_view(b, view, queue.size);
    compare_keys(b, queue.size);
    compare_groups(b, &queue);
    add_at_random(b, queue.size);
    *batch = tb_choose_end(b);
}

static void mark_at_random(tb_batcher *b, int64_t now)
{
    uint32_t key = 1 + draw(8);
    lone[key] = draw(3) == 0;
    assert_int_equal(tb_key_alone(b, key, lone[key], now), TB_OK);
}

static void views_hold(uint32_t cost_model)
{
    tb_batcher *b = scripted(1, 0);
    tb_config config;
    tb_get(b, &config);
    config.cost_model = cost_model;
    assert_int_equal(tb_set(b, &config, 10000000000), TB_OK);
    memset(lone, 0, sizeof lone);
    int64_t now = 10000000000;
    tb_id ids[64] = {0}, batch = 0;
    tb_event events[64];
    for (uint32_t view = TB_VIEW_COST; view <= TB_VIEW_GROUPS; view++)
        assert_int_equal(tb_view_open(b, view, view == TB_VIEW_PRIORITY ? AGING_US : 0), TB_OK);
    for (int step = 0; step < STEPS; step++) {
        now += draw(50);
        for (uint32_t n = draw(12); n > 0; n--) {
            tb_submission s = {.cost = draw(40), .priority = draw(4), .key = draw(9)};
            s.timeout_us = draw(3) ? 0 : 1 + draw(5000);
            s.group = draw(4);
            if (draw(4) == 0) s.batch_timeout_us = (int64_t)draw(60000) - 1;
            ids[draw(64)] = tb_submit(b, &s, now);
        }
        if (draw(20) == 0) mark_at_random(b, now);
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

static void views_are_sorted(void **state)
{
    (void)state;
    views_hold(TB_COST_SUM);
    views_hold(TB_COST_PADDED);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("views hold every queued record in their order after each random step", views_are_sorted),
        TEST("a view opened late holds what is queued; closed, it takes no memory", a_late_view_is_complete),
        TEST("a view by key opened late has room for the keys of those in line", a_late_view_has_room_for_the_line),
        TEST("a key of 2^24 or more and a priority that is no number are refused", keys_and_priorities_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
