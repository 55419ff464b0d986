/* model_calls.c - calls of inference that go on after their batch (R5): see model.h. */
#include "model.h"

#include <string.h>

static int may_go_on(const model *m)
{
    int64_t free_calls = (int64_t)m->call_count - model_held(m), limit = m->config.max_abandoned_calls;
    return limit == TB_NO_LIMIT || free_calls < limit;
}

/* While fewer than so many go on without a slot, those that hold one give it back. */
void model_review_calls(model *m)
{
    for (uint32_t i = 0; i < m->call_count; i++)
        if (may_go_on(m)) m->calls[i].is_held = 0;
}

static void forget_call(model *m, uint32_t i)
{
    memmove(&m->calls[i], &m->calls[i + 1], (m->call_count - i - 1) * sizeof *m->calls);
    m->call_count--;
    model_review_calls(m);
}

int model_call_ended(model *m, tb_id batch, int64_t now_us)
{
    model_clock(m, now_us);
    for (uint32_t i = 0; i < m->call_count; i++) {
        if (m->calls[i].id != batch) continue;
        forget_call(m, i);
        return TB_OK;
    }
    return TB_ENOENT;
}

void model_abandon(model *m, tb_id batch, int may_hold)
{
    int hold = may_hold && !may_go_on(m);
    m->calls[m->call_count++] = (model_call){batch, model_later(m->now_us, m->config.abandon_us), hold};
}

void model_excuse(model *m, int64_t us)
{
    for (uint32_t i = 0; i < m->batch_count; i++)
        m->batches[i].times_out_us = model_later(m->batches[i].times_out_us, us);
}

void model_release(model *m)
{
    for (uint32_t i = 0; i < m->call_count; i++)
        if (m->state != TB_STOPPED && m->calls[i].until_us <= m->now_us) m->calls[i].is_held = 0;
}
