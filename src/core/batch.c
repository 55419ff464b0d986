/* batch.c - records that run. A batch keeps its records on a list of its own, in
 * order; one that is cancelled or settled leaves it, and the rest are undisturbed.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

/* Slots for `count` batches; never shrinks. */
bool tb__batches_reserve(tb_batcher *b, uint32_t count)
{
    assert(count <= TB_MAX_BATCHES);
    if (count <= b->batches) return true;
    tb_running *grown = realloc(b->batch, count * sizeof *grown);
    if (!grown) return false;
    memset(grown + b->batches, 0, (count - b->batches) * sizeof *grown);
    b->batch = grown;
    b->batches = count;
    return true;
}

/* Few slots, many batches: 43 bits of generation last for 10^12 batches a slot. */
tb_id tb__batch_id(const tb_batcher *b, uint32_t at)
{
    assert(at < b->batches);
    return tb__double(b->batch[at].generation * TB_MAX_BATCHES + at);
}

tb_running *tb__batch_find(const tb_batcher *b, tb_id batch, uint32_t *at)
{
    if (!(batch >= 1 && batch < TB_ID_LIMIT)) return NULL;
    uint64_t bits = (uint64_t)batch;
    *at = (uint32_t)(bits % TB_MAX_BATCHES);
    if (*at >= b->batches || tb__double(bits) != batch) return NULL;
    tb_running *found = &b->batch[*at];
    return found->in_use && found->generation == bits / TB_MAX_BATCHES ? found : NULL;
}

static uint32_t idle_slot(const tb_batcher *b)
{
    uint32_t at = 0;
    for (; b->batch[at].in_use || b->batch[at].is_held; at++)
        assert(at + 1 < b->batches);
    return at;
}

static void start_call(tb_running *batch, int64_t now_us)
{
    assert(batch->in_use);
    batch->expires_us = batch->timeout_us ? now_us + batch->timeout_us : TB_TIME_MAX;
}

/* The records, all of them queued or all of them cut, are so no more. */
static void leave_queue(tb_batcher *b, const tb_list *records, const tb_load *load)
{
    if (b->slot[records->first].state == TB_RECORD_CUT || tb__queue_leave_at_once(b, load)) return;
    for (uint32_t i = records->first; i != TB_NIL; i = b->slot[i].next) tb__queue_leave(b, i);
}

static inline void record_start(tb_batcher *b, tb_slot *slot, uint32_t batch, int64_t now_us, tb_tally *waits)
{
    assert(slot->state == TB_RECORD_QUEUED || slot->state == TB_RECORD_CUT);
    if (slot->heap_at != TB_NIL) { /* every record with a deadline is there */
        tb__heap_remove(b, (uint32_t)(slot - b->slot));
        if (slot->deadline_us < b->batch[batch].deadline_us) b->batch[batch].deadline_us = slot->deadline_us;
    }
    slot->state = TB_RECORD_RUNNING;
    slot->batch = (uint16_t)batch;
    tb__tally(&b->wait_us, waits, (uint64_t)(now_us - slot->submitted_us));
}

static void count_batch(tb_batcher *b, const tb_running *batch)
{
    b->batches_total++;
    b->batch_records_total += batch->load.size;
    b->cost_total += (double)batch->cost;
    b->sum_total += (double)batch->load.sum;
    b->padded_total += (double)tb__load_padded(&batch->load);
    b->dispatched[batch->reason]++;
    if (batch->cost > b->budget) b->oversize++;
    tb__histogram_add(&b->batch_size, batch->load.size);
    tb__histogram_add(&b->batch_cost, batch->cost);
}

/* The records have left the pending list; they run from now on. */
tb_id tb__batch_start(tb_batcher *b, tb_list records, const tb_load *load, int reason)
{
    assert(load->size > 0);
    assert(records.size == load->size);
    assert(tb__has_idle_slot(b));
    uint32_t at = idle_slot(b);
    tb_running *batch = &b->batch[at];
    batch->generation++;
    batch->in_use = true;
    batch->records = records;
    batch->load = *load;
    batch->cost = tb__load_cost(b, load);
    batch->reason = (uint32_t)reason;
    batch->is_padded = b->config.cost_model == TB_COST_PADDED;
    batch->started_us = b->now_us;
    batch->deadline_us = TB_TIME_MAX;
    batch->timeout_us = b->config.inference_timeout_us;
    start_call(batch, b->now_us);
    tb_tally waits = {0};
    leave_queue(b, &records, load);
    tb_slot *slot = b->slot;
    int64_t now_us = b->now_us;
    for (uint32_t i = records.first; i != TB_NIL; i = slot[i].next) record_start(b, &slot[i], at, now_us, &waits);
    tb__tally_end(&b->wait_us, &waits);
    tb__account(b);
    b->running_batches++;
    b->running_records += load->size;
    if (batch->timeout_us) b->timed_batches++;
    b->was_refused = false;
    count_batch(b, batch);
    return tb__batch_id(b, at);
}

static void record_end(tb_batcher *b, uint32_t at, int outcome, tb_tally *latencies)
{
    const tb_slot *slot = &b->slot[at];
    if (outcome == TB_COMPLETED)
        tb__tally(&b->latency_us, latencies, (uint64_t)(b->now_us - slot->submitted_us));
    tb__slot_give(b, at);
}

static void count_outcome(tb_batcher *b, int outcome, uint32_t records)
{
    if (outcome == TB_COMPLETED) b->completed += records;
    else if (outcome == TB_FAILED) b->failed += records;
    else b->expired += records;
}

/* The same for a whole list, which is nobody's then. */
static void records_end(tb_batcher *b, const tb_list *records, int outcome, tb_tally *latencies)
{
    tb_slot *slot = b->slot;
    int64_t now_us = b->now_us;
    uint32_t free_slot = b->free_slot;
    for (uint32_t i = records->first, next; i != TB_NIL; i = next) {
        next = slot[i].next;
        if (outcome == TB_COMPLETED)
            tb__tally(&b->latency_us, latencies, (uint64_t)(now_us - slot[i].submitted_us));
        slot[i].state = TB_RECORD_NONE;
        if (slot[i].generation >= TB_GENERATIONS - 1) continue; /* see tb__slot_give() */
        slot[i].next = free_slot;
        free_slot = i;
    }
    b->free_slot = free_slot;
}

void tb__batch_end(tb_batcher *b, uint32_t at, int outcome)
{
    assert(b->batch[at].in_use);
    assert(b->running_batches > 0);
    assert(b->running_records >= b->batch[at].records.size);
    tb_running *batch = &b->batch[at];
    tb_tally latencies = {0};
    records_end(b, &batch->records, outcome, &latencies);
    tb__tally_end(&b->latency_us, &latencies);
    count_outcome(b, outcome, batch->records.size);
    tb__histogram_add(&b->service_us, (uint64_t)(b->now_us - batch->started_us));
    tb__account(b);
    b->running_batches--;
    b->running_records -= batch->records.size;
    if (batch->timeout_us) b->timed_batches--;
    batch->in_use = false;
    b->news = true;
}

int tb_batch_finish(tb_batcher *b, tb_id batch, int outcome, int64_t now_us)
{
    assert(b != NULL);
    assert(outcome >= TB_COMPLETED);
    assert(outcome <= TB_EXPIRED);
    uint32_t at;
    tb__advance(b, now_us);
    if (!tb__batch_find(b, batch, &at)) return TB_ENOENT;
    tb__batch_end(b, at, outcome);
    return TB_OK;
}

int tb_batch_retry(tb_batcher *b, tb_id batch, int64_t now_us)
{
    assert(b != NULL);
    uint32_t at;
    tb__advance(b, now_us);
    tb_running *found = tb__batch_find(b, batch, &at);
    if (!found) return TB_ENOENT;
    start_call(found, b->now_us);
    return TB_OK;
}

/* A running record leaves its batch, whose slot stays taken. */
void tb__batch_leave(tb_batcher *b, uint32_t at)
{
    assert(b->slot[at].state == TB_RECORD_RUNNING);
    assert(b->running_records > 0);
    tb__list_remove(b, &b->batch[b->slot[at].batch].records, at);
    b->running_records--;
}

int tb_settle(tb_batcher *b, tb_id record, int outcome, int64_t now_us)
{
    assert(b != NULL);
    assert(outcome >= TB_COMPLETED);
    assert(outcome <= TB_EXPIRED);
    tb__advance(b, now_us);
    uint32_t at = tb__slot_find(b, record);
    if (at == TB_NIL) return TB_ENOENT;
    if (b->slot[at].state != TB_RECORD_RUNNING) return TB_ESTATE;
    tb__batch_leave(b, at);
    tb_tally latency = {0};
    record_end(b, at, outcome, &latency);
    tb__tally_end(&b->latency_us, &latency);
    count_outcome(b, outcome, 1);
    return TB_OK;
}

static int64_t shown_us(int64_t deadline_us)
{
    return deadline_us == TB_TIME_MAX ? TB_NEVER_US : deadline_us;
}

/* Of the first n records of a list, which has as many. */
static void read_ids(const tb_batcher *b, uint32_t first, tb_id *ids, uint32_t n)
{
    const tb_slot *slot = b->slot;
    for (uint32_t k = 0, i = first; k < n; i = slot[i].next) ids[k++] = tb__make_id(i, slot[i].generation);
}

static void read_costs(const tb_batcher *b, uint32_t first, double *costs, uint32_t n)
{
    const tb_slot *slot = b->slot;
    for (uint32_t k = 0, i = first; k < n; i = slot[i].next) costs[k++] = tb__double(slot[i].cost);
}

int tb_batch_read(const tb_batcher *b, tb_id batch, tb_batch *out, tb_id *ids,
                  double *costs, uint32_t capacity)
{
    assert(b != NULL);
    assert(out != NULL);
    uint32_t at;
    const tb_running *found = tb__batch_find(b, batch, &at);
    if (!found) return TB_ENOENT;
    *out = (tb_batch){
        .cost = (double)found->cost,
        .sum = (double)found->load.sum,
        .largest = (double)found->load.largest,
        .padded = (double)tb__load_padded(&found->load),
        .started_us = found->started_us,
        .deadline_us = shown_us(found->deadline_us),
        .size = found->records.size,
        .reason = found->reason,
        .group = found->load.mark & ~TB_ALONE,
    };
    uint32_t most = found->records.size < capacity ? found->records.size : capacity;
    if (ids) read_ids(b, found->records.first, ids, most);
    if (costs) read_costs(b, found->records.first, costs, most);
    return TB_OK;
}

/* The load of these records and their earliest deadline. False: one of them does not run
 * in batch `at`. */
static bool half_load(const tb_batcher *b, uint32_t at, const tb_id *ids, uint32_t n, tb_load *load,
                      int64_t *deadline_us)
{
    *load = (tb_load){0};
    *deadline_us = TB_TIME_MAX;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t found = tb__slot_find(b, ids[i]);
        if (found == TB_NIL) return false;
        const tb_slot *slot = &b->slot[found];
        if (slot->state != TB_RECORD_RUNNING || slot->batch != at) return false;
        tb__load_add(load, slot->cost, 0);
        if (slot->deadline_us < *deadline_us) *deadline_us = slot->deadline_us;
    }
    return true;
}

int tb_batch_half(tb_batcher *b, tb_id batch, const tb_id *ids, uint32_t n, tb_batch *out,
                  int64_t now_us)
{
    uint32_t at;
    tb_load load;
    int64_t deadline_us;
    assert(b != NULL);
    assert(ids != NULL || n == 0);
    assert(out != NULL);
    tb__advance(b, now_us);
    tb_running *found = tb__batch_find(b, batch, &at);
    if (!found || !half_load(b, at, ids, n, &load, &deadline_us)) return TB_ENOENT;
    start_call(found, b->now_us);
    *out = (tb_batch){
        .cost = tb__double(found->is_padded ? tb__load_padded(&load) : load.sum),
        .sum = tb__double(load.sum),
        .largest = tb__double(load.largest),
        .padded = tb__double(tb__load_padded(&load)),
        .started_us = found->started_us,
        .deadline_us = shown_us(deadline_us),
        .size = load.size,
        .reason = found->reason,
        .group = found->load.mark & ~TB_ALONE,
    };
    return TB_OK;
}

void tb_calls_excuse(tb_batcher *b, int64_t us)
{
    assert(b != NULL);
    assert(us > 0);
    for (uint32_t at = 0; at < b->batches; at++) {
        tb_running *batch = &b->batch[at];
        if (batch->in_use && batch->expires_us != TB_TIME_MAX) batch->expires_us += us;
    }
}
