/* look.c - what a policy may look at while it chooses: a record, and the queue in other orders.
 * Positions come from scripts: one that is none is answered. */
#include "core.h"

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
    out->group = tb__group_of(b, (uint32_t)(slot - b->slot));
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

static uint32_t position_of(const tb_batcher *b, uint32_t at)
{
    return at == TB_NIL ? 0 : (b->choice.position[at] & ~TB_CHOSEN) - b->choice.head;
}

uint32_t tb_view_first(const tb_batcher *b, uint32_t view)
{
    assert(b != NULL);
    assert(view < TB_VIEW_KEYS);
    if (!tb__is_open(b, view)) return 0;
    return position_of(b, tb__tree_first(&b->view[view]));
}

uint32_t tb_view_next(const tb_batcher *b, uint32_t view, uint32_t position)
{
    assert(view < TB_VIEW_KEYS);
    if (position == 0) return tb_view_first(b, view);
    uint32_t at = slot_at(b, position);
    if (!tb__is_open(b, view) || at == TB_NIL) return 0;
    return position_of(b, tb__tree_next(&b->view[view], at));
}

uint32_t tb_view_previous(const tb_batcher *b, uint32_t view, uint32_t position)
{
    assert(view < TB_VIEW_KEYS);
    uint32_t at = slot_at(b, position);
    if (!tb__is_open(b, view) || at == TB_NIL) return 0;
    return position_of(b, tb__tree_previous(&b->view[view], at));
}

uint32_t tb_view_alike(const tb_batcher *b, uint32_t position)
{
    uint32_t at = slot_at(b, position);
    if (!tb__is_open(b, TB_VIEW_COST) || at == TB_NIL) return 0;
    return position_of(b, tb__tree_alike(b, at));
}

/* --- keys and groups --------------------------------------------------------- */

static double number_or_end(uint32_t number)
{
    return number == TB_NIL ? (double)TB_NEVER_US : (double)number;
}

static uint32_t lane_next(const tb_lanes *l, uint32_t number)
{
    return number < l->lanes ? l->lane[number].next : TB_NIL;
}

static uint32_t lane_first(const tb_lanes *l, uint32_t number)
{
    return number < l->lanes ? l->lane[number].first : TB_NIL;
}

double tb_keys_first(const tb_batcher *b)
{
    assert(b != NULL);
    return number_or_end(tb__is_open(b, TB_VIEW_KEYS) ? b->by_key.first : TB_NIL);
}

double tb_keys_next(const tb_batcher *b, uint32_t key)
{
    assert(b != NULL);
    return number_or_end(lane_next(&b->by_key, key));
}

uint32_t tb_key_first(const tb_batcher *b, uint32_t key)
{
    assert(b != NULL);
    return position_of(b, lane_first(&b->by_key, key));
}

uint32_t tb_key_next(const tb_batcher *b, uint32_t position)
{
    uint32_t at = slot_at(b, position);
    if (!tb__is_open(b, TB_VIEW_KEYS) || at == TB_NIL) return 0;
    return position_of(b, b->by_key.link[at].next);
}

double tb_groups_first(const tb_batcher *b)
{
    assert(b != NULL);
    return number_or_end(tb__is_open(b, TB_VIEW_GROUPS) ? b->by_group.first : TB_NIL);
}

double tb_groups_next(const tb_batcher *b, uint32_t group)
{
    assert(b != NULL);
    return number_or_end(lane_next(&b->by_group, group));
}

uint32_t tb_group_first(const tb_batcher *b, uint32_t group)
{
    assert(b != NULL);
    return position_of(b, lane_first(&b->by_group, group));
}

uint32_t tb_group_next(const tb_batcher *b, uint32_t position)
{
    uint32_t at = slot_at(b, position);
    if (!tb__is_open(b, TB_VIEW_GROUPS) || at == TB_NIL) return 0;
    return position_of(b, b->by_group.link[at].next);
}

int tb_group_full(tb_batcher *b, uint32_t group)
{
    assert(b != NULL);
    return tb__group_fills(b, group);
}

/* The oldest of a group without a linger of its own, or TB_NIL. */
static uint32_t plain_of(const tb_batcher *b, uint32_t group)
{
    uint32_t at = b->by_group.lane[group].first;
    if (b->account[group].own == b->account[group].load.size) return TB_NIL;
    while (b->slot[at].own) at = b->by_group.link[at].next;
    return at;
}

int tb_group_due(tb_batcher *b, uint32_t group)
{
    assert(b != NULL);
    uint32_t first = lane_first(&b->by_group, group);
    if (first == TB_NIL) return 0;
    return tb__due_from_us(b, first, plain_of(b, group), b->account[group].overdue) <= b->now_us;
}
