/* queue.c - records before they run: submitted, waiting in line, queued, cut.
 *
 * Arrival numbers (seq) are given at submission, in the line too; since the line is
 * first come, first served, the pending list is in the order of seq.
 */
#include "core.h"

static void count_overdue(tb_batcher *b, const tb_slot *slot, int by)
{
    if (slot->overdue) b->overdue += (uint32_t)by;
}

/* The record joins the queue proper (at its end, or because its cut dissolved). */
static void enter_queue(tb_batcher *b, uint32_t at)
{
    tb_slot *slot = &b->slot[at];
    slot->state = TB_RECORD_QUEUED;
    b->queued++;
    b->queued_cost += slot->cost;
    count_overdue(b, slot, 1);
    if (b->views_in_use) tb__views_add(b, at);
}

static void enqueue(tb_batcher *b, uint32_t at)
{
    tb__list_append(b, &b->pending, at);
    enter_queue(b, at);
    tb__open_append(b, at);
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

/* An empty queue takes any record. */
static bool room_for(const tb_batcher *b, uint32_t queued, uint64_t queued_cost, uint64_t cost)
{
    if (queued >= b->config.max_queue_size) return false;
    return queued == 0 || b->config.max_queue_cost == 0 ||
           (double)(queued_cost + cost) <= b->config.max_queue_cost;
}

static bool has_room(const tb_batcher *b, uint64_t cost)
{
    return room_for(b, b->queued, b->queued_cost, cost);
}

int tb_has_room(const tb_batcher *b, double cost)
{
    uint64_t whole;
    if (b->state != TB_RUNNING || b->waiting.size) return 0;
    return cost_check(b, cost, &whole) == TB_OK && has_room(b, whole);
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
    uint64_t cost;
    tb__advance(b, now_us);
    if (b->state != TB_RUNNING) return TB_ENOTRUNNING;
    int error = cost_check(b, record->cost, &cost);
    if (error == TB_ECOST) return error;
    if (record->timeout_us < 0) return TB_ETIMEOUT;
    if (record->key >= TB_SLOTS_MAX || record->priority != record->priority) return TB_ERECORD;
    if (error) return refuse(b, error);
    bool fits = b->waiting.size == 0 && has_room(b, cost);
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
        if (b->waiting.size || !room_for(b, queued, queued_cost, cost)) return TB_EFULL;
        queued++;
        queued_cost += cost;
    }
    return TB_OK;
}

int tb_submit_check(tb_batcher *b, const double *costs, uint32_t n, uint32_t flags,
                    uint32_t *culprit)
{
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
    uint32_t at = tb__slot_find(b, record);
    return at == TB_NIL ? TB_RECORD_NONE : b->slot[at].state;
}

void tb_refuse(tb_batcher *b, uint32_t records)
{
    b->rejected += records;
}

uint32_t tb_waiting(const tb_batcher *b)
{
    return b->waiting.size;
}

static void leave_line(tb_batcher *b, uint32_t at)
{
    tb__list_remove(b, &b->waiting, at);
    if (!b->slot[at].more) b->waiting_calls--;
}

/* Keep the open batch right when the queued record `at` goes. Members are those
 * ahead of open.next. */
static void leave_open(tb_batcher *b, uint32_t at)
{
    const tb_slot *slot = &b->slot[at];
    tb_open *open = &b->open;
    if (b->cuts_stale) return; /* it is made anew with the cuts */
    bool member = open->next == TB_NIL || slot->seq < b->slot[open->next].seq;
    if (open->next == at) {
        open->next = slot->next;
        open->full = tb__is_full(b, &open->load);
    } else if (member && slot->cost == open->load.largest && open->load.size > 1) {
        tb__open_reset(b);
        if (open->next == at) open->next = slot->next;
    } else if (member) {
        open->load.sum -= slot->cost;
        open->load.size--;
        if (open->load.size == 0) open->load.largest = 0;
        open->full = tb__is_full(b, &open->load);
    }
}

static void leave_queue(tb_batcher *b, uint32_t at)
{
    const tb_slot *slot = &b->slot[at];
    if (b->views_in_use) tb__views_remove(b, at);
    b->queued--;
    b->queued_cost -= slot->cost;
    count_overdue(b, slot, -1);
}

/* Cuts that lost a record, or the record behind them, no longer end where greedy
 * cutting would end them. They are made anew in tb_form(), not here: until then they
 * still count as cut, and the room of the queue does not flicker. */
static void leave_cut(tb_batcher *b)
{
    b->cuts_stale = true;
    if (--b->cut_records == 0) b->cuts = 0;
}

/* Take a record that is waiting, queued or cut off its list and free its slot. */
void tb__queue_forget(tb_batcher *b, uint32_t at)
{
    tb_slot *slot = &b->slot[at];
    tb__heap_remove(b, at);
    if (slot->state == TB_RECORD_WAITING) {
        leave_line(b, at);
        b->submitted++;
    } else if (slot->state == TB_RECORD_QUEUED) {
        bool behind_cut = slot->prev != TB_NIL && b->slot[slot->prev].state == TB_RECORD_CUT;
        if (behind_cut) b->cuts_stale = true;
        leave_queue(b, at);
        leave_open(b, at);
        tb__list_remove(b, &b->pending, at);
    } else {
        assert(slot->state == TB_RECORD_CUT);
        leave_cut(b);
        tb__list_remove(b, &b->pending, at);
    }
    tb__slot_give(b, at);
}

/* Cuts become the head of the queue again. */
void tb__cuts_dissolve(tb_batcher *b)
{
    if (b->cuts == 0 && !b->cuts_stale) return;
    b->cuts_stale = false;
    uint32_t at = b->pending.first;
    for (uint32_t i = 0; i < b->cut_records; i++, at = b->slot[at].next) enter_queue(b, at);
    b->cuts = 0;
    b->cut_first = 0;
    b->cut_records = 0;
    tb__open_reset(b);
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
    if (!has_room(b, b->slot[at].cost)) tb__seal_ahead(b);
    if (!has_room(b, b->slot[at].cost)) return false;
    leave_line(b, at);
    enqueue(b, at);
    *id = tb__slot_id(b, at);
    return true;
}
