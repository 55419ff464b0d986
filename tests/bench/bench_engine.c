/* bench_engine.c - what a record costs from tb_engine_submit() to its callback: submitted by
 * the loop's own thread, and by four others; and how long a lone one takes.
 *
 * The script answers each record with itself, under the policy eager. Prints plain lines
 * "name value unit".
 */
#include "tokenbatcher_engine.h"
#include "tokenbatcher_ev.h"

#include <ev.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { WINDOW = 256, RECORDS = 512 * WINDOW, THREADS = 4, LONE = 2000 };

static const char SCRIPT[] = "return { policy = 'eager', max_queue_size = 1e6,\n"
                             "  inference_fn = function(records) return records end }\n";
static const tb_submit_options five_tokens = {.size = sizeof five_tokens, .estimated_tokens = 5};
static int answered;

struct producer {
    pthread_t thread;
    tb_engine *engine;
    int left; /* of its WINDOW; the loop's, while the producer waits for `done` */
    sem_t done;
};

static void on_answer(tb_engine *engine, const tb_engine_result *result, void *user)
{
    (void)engine;
    struct producer *producer = user;
    if (!result->data) abort();
    if (producer && --producer->left == 0) sem_post(&producer->done);
    answered++;
}

static void submit_or_die(tb_engine *engine)
{
    if (tb_engine_submit(engine, "What is 2+2?", 12, &five_tokens, on_answer, NULL) < 0) {
        fprintf(stderr, "bench_engine: %s\n", tb_engine_message(engine));
        exit(1);
    }
}

static void await(struct ev_loop *loop, int count)
{
    while (answered < count) ev_run(loop, EVRUN_ONCE);
}

/* Nanoseconds a record: WINDOW are submitted, then all of them awaited. */
static double one_thread(struct ev_loop *loop, tb_engine *engine)
{
    int64_t began_us = tb_ev_now();
    answered = 0;
    for (int i = 0; i < RECORDS; i += WINDOW) {
        for (int j = 0; j < WINDOW; j++) submit_or_die(engine);
        await(loop, i + WINDOW);
    }
    return (double)(tb_ev_now() - began_us) * 1e3 / RECORDS;
}

static void *produce(void *data)
{
    struct producer *p = data;
    for (int i = 0; i < RECORDS / THREADS; i += WINDOW) {
        p->left = WINDOW;
        for (int j = 0; j < WINDOW; j++) {
            if (tb_engine_submit_threadsafe(p->engine, "What is 2+2?", 12, &five_tokens, on_answer, p) < 0) abort();
        }
        while (sem_wait(&p->done) != 0) {
        }
    }
    return NULL;
}

/* The same by each of the threads. */
static double four_threads(struct ev_loop *loop, tb_engine *engine)
{
    static struct producer producers[THREADS];
    int64_t began_us = tb_ev_now();
    answered = 0;
    for (int i = 0; i < THREADS; i++) {
        producers[i].engine = engine;
        if (sem_init(&producers[i].done, 0, 0) != 0 ||
            pthread_create(&producers[i].thread, NULL, produce, &producers[i]) != 0) {
            exit(1);
        }
    }
    await(loop, RECORDS);
    double ns = (double)(tb_ev_now() - began_us) * 1e3 / RECORDS;
    for (int i = 0; i < THREADS; i++) pthread_join(producers[i].thread, NULL);
    return ns;
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void lone_record(struct ev_loop *loop, tb_engine *engine)
{
    static int64_t took_us[LONE];
    answered = 0;
    for (int i = 0; i < LONE; i++) {
        int64_t began_us = tb_ev_now();
        submit_or_die(engine);
        await(loop, i + 1);
        took_us[i] = tb_ev_now() - began_us;
    }
    qsort(took_us, LONE, sizeof took_us[0], compare);
    printf("engine_lone_record p50 %lld us p99 %lld us\n", (long long)took_us[LONE / 2],
           (long long)took_us[LONE * 99 / 100]);
}

static tb_engine *new_engine(struct ev_loop *loop)
{
    char path[] = "/tmp/bench_engine_XXXXXX", err[512] = "cannot write a script";
    int fd = mkstemp(path);
    tb_engine *engine = NULL;
    if (fd >= 0 && write(fd, SCRIPT, sizeof SCRIPT - 1) > 0) {
        tb_engine_new(&engine, loop, path, err, sizeof err);
        unlink(path);
    }
    if (!engine) {
        fprintf(stderr, "bench_engine: %s\n", err);
        exit(1);
    }
    return engine;
}

int main(void)
{
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    tb_engine *engine = new_engine(loop);
    one_thread(loop, engine); /* compile */
    printf("engine_one_thread_ns_per_record %.0f ns\n", one_thread(loop, engine));
    printf("engine_four_threads_ns_per_record %.0f ns\n", four_threads(loop, engine));
    lone_record(loop, engine);
    tb_engine_free(engine);
    ev_loop_destroy(loop);
    return 0;
}
