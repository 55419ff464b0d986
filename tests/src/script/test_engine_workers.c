/* test_engine_workers.c - engines whose script runs its inference in worker threads: the
 * pool of src/script/threads.c, under whatever the sanitizers see.
 */
#include "test_engine.h"

#include <semaphore.h>

enum { RECORDS = 400 };

/* Of the last script made; worker scripts find these by the ffi, as symbols of the program. */
__attribute__((visibility("default"))) void test_worker_block(void);
__attribute__((visibility("default"))) void test_worker_ended(void);
static sem_t gate, ended;
void test_worker_block(void)
{
    while (sem_wait(&gate) != 0) {
    }
}
void test_worker_ended(void)
{
    sem_post(&ended);
}

#define WORKER "local ffi = require 'ffi' " \
    "ffi.cdef 'void test_worker_block(void); void test_worker_ended(void);' " \
    "return { inference_fn = function(records) local out = {} " \
    "for i, r in ipairs(records) do " \
    "if r == 'block' then ffi.C.test_worker_block() ffi.C.test_worker_ended() end " \
    "if r == 'raise' then error 'no' end out[i] = r .. '!' end return out end }"

static char worker_path[64];

static int make_worker(void **state)
{
    (void)state;
    copy_text(worker_path, sizeof worker_path, script_file(WORKER));
    return sem_init(&gate, 0, 0) || sem_init(&ended, 0, 0);
}

static int remove_worker(void **state)
{
    (void)state;
    return unlink(worker_path);
}

static tb_engine *engine_with_workers(struct ev_loop *loop, int threads, const char *fields)
{
    char text[1024];
    snprintf(text, sizeof text,
             "inference_fn = tb.backend.threads { script = '%s', threads = %d }, policy = 'eager', "
             "max_batch_size = 1, max_queue_size = 1000, %s",
             worker_path, threads, fields);
    return engine_on(loop, text);
}

static void count_answer(tb_engine *engine, const tb_engine_result *result, void *user)
{
    int *answers = user;
    (void)engine;
    assert_non_null(result->data);
    assert_string_equal(result->data, "a!");
    ++*answers;
}

static void batches_run_in_threads_and_answers_come_to_the_loop(void **state)
{
    struct rig *rig = *state;
    int answers = 0;
    tb_engine *engine = engine_with_workers(rig->loop, 4, "max_concurrent_batches = 8");
    for (int i = 0; i < RECORDS; i++) {
        assert_true(tb_engine_submit(engine, "a", 1, NULL, count_answer, &answers) > 0);
    }
    run_until(rig->loop, &answers, RECORDS);
    must_submit(engine, "raise", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 1);
    assert_string_equal(rig->notes.list[0].code, "inference_failed");
    assert_contains(rig->notes.list[0].traceback, "stack traceback");
    tb_engine_stop(engine, -1, on_stopped, &rig->notes);
    ev_run(rig->loop, 0);
    assert_int_equal(rig->notes.stops, 1);
    tb_engine_free(engine);
}

static void a_worker_that_was_abandoned_outlives_its_engine(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_with_workers(rig->loop, 1, "inference_timeout_s = 0.05");
    must_submit(engine, "block", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 1);
    assert_string_equal(rig->notes.list[0].code, "inference_timeout");
    tb_engine_free(engine);
    assert_int_equal(sem_post(&gate), 0);
    assert_int_equal(sem_wait(&ended), 0);
}

static void an_engine_can_be_freed_while_its_workers_work(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_with_workers(rig->loop, 2, "max_concurrent_batches = 2");
    tb_engine_numbers numbers = {0};
    for (int i = 0; i < 5; i++) must_submit(engine, "block", &rig->notes);
    while (numbers.batcher.running_batches < 2) {
        ev_run(rig->loop, EVRUN_ONCE);
        tb_engine_stats(engine, &numbers, sizeof numbers);
    }
    tb_engine_free(engine);
    assert_int_equal(rig->notes.results, 5);
    for (int i = 0; i < 5; i++) {
        assert_string_equal(rig->notes.list[i].code, "stopped");
        sem_post(&gate);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(batches_run_in_threads_and_answers_come_to_the_loop),
        WITH_RIG(a_worker_that_was_abandoned_outlives_its_engine),
        WITH_RIG(an_engine_can_be_freed_while_its_workers_work),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("engine_workers", tests, make_worker, remove_worker);
}
