/* stats.c - counters, slot-time and histograms. */
#include "core.h"

void tb__account(tb_batcher *b)
{
    assert(b->now_us >= b->accounted_us);
    double passed = (double)(b->now_us - b->accounted_us);
    uint32_t slots = b->config.max_concurrent_batches;
    b->accounted_us = b->now_us;
    if (b->state == TB_STOPPED) return;
    uint32_t taken = b->running_batches + b->held_batches;
    b->busy_us += passed * taken;
    if (slots > taken) b->idle_us += passed * (slots - taken);
}

/* The middle of a bucket. */
static double value_of(uint32_t bucket)
{
    if (bucket < (2u << TB_HISTOGRAM_BITS)) return bucket;
    uint32_t octave = (bucket >> TB_HISTOGRAM_BITS) - 1;
    uint64_t low = ((uint64_t)bucket - ((uint64_t)octave << TB_HISTOGRAM_BITS)) << octave;
    return (double)low + (double)((UINT64_C(1) << octave) - 1) / 2;
}

static double percentile(const tb_histogram *h, uint64_t percent)
{
    uint64_t rank = (h->count * percent + 99) / 100, seen = 0;
    uint32_t i = 0;
    for (; seen + h->bucket[i] < rank; i++) {
        assert(i + 1 < TB_HISTOGRAM_BUCKETS);
        seen += h->bucket[i];
    }
    double value = value_of(i);
    return value < (double)h->max ? value : (double)h->max;
}

static void summarize(const tb_histogram *h, tb_summary *out)
{
    assert(h->sum >= 0);
    if (h->count == 0) {
        *out = (tb_summary){0};
        return;
    }
    out->count = (double)h->count;
    out->mean = h->sum / (double)h->count;
    out->p50 = percentile(h, 50);
    out->p90 = percentile(h, 90);
    out->p99 = percentile(h, 99);
    out->max = (double)h->max;
}

/* How long the oldest record that is not dispatched has been here; 0: there is none. */
static double oldest_queued_us(const tb_batcher *b)
{
    const tb_list *list = b->pending.size ? &b->pending : &b->waiting;
    return list->size ? (double)(b->now_us - b->slot[list->first].submitted_us) : 0;
}

static double oldest_running_us(const tb_batcher *b)
{
    int64_t oldest = 0;
    for (uint32_t i = 0; i < b->batches; i++) {
        int64_t age = b->now_us - b->batch[i].started_us;
        if (b->batch[i].in_use && age > oldest) oldest = age;
    }
    return (double)oldest;
}

void tb_stats_read(tb_batcher *b, tb_stats *out, int64_t now_us)
{
    assert(b != NULL);
    assert(out != NULL);
    tb__advance(b, now_us);
    tb__account(b);
    *out = (tb_stats){
        .total_submitted = (double)b->submitted,
        .total_completed = (double)b->completed,
        .total_failed = (double)b->failed,
        .total_cancelled = (double)b->cancelled,
        .total_expired = (double)b->expired,
        .total_rejected = (double)b->rejected,
        .total_oversize = (double)b->oversize,
        .total_batches = (double)b->batches_total,
        .total_batch_records = (double)b->batch_records_total,
        .total_batch_cost = b->cost_total,
        .queue_size = b->queued,
        .queue_cost = (double)b->queued_cost,
        .waiting_submits = b->waiting_calls,
        .prefetched_batches = b->cuts,
        .prefetched_records = b->cut_records,
        .running_batches = b->running_batches,
        .running_records = b->running_records,
        .busy_us = b->busy_us,
        .idle_us = b->idle_us,
        .padded_cost = b->padded_total,
        .sum_cost = b->sum_total,
        .oldest_queued_us = oldest_queued_us(b),
        .oldest_running_us = oldest_running_us(b),
        .abandoned_calls = b->calls,
    };
    for (int i = 0; i < TB_REASONS; i++) out->dispatched[i] = (double)b->dispatched[i];
    summarize(&b->wait_us, &out->wait_us);
    summarize(&b->service_us, &out->service_us);
    summarize(&b->latency_us, &out->latency_us);
    summarize(&b->batch_size, &out->batch_size);
    summarize(&b->batch_cost, &out->batch_cost);
}

static const tb_histogram *histogram(const tb_batcher *b, uint32_t kind)
{
    assert(kind <= TB_OF_BATCH_COST);
    switch (kind) {
    case TB_OF_WAIT: return &b->wait_us;
    case TB_OF_SERVICE: return &b->service_us;
    case TB_OF_LATENCY: return &b->latency_us;
    case TB_OF_BATCH_SIZE: return &b->batch_size;
    default: return &b->batch_cost;
    }
}

double tb_stats_at_most(const tb_batcher *b, uint32_t kind, double value)
{
    assert(b != NULL);
    const tb_histogram *h = histogram(b, kind);
    if (!(value >= 0)) return 0;
    uint32_t last = value < 1e18 ? tb__bucket_of((uint64_t)value) : TB_HISTOGRAM_BUCKETS - 1;
    uint64_t seen = 0;
    for (uint32_t i = 0; i <= last; i++) seen += h->bucket[i];
    return (double)seen;
}

double tb_stats_sum(const tb_batcher *b, uint32_t kind)
{
    assert(b != NULL);
    return histogram(b, kind)->sum;
}
