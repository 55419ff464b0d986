/* soak_engine.c - an engine under load from four threads and its own loop: records that fail,
 * expire and are cancelled, each with exactly one callback; memory must not grow.
 * usage: soak_engine [records]     (default 4,000,000)
 */
#include "tokenbatcher_engine.h"

#include <ev.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 4, IN_FLIGHT = 2000 };

static const char SCRIPT[] =
    "local tb = require 'tokenbatcher'\n"
    "return { max_queue_size = 1000, batch_timeout_s = 0.001, target_batch_tokens = 5000,\n"
    "  token_estimator = function(r) return #r end,\n"
    "  inference_fn = function(records)\n"
    "    tb.sleep(0.0005)\n"
    "    local out = {}\n"
    "    for i, r in ipairs(records) do\n"
    "      out[i] = r:sub(1, 1) == '7' and tb.failure 'seven' or r\n"
    "    end\n"
    "    return out\n"
    "  end }\n";

static tb_engine *engine;
static char *answers; /* by record: how many callbacks */
static long records, answered, failed, in_flight; /* `answered` of the threads' */
static int stopped;

static void on_result(tb_engine *e, const tb_engine_result *result, void *user)
{
    long number = (long)(intptr_t)user;
    char expected[32];
    (void)e;
    if (result->data) {
        snprintf(expected, sizeof expected, "%ld", number);
        if (strcmp(result->data, expected) != 0) abort();
    } else {
        failed++;
    }
    answers[number]++;
    if (number < records) answered++;
    __atomic_sub_fetch(&in_flight, 1, __ATOMIC_RELAXED);
}

static void on_stopped(tb_engine *e, void *user)
{
    (void)e;
    (void)user;
    stopped = 1;
}

static void *produce(void *data)
{
    long share = records / THREADS, first = (long)(intptr_t)data * share;
    for (long i = first; i < first + share; i++) {
        char text[32];
        int size = snprintf(text, sizeof text, "%ld", i);
        tb_submit_options options = {.size = sizeof options, .timeout_s = i % 11 == 0 ? 0.003 : 0};
        while (__atomic_load_n(&in_flight, __ATOMIC_RELAXED) >= IN_FLIGHT) sched_yield();
        __atomic_add_fetch(&in_flight, 1, __ATOMIC_RELAXED);
        int64_t id = tb_engine_submit_threadsafe(engine, text, (size_t)size, &options, on_result,
                                                 (void *)(intptr_t)i);
        if (id < 0) abort();
    }
    return NULL;
}

static long resident_kb(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*s %ld", &pages) != 1) abort();
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* The loop's own records: every one is cancelled at once, or refused. */
static void submit_own(long number)
{
    int64_t id = tb_engine_submit(engine, "own", 3, NULL, on_result, (void *)(intptr_t)number);
    if (id < 0) {
        if (id != TB_EFULL) abort();
        answers[number]++;
        return;
    }
    __atomic_add_fetch(&in_flight, 1, __ATOMIC_RELAXED);
    if (tb_engine_cancel(engine, id) != TB_OK) abort();
}

int main(int argc, char **argv)
{
    char path[] = "/tmp/soak_engine_XXXXXX", err[512] = "cannot write a script";
    struct ev_loop *loop = ev_default_loop(0);
    pthread_t threads[THREADS];
    long own = 0, own_records, early_kb = 0;
    records = (argc > 1 ? atol(argv[1]) : 4000000) / THREADS * THREADS;
    own_records = records / 8;
    answers = calloc((size_t)(records + own_records), 1);
    int fd = mkstemp(path);
    if (!answers || fd < 0 || write(fd, SCRIPT, sizeof SCRIPT - 1) < 0 ||
        tb_engine_new(&engine, loop, path, err, sizeof err) != TB_OK) {
        fprintf(stderr, "soak_engine: %s\n", err);
        return 1;
    }
    unlink(path);
    memset(answers, 0, (size_t)(records + own_records)); /* resident from the beginning */
    for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, produce, (void *)(intptr_t)i);
    while (answered < records) {
        ev_run(loop, EVRUN_ONCE);
        if (own < own_records) submit_own(records + own++);
        if (!early_kb && answered > records / 3) early_kb = resident_kb();
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    tb_engine_stop(engine, -1, on_stopped, NULL);
    ev_run(loop, 0);
    long late_kb = resident_kb();
    tb_engine_free(engine);
    printf("%ld records of threads, %ld of the loop, %ld failed, expired or cancelled; %ld KB resident at a "
           "third, %ld KB at the end\n", records, own, failed, early_kb, late_kb);
    for (long i = 0; i < records + own; i++) {
        if (answers[i] != 1) {
            fprintf(stderr, "soak_engine: record %ld has %d callbacks\n", i, answers[i]);
            return 1;
        }
    }
    if (!stopped || late_kb > early_kb * 13 / 10 + 4096) {
        fprintf(stderr, "soak_engine: memory grows\n");
        return 1;
    }
    free(answers);
    return 0;
}
