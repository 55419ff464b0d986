/* form.c - when the next batch goes: due, full, the built-in policies, cutting ahead. */
#include "core.h"

/* When records become due (F3): `head` is the oldest of them, `plain` the oldest without a linger
 * of its own, or TB_NIL; so many are overdue. Half-deadlines and lingers of records' own are
 * in the heap. 0: they are due already. */
int64_t tb__due_from_us(const tb_batcher *b, uint32_t head, uint32_t plain, uint32_t overdue)
{
    const tb_config *c = &b->config;
    int64_t at = TB_TIME_MAX;
    assert(head != TB_NIL);
    assert(plain == TB_NIL || !b->slot[plain].own);
    if (b->state == TB_DRAINING || overdue || b->slot[head].seq < b->flushed_seq) return 0;
    if (c->max_wait_us) at = b->slot[head].submitted_us + c->max_wait_us;
    if (plain == TB_NIL) return at;
    int64_t lingered = b->slot[plain].submitted_us + c->batch_timeout_us;
    return lingered < at ? lingered : at;
}

/* The same of the whole queue. TB_TIME_MAX also when it is empty. */
int64_t tb__due_us(const tb_batcher *b)
{
    if (b->queued == 0) return TB_TIME_MAX;
    return tb__due_from_us(b, tb__first_queued(b), tb__first_plain(b), b->overdue);
}

bool tb__is_due(const tb_batcher *b)
{
    return b->queued && tb__due_us(b) <= b->now_us;
}

/* Does the open batch go now that a slot is idle, and why? -1: it stays open. */
static int fifo_reason(const tb_batcher *b)
{
    if (b->open.full || tb__is_bounded(b)) return TB_REASON_FULL;
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
    tb_load load;
    tb_list records = tb__open_take(b, &load);
    return tb__batch_start(b, records, &load, reason);
}

static tb_id dispatch_cut(tb_batcher *b)
{
    tb_load load;
    tb_list records = tb__cuts_take(b, &load);
    return tb__batch_start(b, records, &load, TB_REASON_FULL);
}

/* While every slot is busy, cut full batches ahead; a scripted policy may yet choose
 * others, so not for it. */
void tb__seal_ahead(tb_batcher *b)
{
    assert(b->cuts <= b->config.prefetch_batches || b->cuts_stale);
    if (tb__has_idle_slot(b)) return;
    if (b->config.policy == TB_POLICY_SCRIPT) return;
    if (b->cuts_stale) tb__cuts_dissolve(b);
    while (b->cuts < b->config.prefetch_batches) {
        tb__open_extend(b);
        if (!b->open.full) return;
        tb__cuts_add(b);
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
    assert(b != NULL);
    tb__advance(b, now_us);
    if (!tb__is_polled(b) || b->config.policy == TB_POLICY_SCRIPT) return 0;
    if (!tb__has_idle_slot(b)) {
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
    assert(b != NULL);
    tb__advance(b, now_us);
    if (!tb__is_polled(b) || !tb__has_idle_slot(b)) return 0;
    if (b->cuts_stale) tb__cuts_dissolve(b);
    if (b->cuts) return dispatch_cut(b); /* another policy than a script has cut ahead */
    tb__open_extend(b);
    if (b->open.load.size == 0) return 0;
    int reason = fifo_reason(b);
    if (reason < 0) return 0;
    b->news = true;
    return dispatch_open(b, reason);
}
