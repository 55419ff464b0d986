/* queue.c - records before they run: submitted, waiting in line, let in, expired.
 *
 * Arrival numbers (seq) are given at submission, in the line too; since the line is
 * first come, first served, the pending list is in the order of seq.
 */
#include "core.h"

static void enqueue(tb_batcher *b, uint32_t at)
{
    tb__pending_add(b, at);
    b->news = true;
    b->submitted++;
}

static int cost_check(const tb_batcher *b, double cost, uint64_t *out)
{
    if (!(cost >= 0 && cost <= TB_COST_MAX)) return TB_ECOST;
    uint64_t whole = (uint64_t)(int64_t)cost;
    if (tb__double(whole) < cost) whole++;
    *out = whole;
    bool oversize = whole > b->budget;
    return oversize && b->config.on_oversize == TB_OVERSIZE_REJECT ? TB_EOVERSIZE : TB_OK;
}

int tb_has_room(const tb_batcher *b, double cost)
{
    assert(b != NULL);
    uint64_t whole;
    if (b->state != TB_RUNNING || b->waiting.size) return 0;
    return cost_check(b, cost, &whole) == TB_OK && tb__has_room(b, whole);
}

static tb_id refuse(tb_batcher *b, int error)
{
    b->rejected++;
    return error;
}

/* A record is never earlier than the one ahead of it, so that the head of the queue
 * is the oldest. */
static int64_t time_of_call(const tb_batcher *b, const tb_submission *record)
{
    assert(b->state == TB_RUNNING);
    int64_t at = record->submitted_us;
    if (at == 0) return b->now_us;
    const tb_list *ahead = b->waiting.size ? &b->waiting : &b->pending;
    if (ahead->size && b->slot[ahead->last].submitted_us > at)
        at = b->slot[ahead->last].submitted_us;
    return at < b->now_us ? at : b->now_us;
}

static void fill(tb_batcher *b, uint32_t at, const tb_submission *record, uint64_t cost)
{
    tb_slot *slot = &b->slot[at];
    slot->cost = cost;
    slot->priority = record->priority;
    slot->key = record->key;
    slot->submitted_us = time_of_call(b, record);
    slot->deadline_us = TB_TIME_MAX;
    slot->seq = b->next_seq++;
    slot->heap_at = TB_NIL;
    slot->overdue = 0;
    slot->more = (record->flags & TB_MORE) != 0;
    if (record->timeout_us == 0) return;
    int64_t timeout = record->timeout_us < TB_TIME_MAX / 2 ? record->timeout_us : TB_TIME_MAX / 2;
    slot->deadline_us = slot->submitted_us + timeout;
    tb__heap_push(b, at, slot->submitted_us + timeout / 2);
}

static void join_line(tb_batcher *b, uint32_t at)
{
    b->slot[at].state = TB_RECORD_WAITING;
    tb__list_append(b, &b->waiting, at);
    if (!b->slot[at].more) b->waiting_calls++;
}

tb_id tb_submit(tb_batcher *b, const tb_submission *record, int64_t now_us)
{
    assert(b != NULL);
    assert(record != NULL);
    uint64_t cost;
    tb__advance(b, now_us);
    if (b->state != TB_RUNNING) return TB_ENOTRUNNING;
    int error = cost_check(b, record->cost, &cost);
    if (error == TB_ECOST) return error;
    if (record->timeout_us < 0) return TB_ETIMEOUT;
    if (record->key >= TB_SLOTS_MAX || record->priority != record->priority) return TB_ERECORD;
    if (error) return refuse(b, error);
    bool fits = b->waiting.size == 0 && tb__has_room(b, cost);
    if (!fits && !(record->flags & TB_MAY_WAIT)) return refuse(b, TB_EFULL);
    if (!tb__slots_reserve(b)) return TB_ENOMEM;
    if (record->timeout_us && !tb__heap_reserve(&b->heap)) return TB_ENOMEM;
    if (!tb__views_reserve(b, record->key)) return TB_ENOMEM;
    uint32_t at = tb__slot_take(b);
    fill(b, at, record, cost);
    if (fits) enqueue(b, at);
    else join_line(b, at);
    return tb__slot_id(b, at);
}

static int check_costs(const tb_batcher *b, const double *costs, uint32_t n, uint32_t *i)
{
    uint64_t cost;
    for (*i = 0; *i < n; ++*i) {
        int error = cost_check(b, costs[*i], &cost);
        if (error) return error;
    }
    return TB_OK;
}

/* The costs are known to be good. */
static int check_room(const tb_batcher *b, const double *costs, uint32_t n, uint32_t *i)
{
    uint32_t queued = b->queued;
    uint64_t queued_cost = b->queued_cost, cost = 0;
    for (*i = 0; *i < n; ++*i) {
        (void)cost_check(b, costs[*i], &cost);
        if (b->waiting.size || !tb__room_for(b, queued, queued_cost, cost)) return TB_EFULL;
        queued++;
        queued_cost += cost;
    }
    return TB_OK;
}

int tb_submit_check(tb_batcher *b, const double *costs, uint32_t n, uint32_t flags,
                    uint32_t *culprit)
{
    assert(b != NULL);
    assert(costs != NULL || n == 0);
    uint32_t i = 0;
    if (b->state != TB_RUNNING) return TB_ENOTRUNNING;
    int error = check_costs(b, costs, n, &i);
    if (!error && !(flags & TB_MAY_WAIT)) error = check_room(b, costs, n, &i);
    if (error && culprit) *culprit = i;
    if (error == TB_EFULL || error == TB_EOVERSIZE) b->rejected += n;
    return error;
}

int tb_record_state(const tb_batcher *b, tb_id record)
{
    assert(b != NULL);
    uint32_t at = tb__slot_find(b, record);
    return at == TB_NIL ? TB_RECORD_NONE : b->slot[at].state;
}

int64_t tb_record_deadline(const tb_batcher *b, tb_id record)
{
    assert(b != NULL);
    uint32_t at = tb__slot_find(b, record);
    if (at == TB_NIL) return TB_ENOENT;
    return b->slot[at].deadline_us == TB_TIME_MAX ? TB_NEVER_US : b->slot[at].deadline_us;
}

void tb_refuse(tb_batcher *b, uint32_t records)
{
    assert(b != NULL);
    b->rejected += records;
}

uint32_t tb_waiting(const tb_batcher *b)
{
    assert(b != NULL);
    return b->waiting.size;
}

static void leave_line(tb_batcher *b, uint32_t at)
{
    assert(b->slot[at].state == TB_RECORD_WAITING);
    tb__list_remove(b, &b->waiting, at);
    if (!b->slot[at].more) b->waiting_calls--;
}

/* Take a record that is waiting, queued or cut off its list and free its slot. */
void tb__queue_forget(tb_batcher *b, uint32_t at)
{
    tb_slot *slot = &b->slot[at];
    tb__heap_remove(b, at);
    if (slot->state == TB_RECORD_WAITING) {
        leave_line(b, at);
        b->submitted++;
    } else {
        tb__pending_remove(b, at);
    }
    tb__slot_give(b, at);
}

/* One record whose deadline has come, if any. Records of which only half of the
 * timeout has passed make the queue due on the way. */
bool tb__pop_expired(tb_batcher *b, tb_id *id)
{
    while (b->heap.size && b->heap.entry[0].at_us <= b->now_us) {
        uint32_t at = b->heap.entry[0].slot;
        tb_slot *slot = &b->slot[at];
        if (slot->deadline_us <= b->now_us) {
            *id = tb__slot_id(b, at);
            tb__queue_forget(b, at);
            b->expired++;
            return true;
        }
        slot->overdue = 1;
        if (slot->state == TB_RECORD_QUEUED) b->overdue++;
        tb__heap_move_top(b, slot->deadline_us);
    }
    return false;
}

/* Let the first of the line in, if there is room, or cutting ahead makes room. */
bool tb__admit_next(tb_batcher *b, tb_id *id)
{
    uint32_t at = b->waiting.first;
    if (at == TB_NIL) return false;
    if (!tb__has_room(b, b->slot[at].cost)) tb__seal_ahead(b);
    if (!tb__has_room(b, b->slot[at].cost)) return false;
    leave_line(b, at);
    enqueue(b, at);
    *id = tb__slot_id(b, at);
    return true;
}
