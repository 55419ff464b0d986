/* test_model.c - random operations on the core and on its model, in step.
 *
 * TB_SEED (or argv[1]) and TB_OPS (or argv[2]) make other and longer runs; a
 * failure prints the seed of the run that fails.
 */
#include "drive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { OPS = 1000000, OPS_PER_RUN = 3000, BUDGET_RECORDS = 1000000 };

static uint64_t first_seed = 20240229;
static uint64_t op_count = OPS;

/* splitmix64 */
static uint32_t draw(void *source, uint32_t below)
{
    uint64_t *state = source, z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)(((z ^ (z >> 31)) >> 32) * below >> 32);
}

/* Every combination of what branches, then as drawn. */
static void choose(tb_config *config, uint64_t run)
{
    config->policy = run & 1;
    config->cost_model = run >> 1 & 1;
    config->prefetch_batches = run >> 2 & 3;
    config->max_concurrent_batches = 1 + (uint32_t)(run % 3);
    config->on_oversize = run % 5 == 0;
}

static void print_seen(const drive_seen *s)
{
    printf("  events: timed out %.0f expired %.0f stopped %.0f refused %.0f batch stopped %.0f "
           "admitted "
           "%.0f drained %.0f\n",
           s->events[1], s->events[2], s->events[3], s->events[4], s->events[5], s->events[6],
           s->events[7]);
    printf("  batches: full %.0f timeout %.0f idle %.0f drain %.0f; oversize %.0f; cuts %.0f, "
           "dissolved "
           "%.0f\n",
           s->reasons[0], s->reasons[1], s->reasons[2], s->reasons[3], s->oversize, s->cuts,
           s->dissolved);
    printf("  groups %.0f, own lingers %.0f, keys alone %.0f, slots held %.0f, calls ended %.0f\n", s->groups,
           s->own, s->lone, s->held, s->ended);
    printf("  turns asked for by tb_next %.0f, of them needless %.0f\n", s->late_turns,
           s->needless_turns);
}

/* A random test that never gets somewhere proves nothing about it. */
static void assert_seen(const drive_seen *s)
{
    for (int kind = TB_EVENT_BATCH_TIMED_OUT; kind <= TB_EVENT_DRAINED; kind++)
        assert_true(s->events[kind] > 0);
    for (int reason = TB_REASON_FULL; reason <= TB_REASON_DRAIN; reason++)
        assert_true(s->reasons[reason] > 0);
    for (int error = TB_ENOTRUNNING; error <= TB_ECOST; error++) {
        assert_true(s->submit_errors[-error] > 0);
        if (error != TB_ETIMEOUT) assert_true(s->check_errors[-error] > 0);
    }
    static const int plain[] = {TB_OK, TB_ENOTRUNNING, TB_ECOST, TB_EOVERSIZE, TB_EFULL};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) assert_true(s->plain_answers[-plain[i]] > 0);
    assert_true(s->submit_errors[-TB_ERECORD] > 0 && s->check_errors[-TB_ETOOLARGE] > 0);
    assert_true(s->groups > 0 && s->own > 0 && s->lone > 0 && s->held > 0 && s->ended > 0);
    for (int state = TB_RECORD_WAITING; state <= TB_RECORD_RUNNING; state++)
        assert_true(s->cancelled[state] > 0);
    assert_true(s->oversize > 0 && s->cuts > 0 && s->dissolved > 0 && s->drained_by_abandoning > 0);
    assert_true(s->needless_turns < s->late_turns / 2);
}

static void core_does_what_the_model_does(void **state)
{
    static drive d;
    char label[64];
    (void)state;
    memset(&d, 0, sizeof d);
    for (uint64_t run = 0; run * OPS_PER_RUN < op_count; run++) {
        uint64_t seed = first_seed + run, source = seed * 0xD1342543DE82EF95u;
        snprintf(label, sizeof label, "TB_SEED=%llu", (unsigned long long)seed);
        d.draw = draw;
        d.source = &source;
        d.label = label;
        d.patience = (uint32_t)(seed % 5);
        tb_config config;
        drive_draw_config(&d, &config);
        choose(&config, seed);
        drive_begin(&d, &config);
        for (uint64_t i = 0; i < OPS_PER_RUN && run * OPS_PER_RUN + i < op_count; i++)
            drive_step(&d);
        drive_end(&d);
    }
    print_seen(&d.seen);
    if (op_count >= OPS) assert_seen(&d.seen);
}

/* Forms all that goes; no batch of more than one record may be over the target. */
static double form_strictly(tb_batcher *b, const tb_config *config, int64_t now_us)
{
    double records = 0;
    for (tb_id batch; (batch = tb_form(b, now_us)) != 0;) {
        double costs[256], sum = 0, largest = 0;
        tb_batch read;
        assert_int_equal(tb_batch_read(b, batch, &read, NULL, costs, 256), TB_OK);
        for (uint32_t i = 0; i < read.size; i++) {
            sum += costs[i];
            if (costs[i] > largest) largest = costs[i];
        }
        double cost = config->cost_model == TB_COST_PADDED ? read.size * largest : sum;
        assert_true(read.cost == cost && read.size >= 1 && read.size <= config->max_batch_size);
        assert_true(read.size == 1 || cost <= config->target_batch_cost);
        assert_int_equal(tb_batch_finish(b, batch, TB_COMPLETED, now_us), TB_OK);
        records += read.size;
    }
    return records;
}

static void million_records_within_budget(uint32_t cost_model)
{
    tb_config config;
    uint64_t source = first_seed;
    int64_t now_us = 10000LL * 1000000;
    double dispatched = 0, submitted = 0;
    tb_config_init(&config);
    config.cost_model = cost_model;
    config.target_batch_cost = 1000;
    config.max_batch_size = 64;
    config.batch_timeout_us = 500;
    tb_batcher *b = tb_new(&config);
    assert_non_null(b);
    assert_int_equal(tb_start(b, now_us), TB_OK);
    while (submitted < BUDGET_RECORDS) {
        for (uint32_t n = 1 + draw(&source, 200); n > 0; n--, submitted++) {
            tb_submission s = {.cost = draw(&source, 1u << draw(&source, 11)) * 1.1};
            assert_true(tb_submit(b, &s, now_us) > 0);
        }
        dispatched += form_strictly(b, &config, now_us += 1 + draw(&source, 300));
    }
    tb_flush(b, now_us);
    dispatched += form_strictly(b, &config, now_us);
    assert_true(dispatched == submitted);
    assert_null(tb_verify(b));
    tb_free(b);
}

static void sum_within_budget(void **state)
{
    (void)state;
    million_records_within_budget(TB_COST_SUM);
}

static void padded_within_budget(void **state)
{
    (void)state;
    million_records_within_budget(TB_COST_PADDED);
}

int main(int argc, char **argv)
{
    const char *seed = argc > 1 ? argv[1] : getenv("TB_SEED");
    const char *ops = argc > 2 ? argv[2] : getenv("TB_OPS");
    if (seed) first_seed = strtoull(seed, NULL, 10);
    if (ops) op_count = strtoull(ops, NULL, 10);
    const struct CMUnitTest tests[] = {
        {"all rules: after each random operation the core is where the model is",
         core_does_what_the_model_does, NULL, NULL, NULL},
        {"F1: over 10^6 random records no batch of several is above the target (sum)",
         sum_within_budget, NULL, NULL, NULL},
        {"F1, F9: over 10^6 random records no batch of several is above the target (padded)",
         padded_within_budget, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
