/* test_engine_monkey.c - anything that a program may call, in any order, out of any callback, while another thread
 * hands in records: submits, cancels, settings, stops and frees. Each accepted record has its callback exactly once,
 * none comes after the engine is gone, and the counters add up.
 *
 * Seeded by TB_SEED (1), so many rounds as TB_MONKEY_ROUNDS (60) says, each an engine's life. Its worth is under ASan
 * and TSan (make sanitize).
 */
#include "test_engine.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { MOST_RECORDS = 4000, MOST_OPS = 600 };

static uint32_t seed = 1;

static uint32_t draw(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed % below;
}

struct record {
    int64_t id; /* > 0: accepted */
    int calls;
};

/* One engine's life. The poster hands in its records under the lock, and never to one that is being freed. */
static struct {
    struct ev_loop *loop;
    tb_engine *engine; /* NULL: freed, or being freed */
    int depth;         /* of callbacks */
    struct record records[MOST_RECORDS], posted[MOST_RECORDS];
    uint32_t record_count, post_count;
    int stops_asked, stops_told;
    bool has_stopped;
    pthread_mutex_t lock;
    tb_engine *open; /* to the poster */
    bool is_over;
} w;

static const char *const SCRIPTS[] = {
    ECHO "batch_timeout_s = 0.0002",
    ECHO "policy = 'eager', max_queue_size = 3, max_concurrent_batches = 2",
    "policy = 'fair', on_full = 'reject', max_queue_size = 8, on_error = 'bisect', batch_timeout_s = 0,"
    "inference_fn = function(r) for i = 1, #r do if r[i]:find 'bad' then error 'bad' end end return r end",
    "batch_timeout_s = 0.0001, max_concurrent_batches = 3, inference_timeout_s = 0.002, max_abandoned_calls = 1,"
    "inference_fn = function(r, info) tb.sleep(0.001 * (info.id % 4)) return r end",
    "policy = 'eager', decode = function(s) if s ~= '' then return s end end, encode = function(_, x) return x end,"
    "on_oversize = 'reject', target_batch_tokens = 20, token_estimator = function(s) return #s end,"
    "inference_fn = function(r) local out = {} for i = 1, #r do\n"
    "out[i] = r[i] == 'bad' and {} or r[i] end return out end",
};

static void op(void);

static void close_to_poster(void)
{
    pthread_mutex_lock(&w.lock);
    w.open = NULL;
    pthread_mutex_unlock(&w.lock);
}

static void free_engine(void)
{
    tb_engine *engine = w.engine;
    close_to_poster();
    w.engine = NULL;
    tb_engine_free(engine);
}

/* Some of everything, out of a callback: not for ever, since each submit has its callback. */
static void ops_in_callback(void)
{
    w.depth++;
    for (uint32_t n = draw(8) == 0 ? draw(4) : 0; n > 0 && w.engine; n--) op();
    w.depth--;
}

static void on_record(tb_engine *engine, const tb_engine_result *result, void *user)
{
    struct record *record = user;
    assert_non_null(engine);
    assert_int_equal(w.depth, 0); /* none runs within a call */
    assert_int_equal(record->calls++, 0);
    assert_true((result->data != NULL) != (result->code != NULL));
    if (record->id) assert_true(result->id == record->id);
    if (result->data) assert_int_equal(result->data[result->size], 0);
    ops_in_callback();
}

static void on_stop(tb_engine *engine, void *user)
{
    (void)user;
    assert_non_null(engine);
    w.stops_told++;
    w.has_stopped = true;
    ops_in_callback();
}

static tb_submit_options draw_options(void)
{
    static const char *const NAMES[] = {NULL, "", "a", "b", "\xff\xfe"};
    static const double ODD[] = {-1, NAN, INFINITY, 1e300};
    tb_submit_options options = {.size = sizeof options, .key = NAMES[draw(5)], .group = NAMES[draw(4)]};
    options.estimated_tokens = draw(3) ? 0 : draw(30);
    options.priority = draw(3);
    if (draw(4) == 0) options.timeout_s = 0.0001 * (1 + draw(20));
    if (draw(4) == 0) options.batch_timeout_s = 0.0001 * (1 + draw(20));
    if (draw(20) == 0) options.timeout_s = ODD[draw(4)];
    if (draw(20) == 0) options.estimated_tokens = ODD[draw(4)];
    if (draw(20) == 0) options.priority = ODD[1 + draw(3)];
    return options;
}

static void submit_one(void)
{
    static const char *const TEXTS[] = {"a", "bb", "bad", "", "a longer one, dear to who pays by the token"};
    if (w.record_count == MOST_RECORDS) return;
    struct record *record = &w.records[w.record_count];
    tb_submit_options options = draw_options();
    const char *text = TEXTS[draw(5)];
    int64_t id = tb_engine_submit(w.engine, text, strlen(text), draw(3) ? &options : NULL, on_record, record);
    assert_true(id != 0);
    if (id < 0) return;
    assert_int_equal(record->calls, 0); /* not within the call */
    record->id = id;
    w.record_count++;
}

static void cancel_one(void)
{
    int64_t id = (int64_t)draw(1000) - 10;
    const struct record *record = w.record_count && draw(8) ? &w.records[draw(w.record_count)] : NULL;
    int error = tb_engine_cancel(w.engine, record ? record->id : id);
    if (!record) return;
    if (record->calls) assert_int_equal(error, TB_ENOENT);
    else assert_true(error == TB_OK || error == TB_ENOENT);
}

static void set_some(void)
{
    static const tb_engine_option OPTIONS[] = {
        {"max_batch_size", "3"}, {"max_queue_size", "2"}, {"policy", "priority"}, {"policy", "on_time:slo_s=1"},
        {"batch_timeout_s", "0"}, {"batch_timeout_s", "0.0005"}, {"max_concurrent_batches", "1"}, {"on_full", "wait"},
        {"nobody", "1"}, {"max_batch_size", "-1"}, {"policy", ""}, {"on_full", "\xff"}, {"", ""},
        {"max_wait_s", "none"},
    };
    char err[TEXT] = "";
    uint32_t first = draw(13);
    int error = tb_engine_set(w.engine, &OPTIONS[first], 1 + draw(2), err, sizeof err);
    assert_true((error == TB_OK) == (err[0] == '\0'));
}

static void check_counters(void)
{
    tb_engine_numbers n;
    int error = tb_engine_stats(w.engine, &n, sizeof n);
    assert_int_equal(error, TB_OK);
    const tb_stats *s = &n.batcher;
    assert_true(s->total_submitted == s->queue_size + s->prefetched_records + s->running_records + s->total_completed +
                                          s->total_failed + s->total_cancelled + s->total_expired);
    assert_true(n.unanswered >= 0 && n.inbox >= 0 && n.inbox <= n.unanswered);
}

static void op(void)
{
    static const double TIMEOUTS[] = {-1, 0, 0.001, NAN, 1e300};
    uint32_t kind = draw(1000);
    if (kind < 600) {
        submit_one();
    } else if (kind < 750) {
        cancel_one();
    } else if (kind < 800) {
        set_some();
    } else if (kind < 990) {
        check_counters();
        (void)tb_engine_message(w.engine);
    } else if (kind < 996) {
        if (tb_engine_stop(w.engine, TIMEOUTS[draw(5)], on_stop, NULL) == TB_OK) w.stops_asked++;
    } else {
        free_engine();
    }
}

static void *post(void *argument)
{
    uint32_t own = 77;
    (void)argument;
    for (bool is_over = false; !is_over; sched_yield()) {
        own = own * 1664525u + 1013904223u;
        pthread_mutex_lock(&w.lock);
        is_over = w.is_over;
        if (w.open && w.post_count < MOST_RECORDS) {
            struct record *record = &w.posted[w.post_count];
            tb_submit_options options = {.size = sizeof options, .key = own >> 30 ? "p" : NULL};
            options.timeout_s = own >> 28 & 1 ? 0.0005 : 0;
            /* its id is known after its callback may have come: it is not looked at there */
            if (tb_engine_submit_threadsafe(w.open, "posted", 6, &options, on_record, record) > 0) w.post_count++;
        }
        pthread_mutex_unlock(&w.lock);
    }
    return NULL;
}

static void begin_life(void)
{
    memset(w.records, 0, sizeof w.records);
    memset(w.posted, 0, sizeof w.posted);
    w.record_count = w.post_count = 0;
    w.stops_asked = w.stops_told = 0;
    w.has_stopped = false;
    w.engine = engine_on(w.loop, SCRIPTS[draw(sizeof SCRIPTS / sizeof *SCRIPTS)]);
    pthread_mutex_lock(&w.lock);
    if (draw(3)) w.open = w.engine;
    pthread_mutex_unlock(&w.lock);
}

/* Freed as it is, or drained before. */
static void end_life(void)
{
    if (w.engine && draw(2)) {
        close_to_poster();
        if (tb_engine_stop(w.engine, draw(2) ? -1 : 0.001, on_stop, NULL) == TB_OK) w.stops_asked++;
        while (w.engine && !w.has_stopped) ev_run(w.loop, EVRUN_ONCE);
        if (w.engine) assert_true(unanswered(w.engine) == 0);
    }
    if (w.engine) free_engine();
    ev_run(w.loop, EVRUN_NOWAIT);
    for (uint32_t i = 0; i < w.record_count; i++) assert_int_equal(w.records[i].calls, 1);
    for (uint32_t i = 0; i < w.post_count; i++) assert_int_equal(w.posted[i].calls, 1);
    assert_int_equal(w.stops_told, w.stops_asked);
}

static void whatever_is_called_each_record_is_answered_once(void **state)
{
    struct rig *rig = *state;
    pthread_t poster;
    uint32_t rounds = getenv("TB_MONKEY_ROUNDS") ? (uint32_t)atoi(getenv("TB_MONKEY_ROUNDS")) : 60;
    double answered = 0, posted = 0;
    seed = getenv("TB_SEED") ? (uint32_t)atoi(getenv("TB_SEED")) : 1;
    w.loop = rig->loop;
    assert_int_equal(pthread_mutex_init(&w.lock, NULL), 0);
    assert_int_equal(pthread_create(&poster, NULL, post, NULL), 0);
    for (uint32_t round = 0; round < rounds; round++) {
        begin_life();
        for (uint32_t ops = draw(MOST_OPS); ops > 0 && w.engine; ops--) {
            op();
            if (w.engine && draw(4) == 0) ev_run(w.loop, EVRUN_NOWAIT);
            if (draw(16) == 0) sched_yield();
        }
        end_life();
        answered += w.record_count;
        posted += w.post_count;
    }
    pthread_mutex_lock(&w.lock);
    w.is_over = true;
    pthread_mutex_unlock(&w.lock);
    pthread_join(poster, NULL);
    pthread_mutex_destroy(&w.lock);
    print_message("  %u engines, %.0f records, %.0f of another thread\n", rounds, answered, posted);
    assert_true(answered >= rounds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {WITH_RIG(whatever_is_called_each_record_is_answered_once)};
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("engine_monkey", tests, NULL, NULL);
}
