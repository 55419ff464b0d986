/* linger.c - lingers of records' own (F3): which of the queued records have none?
 *
 * The oldest of these says when the option's linger makes the queue due. While all are such it
 * is the oldest of all; from the first record with a linger of its own on it is remembered.
 * When it leaves, the next one is looked for behind it: nobody before it was one.
 */
#include "core.h"

static uint32_t next_plain(const tb_batcher *b, uint32_t at)
{
    while (at != TB_NIL && (b->slot[at].own || b->slot[at].state != TB_RECORD_QUEUED)) at = b->slot[at].next;
    return at;
}

void tb__plain_find(tb_batcher *b)
{
    b->plain = next_plain(b, b->pending.first);
}

/* From now on records may have lingers of their own. */
void tb__own_begin(tb_batcher *b)
{
    if (tb__is_open(b, TB_VIEW_LINGER)) return;
    assert(b->own == 0);
    tb__plain_find(b);
    b->views_in_use |= 1u << TB_VIEW_LINGER;
}

void tb__plain_enter(tb_batcher *b, uint32_t at)
{
    b->own += b->slot[at].own;
    if (b->plain == TB_NIL && !b->slot[at].own) b->plain = at;
}

/* The record has left the queue's accounts; its links, into the pending list or that of a
 * batch, still hold. One of a batch leads to others that are about to leave, and at last to
 * the end of the list. */
void tb__plain_leave(tb_batcher *b, uint32_t at)
{
    assert(b->own >= b->slot[at].own);
    b->own -= b->slot[at].own;
    if (at != b->plain) return;
    b->plain = TB_NIL;
    if (b->own == b->queued) return;
    b->plain = next_plain(b, b->slot[at].next);
    if (b->plain == TB_NIL) tb__plain_find(b);
}
