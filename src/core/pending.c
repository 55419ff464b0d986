/* pending.c - the pending list: who enters, who leaves, the open batch, the cuts.
 *
 *     [ cut | cut | open batch ... next | rest of the queue ]
 *
 * The open batch is the longest prefix of the queue that fits the budget. It is kept right as
 * records leave, and extended lazily, at a decision, by those that came since the last one.
 * Cutting moves no record. Cuts that lost a record, or the record behind them, no longer end
 * where greedy cutting would end them: they are stale, and made anew by tb_form(), not at
 * once; until then they still count as cut, and the room of the queue does not flicker.
 */
#include "core.h"

/* --- room ----------------------------------------------------------------- */

/* The queue can take no more (F2): it holds max_queue_size records, or its bounds keep someone
 * out: the first in line, or one that was refused since the last dispatch. */
bool tb__is_bounded(const tb_batcher *b)
{
    if (b->queued == 0) return false;
    if (b->was_refused || b->queued >= b->config.max_queue_size) return true;
    return b->waiting.size && !tb__has_room(b, b->slot[b->waiting.first].cost);
}

void tb__room_refused(tb_batcher *b)
{
    if (!b->was_refused) b->news = true;
    b->was_refused = true;
}

/* --- the queue proper ------------------------------------------------------- */

static uint32_t queue_head(const tb_batcher *b)
{
    assert(!b->cuts_stale);
    if (b->cut_records == 0) return b->pending.first;
    uint32_t at = b->cut[(b->cut_first + b->cuts - 1) % b->cut_capacity].last;
    return b->slot[at].next;
}

/* The oldest queued record; there is one. */
uint32_t tb__first_queued(const tb_batcher *b)
{
    assert(b->queued > 0);
    uint32_t at = b->pending.first;
    if (!b->cuts_stale) return queue_head(b);
    while (b->slot[at].state == TB_RECORD_CUT) at = b->slot[at].next;
    return at;
}

/* The oldest queued record without a linger of its own, or TB_NIL. */
uint32_t tb__first_plain(const tb_batcher *b)
{
    return tb__is_open(b, TB_VIEW_LINGER) ? b->plain : tb__first_queued(b);
}

/* The head of the pending list, up to `last`, as a list of its own. */
static tb_list split(tb_batcher *b, uint32_t last, uint32_t size)
{
    assert(size > 0);
    assert(size <= b->pending.size);
    tb_list out = {b->pending.first, last, size};
    b->pending.first = b->slot[last].next;
    b->pending.size -= size;
    if (b->pending.first == TB_NIL) b->pending.last = TB_NIL;
    else b->slot[b->pending.first].prev = TB_NIL;
    b->slot[last].next = TB_NIL;
    return out;
}

/* --- the open batch --------------------------------------------------------- */

/* Begin an empty open batch at record `at`. */
static void open_at(tb_batcher *b, uint32_t at)
{
    b->open = (tb_open){.next = at};
}

/* Not while cuts are stale: their ends are not known then, and tb_form() begins by
 * dissolving them, which resets the open batch. */
void tb__open_reset(tb_batcher *b)
{
    open_at(b, b->cuts_stale ? TB_NIL : queue_head(b));
}

/* Records of a long queue are not in the cache, and each leads to the next. Slots are taken in runs, so that it is
 * likely to be known where those after it are: as far from it as many times its successor. A wrong guess is read by
 * nobody; to look whether it is a slot took longer than it gained. */
static inline void fetch_ahead(const tb_slot *slot, uint32_t at)
{
    enum { RECORDS_AHEAD = 8 };
    int64_t step = (int32_t)(slot->next - at);
    __builtin_prefetch((const char *)slot + step * RECORDS_AHEAD * (int64_t)sizeof *slot);
}

void tb__open_extend(tb_batcher *b)
{
    tb_load load = b->open.load;
    uint32_t next = b->open.next;
    bool full = b->open.full;
    while (!full && next != TB_NIL) {
        const tb_slot *slot = &b->slot[next];
        fetch_ahead(slot, next);
        uint32_t mark = tb__mark(b, next);
        full = !tb__may_share(&load, mark) || !tb__fits(b, &load, slot->cost);
        if (full) break;
        tb__load_add(&load, slot->cost, mark);
        next = slot->next;
        full = tb__is_full(b, &load);
    }
    b->open = (tb_open){load, next, full};
}

/* The last member of the open batch, which has some. */
static uint32_t open_last(const tb_batcher *b)
{
    assert(b->open.load.size > 0);
    return b->open.next == TB_NIL ? b->pending.last : b->slot[b->open.next].prev;
}

/* The members of the open batch as a list of their own; the next one begins behind them. */
tb_list tb__open_take(tb_batcher *b, tb_load *load)
{
    assert(b->cuts == 0);
    uint32_t last = open_last(b);
    *load = b->open.load;
    open_at(b, b->open.next);
    return split(b, last, load->size);
}

/* Keep the open batch right when the queued record `at` goes. Members are those
 * ahead of open.next. */
static void leave_open(tb_batcher *b, uint32_t at)
{
    const tb_slot *slot = &b->slot[at];
    tb_open *open = &b->open;
    if (b->cuts_stale) return; /* it is made anew with the cuts */
    bool member = open->next == TB_NIL || slot->seq < b->slot[open->next].seq;
    assert(!member || open->load.size > 0);
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

/* --- who enters, who leaves ---------------------------------------------------- */

static void leave_cut(tb_batcher *b)
{
    assert(b->cut_records > 0);
    b->cuts_stale = true;
    if (--b->cut_records == 0) b->cuts = 0;
}

/* A queued or cut record goes, not into a batch. Its slot is the caller's to free. */
void tb__pending_remove(tb_batcher *b, uint32_t at)
{
    tb_slot *slot = &b->slot[at];
    if (slot->state == TB_RECORD_CUT) {
        leave_cut(b);
    } else {
        assert(slot->state == TB_RECORD_QUEUED);
        bool behind_cut = slot->prev != TB_NIL && b->slot[slot->prev].state == TB_RECORD_CUT;
        if (behind_cut) b->cuts_stale = true;
        tb__queue_leave(b, at);
        leave_open(b, at);
    }
    tb__list_remove(b, &b->pending, at);
}

/* --- the cuts ------------------------------------------------------------------- */

/* Cut the open batch, which is full, off the head of the queue. */
void tb__cuts_add(tb_batcher *b)
{
    assert(b->open.full);
    assert(b->cuts < b->cut_capacity);
    uint32_t first = queue_head(b), last = open_last(b), next = b->open.next;
    bool has_left = tb__queue_leave_at_once(b, &b->open.load);
    for (uint32_t at = first; at != next; at = b->slot[at].next) {
        if (!has_left) tb__queue_leave(b, at);
        b->slot[at].state = TB_RECORD_CUT;
    }
    b->cut[(b->cut_first + b->cuts) % b->cut_capacity] = (tb_cut){b->open.load, first, last};
    b->cuts++;
    b->cut_records += b->open.load.size;
    open_at(b, next);
}

/* The records of the first cut as a list of their own. */
tb_list tb__cuts_take(tb_batcher *b, tb_load *load)
{
    assert(b->cuts > 0);
    assert(!b->cuts_stale);
    tb_cut cut = b->cut[b->cut_first];
    assert(cut.first == b->pending.first);
    b->cut_first = (b->cut_first + 1) % b->cut_capacity;
    b->cuts--;
    b->cut_records -= cut.load.size;
    *load = cut.load;
    return split(b, cut.last, cut.load.size);
}

/* Cuts become the head of the queue again. */
void tb__cuts_dissolve(tb_batcher *b)
{
    if (b->cuts == 0 && !b->cuts_stale) return;
    b->cuts_stale = false;
    uint32_t at = b->pending.first;
    for (uint32_t i = 0; i < b->cut_records; i++, at = b->slot[at].next) {
        assert(b->slot[at].state == TB_RECORD_CUT);
        tb__queue_enter(b, at);
    }
    b->cuts = 0;
    b->cut_first = 0;
    b->cut_records = 0;
    if (tb__is_open(b, TB_VIEW_LINGER)) tb__plain_find(b);
    tb__open_reset(b);
}

/* What may share a batch has changed (a key is marked, or no longer): batches that are not
 * formed yet are made anew. */
void tb__marks_changed(tb_batcher *b)
{
    b->news = true;
    if (b->cuts) b->cuts_stale = true;
    else tb__open_reset(b);
}
