/* test_engine_failing.c - worker threads when memory, descriptors and threads run out: a job is refused, or answered
 * with a sentence, and the next one works. The workers are handed a setup that is none, so that each job ends with a
 * sentence of worker.lua's.
 */
#include "../../../src/script/threads.h"

#include "../failing.h"
#include "test_engine.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

FAILING(int, eventfd, -1, (unsigned count, int flags), (count, flags))
FAILING(int, pthread_create, EAGAIN,
        (pthread_t *thread, const pthread_attr_t *given, void *(*run)(void *), void *data), (thread, given, run, data))

enum { JOBS = 6 };
static const char NO_SETUP[] = "no setup";

static tb_threads *new_in_spite(void)
{
    tb_threads *pool = tb_threads_new(NO_SETUP, sizeof NO_SETUP, 2, 0);
    if (pool) return pool;
    assert_true(recovers());
    pool = tb_threads_new(NO_SETUP, sizeof NO_SETUP, 2, 0);
    assert_non_null(pool);
    return pool;
}

static double submit_in_spite(tb_threads *pool)
{
    double id = tb_threads_submit(pool, "job", 3);
    if (id > 0) return id;
    assert_true(id == TB_THREADS_FULL);
    assert_true(recovers());
    id = tb_threads_submit(pool, "job", 3);
    assert_true(id > 0);
    return id;
}

static void take_all(tb_threads *pool, double first)
{
    tb_answer answers[JOBS];
    for (uint32_t taken = 0; taken < JOBS;) {
        struct pollfd p = {.fd = tb_threads_fd(pool), .events = POLLIN};
        poll(&p, 1, 1000);
        uint32_t n = tb_threads_take(pool, answers, JOBS);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(answers[i].job >= first && answers[i].job < first + JOBS);
            assert_true(!answers[i].is_ok && !answers[i].is_given_up);
            assert_true(answers[i].bytes ? answers[i].size > 0 : answers[i].size == 0 && failed > 0);
            tb_threads_release(answers[i].bytes);
        }
        taken += n;
    }
}

static void story(void)
{
    tb_threads_numbers numbers;
    tb_threads *pool = new_in_spite();
    for (int round = 0; round < 2; round++) {
        double first = submit_in_spite(pool);
        for (int i = 1; i < JOBS; i++) assert_true(submit_in_spite(pool) == first + i);
        take_all(pool, first);
        tb_threads_read(pool, &numbers);
        assert_true(numbers.threads >= 1 && numbers.threads <= 2 && numbers.waiting == 0 && numbers.abandoned == 0);
        tb_threads_rest(pool);
        tb_threads_read(pool, &numbers);
        assert_true(numbers.threads == 0 && numbers.busy == 0 && numbers.hanging == 0);
    }
    tb_threads_free(pool);
}

static void whatever_fails_the_next_job_is_answered(void **state)
{
    (void)state;
    uint64_t calls = 0;
    /* how many calls a telling needs depends on which worker takes which job: a few more than it seems */
    for (uint64_t k = 1, clean = 0; clean < 3 && k < 400; k++) {
        asked = failed = 0;
        fail_at = k;
        story();
        fail_at = NEVER;
        clean = failed == 0 ? clean + 1 : 0;
        calls += failed > 0;
    }
    print_message("  %d calls failed, one after the other\n", (int)calls);
    assert_true(calls >= 15);
}

/* A bound that is too small for the modules that a worker loads: the job says so, and the next one. */
static void a_worker_within_a_bound(void **state)
{
    (void)state;
    tb_answer answer;
    tb_threads *pool = tb_threads_new(NO_SETUP, sizeof NO_SETUP, 1, 400000);
    assert_non_null(pool);
    for (int i = 1; i <= 3; i++) {
        assert_true(tb_threads_submit(pool, "job", 3) == i);
        while (tb_threads_take(pool, &answer, 1) == 0) {
            struct pollfd p = {.fd = tb_threads_fd(pool), .events = POLLIN};
            poll(&p, 1, 1000);
        }
        assert_true(answer.job == i && !answer.is_ok && answer.bytes);
        char text[TEXT];
        snprintf(text, sizeof text, "%.*s", (int)answer.size, answer.bytes);
        assert_contains(text, "not enough memory");
        tb_threads_release(answer.bytes);
    }
    tb_threads_rest(pool);
    tb_threads_free(pool);
    assert_null(tb_threads_new(NO_SETUP, sizeof NO_SETUP, 0, 0));
    assert_null(tb_threads_new(NO_SETUP, sizeof NO_SETUP, TB_THREADS_MAX + 1, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_fails_the_next_job_is_answered),
        cmocka_unit_test(a_worker_within_a_bound),
    };
    alarm(2 * HANGS_AFTER_S);
    return cmocka_run_group_tests_name("engine_failing", tests, NULL, NULL);
}
