/* verify.c - every invariant of the state, as sentences. */
#include "check.h"

static bool list_links_hold(const tb_batcher *b, const tb_list *list)
{
    uint32_t n = 0, previous = TB_NIL;
    for (uint32_t at = list->first; at != TB_NIL; at = b->slot[at].next) {
        if (at >= b->slots_used || b->slot[at].prev != previous || n > list->size) return false;
        previous = at;
        n++;
    }
    return n == list->size && list->last == previous;
}

static const char *verify_slots(const tb_batcher *b)
{
    uint32_t live = 0, free_slots = 0;
    for (uint32_t at = 0; at < b->slots_used; at++)
        if (b->slot[at].state != TB_RECORD_NONE) live++;
    for (uint32_t at = b->free_slot; at != TB_NIL; at = b->slot[at].next) {
        CHECK(b->slot[at].state == TB_RECORD_NONE, "a free slot holds no record");
        CHECK(++free_slots <= b->slots_used, "the free list ends");
    }
    CHECK(live == b->waiting.size + b->pending.size + b->running_records,
          "every live record is on one list");
    CHECK(live + free_slots <= b->slots_used, "no slot is both live and free");
    return NULL;
}

static const char *verify_line(const tb_batcher *b)
{
    uint32_t calls = 0;
    CHECK(list_links_hold(b, &b->waiting), "the links of the line hold");
    for (uint32_t at = b->waiting.first; at != TB_NIL; at = b->slot[at].next) {
        CHECK(b->slot[at].state == TB_RECORD_WAITING, "who stands in line waits");
        if (!b->slot[at].more) calls++;
    }
    CHECK(calls == b->waiting_calls, "waiting_submits counts the calls in line");
    return NULL;
}

static const char *verify_pending(const tb_batcher *b)
{
    uint32_t queued = 0, cut = 0, overdue = 0, own = 0, plain = TB_NIL;
    uint64_t cost = 0;
    CHECK(list_links_hold(b, &b->pending), "the links of the queue hold");
    for (uint32_t at = b->pending.first; at != TB_NIL; at = b->slot[at].next) {
        const tb_slot *slot = &b->slot[at];
        CHECK(slot->prev == TB_NIL || b->slot[slot->prev].seq < slot->seq, "arrival order holds");
        CHECK(slot->prev == TB_NIL || b->slot[slot->prev].submitted_us <= slot->submitted_us,
              "the head of the queue is the oldest");
        if (slot->state == TB_RECORD_CUT) {
            CHECK(queued == 0, "cuts are at the head of the queue");
            cut++;
            continue;
        }
        CHECK(slot->state == TB_RECORD_QUEUED, "a pending record is queued or cut");
        queued++;
        cost += slot->cost;
        overdue += slot->overdue;
        own += slot->own;
        if (plain == TB_NIL && !slot->own) plain = at;
    }
    CHECK(queued == b->queued && cut == b->cut_records, "queue_size and prefetched_records hold");
    CHECK(cost == b->queued_cost, "queue_cost is the sum of the queued costs");
    CHECK(overdue == b->overdue, "the overdue records are counted");
    CHECK(own == b->own, "the records with a linger of their own are counted");
    CHECK(!tb__is_open(b, TB_VIEW_LINGER) || plain == b->plain,
          "the oldest record without a linger of its own is known");
    return NULL;
}

/* Greedy: the next record does not fit or may not share, or nothing would fit. */
static bool load_is_full(const tb_batcher *b, const tb_load *load, uint32_t next)
{
    if (tb__is_full(b, load)) return true;
    return next != TB_NIL && (!tb__may_share(load, tb__mark(b, next)) || !tb__fits(b, load, b->slot[next].cost));
}

static const char *verify_cuts(const tb_batcher *b)
{
    uint32_t at = b->pending.first;
    CHECK(b->cuts <= b->config.prefetch_batches, "no more cuts than prefetch_batches");
    CHECK((b->cuts == 0) == (b->cut_records == 0), "no cut is empty");
    if (b->cuts_stale) return NULL;
    for (uint32_t i = 0; i < b->cuts; i++) {
        const tb_cut *cut = &b->cut[(b->cut_first + i) % b->cut_capacity];
        tb_load load = {0};
        CHECK(cut->first == at, "cuts follow one another");
        for (; load.size < cut->load.size; at = b->slot[at].next) {
            CHECK(tb__fits(b, &load, b->slot[at].cost), "a cut keeps to the budget");
            CHECK(tb__may_share(&load, tb__mark(b, at)), "a cut keeps to one group, or one record");
            tb__load_add(&load, b->slot[at].cost, tb__mark(b, at));
        }
        CHECK(load.sum == cut->load.sum && load.largest == cut->load.largest, "a cut's load holds");
        CHECK(load_is_full(b, &load, at), "a cut is full");
    }
    return NULL;
}

static const char *verify_open(const tb_batcher *b)
{
    uint32_t at = b->pending.first;
    tb_load load = {0};
    if (b->cuts_stale) return NULL;
    while (at != TB_NIL && b->slot[at].state == TB_RECORD_CUT) at = b->slot[at].next;
    for (; at != b->open.next; at = b->slot[at].next) {
        CHECK(at != TB_NIL, "the open batch ends in the queue");
        CHECK(tb__fits(b, &load, b->slot[at].cost), "the open batch keeps to the budget");
        CHECK(tb__may_share(&load, tb__mark(b, at)), "the open batch keeps to one group, or one record");
        tb__load_add(&load, b->slot[at].cost, tb__mark(b, at));
    }
    CHECK(load.size == b->open.load.size && load.sum == b->open.load.sum &&
              load.largest == b->open.load.largest,
          "the open batch's load holds");
    CHECK(!b->open.full || load_is_full(b, &load, at), "an open batch that is full is full");
    return NULL;
}

static const char *verify_heap(const tb_batcher *b)
{
    uint32_t timed = 0;
    for (uint32_t i = 0; i < b->heap.size; i++) {
        const tb_heap_entry *e = &b->heap.entry[i];
        CHECK(b->slot[e->slot].heap_at == i, "a record knows its place in the heap");
        CHECK(i == 0 || b->heap.entry[(i - 1) / 2].at_us <= e->at_us, "the heap is a heap");
        CHECK(e->at_us == b->slot[e->slot].deadline_us || !b->slot[e->slot].overdue,
              "what is overdue waits for its deadline only");
        CHECK(e->at_us <= b->slot[e->slot].deadline_us, "a record's next time is not past its deadline");
    }
    for (uint32_t at = 0; at < b->slots_used; at++) {
        uint8_t state = b->slot[at].state;
        bool undispatched = state != TB_RECORD_NONE && state != TB_RECORD_RUNNING;
        bool lingers = b->slot[at].own && !b->slot[at].overdue;
        if (undispatched && (lingers || b->slot[at].deadline_us != TB_TIME_MAX)) timed++;
    }
    CHECK(timed == b->heap.size, "every undispatched record with a deadline or a linger is in the heap");
    return NULL;
}

static const char *verify_batches(const tb_batcher *b)
{
    uint32_t batches = 0, records = 0, timed = 0;
    for (uint32_t i = 0; i < b->batches; i++) {
        const tb_running *batch = &b->batch[i];
        if (!batch->in_use) continue;
        CHECK(list_links_hold(b, &batch->records), "the links of a batch hold");
        for (uint32_t at = batch->records.first; at != TB_NIL; at = b->slot[at].next)
            CHECK(b->slot[at].state == TB_RECORD_RUNNING && b->slot[at].batch == i,
                  "a batch's records run in it");
        batches++;
        records += batch->records.size;
        if (batch->timeout_us) timed++;
    }
    CHECK(batches == b->running_batches && records == b->running_records &&
              timed == b->timed_batches,
          "the running batches and records are counted");
    return NULL;
}

static const char *verify_counts(const tb_batcher *b)
{
    CHECK(b->submitted == (uint64_t)b->queued + b->cut_records + b->running_records + b->completed +
                              b->failed + b->cancelled + b->expired,
          "submitted = queued + cut + running + completed + failed + cancelled + expired");
    CHECK(b->state != TB_STOPPED ||
              b->queued + b->cut_records + b->running_batches + b->held_batches + b->waiting.size == 0,
          "nothing is left in a stopped batcher");
    return NULL;
}

static const char *verify_calls(const tb_batcher *b)
{
    uint32_t held = 0, taken = 0;
    CHECK(b->calls <= TB_CALLS_MAX, "no more abandoned calls than are kept");
    for (uint32_t i = 0; i < b->calls; i++) {
        const tb_call *call = &b->call[i];
        uint64_t id = (uint64_t)call->batch;
        const tb_running *batch = &b->batch[id % TB_MAX_BATCHES];
        if (!call->is_held) continue;
        held++;
        CHECK(batch->is_held && !batch->in_use && batch->generation == id / TB_MAX_BATCHES,
              "a held slot is that of the batch whose call goes on");
    }
    for (uint32_t i = 0; i < b->batches; i++) taken += b->batch[i].is_held;
    CHECK(held == b->held_batches && taken == held, "the held slots are counted");
    CHECK(held == 0 || b->config.max_abandoned_calls != TB_NO_LIMIT, "without a limit no slot is held");
    CHECK(held == 0 || (int64_t)b->calls - held >= b->config.max_abandoned_calls,
          "a slot is held only while as many calls as may go on without one do");
    return NULL;
}

static const char *verify_marks(const tb_batcher *b)
{
    uint32_t lone = 0;
    for (uint32_t key = 0; key < b->lone_capacity; key++) lone += tb__is_lone(b, key);
    CHECK(lone == b->lone_keys, "the keys whose records run alone are counted");
    CHECK(b->has_marks == (b->group || lone > 0), "marks are looked at if there are any");
    CHECK(!tb__is_lone(b, 0), "a record without a key is never marked");
    return NULL;
}

typedef const char *verify_part(const tb_batcher *b);

static verify_part *const PARTS[] = {
    verify_slots, verify_line,    verify_pending, verify_cuts,
    verify_open,  verify_batches, verify_counts,  verify_heap,
    verify_calls, verify_marks,   tb__verify_views,
};

const char *tb_verify(const tb_batcher *b)
{
    assert(b != NULL);
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++) {
        const char *broken = PARTS[i](b);
        if (broken) return broken;
    }
    return NULL;
}
