/* choose.c - a decision by a scripted policy: asked, given the queue, checked.
 *
 * The core never calls a policy. tb_ask() says that one should decide now; the pump
 * opens a choice, which numbers the queued records 1..n in the order of arrival, lets
 * the policy name members with tb_choose_add(), and ends the choice: the members leave
 * the queue as a batch, or nothing has happened. Nothing else may be called between.
 */
#include "core.h"

/* Below min_batch_size the policy is not asked unless the queue is full or due. */
static bool may_ask(tb_batcher *b, bool due)
{
    tb__open_extend(b);
    return due || b->open.full || b->queued >= b->config.min_batch_size;
}

int tb_ask(tb_batcher *b, int64_t now_us)
{
    assert(b != NULL);
    tb__advance(b, now_us);
    if (!tb__is_polled(b) || b->config.policy != TB_POLICY_SCRIPT) return 0;
    if (!tb__has_idle_slot(b) || b->queued == 0) return 0;
    if (b->cuts_stale || b->cuts) tb__cuts_dissolve(b);
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
    bool gathering = b->queued < b->config.min_batch_size && !b->open.full;
    if (b->queued == 0) return TB_TIME_MAX;
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
        .idle_slots = b->config.max_concurrent_batches - b->running_batches,
        .is_full = b->open.full,
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
    tb__load_add(&more, cost);
    return tb__load_cost(b, &more) <= c->limit;
}

static bool add_slot(tb_batcher *b, uint32_t at)
{
    assert(at < b->choice.capacity);
    tb_choice *c = &b->choice;
    if (c->position[at] & TB_CHOSEN) return true;
    if (!fits(b, b->slot[at].cost)) return false;
    c->member[c->load.size] = at;
    tb__load_add(&c->load, b->slot[at].cost);
    c->position[at] |= TB_CHOSEN;
    return true;
}

/* Records that have waited max_wait_s go first, oldest first, whoever else is named. If the
 * policy's limit has no room for the very first, nobody goes: it would be overtaken for ever. */
static void add_aged(tb_batcher *b)
{
    tb_choice *c = &b->choice;
    c->aged_done = true;
    for (uint32_t i = c->head; i < c->used; i++) {
        const tb_slot *slot = &b->slot[c->index[i]];
        if (slot->submitted_us + b->config.max_wait_us > b->now_us) return;
        if (add_slot(b, c->index[i])) continue;
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
    if (c->is_closed) return 0;
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

/* --- what a policy may look at ------------------------------------------- */

static const tb_slot *looked_at(const tb_batcher *b, double position)
{
    assert(b != NULL);
    const tb_choice *c = &b->choice;
    if (!(position >= 1 && position <= c->size)) return NULL;
    uint32_t i = (uint32_t)position;
    return i == position ? &b->slot[c->index[c->head + i - 1]] : NULL;
}

int tb_look(const tb_batcher *b, double position, tb_look_at *out)
{
    assert(out != NULL);
    const tb_slot *slot = looked_at(b, position);
    if (!slot) return TB_ENOENT;
    out->id = tb__slot_id(b, (uint32_t)(slot - b->slot));
    out->cost = tb__double(slot->cost);
    out->priority = slot->priority;
    out->age_us = (double)(b->now_us - slot->submitted_us);
    out->deadline_us = slot->deadline_us == TB_TIME_MAX ? TB_NEVER_US : (double)slot->deadline_us;
    out->key = slot->key;
    return TB_OK;
}

double tb_look_cost(const tb_batcher *b, double position)
{
    const tb_slot *slot = looked_at(b, position);
    return slot ? tb__double(slot->cost) : TB_ENOENT;
}

/* The slot at a position, or TB_NIL: an iterator may be called with anything. */
static uint32_t slot_at(const tb_batcher *b, uint32_t position)
{
    assert(b != NULL);
    bool is_there = position >= 1 && position <= b->choice.size;
    return is_there ? b->choice.index[b->choice.head + position - 1] : TB_NIL;
}

static bool is_open(const tb_batcher *b, uint32_t view)
{
    assert(b != NULL);
    return b->views_in_use & (1u << view);
}

static uint32_t position_of(const tb_batcher *b, uint32_t at)
{
    return at == TB_NIL ? 0 : (b->choice.position[at] & ~TB_CHOSEN) - b->choice.head;
}

uint32_t tb_view_first(const tb_batcher *b, uint32_t view)
{
    assert(view < TB_VIEW_KEYS);
    if (!is_open(b, view)) return 0;
    return position_of(b, tb__tree_first(&b->view[view]));
}

uint32_t tb_view_next(const tb_batcher *b, uint32_t view, uint32_t position)
{
    assert(view < TB_VIEW_KEYS);
    if (position == 0) return tb_view_first(b, view);
    uint32_t at = slot_at(b, position);
    if (!is_open(b, view) || at == TB_NIL) return 0;
    return position_of(b, tb__tree_next(&b->view[view], at));
}

uint32_t tb_view_previous(const tb_batcher *b, uint32_t view, uint32_t position)
{
    assert(view < TB_VIEW_KEYS);
    uint32_t at = slot_at(b, position);
    if (!is_open(b, view) || at == TB_NIL) return 0;
    return position_of(b, tb__tree_previous(&b->view[view], at));
}

uint32_t tb_view_alike(const tb_batcher *b, uint32_t position)
{
    uint32_t at = slot_at(b, position);
    if (!is_open(b, TB_VIEW_COST) || at == TB_NIL) return 0;
    return position_of(b, tb__tree_alike(b, at));
}

static double key_or_end(uint32_t key)
{
    return key == TB_NIL ? (double)TB_NEVER_US : (double)key;
}

double tb_keys_first(const tb_batcher *b)
{
    return key_or_end(is_open(b, TB_VIEW_KEYS) ? b->keys.first : TB_NIL);
}

double tb_keys_next(const tb_batcher *b, uint32_t key)
{
    assert(b != NULL);
    return key_or_end(key < b->keys.lanes ? b->keys.lane[key].next : TB_NIL);
}

uint32_t tb_key_first(const tb_batcher *b, uint32_t key)
{
    assert(b != NULL);
    return key < b->keys.lanes ? position_of(b, b->keys.lane[key].first) : 0;
}

uint32_t tb_key_next(const tb_batcher *b, uint32_t position)
{
    uint32_t at = slot_at(b, position);
    if (!is_open(b, TB_VIEW_KEYS) || at == TB_NIL) return 0;
    return position_of(b, b->keys.link[at].next);
}
