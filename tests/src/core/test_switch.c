/* test_switch.c - policies that change at random times: what the core keeps for scripts (views,
 * groups, lingers of records' own) and for itself (cuts) stays sound, whoever decides. */
#include "scripted.h"

enum { SEEDS = 200, STEPS = 400, EVENTS = 64, KEYS = 4, GROUPS = 3, LIVE = 4096 };

static uint32_t seed;

static uint32_t draw(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed % below;
}

typedef struct world {
    tb_batcher *b;
    int64_t now_us;
    tb_id record[LIVE], batch[LIVE];
    uint32_t records, batches; /* ever; the lists are rings */
    uint32_t dispatched, cut;  /* so that the test knows that it has been everywhere */
} world;

static tb_config draw_config(void)
{
    static const uint32_t policies[] = {TB_POLICY_FIFO, TB_POLICY_EAGER, TB_POLICY_SCRIPT, TB_POLICY_SCRIPT};
    tb_config config;
    tb_config_init(&config);
    config.policy = policies[draw(4)];
    config.cost_model = draw(2) ? TB_COST_SUM : TB_COST_PADDED;
    config.target_batch_cost = 20 + draw(3) * 40;
    config.max_batch_size = 1 + draw(8);
    config.max_queue_size = draw(2) ? 12 : MOST;
    config.max_concurrent_batches = 1 + draw(2);
    config.prefetch_batches = draw(4);
    config.batch_timeout_us = draw(3000);
    config.max_wait_us = draw(3) ? 0 : 2000;
    return config;
}

static void hand_in(world *w)
{
    tb_submission s = {.cost = draw(30), .priority = draw(3), .flags = draw(2) ? TB_MAY_WAIT : 0};
    if (draw(2)) s.key = draw(KEYS);
    if (draw(2)) s.group = draw(GROUPS);
    if (draw(4) == 0) s.batch_timeout_us = draw(3) ? 1 + (int64_t)draw(4000) : TB_AT_ONCE;
    if (draw(4) == 0) s.timeout_us = 1 + (int64_t)draw(9000);
    tb_id id = tb_submit(w->b, &s, w->now_us);
    if (id > 0) w->record[w->records++ % LIVE] = id;
}

static void note(world *w, tb_id batch)
{
    w->batch[w->batches++ % LIVE] = batch;
    w->dispatched++;
}

/* Some records that a script names, after a look at a view. */
static tb_id choose(world *w)
{
    tb_queue queue;
    assert_int_equal(tb_choose(w->b, &queue, w->now_us), TB_OK);
    assert_int_equal(tb_view_open(w->b, draw(TB_VIEW_GROUPS + 1), 1000), TB_OK);
    sound(w->b);
    for (uint32_t i = 1; i <= queue.size; i++)
        if (draw(3)) assert_true(tb_choose_add(w->b, i) >= 0);
    return tb_choose_end(w->b);
}

static void turn(world *w)
{
    tb_event events[EVENTS];
    tb_stats stats;
    tb_id batch;
    while (tb_poll(w->b, events, EVENTS, w->now_us) == EVENTS) continue;
    while ((batch = tb_form(w->b, w->now_us)) != 0) note(w, batch);
    if (tb_ask(w->b, w->now_us) && (batch = draw(4) ? choose(w) : tb_form_default(w->b, w->now_us)) != 0)
        note(w, batch);
    tb_stats_read(w->b, &stats, w->now_us);
    w->cut += stats.prefetched_batches > 0;
}

static void step(world *w)
{
    tb_config config = draw_config();
    uint32_t what = draw(16);
    if (what < 7) hand_in(w);
    else if (what < 10) turn(w);
    else if (what < 12 && w->batches) tb_batch_finish(w->b, w->batch[draw(w->batches) % LIVE], TB_COMPLETED, w->now_us);
    else if (what == 12 && w->records) tb_cancel(w->b, w->record[draw(w->records) % LIVE], w->now_us);
    else if (what == 13) assert_int_equal(tb_key_alone(w->b, 1 + draw(KEYS - 1), (int)draw(2), w->now_us), TB_OK);
    else if (what == 14) assert_int_equal(tb_set(w->b, &config, w->now_us), TB_OK);
    else w->now_us += draw(2000);
    sound(w->b);
}

static void policies_that_change_leave_the_core_sound(void **state)
{
    (void)state;
    static world w;
    uint32_t dispatched = 0, cut = 0;
    for (uint32_t i = 1; i <= SEEDS; i++) {
        seed = i * 2654435761u;
        tb_config config = draw_config();
        w = (world){.b = tb_new(&config), .now_us = 10000000000};
        assert_non_null(w.b);
        assert_int_equal(tb_start(w.b, w.now_us), TB_OK);
        for (int k = 0; k < STEPS; k++) step(&w);
        tb_free(w.b);
        dispatched += w.dispatched;
        cut += w.cut;
    }
    assert_true(dispatched > 10 * SEEDS);
    assert_true(cut > SEEDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("X4, F1, F3, F4, R7: over random schedules, whoever decides, the core stays sound",
             policies_that_change_leave_the_core_sound),
    };
    return cmocka_run_group_tests_name("switch", tests, NULL, NULL);
}
