/* form.c - which records make the next batch, and when it goes.
 *
 * The open batch is the longest prefix of the queue that fits the budget. It is
 * extended lazily, at a decision, by the records that came since the last one.
 */
#include "core.h"

static uint32_t queue_head(const tb_batcher *b)
{
    if (b->cut_records == 0) return b->pending.first;
    uint32_t at = b->cut[(b->cut_first + b->cuts - 1) % b->cut_capacity].last;
    return b->slot[at].next;
}

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

void tb__open_extend(tb_batcher *b)
{
    tb_load load = b->open.load;
    uint32_t next = b->open.next;
    bool full = b->open.full;
    while (!full && next != TB_NIL) {
        const tb_slot *slot = &b->slot[next];
        full = !tb__fits(b, &load, slot->cost);
        if (full) break;
        tb__load_add(&load, slot->cost);
        next = slot->next;
        full = tb__is_full(b, &load);
    }
    b->open = (tb_open){load, next, full};
}

/* When the head of the queue has lingered long enough. */
static int64_t linger_us(const tb_batcher *b)
{
    const tb_config *c = &b->config;
    return c->max_wait_us && c->max_wait_us < c->batch_timeout_us ? c->max_wait_us
                                                                  : c->batch_timeout_us;
}

static uint32_t first_queued(const tb_batcher *b)
{
    uint32_t at = b->pending.first;
    if (!b->cuts_stale) return queue_head(b);
    while (at != TB_NIL && b->slot[at].state == TB_RECORD_CUT) at = b->slot[at].next;
    return at;
}

/* When the queue becomes due (F3), half-deadlines apart, which are in the heap.
 * 0: it is due already. TB_TIME_MAX: it is empty. */
int64_t tb__due_us(const tb_batcher *b)
{
    if (b->queued == 0) return TB_TIME_MAX;
    const tb_slot *head = &b->slot[first_queued(b)];
    if (b->state == TB_DRAINING || b->overdue || head->seq < b->flushed_seq) return 0;
    return head->submitted_us + linger_us(b);
}

bool tb__is_due(const tb_batcher *b)
{
    return b->queued && tb__due_us(b) <= b->now_us;
}

/* Does the open batch go now, and why? -1: it stays open. */
static int fifo_reason(const tb_batcher *b)
{
    if (b->open.full) return TB_REASON_FULL;
    if (!tb__is_due(b)) return -1;
    return b->state == TB_DRAINING ? TB_REASON_DRAIN : TB_REASON_TIMEOUT;
}

static int eager_reason(const tb_batcher *b)
{
    int reason = fifo_reason(b);
    if (reason == TB_REASON_FULL || reason == TB_REASON_DRAIN) return reason;
    return b->open.load.size >= b->config.min_batch_size ? TB_REASON_IDLE : reason;
}

static int decide(const tb_batcher *b)
{
    if (b->open.load.size == 0) return -1;
    return b->config.policy == TB_POLICY_EAGER ? eager_reason(b) : fifo_reason(b);
}

static tb_id dispatch_open(tb_batcher *b, int reason)
{
    tb_load load = b->open.load;
    uint32_t next = b->open.next;
    uint32_t last = next == TB_NIL ? b->pending.last : b->slot[next].prev;
    open_at(b, next);
    return tb__batch_start(b, tb__pending_split(b, last, load.size), &load, reason);
}

static tb_id dispatch_cut(tb_batcher *b)
{
    tb_cut cut = b->cut[b->cut_first];
    b->cut_first = (b->cut_first + 1) % b->cut_capacity;
    b->cuts--;
    b->cut_records -= cut.load.size;
    assert(cut.first == b->pending.first);
    tb_list records = tb__pending_split(b, cut.last, cut.load.size);
    return tb__batch_start(b, records, &cut.load, TB_REASON_FULL);
}

/* Cut the open batch, which is full, off the head of the queue. */
static void seal_open(tb_batcher *b)
{
    uint32_t first = queue_head(b), next = b->open.next;
    uint32_t last = next == TB_NIL ? b->pending.last : b->slot[next].prev;
    for (uint32_t at = first; at != next; at = b->slot[at].next) {
        tb_slot *slot = &b->slot[at];
        slot->state = TB_RECORD_CUT;
        if (b->views_in_use) tb__views_remove(b, at);
        b->overdue -= slot->overdue;
    }
    b->queued -= b->open.load.size;
    b->queued_cost -= b->open.load.sum;
    b->cut[(b->cut_first + b->cuts) % b->cut_capacity] = (tb_cut){b->open.load, first, last};
    b->cuts++;
    b->cut_records += b->open.load.size;
    open_at(b, next);
}

/* While every slot is busy, cut full batches ahead; a scripted policy may yet choose
 * others, so not for it. */
void tb__seal_ahead(tb_batcher *b)
{
    if (b->running_batches < b->config.max_concurrent_batches) return;
    if (b->config.policy == TB_POLICY_SCRIPT) return;
    if (b->cuts_stale) tb__cuts_dissolve(b);
    while (b->cuts < b->config.prefetch_batches) {
        tb__open_extend(b);
        if (!b->open.full) return;
        seal_open(b);
    }
}

/* Has tb_poll() done all that comes before dispatch? */
bool tb__is_polled(const tb_batcher *b)
{
    if (b->state == TB_STOPPED) return false;
    if (b->state == TB_DRAINING && b->stop_at_us <= b->now_us) return false;
    return b->heap.size == 0 || b->heap.entry[0].at_us > b->now_us;
}

tb_id tb_form(tb_batcher *b, int64_t now_us)
{
    tb__advance(b, now_us);
    if (!tb__is_polled(b) || b->config.policy == TB_POLICY_SCRIPT) return 0;
    if (b->running_batches >= b->config.max_concurrent_batches) {
        tb__seal_ahead(b);
        return 0;
    }
    if (b->cuts_stale) tb__cuts_dissolve(b);
    if (b->cuts) return dispatch_cut(b);
    tb__open_extend(b);
    int reason = decide(b);
    return reason < 0 ? 0 : dispatch_open(b, reason);
}

tb_id tb_form_default(tb_batcher *b, int64_t now_us)
{
    tb__advance(b, now_us);
    if (!tb__is_polled(b) || b->running_batches >= b->config.max_concurrent_batches) return 0;
    tb__open_extend(b);
    if (b->open.load.size == 0) return 0;
    int reason = fifo_reason(b);
    if (reason < 0) return 0;
    b->news = true;
    return dispatch_open(b, reason);
}
