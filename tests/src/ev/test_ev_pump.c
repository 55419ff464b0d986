/* test_ev_pump.c - a whole pump in C: threads post, the driver waits, the core batches.
 *
 * The alarm set in main() stops a pump that sleeps while there is work.
 */
#include "tokenbatcher_ev.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    HANGS_AFTER_S = 300,
    PRODUCERS = 4,
    POSTS_EACH = 5000,
    PRODUCED = PRODUCERS * POSTS_EACH,
    SLOTS = 2,
    BUDGET = 512,
    EVENTS = 16,
    TAKES = 64
};

struct producer {
    pthread_t thread;
    tb_ev *ev;
    uint64_t number;
};

static void *produce(void *argument)
{
    struct producer *p = argument;
    for (uint64_t i = 0; i < POSTS_EACH; i++) {
        tb_post post = {
            .record = {.cost = (double)(1 + (i * 7 + p->number) % 100), .flags = TB_MAY_WAIT},
            .tag = p->number << 32 | i};
        while (tb_ev_post(p->ev, &post) == TB_EFULL) {
            sched_yield();
        }
    }
    return NULL;
}

struct pump {
    tb_ev *ev;
    tb_batcher *b;
    tb_id running[SLOTS]; /* finished one turn after they were formed */
    uint32_t n_running;
    uint64_t submitted;
    bool drained;
};

/* The clock is read after the posts are taken: none is newer than `now_us`. */
static bool submit_posts(struct pump *p)
{
    tb_post posts[TAKES];
    uint32_t n = tb_ev_take(p->ev, posts, TAKES);
    int64_t now_us = tb_ev_now();
    for (uint32_t i = 0; i < n; i++) {
        assert_true(posts[i].record.submitted_us <= now_us);
        assert_true(tb_submit(p->b, &posts[i].record, now_us) > 0);
    }
    p->submitted += n;
    return n > 0;
}

static bool note_events(struct pump *p, int64_t now_us)
{
    tb_event events[EVENTS];
    uint32_t n = tb_poll(p->b, events, EVENTS, now_us);
    for (uint32_t i = 0; i < n; i++) {
        if (events[i].kind == TB_EVENT_DRAINED) {
            p->drained = true;
        } else {
            assert_int_equal(events[i].kind, TB_EVENT_ADMITTED);
        }
    }
    return n > 0;
}

static bool form_batches(struct pump *p, int64_t now_us)
{
    uint32_t before = p->n_running;
    tb_id id;
    while ((id = tb_form(p->b, now_us)) != 0) {
        tb_batch batch;
        assert_true(p->n_running < SLOTS);
        assert_int_equal(tb_batch_read(p->b, id, &batch, NULL, NULL, 0), TB_OK);
        assert_true(batch.size > 0 && batch.cost <= BUDGET);
        p->running[p->n_running++] = id;
    }
    if (p->n_running > before) {
        tb_ev_wake(p->ev); /* inference ends in the next turn */
    }
    return p->n_running > before;
}

static void finish_batches(struct pump *p)
{
    int64_t now_us = tb_ev_now();
    for (uint32_t i = 0; i < p->n_running; i++) {
        assert_int_equal(tb_batch_finish(p->b, p->running[i], TB_COMPLETED, now_us), TB_OK);
    }
    p->n_running = 0;
}

static void turn(struct pump *p)
{
    tb_ev_wait(p->ev, tb_next(p->b));
    finish_batches(p);
    bool busy = true;
    while (busy) {
        busy = submit_posts(p);
        int64_t now_us = tb_ev_now();
        busy |= note_events(p, now_us);
        busy |= form_batches(p, now_us);
    }
}

static tb_batcher *started_batcher(void)
{
    tb_config config;
    tb_config_init(&config);
    config.batch_timeout_us = 1000;
    config.target_batch_cost = BUDGET;
    config.max_batch_size = 32;
    config.max_queue_size = 256;
    config.max_concurrent_batches = SLOTS;
    tb_batcher *b = tb_new(&config);
    assert_non_null(b);
    assert_int_equal(tb_start(b, tb_ev_now()), TB_OK);
    return b;
}

static void assert_all_completed(tb_batcher *b)
{
    tb_stats s;
    tb_stats_read(b, &s, tb_ev_now());
    assert_true(s.total_submitted == PRODUCED);
    assert_true(s.total_completed == PRODUCED);
    assert_true(s.total_batch_records == PRODUCED);
    assert_true(s.total_submitted == s.queue_size + s.prefetched_records +
                                         s.running_records + s.total_completed +
                                         s.total_failed + s.total_cancelled +
                                         s.total_expired);
    assert_null(tb_verify(b));
}

static void a_pump_completes_every_record_that_threads_post(void **state)
{
    (void)state;
    struct pump p = {.ev = tb_ev_new(512), .b = started_batcher()};
    assert_non_null(p.ev);
    struct producer producers[PRODUCERS];
    for (uint64_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.ev = p.ev, .number = i};
        assert_int_equal(pthread_create(&producers[i].thread, NULL, produce, &producers[i]), 0);
    }
    while (p.submitted < PRODUCED) {
        turn(&p);
    }
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(producers[i].thread, NULL);
    }
    tb_stop(p.b, TB_NO_TIMEOUT, tb_ev_now());
    while (!p.drained) {
        turn(&p);
    }
    assert_int_equal(tb_state(p.b), TB_STOPPED);
    assert_all_completed(p.b);
    tb_free(p.b);
    tb_ev_free(p.ev);
}

static void a_lone_record_goes_when_its_batch_timeout_has_come(void **state)
{
    (void)state;
    struct pump p = {.ev = tb_ev_new(1), .b = started_batcher()};
    assert_non_null(p.ev);
    tb_post post = {.record = {.cost = 1}};
    assert_int_equal(tb_ev_post(p.ev, &post), TB_OK);
    tb_stats s = {0};
    while (s.total_completed == 0) {
        turn(&p);
        tb_stats_read(p.b, &s, tb_ev_now());
    }
    assert_true(s.dispatched[TB_REASON_TIMEOUT] == 1);
    assert_true(s.wait_us.max >= 1000);
    tb_free(p.b);
    tb_ev_free(p.ev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pump_completes_every_record_that_threads_post),
        cmocka_unit_test(a_lone_record_goes_when_its_batch_timeout_has_come),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("ev_pump", tests, NULL, NULL);
}
