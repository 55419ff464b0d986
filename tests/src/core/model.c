/* model.c - see model.h. Plain on purpose: no index, no heap, no cleverness. */
#include "model.h"

#include <math.h>
#include <string.h>

static void tally(model_tally *t, double value)
{
    t->count++;
    t->sum += value;
    t->max = fmax(t->max, value);
}

void model_init(model *m, const tb_config *config)
{
    memset(m, 0, sizeof *m);
    m->config = *config;
    m->stop_us = model_forever;
}

void model_clock(model *m, int64_t now_us)
{
    if (now_us <= m->now_us) return;
    double slots = m->config.max_concurrent_batches, busy = m->batch_count + model_held(m);
    double passed_us = (double)(now_us - m->now_us);
    if (m->state != TB_STOPPED) {
        m->stats.busy_us += busy * passed_us;
        m->stats.idle_us += fmax(slots - busy, 0) * passed_us;
    }
    m->now_us = now_us;
}

/* --- Life -------------------------------------------------------------- */

int model_start(model *m, int64_t now_us)
{
    if (m->state != TB_STOPPED) return TB_ERUNNING;
    m->state = TB_RUNNING;
    m->now_us = now_us; /* the clock may start anew */
    m->stop_us = model_forever;
    m->last_submitted_us = 0;
    m->was_refused = 0;
    return TB_OK;
}

void model_stop(model *m, int64_t timeout_us, int64_t now_us)
{
    model_clock(m, now_us);
    if (m->state == TB_STOPPED) return;
    m->state = TB_DRAINING;
    if (timeout_us >= 0) m->stop_us = model_earlier(m->stop_us, model_later(m->now_us, timeout_us));
}

void model_flush(model *m, int64_t now_us)
{
    model_clock(m, now_us);
    for (uint32_t i = 0; i < m->record_count; i++)
        if (model_in_line(&m->records[i])) m->records[i].flushed = 1;
}

void model_key_alone(model *m, uint32_t key, int on, int64_t now_us)
{
    model_clock(m, now_us);
    if (m->lone[key] != on) m->cuts_stale = 1;
    m->lone[key] = on;
}

void model_set(model *m, const tb_config *config, int64_t now_us)
{
    model_clock(m, now_us);
    m->config = *config;
    m->cuts_stale = 1;
    model_review_calls(m);
}

/* --- Records ----------------------------------------------------------- */

static int bad_cost(double cost)
{
    return !(cost >= 0 && cost <= 1e12);
}

static int cost_answer(const model *m, double cost)
{
    if (bad_cost(cost)) return TB_ECOST;
    int oversize = ceil(cost) > m->config.target_batch_cost;
    return oversize && m->config.on_oversize == TB_OVERSIZE_REJECT ? TB_EOVERSIZE : TB_OK;
}

static int room_answer(const model *m, double size, double sum, double cost)
{
    int overtakes = model_first_in(m, TB_RECORD_WAITING) < m->record_count;
    return overtakes || !model_has_room(m, size, sum, ceil(cost)) ? TB_EFULL : TB_OK;
}

int model_submit(model *m, const tb_submission *s, tb_id id, int64_t now_us)
{
    model_clock(m, now_us);
    int error = cost_answer(m, s->cost);
    if (m->state != TB_RUNNING) return TB_ENOTRUNNING;
    if (error != TB_ECOST && (s->timeout_us < 0 || s->batch_timeout_us < TB_AT_ONCE)) return TB_ETIMEOUT;
    if (error != TB_ECOST && (s->key >= 1u << TB_SLOT_BITS || s->group >= 1u << TB_SLOT_BITS)) return TB_ERECORD;
    int full = !error && room_answer(m, model_count_state(m, TB_RECORD_QUEUED), model_queue_cost(m),
                                     s->cost) == TB_EFULL;
    if (full && !(s->flags & TB_MAY_WAIT)) error = TB_EFULL;
    m->stats.total_rejected += error == TB_EFULL || error == TB_EOVERSIZE;
    m->was_refused |= error == TB_EFULL;
    if (error) return error;
    m->stats.total_submitted += !full;

    model_record *r = &m->records[m->record_count++];
    memset(r, 0, sizeof *r);
    r->id = id;
    r->cost = ceil(s->cost);
    r->state = full ? TB_RECORD_WAITING : TB_RECORD_QUEUED;
    r->flags = s->flags;
    r->key = s->key;
    r->group = s->group;
    r->linger_us = s->batch_timeout_us;
    r->submitted_us = s->submitted_us ? s->submitted_us : m->now_us;
    if (r->submitted_us < m->last_submitted_us) r->submitted_us = m->last_submitted_us;
    m->last_submitted_us = r->submitted_us;
    r->timeout_us = s->timeout_us;
    r->deadline_us = s->timeout_us ? model_later(r->submitted_us, s->timeout_us) : model_forever;
    return TB_OK;
}

int model_submit_plain(model *m, double cost, tb_id id, int64_t now_us)
{
    tb_submission s = {.cost = cost};
    double rejected = m->stats.total_rejected;
    int was_refused = m->was_refused, error = model_submit(m, &s, id, now_us);
    m->stats.total_rejected = rejected;
    m->was_refused = was_refused;
    return error;
}

int model_submit_check(model *m, const double *costs, uint32_t n, uint32_t flags, uint32_t *culprit)
{
    double size = model_count_state(m, TB_RECORD_QUEUED), sum = model_queue_cost(m);
    int error = TB_OK;
    if (m->state != TB_RUNNING) return TB_ENOTRUNNING;
    for (*culprit = 0; *culprit < n; ++*culprit)
        if ((error = cost_answer(m, costs[*culprit]))) break;
    double all = 0;
    for (uint32_t i = 0; !error && !(flags & TB_MAY_WAIT) && i < n; i++) {
        *culprit = i;
        if (!model_has_room(m, i, all, ceil(costs[i]))) error = TB_ETOOLARGE;
        all += ceil(costs[i]);
    }
    for (uint32_t i = 0; !error && !(flags & TB_MAY_WAIT) && i < n; i++) {
        *culprit = i;
        error = room_answer(m, size++, sum, costs[i]);
        sum += ceil(costs[i]);
    }
    m->was_refused |= error == TB_EFULL;
    if (error == TB_EFULL || error == TB_EOVERSIZE || error == TB_ETOOLARGE) m->stats.total_rejected += n;
    return error;
}

/* Take it out of the array and count why. */
static void settle(model *m, uint32_t i, double *counter)
{
    model_record *r = &m->records[i];
    m->stats.total_submitted += r->state == TB_RECORD_WAITING;
    ++*counter;
    if (counter == &m->stats.total_completed)
        tally(&m->latency, (double)(m->now_us - r->submitted_us));
    if (model_in_line(r)) m->cuts_stale = 1;
    memmove(r, r + 1, (m->record_count - i - 1) * sizeof *r);
    m->record_count--;
}

static double *counter_of(model *m, int outcome)
{
    if (outcome == TB_COMPLETED) return &m->stats.total_completed;
    return outcome == TB_FAILED ? &m->stats.total_failed : &m->stats.total_expired;
}

int model_cancel(model *m, tb_id id, int64_t now_us)
{
    model_clock(m, now_us);
    uint32_t i = model_find_record(m, id);
    if (i == m->record_count) return TB_ENOENT;
    settle(m, i, &m->stats.total_cancelled);
    return TB_OK;
}

int model_settle(model *m, tb_id id, int outcome, int64_t now_us)
{
    model_clock(m, now_us);
    uint32_t i = model_find_record(m, id);
    if (i == m->record_count) return TB_ENOENT;
    if (m->records[i].state != TB_RECORD_RUNNING) return TB_ESTATE;
    settle(m, i, counter_of(m, outcome));
    return TB_OK;
}

/* --- Batches ----------------------------------------------------------- */

static void end_batch(model *m, uint32_t at, int outcome)
{
    model_batch *batch = &m->batches[at];
    for (uint32_t i = m->record_count; i-- > 0;)
        if (m->records[i].batch == batch->id) settle(m, i, counter_of(m, outcome));
    tally(&m->service, (double)(m->now_us - batch->started_us));
    memmove(batch, batch + 1, (m->batch_count - at - 1) * sizeof *batch);
    m->batch_count--;
}

int model_finish(model *m, tb_id batch, int outcome, int64_t now_us)
{
    model_clock(m, now_us);
    uint32_t i = model_find_batch(m, batch);
    if (i == m->batch_count) return TB_ENOENT;
    end_batch(m, i, outcome);
    return TB_OK;
}

int model_retry(model *m, tb_id batch, int64_t now_us)
{
    model_clock(m, now_us);
    uint32_t i = model_find_batch(m, batch);
    if (i == m->batch_count) return TB_ENOENT;
    int64_t timeout_us = m->batches[i].inference_timeout_us;
    m->batches[i].times_out_us = timeout_us ? model_later(m->now_us, timeout_us) : model_forever;
    return TB_OK;
}

int model_half(model *m, tb_id batch, const tb_id *ids, uint32_t n, tb_batch *out, int64_t now_us)
{
    model_clock(m, now_us);
    uint32_t at = model_find_batch(m, batch);
    if (at == m->batch_count) return TB_ENOENT;
    tb_batch half = {.started_us = m->batches[at].started_us, .deadline_us = TB_NEVER_US, .size = n};
    for (uint32_t i = 0; i < n; i++) {
        uint32_t found = model_find_record(m, ids[i]);
        if (found == m->record_count || m->records[found].batch != batch) return TB_ENOENT;
        const model_record *r = &m->records[found];
        half.sum += r->cost;
        half.largest = fmax(half.largest, r->cost);
        half.group = r->group;
        if (r->timeout_us && (half.deadline_us == TB_NEVER_US || r->deadline_us < half.deadline_us))
            half.deadline_us = r->deadline_us;
    }
    half.padded = n * half.largest;
    half.cost = m->batches[at].cost_model == TB_COST_PADDED ? half.padded : half.sum;
    *out = half;
    return model_retry(m, batch, now_us);
}

void model_dispatch(model *m, uint32_t size, uint32_t reason, tb_id id, tb_batch *out)
{
    int64_t timeout_us = m->config.inference_timeout_us, deadline_us = model_forever;
    int64_t times_out_us = timeout_us ? model_later(m->now_us, timeout_us) : model_forever;
    uint32_t from = model_first_unsent(m);
    memset(out, 0, sizeof *out);
    for (uint32_t i = from; i < from + size; i++) {
        model_record *r = &m->records[i];
        r->state = TB_RECORD_RUNNING;
        r->batch = id;
        out->sum += r->cost;
        out->largest = fmax(out->largest, r->cost);
        deadline_us = model_earlier(deadline_us, r->deadline_us);
        tally(&m->wait, (double)(m->now_us - r->submitted_us));
    }
    out->size = size;
    out->reason = reason;
    out->started_us = m->now_us;
    out->deadline_us = deadline_us == model_forever ? TB_NEVER_US : deadline_us;
    out->cost = model_batch_cost(m, size, out->sum, out->largest);
    out->padded = size * out->largest;
    out->group = m->records[from].group;
    m->batches[m->batch_count++] = (model_batch){id, m->now_us, timeout_us, times_out_us, m->config.cost_model};
    m->was_refused = 0;

    tally(&m->batch_size, size);
    tally(&m->batch_cost, out->cost);
    m->stats.total_batches++;
    m->stats.total_batch_records += size;
    m->stats.total_batch_cost += out->cost;
    m->stats.padded_cost += out->padded;
    m->stats.sum_cost += out->sum;
    m->stats.dispatched[reason]++;
    m->stats.total_oversize += size == 1 && out->cost > m->config.target_batch_cost;
}

void model_dissolve(model *m)
{
    for (uint32_t i = 0; i < m->record_count; i++)
        if (m->records[i].state == TB_RECORD_CUT) m->records[i].state = TB_RECORD_QUEUED;
    m->cut_batches = 0;
}

void model_cut(model *m)
{
    if (m->state == TB_STOPPED || model_next_deadline(m) <= m->now_us) return;
    model_dissolve(m);
    uint32_t from = model_first_unsent(m), cut = model_plan_cuts(m, &m->cut_batches);
    for (uint32_t i = from; i < from + cut; i++) m->records[i].state = TB_RECORD_CUT;
    m->cuts_stale = 0;
}

void model_make_room(model *m)
{
    uint32_t first = model_first_in(m, TB_RECORD_WAITING);
    double size = model_count_state(m, TB_RECORD_QUEUED), sum = model_queue_cost(m);
    if (first == m->record_count || m->batch_count + model_held(m) < m->config.max_concurrent_batches) return;
    if (!model_has_room(m, size, sum, m->records[first].cost)) model_cut(m);
}

/* --- Events ------------------------------------------------------------ */

/* At the end of stop: what is left fails, each kind in order of arrival. */
static const char *stopped(model *m, const tb_event *event)
{
    uint32_t record = model_find_record(m, event->id), batch = model_find_batch(m, event->id);
    uint32_t queued = model_first_unsent(m), waiting = model_first_in(m, TB_RECORD_WAITING);
    if (event->kind == TB_EVENT_BATCH_STOPPED) {
        if (batch == m->batch_count) return "stopped a batch that is none";
        end_batch(m, batch, TB_FAILED);
        model_abandon(m, event->id, 0);
    } else if (event->kind == TB_EVENT_STOPPED) {
        if (record != queued || queued >= waiting) return "stopped a record out of order";
        settle(m, record, &m->stats.total_failed);
    } else if (event->kind == TB_EVENT_REFUSED) {
        if (record != waiting || waiting == m->record_count) return "refused out of order";
        settle(m, record, &m->stats.total_rejected);
        m->stats.total_submitted--; /* one turned away was never accepted */
    } else {
        return "the end of stop is due";
    }
    return NULL;
}

const char *model_event(model *m, const tb_event *event, int64_t now_us)
{
    model_clock(m, now_us);
    uint32_t record = model_find_record(m, event->id), batch = model_find_batch(m, event->id);
    uint32_t pending = model_pending(m);
    if (pending == TB_EVENT_STOPPED) return stopped(m, event);
    if (event->kind != pending) return "this kind of event is not what is due first";
    if (pending == TB_EVENT_BATCH_TIMED_OUT || pending == TB_EVENT_BATCH_STOPPED) {
        if (batch == m->batch_count) return "no such batch";
        if (pending == TB_EVENT_BATCH_TIMED_OUT && m->batches[batch].times_out_us > m->now_us)
            return "the batch has not timed out";
        end_batch(m, batch, TB_FAILED);
        model_abandon(m, event->id, pending == TB_EVENT_BATCH_TIMED_OUT);
    } else if (pending == TB_EVENT_EXPIRED) {
        if (record == m->record_count) return "no such record";
        if (m->records[record].state == TB_RECORD_RUNNING) return "a running record expired";
        if (m->records[record].deadline_us > m->now_us) return "its deadline has not come";
        settle(m, record, &m->stats.total_expired);
    } else if (pending == TB_EVENT_ADMITTED) {
        if (record != model_first_in(m, TB_RECORD_WAITING)) return "admitted out of order";
        model_make_room(m);
        m->records[record].state = TB_RECORD_QUEUED;
        m->stats.total_submitted++;
    } else {
        if (event->id != 0) return "drained has no id";
        m->state = TB_STOPPED;
        for (uint32_t i = 0; i < m->call_count; i++) m->calls[i].is_held = 0;
    }
    return NULL;
}
