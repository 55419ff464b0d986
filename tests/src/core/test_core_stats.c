/* test_core_stats.c - histograms, times, counters, memory: C5 and the numbers of stats. */
#include "rig.h"

enum { VALUES = 20000 };

static uint64_t random_state = 7;

static double uniform(void)
{
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Within 3 % of the exact value; definitions may differ by one position. */
static void assert_percentile(double got, const double *sorted, int n, double p)
{
    int at = (int)ceil(p * n) - 1, below = at > 0 ? at - 1 : 0, above = at < n - 1 ? at + 1 : n - 1;
    if (got >= sorted[below] * 0.97 && got <= sorted[above] * 1.03) return;
    fail_msg("p%g is %g, exactly it is %g", p * 100, got, sorted[at]);
}

static void assert_summary(const tb_summary *s, double *values, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += values[i];
    qsort(values, (size_t)n, sizeof *values, by_value);
    assert_true(s->count == n);
    assert_true(fabs(s->mean - sum / n) <= 1e-9 * sum / n);
    assert_true(s->max == values[n - 1]);
    assert_percentile(s->p50, values, n, 0.5);
    assert_percentile(s->p90, values, n, 0.9);
    assert_percentile(s->p99, values, n, 0.99);
    assert_true(s->p50 <= s->p90 && s->p90 <= s->p99 && s->p99 <= s->max);
}

/* One record a batch, each running as long as `draw` says. */
static void times_follow(double (*draw)(void), int n)
{
    static double times[VALUES];
    tb_config config = small_config();
    config.max_batch_size = 1;
    rig *r = rig_start(&config);
    for (int i = 0; i < n; i++) {
        times[i] = floor(draw());
        submit_cost(r, 1);
        assert_int_equal(turn(r), 1);
        r->now_us += (int64_t)times[i];
        finish(r, r->batches[0]);
    }
    tb_stats s = stats(r);
    assert_summary(&s.service_us, times, n);
    assert_summary(&s.latency_us, times, n);
    assert_true(s.wait_us.count == n && s.wait_us.max == 0 && s.wait_us.p99 == 0);
    rig_end(r);
}

static double uniform_times(void)
{
    return uniform() * 100000;
}
static double small_times(void)
{
    return uniform() * 40;
}
static double exponential_times(void)
{
    return -log(1 - uniform()) * 2000;
}
static double wide_times(void)
{
    return exp(uniform() * 25);
} /* 1 us .. 20 hours */
static double constant_time(void)
{
    return 12345;
}

static void percentiles_of_times(void **state)
{
    (void)state;
    times_follow(uniform_times, VALUES);
    times_follow(small_times, VALUES);
    times_follow(exponential_times, VALUES);
    times_follow(wide_times, VALUES);
    times_follow(constant_time, 1);
    times_follow(constant_time, 100);
    times_follow(wide_times, 3);
}

static void percentiles_of_costs(void **state)
{
    static double costs[VALUES], sizes[VALUES];
    (void)state;
    tb_config config = small_config();
    config.target_batch_cost = 1e12;
    config.max_batch_size = 1000;
    rig *r = rig_start(&config);
    for (int i = 0; i < VALUES / 10; i++) {
        sizes[i] = 1 + floor(uniform() * 300);
        costs[i] = 0;
        for (int k = 0; k < sizes[i]; k++) {
            double cost = floor(exp(uniform() * 15));
            costs[i] += cost;
            submit_cost(r, cost);
        }
        tb_flush(r->b, r->now_us);
        assert_int_equal(turn(r), 1);
        finish(r, r->batches[0]);
    }
    tb_stats s = stats(r);
    assert_summary(&s.batch_cost, costs, VALUES / 10);
    assert_summary(&s.batch_size, sizes, VALUES / 10);
    assert_true(s.batch_size.mean * s.total_batches == s.total_batch_records);
    rig_end(r);
}

/* Up to the largest cost there is, and days of waiting. */
static void percentiles_at_the_far_end(void **state)
{
    static double costs[VALUES], waits[VALUES];
    (void)state;
    tb_config config = small_config();
    config.target_batch_cost = 1e15;
    config.max_batch_size = 1000;
    rig *r = rig_start(&config);
    for (int i = 0; i < 2000; i++) {
        int records = 1 + (int)(uniform() * 900);
        double cost = floor(exp(uniform() * log(1e12)));
        costs[i] = cost * records;
        waits[i] = floor(exp(uniform() * log(1e12))); /* eleven days */
        config.batch_timeout_us = (int64_t)waits[i];
        set(r, &config);
        for (int k = 0; k < records; k++) submit_cost(r, cost);
        turns_until(r, r->now_us + (int64_t)waits[i]);
        assert_int_equal(r->batch_count, 1);
        finish(r, r->batches[0]);
    }
    tb_stats s = stats(r);
    assert_summary(&s.batch_cost, costs, 2000);
    assert_true(s.wait_us.count == s.total_batch_records);
    qsort(waits, 2000, sizeof *waits, by_value);
    assert_true(s.wait_us.max == waits[1999] && s.wait_us.p50 <= waits[1999]);
    rig_end(r);
}

static void nothing_yet_is_zero(void **state)
{
    (void)state;
    tb_config config = small_config();
    static const tb_stats zero;
    rig *r = rig_start(&config);
    tb_stats s;
    memset(&s, 0xee, sizeof s);
    tb_stats_read(r->b, &s, r->now_us);
    assert_memory_equal(&s, &zero, sizeof s);
    rig_end(r);
}

static void busy_and_idle_are_slot_time(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_concurrent_batches = 2;
    rig *r = rig_start(&config);
    r->now_us += 100; /* 200 idle */
    submit_many(r, 8, 1);
    assert_int_equal(turn(r), 2);
    tb_id first = r->batches[0], second = r->batches[1];
    r->now_us += 50; /* 100 busy */
    tb_stats s = stats(r);
    assert_true(s.busy_us == 100 && s.idle_us == 200); /* running batches included */
    finish(r, first);
    r->now_us += 30; /* 30 busy, 30 idle */
    config.max_concurrent_batches = 5;
    set(r, &config);
    r->now_us += 10; /* 10 busy, 40 idle */
    finish(r, second);
    tb_stop(r->b, TB_NO_TIMEOUT, r->now_us);
    r->now_us += 1; /* 5 idle: it still runs */
    turn(r);
    assert_int_equal(tb_state(r->b), TB_STOPPED);
    r->now_us += 1000000; /* stopped time is no time */
    s = stats(r);
    assert_true(s.busy_us == 140 && s.idle_us == 275);
    assert_int_equal(tb_start(r->b, r->now_us), TB_OK);
    r->now_us += 10; /* 50 idle; all adds up over restarts */
    s = stats(r);
    assert_true(s.busy_us == 140 && s.idle_us == 325);
    rig_end(r);
}

/* More batches run than slots are left: busy time counts them all, idle time none. */
static void fewer_slots_than_batches(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_concurrent_batches = 3;
    rig *r = rig_start(&config);
    submit_many(r, 12, 1);
    assert_int_equal(turn(r), 3);
    config.max_concurrent_batches = 1;
    set(r, &config);
    r->now_us += 10;
    tb_stats s = stats(r);
    assert_true(s.busy_us == 30 && s.idle_us == 0);
    submit_many(r, 4, 1);
    finish(r, r->batches[0]);
    finish(r, r->batches[1]);
    tb_id last = r->batches[2];
    assert_int_equal(turn(r), 0);
    finish(r, last);
    assert_int_equal(turn(r), 1);
    rig_end(r);
}

static void counters_of_dispatch(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    submit_cost(r, 10);
    submit_cost(r, 30);
    turn_at(r, r->now_us + 1000);
    tb_stats s = stats(r);
    assert_true(s.total_batches == 1 && s.total_batch_records == 2 && s.total_batch_cost == 40);
    assert_true(s.padded_cost == 60 && s.sum_cost == 40);
    assert_true(s.dispatched[TB_REASON_TIMEOUT] == 1 && s.wait_us.count == 2 &&
                s.wait_us.mean == 1000);
    assert_true(s.batch_size.max == 2 && s.batch_cost.max == 40);
    assert_true(s.service_us.count == 0 && s.latency_us.count == 0 && s.running_records == 2);
    rig_end(r);
}

static void memory_per_record(void **state)
{
    (void)state;
    tb_config config;
    tb_config_init(&config);
    config.max_queue_size = 10000000;
    config.target_batch_cost = 1e15;
    config.max_batch_size = 1000000;
    config.batch_timeout_us = 1000000000;
    rig *r = rig_start(&config);
    double empty = (double)tb_memory(r->b);
    assert_true(empty > 0 && empty < 1 << 20);
    uint32_t n = 1 << 19; /* a power of 2: doubling wastes nothing */
    for (uint32_t i = 0; i < n; i++) assert_true(submit_cost(r, 1) > 0);
    assert_true(((double)tb_memory(r->b) - empty) / n <= 96);
    for (uint32_t i = 0; i < n; i++) assert_true(submit_timeout(r, 1, 1000000000) > 0);
    assert_true(((double)tb_memory(r->b) - empty) / (2.0 * n) <= 96);
    rig_end(r);
}

/* Just after memory has grown it is the most: looked at after each record. */
static void memory_of_all_at_once(void **state)
{
    (void)state;
    tb_config config;
    tb_config_init(&config);
    config.max_queue_size = 10000000;
    config.target_batch_cost = 1e15;
    config.max_batch_size = 1000000;
    rig *r = rig_start(&config);
    tb_submission record = {.cost = 1, .timeout_us = 1000000000, .batch_timeout_us = 100000000, .group = 1};
    double empty = (double)tb_memory(r->b), most = 0;
    for (uint32_t n = 1; n <= 600000; n++) {
        assert_true(submit(r, record) > 0);
        double each = ((double)tb_memory(r->b) - empty) / n;
        if (n >= 100000 && each > most) most = each;
    }
    assert_true(most <= 96);
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("stats: percentiles of times are within 3 %", percentiles_of_times),
        TEST("stats: percentiles of batch size and cost are within 3 %", percentiles_of_costs),
        TEST("stats: percentiles of a batch's cost hold up to 10^15", percentiles_at_the_far_end),
        TEST("stats: all is 0 while nothing has happened", nothing_yet_is_zero),
        TEST("stats: busy and idle time are slot time while it runs", busy_and_idle_are_slot_time),
        TEST("X4, F6: batches that run keep running when set takes their slot",
             fewer_slots_than_batches),
        TEST("stats: what counts at dispatch", counters_of_dispatch),
        TEST("memory: a queued record takes at most 96 bytes, with a deadline too",
             memory_per_record),
        TEST("memory: and with a deadline, a linger of its own and a group at once, at any length",
             memory_of_all_at_once),
    };
    return cmocka_run_group_tests_name("stats", tests, NULL, NULL);
}
