/* calls.c - calls of inference that go on after their batch has ended (R5).
 *
 * A batch that timed out, or was stopped, is over; its call may go on, and is abandoned. While
 * max_abandoned_calls of them run, the slot of a batch that times out is held: no batch is in
 * it, and none may begin. It is free when a call ends, or abandon_us after its timeout. So
 * much holds at every moment: if a slot is held, max_abandoned_calls others that hold none go on.
 *
 * Calls are kept in the order in which they were abandoned, TB_CALLS_MAX at most: beyond that
 * the oldest count as ended, as do those for which there is no memory.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

static uint32_t batch_slot(const tb_call *call)
{
    return (uint32_t)((uint64_t)call->batch % TB_MAX_BATCHES);
}

/* The call keeps no slot any more. */
static void release(tb_batcher *b, tb_call *call)
{
    assert(call->is_held);
    assert(b->held_batches > 0);
    tb__account(b);
    call->is_held = false;
    b->batch[batch_slot(call)].is_held = false;
    b->held_batches--;
    b->news = true;
}

static bool has_limit(const tb_batcher *b)
{
    return b->config.max_abandoned_calls != TB_NO_LIMIT;
}

/* May one more call go on that holds no slot? */
static bool may_go_on(const tb_batcher *b)
{
    uint32_t free_calls = b->calls - b->held_batches;
    return !has_limit(b) || free_calls < (uint32_t)b->config.max_abandoned_calls;
}

/* As many slots as may be are free, the longest held first. */
void tb__calls_review(tb_batcher *b)
{
    for (uint32_t i = 0; i < b->calls && b->held_batches && may_go_on(b); i++)
        if (b->call[i].is_held) release(b, &b->call[i]);
}

static void forget(tb_batcher *b, uint32_t i)
{
    assert(i < b->calls);
    if (b->call[i].is_held) release(b, &b->call[i]);
    b->calls--;
    memmove(&b->call[i], &b->call[i + 1], (b->calls - i) * sizeof *b->call);
    tb__calls_review(b);
}

static bool reserve(tb_batcher *b)
{
    if (b->calls == TB_CALLS_MAX) forget(b, 0);
    if (b->calls < b->calls_capacity) return true;
    uint32_t want = tb__grown(b->calls_capacity, 16);
    tb_call *grown = realloc(b->call, want * sizeof *grown);
    if (!grown) return false;
    b->call = grown;
    b->calls_capacity = want;
    return true;
}

/* The batch in slot `at` has just ended, its call goes on. */
void tb__call_abandoned(tb_batcher *b, uint32_t at, bool may_hold)
{
    assert(!b->batch[at].in_use);
    assert(!b->batch[at].is_held);
    if (!reserve(b)) return;
    bool hold = may_hold && !may_go_on(b);
    b->call[b->calls++] = (tb_call){tb__batch_id(b, at), b->now_us + b->config.abandon_us, hold};
    b->batch[at].is_held = hold;
    b->held_batches += hold;
}

/* Slots that were held for long enough are free. */
void tb__calls_release(tb_batcher *b)
{
    for (uint32_t i = 0; i < b->calls && b->held_batches; i++)
        if (b->call[i].is_held && b->call[i].until_us <= b->now_us) release(b, &b->call[i]);
}

/* Nothing is left that a slot could be wanted for. */
void tb__calls_release_all(tb_batcher *b)
{
    for (uint32_t i = 0; i < b->calls && b->held_batches; i++)
        if (b->call[i].is_held) release(b, &b->call[i]);
}

/* When the next slot is free at the latest; TB_TIME_MAX: none is held. */
int64_t tb__calls_next_us(const tb_batcher *b)
{
    int64_t at = TB_TIME_MAX;
    if (b->held_batches == 0) return at;
    for (uint32_t i = 0; i < b->calls; i++)
        if (b->call[i].is_held && b->call[i].until_us < at) at = b->call[i].until_us;
    return at;
}

int tb_call_ended(tb_batcher *b, tb_id batch, int64_t now_us)
{
    assert(b != NULL);
    tb__advance(b, now_us);
    for (uint32_t i = 0; i < b->calls; i++) {
        if (b->call[i].batch != batch) continue;
        forget(b, i);
        return TB_OK;
    }
    return TB_ENOENT;
}
