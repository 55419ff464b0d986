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

static tb_id refuse_for_room(tb_batcher *b)
{
    tb__room_refused(b);
    return refuse(b, TB_EFULL);
}

/* A record is never earlier than the one ahead of it, so that the head of the queue
 * is the oldest. */
static int64_t time_of_call(const tb_batcher *b, int64_t at)
{
    if (at == 0) return b->now_us;
    assert(at > 0);
    const tb_list *ahead = b->waiting.size ? &b->waiting : &b->pending;
    if (ahead->size && b->slot[ahead->last].submitted_us > at)
        at = b->slot[ahead->last].submitted_us;
    return at < b->now_us ? at : b->now_us;
}

static int64_t bounded(int64_t us)
{
    return us < TB_TIME_MAX / 2 ? us : TB_TIME_MAX / 2;
}

/* Deadline and linger, and the first time that matters. */
static void fill_times(tb_batcher *b, uint32_t at, const tb_submission *record)
{
    tb_slot *slot = &b->slot[at];
    slot->overdue = record->batch_timeout_us == TB_AT_ONCE;
    slot->own = record->batch_timeout_us != 0;
    if (slot->own) tb__own_begin(b);
    int64_t timeout = bounded(record->timeout_us), linger = bounded(record->batch_timeout_us);
    int64_t first = TB_TIME_MAX;
    if (timeout > 0) {
        slot->deadline_us = slot->submitted_us + timeout;
        first = slot->overdue ? slot->deadline_us : slot->submitted_us + timeout / 2;
    }
    if (linger > 0 && slot->submitted_us + linger < first) first = slot->submitted_us + linger;
    if (first != TB_TIME_MAX) tb__heap_push(b, at, first);
}

static void fill(tb_batcher *b, uint32_t at, const tb_submission *record, uint64_t cost)
{
    tb_slot *slot = &b->slot[at];
    slot->cost = cost;
    slot->priority = record->priority;
    slot->key = record->key;
    slot->submitted_us = time_of_call(b, record->submitted_us);
    slot->deadline_us = TB_TIME_MAX;
    slot->seq = b->next_seq++;
    slot->heap_at = TB_NIL;
    slot->overdue = slot->own = 0;
    slot->more = (record->flags & TB_MORE) != 0;
    if (b->group) b->group[at] = record->group;
    if (record->timeout_us | record->batch_timeout_us) fill_times(b, at, record);
}

static void join_line(tb_batcher *b, uint32_t at)
{
    b->slot[at].state = TB_RECORD_WAITING;
    if (b->waiting.size == 0) b->news = true; /* the queue may be bounded now */
    tb__list_append(b, &b->waiting, at);
    if (!b->slot[at].more) b->waiting_calls++;
}

/* It needs a slot, and nothing else. */
static bool is_plain(const tb_submission *record)
{
    return !(record->timeout_us | record->batch_timeout_us | record->group);
}

/* It is a cost and a time, and nothing else. */
static bool is_bare(const tb_submission *record)
{
    return is_plain(record) && !(record->key | (record->flags & TB_MORE)) && record->priority == 0;
}

/* Memory for all that a record needs, now and when it is let in. */
static bool reserve(tb_batcher *b, const tb_submission *record)
{
    if (is_plain(record) && b->free_slot != TB_NIL && !b->views_in_use) return true;
    if (!tb__slots_reserve(b)) return false;
    if ((record->timeout_us || record->batch_timeout_us > 0) && !tb__heap_reserve(&b->heap)) return false;
    bool has_groups = b->group || record->group; /* their account comes before them: either may be refused */
    bool is_scripted = b->config.policy == TB_POLICY_SCRIPT;
    if (has_groups && is_scripted && !tb__view_open(b, TB_VIEW_GROUPS, 0)) return false;
    if (!tb__marks_reserve(b, record->group)) return false;
    return !b->views_in_use || tb__views_reserve(b, record->key, record->group);
}

TB_ON_THE_WAY void fill_bare(tb_batcher *b, tb_slot *slot, uint64_t cost, int64_t submitted_us)
{
    slot->cost = cost;
    slot->priority = 0;
    slot->submitted_us = submitted_us;
    slot->deadline_us = TB_TIME_MAX;
    slot->seq = b->next_seq++;
    slot->key = 0;
    slot->heap_at = TB_NIL;
    slot->overdue = slot->more = slot->own = 0;
}

/* A bare record where memory may have to grow, or something follows the queue. */
static __attribute__((noinline)) tb_id add_followed(tb_batcher *b, uint64_t cost, int64_t submitted_us)
{
    static const tb_submission BARE = {0};
    if (!reserve(b, &BARE)) return TB_ENOMEM;
    uint32_t at = tb__slot_take(b);
    fill_bare(b, &b->slot[at], cost, submitted_us);
    if (b->group) b->group[at] = 0;
    enqueue(b, at);
    return tb__slot_id(b, at);
}

/* Called last, with what is to be returned: so the way of every record keeps nothing across a call. */
static __attribute__((noinline)) tb_id append_to_open(tb_batcher *b, uint32_t at, tb_id id)
{
    tb__open_append(b, at, 0);
    return id;
}

/* One that needs no look at anything else: what every record costs is here. */
TB_ON_THE_WAY tb_id add_bare(tb_batcher *b, uint64_t cost, int64_t submitted_us)
{
    uint32_t at = tb__slot_take_again(b);
    tb_slot *slot = &b->slot[at];
    fill_bare(b, slot, cost, submitted_us);
    tb__list_append(b, &b->pending, at);
    tb__queue_count(b, slot);
    b->news = true;
    b->submitted++;
    tb_id id = tb__make_id(at, slot->generation);
    return tb__open_count(b, cost) ? id : append_to_open(b, at, id);
}

/* Its id, or the refusal, which is not counted. */
TB_ON_THE_WAY tb_id submit_bare(tb_batcher *b, double cost_given, int64_t submitted_us)
{
    uint64_t cost;
    if (TB_SELDOM(b->state != TB_RUNNING)) return TB_ENOTRUNNING;
    int error = cost_check(b, cost_given, &cost);
    if (TB_SELDOM(error)) return error;
    if (TB_SELDOM(b->waiting.size || !tb__has_room(b, cost))) return TB_EFULL;
    if (TB_SELDOM(b->free_slot == TB_NIL || b->views_in_use || b->has_marks))
        return add_followed(b, cost, submitted_us);
    return add_bare(b, cost, submitted_us);
}

tb_id tb_submit_plain(tb_batcher *b, double cost, int64_t now_us)
{
    assert(b != NULL);
    tb__advance(b, now_us);
    return submit_bare(b, cost, b->now_us);
}

/* All other records, and those that are refused: counted, or let wait. */
static __attribute__((noinline)) tb_id submit_with_care(tb_batcher *b, const tb_submission *record)
{
    uint64_t cost;
    if (b->state != TB_RUNNING) return TB_ENOTRUNNING;
    int error = cost_check(b, record->cost, &cost);
    if (error == TB_ECOST) return error;
    if (!is_plain(record) && (record->timeout_us < 0 || record->batch_timeout_us < TB_AT_ONCE)) return TB_ETIMEOUT;
    if ((record->key | record->group) >= TB_SLOTS_MAX) return TB_ERECORD; /* a power of two */
    if (record->priority != record->priority) return TB_ERECORD;
    if (error) return refuse(b, error);
    bool fits = b->waiting.size == 0 && tb__has_room(b, cost);
    if (!fits && !(record->flags & TB_MAY_WAIT)) return refuse_for_room(b);
    if (!reserve(b, record)) return TB_ENOMEM;
    uint32_t at = tb__slot_take(b);
    fill(b, at, record, cost);
    if (fits) enqueue(b, at);
    else join_line(b, at);
    return tb__slot_id(b, at);
}

tb_id tb_submit(tb_batcher *b, const tb_submission *record, int64_t now_us)
{
    assert(b != NULL);
    assert(record != NULL);
    tb__advance(b, now_us);
    if (is_bare(record)) {
        tb_id id = submit_bare(b, record->cost, time_of_call(b, record->submitted_us));
        if (id > 0) return id;
    }
    return submit_with_care(b, record);
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

/* Does a queue of so many records and so much cost take all of these, which are known to be
 * good? Then *i is n. */
static bool takes_all(const tb_batcher *b, const double *costs, uint32_t n, tb_load queue, uint32_t *i)
{
    uint64_t cost = 0;
    for (*i = 0; *i < n; ++*i) {
        (void)cost_check(b, costs[*i], &cost);
        if (!tb__room_for(b, queue.size, queue.sum, cost)) return false;
        tb__load_add(&queue, cost, 0);
    }
    return true;
}

static int check_room(const tb_batcher *b, const double *costs, uint32_t n, uint32_t *i)
{
    tb_load queue = {.size = b->queued, .sum = b->queued_cost};
    if (!takes_all(b, costs, n, (tb_load){0}, i)) return TB_ETOOLARGE;
    if (n > 0 && b->waiting.size) {
        *i = 0;
        return TB_EFULL;
    }
    return takes_all(b, costs, n, queue, i) ? TB_OK : TB_EFULL;
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
    if (error == TB_EFULL) tb__room_refused(b);
    if (error == TB_EFULL || error == TB_EOVERSIZE || error == TB_ETOOLARGE) b->rejected += n;
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

/* The record makes the queue due, or will when it is in it. */
static void make_overdue(tb_batcher *b, uint32_t at)
{
    tb_slot *slot = &b->slot[at];
    assert(!slot->overdue);
    slot->overdue = 1;
    if (slot->state != TB_RECORD_QUEUED) return;
    b->overdue++;
    if (tb__is_open(b, TB_VIEW_GROUPS)) tb__group_overdue(b, at);
}

/* One record whose deadline has come, if any. Records of which only half of the
 * timeout, or a linger of their own, has passed make the queue due on the way. */
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
        make_overdue(b, at);
        if (slot->deadline_us == TB_TIME_MAX) tb__heap_remove(b, at);
        else tb__heap_move_top(b, slot->deadline_us);
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
