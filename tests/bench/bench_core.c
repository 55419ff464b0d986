/* bench_core.c - what a record costs in the core, beside a bare ring loop.
 *
 * Both do submit, form, complete in batches of 256. The bare loop is the least that
 * deserves these names: a call puts id and cost into a ring, a call sums costs up to
 * the budget, a call hands out the ids and forgets them. The core is given a record of cost alone, too, by
 * tb_submit_plain(), and once more as a struct, by tb_submit(). Machines are noisy: each
 * line is the median of several runs, the two sides measured in turns.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tokenbatcher.h"

enum { BATCH = 256, RING = 1024, RUNS = 101, ROUNDS = 200, LONG_RUNS = 61 };

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    return values[n / 2];
}

static void die(const char *why)
{
    fprintf(stderr, "bench_core: %s\n", why);
    exit(1);
}

/* --- The bare loop ----------------------------------------------------- */

typedef struct ring {
    double id[RING], cost[RING];
    uint32_t head, tail;
    double next_id, budget, completed;
} ring;

__attribute__((noinline)) static double ring_submit(ring *r, double cost)
{
    if (r->tail - r->head == RING) return TB_EFULL;
    uint32_t at = r->tail++ % RING;
    r->cost[at] = cost;
    return r->id[at] = ++r->next_id;
}

__attribute__((noinline)) static uint32_t ring_form(const ring *r)
{
    double sum = 0;
    uint32_t n = 0;
    while (n < BATCH && r->head + n != r->tail) {
        double cost = r->cost[(r->head + n) % RING];
        if (sum + cost > r->budget) break;
        sum += cost;
        n++;
    }
    return n;
}

__attribute__((noinline)) static void ring_complete(ring *r, uint32_t n, double *ids)
{
    for (uint32_t i = 0; i < n; i++) ids[i] = r->id[r->head++ % RING];
    r->completed += n;
}

static double bare_ns(ring *r)
{
    static double ids[BATCH];
    double start = now_ns();
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < BATCH; i++)
            if (ring_submit(r, 1 + i % 7) <= 0) die("the ring is full");
        ring_complete(r, ring_form(r), ids);
    }
    if (r->head != r->tail) die("the ring lost a record");
    return (now_ns() - start) / ROUNDS / BATCH;
}

/* --- The core ---------------------------------------------------------- */

static int64_t clock_us = 10000LL * 1000000;

static tb_batcher *running(void)
{
    tb_config config;
    tb_config_init(&config);
    config.max_queue_size = 10000000;
    config.max_batch_size = BATCH;
    config.batch_timeout_us = 1000000000;
    tb_batcher *b = tb_new(&config);
    if (!b || tb_start(b, clock_us) != TB_OK) die("cannot start");
    return b;
}

static void submit(tb_batcher *b, int n)
{
    for (int i = 0; i < n; i++)
        if (tb_submit_plain(b, 1 + i % 7, clock_us) <= 0) die("a record was refused");
}

static void submit_structs(tb_batcher *b, int n)
{
    for (int i = 0; i < n; i++) {
        tb_submission record = {.cost = 1 + i % 7};
        if (tb_submit(b, &record, clock_us) <= 0) die("a record was refused");
    }
}

/* One turn of a pump with one slot: submit 256, send 256, finish them. */
static void round_of_core(tb_batcher *b, void submit_all(tb_batcher *, int))
{
    static tb_id ids[BATCH];
    tb_event events[64];
    tb_batch read;
    submit_all(b, BATCH);
    while (tb_poll(b, events, 64, clock_us) == 64) {}
    tb_id batch = tb_form(b, clock_us);
    if (tb_form(b, clock_us) != 0) die("two batches in one slot");
    if (tb_batch_read(b, batch, &read, ids, NULL, BATCH) != TB_OK || read.size != BATCH)
        die("not a batch of 256");
    if (tb_batch_finish(b, batch, TB_COMPLETED, clock_us += 10) != TB_OK) die("cannot finish");
}

static double core_ns(tb_batcher *b, int rounds, void submit_all(tb_batcher *, int))
{
    double start = now_ns();
    for (int i = 0; i < rounds; i++) round_of_core(b, submit_all);
    return (now_ns() - start) / rounds / BATCH;
}

static void beside_the_ring(void)
{
    static ring r = {.budget = 32000};
    double bare[RUNS], core[RUNS], structs[RUNS], ratio[RUNS];
    tb_batcher *b = running();
    core_ns(b, ROUNDS, submit); /* warm up */
    bare_ns(&r);
    for (int i = 0; i < RUNS; i++) {
        bare[i] = bare_ns(&r);
        core[i] = core_ns(b, ROUNDS, submit);
        structs[i] = core_ns(b, ROUNDS, submit_structs);
        ratio[i] = core[i] / bare[i];
    }
    printf("bare_ns_per_record %.1f ns\n", median(bare, RUNS));
    printf("core_ns_per_record %.1f ns\n", median(core, RUNS));
    printf("core_by_struct_ns_per_record %.1f ns\n", median(structs, RUNS));
    printf("core_to_bare %.2f\n", median(ratio, RUNS));
    tb_free(b);
}

/* Queues that stay that long: what comes in goes out at the other end. Each slot was used before, so that memory
 * is met as it will be; the lengths are measured in turns. */
static void standing_queues(void)
{
    enum { LENGTHS = 4 };
    static const int length[LENGTHS] = {1000, 10000, 100000, 1000000};
    double runs[LENGTHS][LONG_RUNS], ratio[LONG_RUNS];
    tb_batcher *b[LENGTHS];
    for (int k = 0; k < LENGTHS; k++) {
        b[k] = running();
        submit(b[k], length[k]);
        core_ns(b[k], length[k] / BATCH + ROUNDS, submit);
    }
    for (int i = 0; i < LONG_RUNS; i++) {
        for (int k = 0; k < LENGTHS; k++) runs[k][i] = core_ns(b[k], ROUNDS, submit);
        ratio[i] = runs[LENGTHS - 1][i] / runs[0][i];
    }
    for (int k = 0; k < LENGTHS; k++) {
        printf("queue_%d_ns_per_record %.1f ns\n", length[k], median(runs[k], LONG_RUNS));
        tb_free(b[k]);
    }
    printf("queue_1000000_to_1000 %.2f\n", median(ratio, LONG_RUNS));
}

/* The most bytes a queued record takes, over all lengths from 10^5 to 10^6: just after
 * memory has grown it is the most. */
static void memory(const char *name, int64_t timeout_us, uint32_t group)
{
    tb_batcher *b = running();
    double empty = (double)tb_memory(b), most = 0;
    for (uint32_t n = 1; n <= 1000000; n++) {
        tb_submission record = {.cost = 1, .timeout_us = timeout_us, .group = group};
        if (tb_submit(b, &record, clock_us) <= 0) die("a record was refused");
        double each = ((double)tb_memory(b) - empty) / n;
        if (n >= 100000 && each > most) most = each;
    }
    printf("%s %.1f B\n", name, most);
    tb_free(b);
}

/* --short: only the comparison with the ring. */
int main(int argc, char **argv)
{
    beside_the_ring();
    if (argc > 1 && strcmp(argv[1], "--short") == 0) return 0;
    standing_queues();
    memory("bytes_per_record", 0, 0);
    memory("bytes_per_timed_record", 1000000000, 0);
    memory("bytes_per_timed_grouped_record", 1000000000, 1);
    return 0;
}
