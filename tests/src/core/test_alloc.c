/* test_alloc.c - what happens when memory runs out, and when it must not be asked for.
 *
 * A story that grows everything is told again and again; the first time the 1st allocation
 * fails, then the 2nd, and so on until one telling needs no more (failing.h). A refused call
 * must have changed nothing; told that there is memory again, it must go on.
 */
#include "../failing.h"
#include "rig.h"

enum { STORY_RECORDS = 3000 };

/* What a refused call must leave as it was. */
typedef struct snapshot {
    tb_stats stats;
    tb_config config;
    int64_t next_us;
    size_t memory;
} snapshot;

static snapshot look(tb_batcher *b, int64_t now_us)
{
    snapshot s;
    memset(&s, 0, sizeof s);
    tb_stats_read(b, &s.stats, now_us);
    tb_get(b, &s.config);
    s.next_us = tb_next(b);
    return s;
}

static void assert_unchanged(tb_batcher *b, const snapshot *before, int64_t now_us)
{
    snapshot after = look(b, now_us);
    assert_true(failed > 0); /* no other reason to refuse */
    assert_memory_equal(&after.stats, &before->stats, sizeof after.stats);
    assert_memory_equal(&after.config, &before->config, sizeof after.config);
    assert_true(after.next_us == before->next_us);
    assert_null(tb_verify(b));
    fail_at = NEVER; /* there is memory again */
}

static tb_batcher *new_in_spite(const tb_config *config)
{
    tb_batcher *b = tb_new(config);
    if (b) return b;
    assert_true(failed > 0);
    fail_at = NEVER;
    b = tb_new(config);
    assert_non_null(b);
    return b;
}

static void start_in_spite(tb_batcher *b, int64_t now_us)
{
    snapshot before = look(b, now_us);
    int error = tb_start(b, now_us);
    if (error == TB_OK) return;
    assert_int_equal(error, TB_ENOMEM);
    assert_unchanged(b, &before, now_us);
    assert_int_equal(tb_start(b, now_us), TB_OK);
}

static tb_id submit_in_spite(tb_batcher *b, const tb_submission *record, int64_t now_us)
{
    snapshot before = look(b, now_us);
    tb_id id = tb_submit(b, record, now_us);
    if (id > 0) return id;
    assert_true(id == TB_ENOMEM);
    assert_unchanged(b, &before, now_us);
    id = tb_submit(b, record, now_us);
    assert_true(id > 0);
    return id;
}

static void set_in_spite(tb_batcher *b, const tb_config *config, int64_t now_us)
{
    snapshot before = look(b, now_us);
    int error = tb_set(b, config, now_us);
    if (error == TB_OK) return;
    assert_int_equal(error, TB_ENOMEM);
    assert_unchanged(b, &before, now_us);
    assert_int_equal(tb_set(b, config, now_us), TB_OK);
}

static void key_alone_in_spite(tb_batcher *b, uint32_t key, int64_t now_us)
{
    snapshot before = look(b, now_us);
    int error = tb_key_alone(b, key, 1, now_us);
    if (error == TB_OK) return;
    assert_int_equal(error, TB_ENOMEM);
    assert_unchanged(b, &before, now_us);
    assert_int_equal(tb_key_alone(b, key, 1, now_us), TB_OK);
}

/* A turn that cannot fail, whatever memory there is; how many records went. */
static uint32_t turn_and_finish(tb_batcher *b, int64_t now_us)
{
    tb_event events[16];
    tb_id batches[TB_MAX_BATCHES];
    uint32_t records = 0, count = 0;
    while (tb_poll(b, events, 16, now_us) == 16) {}
    for (tb_id batch; (batch = tb_form(b, now_us)) != 0;) {
        assert_true(batch > 0);
        batches[count++] = batch;
    }
    for (uint32_t i = 0; i < count; i++) {
        tb_batch read;
        assert_int_equal(tb_batch_read(b, batches[i], &read, NULL, NULL, 0), TB_OK);
        assert_int_equal(tb_batch_finish(b, batches[i], TB_COMPLETED, now_us), TB_OK);
        records += read.size;
    }
    return records;
}

static double story(void)
{
    int64_t now_us = 10000LL * 1000000;
    tb_config config = small_config();
    config.max_queue_size = 2000;
    tb_batcher *b = new_in_spite(&config);
    start_in_spite(b, now_us);
    for (int i = 0; i < STORY_RECORDS; i++) {
        tb_submission record = {.cost = i % 7, .flags = TB_MAY_WAIT};
        if (i % 3 == 0) record.timeout_us = 1000000 + i;
        if (i % 5 == 0) record.batch_timeout_us = 2000000 + i;
        if (i == 1500) key_alone_in_spite(b, 3000, now_us);
        record.group = i < 1000 ? 0 : 7; /* the first that has one, when there are many */
        submit_in_spite(b, &record, now_us);
    }
    config.policy = TB_POLICY_SCRIPT; /* needs the account of groups */
    set_in_spite(b, &config, now_us);
    config.policy = TB_POLICY_FIFO;
    config.max_concurrent_batches = 100;
    config.prefetch_batches = 300;
    set_in_spite(b, &config, now_us);
    assert_true(turn_and_finish(b, now_us) == 400);
    config.max_concurrent_batches = TB_MAX_BATCHES;
    config.prefetch_batches = 1024;
    config.max_batch_size = 1000;
    set_in_spite(b, &config, now_us);
    tb_stop(b, TB_NO_TIMEOUT, now_us);
    uint64_t turns = 0;
    for (; tb_state(b) != TB_STOPPED && turns < 10000; turns++) turn_and_finish(b, ++now_us);
    assert_int_equal(tb_state(b), TB_STOPPED);
    assert_null(tb_verify(b));
    tb_stats s;
    tb_stats_read(b, &s, now_us);
    tb_free(b);
    return s.total_completed;
}

static void choose_in_spite(tb_batcher *b, tb_queue *queue, int64_t now_us)
{
    snapshot before = look(b, now_us);
    int error = tb_choose(b, queue, now_us);
    if (error == TB_OK) return;
    assert_int_equal(error, TB_ENOMEM);
    assert_unchanged(b, &before, now_us);
    assert_int_equal(tb_choose(b, queue, now_us), TB_OK);
}

static void open_in_spite(tb_batcher *b, uint32_t view, int64_t now_us)
{
    snapshot before = look(b, now_us);
    int error = tb_view_open(b, view, 0);
    if (error == TB_OK) return;
    assert_int_equal(error, TB_ENOMEM);
    assert_unchanged(b, &before, now_us);
    assert_int_equal(tb_view_open(b, view, 0), TB_OK);
}

/* A script decides over a queue that grows beneath all views; calls time out and are remembered, if there is memory. */
static double scripted_story(void)
{
    int64_t now_us = 10000LL * 1000000;
    tb_config config = small_config();
    config.policy = TB_POLICY_SCRIPT;
    config.inference_timeout_us = 100;
    tb_batcher *b = new_in_spite(&config);
    start_in_spite(b, now_us);
    double taken = 0;
    for (uint32_t i = 0; i < 700; i++) {
        tb_submission record = {.cost = 1, .key = i * i, .group = i > 100 ? i / 10 : 0};
        submit_in_spite(b, &record, now_us);
        if (i % 60 != 1) continue;
        tb_queue queue;
        tb_event event;
        choose_in_spite(b, &queue, now_us);
        if (i > 200) open_in_spite(b, i / 60 % (TB_VIEW_GROUPS + 1), now_us);
        assert_int_equal(tb_choose_add(b, 1), TB_ADD_IN);
        assert_true(tb_choose_end(b) > 0);
        now_us += 100;
        while (tb_poll(b, &event, 1, now_us) == 1) taken += event.kind == TB_EVENT_BATCH_TIMED_OUT;
        assert_null(tb_verify(b));
    }
    assert_null(tb_verify(b));
    tb_free(b);
    return taken;
}

/* One batch runs, two are cut ahead; new settings need memory in several places. */
static uint64_t set_over_cuts(uint64_t k)
{
    int64_t now_us = 10000LL * 1000000;
    tb_config config = small_config();
    config.prefetch_batches = 2;
    tb_batcher *b = new_in_spite(&config);
    start_in_spite(b, now_us);
    tb_submission record = {.cost = 1, .group = 7};
    for (int i = 0; i < 20; i++) submit_in_spite(b, &record, now_us);
    assert_true(tb_form(b, now_us) > 0 && tb_form(b, now_us) == 0);
    assert_true(look(b, now_us).stats.prefetched_batches == 2);
    config.policy = TB_POLICY_SCRIPT;
    config.prefetch_batches = 300;
    config.max_concurrent_batches = 100;
    asked = failed = 0;
    fail_at = k;
    set_in_spite(b, &config, now_us);
    fail_at = NEVER;
    uint64_t refused = failed;
    tb_free(b);
    return refused;
}

/* How many allocations a story needs: each of them has failed once. */
static uint64_t told_until_nothing_fails(double (*tell)(void), double expected)
{
    for (uint64_t k = 1;; k++) {
        assert_true(k < 10000);
        asked = failed = 0;
        fail_at = k;
        double came = tell();
        fail_at = NEVER;
        assert_true(came == expected);
        if (failed == 0) return k - 1;
    }
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    uint64_t refused = told_until_nothing_fails(story, STORY_RECORDS) + told_until_nothing_fails(scripted_story, 12);
    print_message("  %llu allocations, each of them failed once\n", (unsigned long long)refused);
    assert_true(refused >= 40);
}

static void a_refused_set_keeps_the_cuts(void **state)
{
    (void)state;
    uint64_t k = 1;
    while (set_over_cuts(k) > 0) k++;
    assert_true(k > 3);
}

static void without_memory_for_long(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 1000000;
    rig *r = rig_start(&config);
    uint32_t accepted = 0;
    asked = failed = 0;
    fail_at = 1;
    while (submit_cost(r, 1) > 0) accepted++;
    for (int i = 0; i < 100; i++) assert_true(submit_timeout(r, 1, 500) == TB_ENOMEM);
    fail_at = NEVER;
    tb_stats s = stats(r);
    assert_true(s.total_submitted == accepted && s.total_rejected == 0);
    assert_null(tb_verify(r->b));
    fail_at = asked + 1; /* what is queued can still go */
    while (stats(r).queue_size > 0) {
        turn_at(r, r->now_us + 1000);
        for (uint32_t i = 0; i < r->batch_count; i++) finish(r, r->batches[i]);
    }
    fail_at = NEVER;
    assert_true(stats(r).total_completed == accepted);
    assert_true(submit_cost(r, 1) > 0);
    rig_end(r);
}

/* All that a record can live through, again and again. */
static void steady_round(tb_batcher *b, int64_t now_us, uint32_t round)
{
    tb_event events[16];
    tb_id ids[64], batch;
    for (uint32_t i = 0; i < 64; i++) {
        tb_submission record = {.cost = i % 50, .flags = i % 2 ? TB_MAY_WAIT : 0};
        if (i % 4 == 0) record.timeout_us = 1 + (i * 37 + round) % 500;
        ids[i] = i % 8 == 6 ? tb_submit_plain(b, record.cost, now_us) : tb_submit(b, &record, now_us);
    }
    for (uint32_t i = 0; i < 64; i += 9) tb_cancel(b, ids[i], now_us);
    for (int k = 0; k < 40; k++) {
        while (tb_poll(b, events, 16, now_us) == 16) {}
        while ((batch = tb_form(b, now_us)) != 0) {
            tb_batch read;
            tb_id running[8];
            tb_batch_read(b, batch, &read, running, NULL, 8);
            tb_settle(b, running[0], TB_FAILED, now_us);
            tb_batch_retry(b, batch, now_us);
            if (tb_form(b, now_us) == 0) tb_batch_finish(b, batch, TB_COMPLETED, now_us);
        }
        now_us += 20;
    }
}

static void steady_state_allocates_nothing(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_queue_size = 40;
    config.prefetch_batches = 2;
    config.inference_timeout_us = 300;
    rig *r = rig_start(&config);
    uint32_t round = 0;
    for (; round < 300; round++) steady_round(r->b, r->now_us += 1000, round);
    asked = 0;
    size_t memory = tb_memory(r->b);
    double before = stats(r).total_submitted;
    for (; stats(r).total_submitted < before + 100000; round++) {
        steady_round(r->b, r->now_us += 1000, round);
        if (round % 100 == 0) tb_flush(r->b, r->now_us);
    }
    assert_true(asked == 0);
    assert_true(tb_memory(r->b) == memory);
    rig_end(r);
}

/* For the leak checkers under which the tests also run. */
static void nothing_is_kept_after_free(void **state)
{
    (void)state;
    fail_at = NEVER;
    for (int i = 0; i < 50; i++) assert_true(story() == STORY_RECORDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("memory: whichever allocation fails, nothing has changed and work goes on",
             every_allocation_may_fail),
        TEST("memory: settings that are refused leave the batches that are cut ahead", a_refused_set_keeps_the_cuts),
        TEST("memory: without memory for long, what is queued is still served",
             without_memory_for_long),
        TEST("memory: in steady state 10^5 records allocate nothing",
             steady_state_allocates_nothing),
        TEST("memory: all is given back", nothing_is_kept_after_free),
    };
    return cmocka_run_group_tests_name("alloc", tests, NULL, NULL);
}
