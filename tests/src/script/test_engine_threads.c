/* test_engine_threads.c - scripts in C programs: records from many threads, and engines on
 * threads of their own. A lost wake-up shows as a run that never ends; the alarm stops it.
 */
#include "test_engine.h"

#include <pthread.h>
#include <sched.h>

enum { PRODUCERS = 4, EACH = 3000 };

struct producer {
    pthread_t thread;
    tb_engine *engine;
    int number;
    int64_t next; /* the record whose answer must come next; the loop's */
    int *answered;
};

struct tagged {
    struct producer *producer;
    int64_t number;
};
static struct tagged tags[PRODUCERS][EACH];

/* Every answer is the record's own, and those of one producer come in order. */
static void on_answer(tb_engine *engine, const tb_engine_result *result, void *user)
{
    struct tagged *tag = user;
    char expected[64];
    (void)engine;
    snprintf(expected, sizeof expected, "%d.%lld", tag->producer->number, (long long)tag->number);
    if (!result->data) fail_msg("%s: %s", result->code, result->message);
    assert_string_equal(result->data, expected);
    assert_int_equal(tag->number, tag->producer->next++);
    ++*tag->producer->answered;
}

static void *produce(void *argument)
{
    struct producer *p = argument;
    tb_submit_options options = {.size = sizeof options, .estimated_tokens = 1, .timeout_s = 100, .key = "producer"};
    for (int64_t i = 0; i < EACH; i++) {
        char text[64];
        int size = snprintf(text, sizeof text, "%d.%lld", p->number, (long long)i);
        tags[p->number][i] = (struct tagged){p, i};
        int64_t id;
        while ((id = tb_engine_submit_threadsafe(p->engine, text, (size_t)size, &options, on_answer,
                                                 &tags[p->number][i])) == TB_EFULL) {
            sched_yield();
        }
        if (id <= 0) abort(); /* no assertion of cmocka's works in a thread */
    }
    return NULL;
}

static void answer_all(struct ev_loop *loop, const char *fields)
{
    int answered = 0;
    tb_engine *engine = engine_on(loop, fields);
    struct producer producers[PRODUCERS];
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.engine = engine, .number = i, .answered = &answered};
        assert_int_equal(pthread_create(&producers[i].thread, NULL, produce, &producers[i]), 0);
    }
    run_until(loop, &answered, PRODUCERS * EACH);
    for (int i = 0; i < PRODUCERS; i++) pthread_join(producers[i].thread, NULL);
    assert_int_equal(unanswered(engine), 0);
    tb_engine_free(engine);
}

static void records_of_many_threads_get_their_own_answers_in_order(void **state)
{
    struct rig *rig = *state;
    answer_all(rig->loop, ECHO "batch_timeout_s = 0.001");
}

static void when_the_queue_is_full_records_of_other_threads_wait_in_line(void **state)
{
    struct rig *rig = *state;
    answer_all(rig->loop, ECHO "batch_timeout_s = 0, max_queue_size = 3, max_batch_size = 2");
}

static void the_inbox_has_a_bound(void **state)
{
    struct rig *rig = *state;
    int refused = 0;
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 0");
    for (int i = 0; i < TB_ENGINE_INBOX + 10; i++) {
        int64_t id = tb_engine_submit_threadsafe(engine, "a", 1, NULL, NULL, NULL);
        if (id == TB_EFULL) refused++;
    }
    assert_int_equal(refused, 10);
    while (unanswered(engine) > 0) ev_run(rig->loop, EVRUN_ONCE);
    assert_true(tb_engine_submit_threadsafe(engine, "a", 1, NULL, NULL, NULL) > 0);
    tb_engine_free(engine);
}

#define SLEEPS "policy = 'eager', inference_fn = function(r) tb.sleep(3600) return r end,"

/* A queue that can take no more is full while a slot is idle (F2). */
static void occupy_the_slot(struct rig *rig, tb_engine *engine)
{
    tb_engine_numbers numbers = {0};
    assert_true(tb_engine_submit(engine, "fine", 4, NULL, NULL, NULL) > 0);
    while (numbers.batcher.running_records < 1) {
        ev_run(rig->loop, EVRUN_ONCE);
        assert_int_equal(tb_engine_stats(engine, &numbers, sizeof numbers), TB_OK);
    }
}

static void what_waits_in_line_counts_in_the_bound_of_the_inbox(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, SLEEPS "max_queue_size = 1");
    tb_engine_numbers numbers = {0};
    occupy_the_slot(rig, engine);
    assert_true(tb_engine_submit_threadsafe(engine, "a", 1, NULL, NULL, NULL) > 0);
    assert_true(tb_engine_submit_threadsafe(engine, "b", 1, NULL, NULL, NULL) > 0);
    while (numbers.batcher.waiting_submits < 1) {
        ev_run(rig->loop, EVRUN_ONCE);
        tb_engine_stats(engine, &numbers, sizeof numbers);
    }
    assert_int_equal(submit(engine, "c", NULL, &rig->notes), TB_EFULL); /* it would overtake b */
    int accepted = 0;
    while (tb_engine_submit_threadsafe(engine, "d", 1, NULL, NULL, NULL) > 0) accepted++;
    assert_int_equal(accepted, TB_ENGINE_INBOX - 1);
    tb_engine_free(engine);
}

static void a_record_of_another_thread_that_is_refused_learns_it_by_its_callback(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, SLEEPS
        "max_queue_size = 1, on_full = 'reject', on_oversize = 'reject',"
        "target_batch_tokens = 10, decode = function(s) if s ~= 'odd' then return s end end,"
        "token_estimator = function(s) return s == 'dear' and 11 or s == 'mad' and 0/0 or 1 end");
    occupy_the_slot(rig, engine);
    const char *const texts[] = {"fine", "odd", "dear", "mad", "second"};
    const char *const codes[] = {"", "bad_input", "oversize", "bad_cost", "queue_full"};
    for (int i = 0; i < 5; i++) {
        assert_true(tb_engine_submit_threadsafe(engine, texts[i], strlen(texts[i]), NULL, on_result,
                                                &rig->notes) > 0);
    }
    tb_submit_options bad = {.size = sizeof bad, .timeout_s = -1};
    assert_int_equal(tb_engine_submit_threadsafe(engine, "x", 1, &bad, on_result, &rig->notes),
                     TB_ETIMEOUT);
    run_until(rig->loop, &rig->notes.results, 4);
    for (int i = 1; i < 5; i++) {
        assert_string_equal(rig->notes.list[i - 1].code, codes[i]);
        assert_true(rig->notes.list[i - 1].message[0] != '\0');
    }
    assert_int_equal(unanswered(engine), 2);
    tb_engine_free(engine);
}

static void time_in_the_inbox_counts(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, ECHO "policy = 'eager'");
    tb_submit_options soon = {.size = sizeof soon, .timeout_s = 0.002};
    tb_engine_submit_threadsafe(engine, "a", 1, &soon, on_result, &rig->notes);
    usleep(4000); /* the loop is busy elsewhere until the deadline has passed */
    run_until(rig->loop, &rig->notes.results, 1);
    assert_string_equal(rig->notes.list[0].code, "deadline");
    tb_engine_free(engine);
}

/* A whole program in a thread: its own loop, its own engine. */
static void *run_alone(void *answers)
{
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    struct notes *notes = calloc(1, sizeof *notes);
    tb_engine *engine;
    char err[TEXT];
    if (!loop || !notes || tb_engine_new(&engine, loop, answers, err, sizeof err) != TB_OK) abort();
    for (int i = 0; i < NOTES; i++) {
        if (submit(engine, "a", NULL, notes) <= 0) abort();
    }
    tb_engine_stop(engine, -1, on_stopped, notes);
    ev_run(loop, 0);
    tb_engine_free(engine);
    ev_loop_destroy(loop);
    int results = notes->results;
    free(notes);
    return results == NOTES ? answers : NULL;
}

static void engines_on_threads_of_their_own_do_not_meet(void **state)
{
    (void)state;
    char *path = script_file("return { " ECHO "batch_timeout_s = 0 }");
    pthread_t threads[PRODUCERS];
    for (int i = 0; i < PRODUCERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, run_alone, path), 0);
    }
    for (int i = 0; i < PRODUCERS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_ptr_equal(result, path);
    }
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(records_of_many_threads_get_their_own_answers_in_order),
        WITH_RIG(when_the_queue_is_full_records_of_other_threads_wait_in_line),
        WITH_RIG(the_inbox_has_a_bound),
        WITH_RIG(what_waits_in_line_counts_in_the_bound_of_the_inbox),
        WITH_RIG(a_record_of_another_thread_that_is_refused_learns_it_by_its_callback),
        WITH_RIG(time_in_the_inbox_counts),
        WITH_RIG(engines_on_threads_of_their_own_do_not_meet),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("engine_threads", tests, NULL, NULL);
}
