/* model_look.c - what the model can tell without changing: see model.h. */
#include "model.h"

#include <math.h>

int64_t model_later(int64_t from_us, int64_t by_us)
{
    return by_us > model_forever - from_us ? model_forever : from_us + by_us;
}

int64_t model_earlier(int64_t a_us, int64_t b_us)
{
    return a_us < b_us ? a_us : b_us;
}

int model_in_line(const model_record *r)
{
    return r->state == TB_RECORD_QUEUED || r->state == TB_RECORD_CUT;
}

uint32_t model_count_state(const model *m, int state)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->record_count; i++) n += m->records[i].state == state;
    return n;
}

double model_queue_cost(const model *m)
{
    double sum = 0;
    for (uint32_t i = 0; i < m->record_count; i++)
        if (m->records[i].state == TB_RECORD_QUEUED) sum += m->records[i].cost;
    return sum;
}

uint32_t model_first_in(const model *m, int state)
{
    uint32_t i = 0;
    while (i < m->record_count && m->records[i].state != state) i++;
    return i;
}

uint32_t model_first_unsent(const model *m)
{
    return model_count_state(m, TB_RECORD_RUNNING);
}

uint32_t model_find_record(const model *m, tb_id id)
{
    uint32_t i = 0;
    while (i < m->record_count && m->records[i].id != id) i++;
    return i;
}

uint32_t model_find_batch(const model *m, tb_id id)
{
    uint32_t i = 0;
    while (i < m->batch_count && m->batches[i].id != id) i++;
    return i;
}

uint32_t model_held(const model *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->call_count; i++) n += m->calls[i].is_held != 0;
    return n;
}

/* F1, R7: may both be in one batch? */
static int may_share(const model *m, const model_record *a, const model_record *b)
{
    return a->group == b->group && !m->lone[a->key] && !m->lone[b->key];
}

int model_has_room(const model *m, double size, double sum, double cost)
{
    if (size == 0) return 1;
    if (size >= m->config.max_queue_size) return 0;
    return m->config.max_queue_cost == 0 || sum + cost <= m->config.max_queue_cost;
}

double model_batch_cost(const model *m, double size, double sum, double largest)
{
    return m->config.cost_model == TB_COST_PADDED ? size * largest : sum;
}

/* F2: how many records, from this one on, make the open batch. */
static uint32_t prefix(const model *m, uint32_t from, int *full)
{
    double target = m->config.target_batch_cost, sum = 0, largest = 0;
    uint32_t n = 0;
    *full = 0;
    for (uint32_t i = from; i < m->record_count && model_in_line(&m->records[i]) && !*full; i++) {
        double cost = m->records[i].cost;
        if (n > 0 && !may_share(m, &m->records[from], &m->records[i])) {
            *full = 1;
            break;
        }
        if (n > 0 && model_batch_cost(m, n + 1, sum + cost, fmax(largest, cost)) > target) {
            *full = 1;
            break;
        }
        n++;
        sum += cost;
        largest = fmax(largest, cost);
        *full = n == m->config.max_batch_size || m->lone[m->records[from].key] ||
                model_batch_cost(m, n + 1, sum + 1, fmax(largest, 1)) > target;
    }
    return n;
}

/* F3: until when a record would be waited with; its own linger counts, if it has one. */
int64_t model_lingers_until(const model *m, const model_record *r)
{
    int64_t linger_us = r->linger_us ? r->linger_us : m->config.batch_timeout_us;
    int64_t until_us = model_later(r->submitted_us, linger_us);
    if (r->linger_us == TB_AT_ONCE) return 0;
    if (!m->config.max_wait_us) return until_us;
    return model_earlier(until_us, model_later(r->submitted_us, m->config.max_wait_us));
}

/* F3: when the queue is due; 0 if at once. */
static int64_t due_us(const model *m)
{
    int64_t due = model_forever;
    for (uint32_t i = 0; i < m->record_count; i++) {
        const model_record *r = &m->records[i];
        if (!model_in_line(r)) continue;
        if (r->flushed || m->state == TB_DRAINING) return 0;
        due = model_earlier(due, model_lingers_until(m, r));
        if (r->timeout_us)
            due = model_earlier(due, model_later(r->submitted_us, r->timeout_us / 2));
    }
    return due;
}

int64_t model_next_deadline(const model *m)
{
    int64_t deadline = model_forever;
    for (uint32_t i = model_first_unsent(m); i < m->record_count; i++)
        deadline = model_earlier(deadline, m->records[i].deadline_us);
    return deadline;
}

int64_t model_next_batch_timeout(const model *m)
{
    int64_t at_us = model_forever;
    for (uint32_t i = 0; i < m->batch_count; i++)
        at_us = model_earlier(at_us, m->batches[i].times_out_us);
    return at_us;
}

static int slot_is_idle(const model *m)
{
    return m->state != TB_STOPPED && m->batch_count + model_held(m) < m->config.max_concurrent_batches;
}

/* F2: the queue can take no more. A decision finds cuts that lost somebody dissolved. */
static int is_bounded(const model *m)
{
    uint32_t first = model_first_in(m, TB_RECORD_WAITING);
    double size = 0, sum = 0;
    for (uint32_t i = 0; i < m->record_count; i++) {
        size += model_in_line(&m->records[i]);
        sum += model_in_line(&m->records[i]) ? m->records[i].cost : 0;
    }
    if (size == 0) return 0;
    if (m->was_refused || size >= m->config.max_queue_size) return 1;
    return first < m->record_count && !model_has_room(m, size, sum, m->records[first].cost);
}

uint32_t model_decide(const model *m, uint32_t *reason)
{
    int full;
    uint32_t n = prefix(m, model_first_unsent(m), &full);
    int eager = m->config.policy == TB_POLICY_EAGER;
    if (!slot_is_idle(m) || n == 0 || model_next_deadline(m) <= m->now_us) return 0;
    if (full || is_bounded(m)) *reason = TB_REASON_FULL;
    else if (m->state == TB_DRAINING) *reason = TB_REASON_DRAIN;
    else if (eager && n >= m->config.min_batch_size) *reason = TB_REASON_IDLE;
    else if (due_us(m) <= m->now_us) *reason = TB_REASON_TIMEOUT;
    else return 0;
    return n;
}

uint32_t model_plan_cuts(const model *m, uint32_t *batches)
{
    uint32_t from = model_first_unsent(m), records = 0;
    *batches = 0;
    if (slot_is_idle(m)) return 0;
    while (*batches < m->config.prefetch_batches) {
        int full;
        uint32_t n = prefix(m, from + records, &full);
        if (!full) break;
        records += n;
        ++*batches;
    }
    return records;
}

/* Is there room for the first in line, or would there be once all that may be cut is? */
static int admits(const model *m)
{
    uint32_t first = model_first_in(m, TB_RECORD_WAITING), batches;
    if (first == m->record_count) return 0;
    double cost = m->records[first].cost, size = 0, sum = 0;
    if (model_has_room(m, model_count_state(m, TB_RECORD_QUEUED), model_queue_cost(m), cost))
        return 1;
    if (slot_is_idle(m)) return 0;
    for (uint32_t i = model_first_unsent(m) + model_plan_cuts(m, &batches); i < first; i++) {
        size++;
        sum += m->records[i].cost;
    }
    return model_has_room(m, size, sum, cost);
}

uint32_t model_pending(const model *m)
{
    int draining = m->state == TB_DRAINING;
    if (model_next_batch_timeout(m) <= m->now_us) return TB_EVENT_BATCH_TIMED_OUT;
    if (model_next_deadline(m) <= m->now_us) return TB_EVENT_EXPIRED;
    if (draining && m->stop_us <= m->now_us && m->record_count) return TB_EVENT_STOPPED;
    if (admits(m)) return TB_EVENT_ADMITTED;
    if (draining && m->record_count == 0)
        return m->batch_count ? TB_EVENT_BATCH_STOPPED : TB_EVENT_DRAINED;
    return 0;
}

int64_t model_next(const model *m)
{
    uint32_t batches, cut, reason;
    int64_t next = model_earlier(model_next_batch_timeout(m), model_next_deadline(m));
    for (uint32_t i = 0; i < m->call_count; i++)
        if (m->calls[i].is_held) next = model_earlier(next, m->calls[i].until_us);
    if (m->state == TB_DRAINING) next = model_earlier(next, m->stop_us);
    if (model_pending(m) || model_decide(m, &reason)) return m->now_us;
    if (slot_is_idle(m)) next = model_earlier(next, due_us(m));
    cut = model_plan_cuts(m, &batches);
    if (cut != model_count_state(m, TB_RECORD_CUT) && !slot_is_idle(m) && m->state != TB_STOPPED)
        return m->now_us;
    return next == model_forever ? TB_NEVER_US : next;
}

static void summary(const model_tally *t, tb_summary *out)
{
    out->count = t->count;
    out->mean = t->count > 0 ? t->sum / t->count : 0;
    out->max = t->max;
}

void model_stats(const model *m, tb_stats *out)
{
    *out = m->stats;
    out->queue_size = model_count_state(m, TB_RECORD_QUEUED);
    out->queue_cost = model_queue_cost(m);
    out->prefetched_batches = m->cut_batches;
    out->prefetched_records = model_count_state(m, TB_RECORD_CUT);
    out->running_batches = m->batch_count;
    out->running_records = model_count_state(m, TB_RECORD_RUNNING);
    for (uint32_t i = 0; i < m->record_count; i++)
        out->waiting_submits +=
            m->records[i].state == TB_RECORD_WAITING && !(m->records[i].flags & TB_MORE);
    uint32_t unsent = model_first_unsent(m);
    if (unsent < m->record_count) out->oldest_queued_us = (double)(m->now_us - m->records[unsent].submitted_us);
    for (uint32_t i = 0; i < m->batch_count; i++)
        out->oldest_running_us = fmax(out->oldest_running_us, (double)(m->now_us - m->batches[i].started_us));
    out->abandoned_calls = m->call_count;
    summary(&m->wait, &out->wait_us);
    summary(&m->service, &out->service_us);
    summary(&m->latency, &out->latency_us);
    summary(&m->batch_size, &out->batch_size);
    summary(&m->batch_cost, &out->batch_cost);
}
