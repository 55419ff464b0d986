/* verify.c - every invariant of the state, as sentences. */
#include "core.h"

#define CHECK(condition, sentence) \
    do { \
        if (!(condition)) return sentence; \
    } while (0)

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
    uint32_t queued = 0, cut = 0, overdue = 0;
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
    }
    CHECK(queued == b->queued && cut == b->cut_records, "queue_size and prefetched_records hold");
    CHECK(cost == b->queued_cost, "queue_cost is the sum of the queued costs");
    CHECK(overdue == b->overdue, "the overdue records are counted");
    return NULL;
}

/* Greedy: the next record does not fit, or nothing would. */
static bool load_is_full(const tb_batcher *b, const tb_load *load, uint32_t next)
{
    return tb__is_full(b, load) || (next != TB_NIL && !tb__fits(b, load, b->slot[next].cost));
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
            tb__load_add(&load, b->slot[at].cost);
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
        tb__load_add(&load, b->slot[at].cost);
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
        CHECK(e->at_us <= b->slot[e->slot].deadline_us, "a record's next time is not past its deadline");
    }
    for (uint32_t at = 0; at < b->slots_used; at++) {
        uint8_t state = b->slot[at].state;
        bool undispatched = state != TB_RECORD_NONE && state != TB_RECORD_RUNNING;
        if (undispatched && b->slot[at].deadline_us != TB_TIME_MAX) timed++;
    }
    CHECK(timed == b->heap.size, "every undispatched record with a deadline is in the heap");
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
              b->queued + b->cut_records + b->running_batches + b->waiting.size == 0,
          "nothing is left in a stopped batcher");
    return NULL;
}

static const char *verify_tree(const tb_batcher *b, uint32_t view)
{
    const tb_view *v = &b->view[view];
    uint32_t n = 0, previous = TB_NIL;
    for (uint32_t at = tb__tree_first(v); at != TB_NIL; at = tb__tree_next(v, at)) {
        uint32_t parent = v->node[at].parent;
        CHECK(b->slot[at].state == TB_RECORD_QUEUED, "a view holds queued records");
        CHECK(parent == TB_NIL || v->node[parent].weight >= v->node[at].weight, "a treap is a heap");
        CHECK(previous == TB_NIL || tb__view_before(b, view, previous, at), "a view is in its order");
        CHECK(tb__tree_previous(v, at) == previous, "a view is the same backwards");
        CHECK(++n <= b->queued, "a view holds no record twice");
        previous = at;
    }
    CHECK(n == b->queued, "a view holds every queued record");
    return NULL;
}

static const char *verify_lane(const tb_batcher *b, uint32_t key, uint32_t *n)
{
    const tb_keys *k = &b->keys;
    uint32_t previous = TB_NIL;
    CHECK(k->lane[key].first != TB_NIL, "a key in the list has a record");
    for (uint32_t at = k->lane[key].first; at != TB_NIL; at = k->link[at].next) {
        CHECK(b->slot[at].key == key && b->slot[at].state == TB_RECORD_QUEUED && (*n)++ < b->queued,
              "a key's records are queued and its own");
        CHECK(k->link[at].previous == previous, "the links of a key's records hold");
        CHECK(previous == TB_NIL || b->slot[previous].seq < b->slot[at].seq,
              "a key's records are in the order of arrival");
        previous = at;
    }
    CHECK(k->lane[key].last == previous, "a key knows its last record");
    return NULL;
}

static const char *verify_keys(const tb_batcher *b)
{
    const tb_keys *k = &b->keys;
    uint32_t n = 0, previous = TB_NIL;
    for (uint32_t key = k->first; key != TB_NIL; key = k->lane[key].next) {
        const char *broken = verify_lane(b, key, &n);
        if (broken) return broken;
        CHECK(k->lane[key].previous == previous, "the links of the keys hold");
        previous = key;
    }
    CHECK(k->last == previous, "the list of keys ends with the last");
    CHECK(n == b->queued, "the keys hold every queued record");
    return NULL;
}

static const char *verify_order(const tb_batcher *b)
{
    const tb_choice *c = &b->choice;
    uint32_t at = b->pending.first, holes = 0;
    CHECK(c->head == c->used || c->index[c->head] != TB_NIL, "the head is no hole");
    for (uint32_t i = c->head; i < c->used; i++) {
        CHECK(c->index[i] != TB_NIL || i >= c->hole, "no hole is before the first one");
        if (c->index[i] == TB_NIL) {
            holes++;
            continue;
        }
        CHECK(at == c->index[i] && c->position[at] == i + 1, "positions are in the order of arrival");
        at = b->slot[at].next;
    }
    CHECK(at == TB_NIL, "every queued record has a position");
    CHECK(holes == c->holes && (holes > 0 || c->hole == c->used), "the holes are counted");
    return NULL;
}

static const char *verify_views(const tb_batcher *b)
{
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++) {
        const char *broken = b->views_in_use & (1u << i) ? verify_tree(b, i) : NULL;
        if (broken) return broken;
    }
    const char *broken = b->views_in_use & (1u << TB_VIEW_KEYS) ? verify_keys(b) : NULL;
    if (broken || !(b->views_in_use & (1u << TB_VIEW_ORDER))) return broken;
    return verify_order(b);
}

typedef const char *verify_part(const tb_batcher *b);

static verify_part *const PARTS[] = {
    verify_slots, verify_line,    verify_pending, verify_cuts,
    verify_open,  verify_batches, verify_counts,  verify_heap,
    verify_views,
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
