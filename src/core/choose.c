/* choose.c - a decision by a scripted policy: asked, given the queue, checked.
 *
 * The core never calls a policy. tb_ask() says that one should decide now; the pump
 * opens a choice, which numbers the queued records 1..n in the order of arrival, lets
 * the policy name members with tb_choose_add(), and ends the choice: the members leave
 * the queue as a batch, or nothing has happened. Nothing else may be called between.
 */
#include "core.h"

/* F2, for a policy: some group fills a batch, or the queue can take no more. Without groups a
 * fifo prefix fills a batch if and only if all that is queued does. */
bool tb__queue_is_full(tb_batcher *b)
{
    if (tb__is_bounded(b)) return true;
    if (tb__is_open(b, TB_VIEW_GROUPS)) return tb__groups_fill(b);
    tb__open_extend(b);
    return b->open.full;
}

static uint32_t idle_slots(const tb_batcher *b)
{
    uint32_t taken = b->running_batches + b->held_batches, all = b->config.max_concurrent_batches;
    return taken < all ? all - taken : 0; /* more are, where there were more slots */
}

/* Below min_batch_size the policy is not asked unless the queue is full or due. */
static bool may_ask(tb_batcher *b, bool due)
{
    return due || b->queued >= b->config.min_batch_size || tb__queue_is_full(b);
}

int tb_ask(tb_batcher *b, int64_t now_us)
{
    assert(b != NULL);
    tb__advance(b, now_us);
    if (!tb__is_polled(b) || b->config.policy != TB_POLICY_SCRIPT) return 0;
    if (!tb__has_idle_slot(b) || b->queued == 0) return 0;
    assert(b->cuts == 0); /* nothing is cut ahead for a script */
    assert(!b->cuts_stale);
    bool due = tb__is_due(b);
    bool became_due = due && !b->asked_due;
    if (!due) b->asked_due = false;
    if (!may_ask(b, due)) return 0;
    if (!b->news && !became_due && b->ask_at_us > b->now_us) return 0;
    b->news = false;
    b->asked_due = due;
    b->ask_at_us = TB_TIME_MAX;
    return 1;
}

void tb_ask_again(tb_batcher *b, int64_t at_us)
{
    assert(b != NULL);
    b->ask_at_us = at_us;
}

/* When a policy is to be asked if nothing comes. */
int64_t tb__ask_us(const tb_batcher *b)
{
    int64_t due_us = tb__due_us(b);
    if (b->queued == 0) return TB_TIME_MAX;
    bool by_groups = tb__is_open(b, TB_VIEW_GROUPS);
    bool full = by_groups ? b->groups_full || b->groups_unknown : b->open.full;
    bool gathering = b->queued < b->config.min_batch_size && !full && !tb__is_bounded(b);
    if (gathering && !b->asked_due) return due_us;
    if (b->news) return 0;
    int64_t at = b->asked_due ? TB_TIME_MAX : due_us;
    return at < b->ask_at_us ? at : b->ask_at_us;
}

static void begin(tb_batcher *b)
{
    b->choice.load = (tb_load){0};
    b->choice.limit = UINT64_MAX;
    b->choice.aged_done = b->config.max_wait_us == 0;
    b->choice.is_closed = false;
}

int tb_choose(tb_batcher *b, tb_queue *out, int64_t now_us)
{
    assert(b != NULL);
    assert(out != NULL);
    assert(b->choice.size == 0);
    tb__advance(b, now_us);
    if (!tb__order_open(b)) return TB_ENOMEM;
    tb_choice *c = &b->choice;
    tb__order_compact(c);
    c->size = c->used - c->head;
    assert(c->size == b->queued);
    begin(b);
    *out = (tb_queue){
        .total_cost = (double)b->queued_cost,
        .size = c->size,
        .idle_slots = idle_slots(b),
        .is_full = tb__queue_is_full(b),
        .is_bounded = tb__is_bounded(b),
        .is_due = tb__is_due(b),
        .is_draining = b->state == TB_DRAINING,
    };
    return TB_OK;
}

/* A limit holds for all, a record above the budget in an empty batch included. */
static bool fits(const tb_batcher *b, uint64_t cost)
{
    const tb_choice *c = &b->choice;
    tb_load more = c->load;
    if (!tb__fits(b, &more, cost)) return false;
    if (c->limit == UINT64_MAX) return true;
    tb__load_add(&more, cost, 0);
    return tb__load_cost(b, &more) <= c->limit;
}

/* enum tb_add */
static int add_slot(tb_batcher *b, uint32_t at)
{
    tb_choice *c = &b->choice;
    assert(at < c->capacity);
    if (c->position[at] & TB_CHOSEN) return TB_ADD_IN;
    uint32_t mark = tb__mark(b, at);
    if (!tb__may_share(&c->load, mark)) return (c->load.mark ^ mark) & ~TB_ALONE ? TB_ADD_GROUP : TB_ADD_ALONE;
    if (!fits(b, b->slot[at].cost)) return TB_ADD_BUDGET;
    c->member[c->load.size] = at;
    tb__load_add(&c->load, b->slot[at].cost, mark);
    c->position[at] |= TB_CHOSEN;
    return TB_ADD_IN;
}

/* Records that have waited max_wait_s go first, oldest first, whoever else is named; those that
 * may not share the oldest one's batch are passed over. If the policy's limit has no room for
 * the very first, nobody goes: it would be overtaken for ever. */
static void add_aged(tb_batcher *b)
{
    tb_choice *c = &b->choice;
    c->aged_done = true;
    for (uint32_t i = c->head; i < c->used; i++) {
        const tb_slot *slot = &b->slot[c->index[i]];
        if (slot->submitted_us + b->config.max_wait_us > b->now_us) return;
        if (add_slot(b, c->index[i]) != TB_ADD_BUDGET) continue;
        c->is_closed = c->load.size == 0;
        return;
    }
}

int tb_choose_add(tb_batcher *b, double position)
{
    assert(b != NULL);
    tb_choice *c = &b->choice;
    if (!(position >= 1 && position <= c->size)) return TB_ENOENT;
    uint32_t i = (uint32_t)position;
    if (i != position) return TB_ENOENT;
    if (!c->aged_done) add_aged(b);
    if (c->is_closed) return TB_ADD_BUDGET;
    return add_slot(b, c->index[c->head + i - 1]);
}

void tb_choose_limit(tb_batcher *b, double tokens)
{
    assert(b != NULL);
    tb_choice *c = &b->choice;
    if (!(tokens < TB_COST_MAX * TB_SLOTS_MAX)) return;
    uint64_t limit = tokens > 0 ? (uint64_t)tokens : 0;
    if (limit < c->limit) c->limit = limit;
}

void tb_choose_read(const tb_batcher *b, tb_batch *out)
{
    assert(b != NULL);
    assert(out != NULL);
    const tb_choice *c = &b->choice;
    *out = (tb_batch){
        .cost = tb__double(tb__load_cost(b, &c->load)),
        .sum = tb__double(c->load.sum),
        .largest = tb__double(c->load.largest),
        .padded = tb__double(tb__load_padded(&c->load)),
        .size = c->load.size,
    };
}

double tb_choose_budget(const tb_batcher *b)
{
    assert(b != NULL);
    uint64_t limit = b->choice.limit;
    return tb__double(limit < b->budget ? limit : b->budget);
}

tb_id tb_choose_end(tb_batcher *b)
{
    assert(b != NULL);
    tb_choice *c = &b->choice;
    tb_load load = c->load;
    tb_list members = {TB_NIL, TB_NIL, 0};
    c->load = (tb_load){0};
    c->size = 0;
    if (load.size == 0) return 0;
    assert(tb__has_idle_slot(b));
    for (uint32_t i = 0; i < load.size; i++) {
        tb__list_remove(b, &b->pending, c->member[i]);
        tb__list_append(b, &members, c->member[i]);
    }
    tb_id batch = tb__batch_start(b, members, &load, TB_REASON_POLICY);
    tb__open_reset(b);
    b->news = true; /* asked again at once while a slot is idle */
    return batch;
}

void tb_choose_reset(tb_batcher *b)
{
    assert(b != NULL);
    tb_choice *c = &b->choice;
    for (uint32_t i = 0; i < c->load.size; i++) c->position[c->member[i]] &= ~TB_CHOSEN;
    begin(b);
}

void tb_choose_abandon(tb_batcher *b)
{
    assert(b != NULL);
    tb_choose_reset(b);
    b->choice.size = 0;
}
