/* lanes.c - queued records by key and by group, and what may share a batch.
 *
 * A lane is a list of queued records that have the same number (a key, a group), by arrival;
 * the numbers that have any are a list, too, which a number joins when it gets its first
 * record. Of groups there is an account besides: what all that is queued of one weighs, and
 * whether that fills a batch. It is exact at once but for the padded cost model: when the
 * largest record of a group goes, the next largest is looked for only when somebody asks, and
 * no further than one batch.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

bool tb__grow(void **array, size_t count, size_t size)
{
    assert(count > 0);
    void *grown = realloc(*array, count * size);
    if (grown) *array = grown;
    return grown != NULL;
}

/* --- lanes ------------------------------------------------------------------ */

void tb__lane_add(tb_lanes *l, uint32_t number, uint32_t at)
{
    assert(number < l->lanes);
    assert(at < l->links);
    tb_lane *lane = &l->lane[number];
    l->link[at] = (tb_lane_link){lane->last, TB_NIL};
    if (lane->last == TB_NIL) {
        lane->first = at;
        lane->previous = l->last;
        lane->next = TB_NIL;
        if (l->last == TB_NIL) l->first = number;
        else l->lane[l->last].next = number;
        l->last = number;
    } else {
        l->link[lane->last].next = at;
    }
    lane->last = at;
}

static void number_leave(tb_lanes *l, uint32_t number)
{
    const tb_lane *lane = &l->lane[number];
    if (lane->previous == TB_NIL) l->first = lane->next;
    else l->lane[lane->previous].next = lane->next;
    if (lane->next == TB_NIL) l->last = lane->previous;
    else l->lane[lane->next].previous = lane->previous;
}

void tb__lane_remove(tb_lanes *l, uint32_t number, uint32_t at)
{
    assert(number < l->lanes);
    tb_lane *lane = &l->lane[number];
    tb_lane_link link = l->link[at];
    assert(lane->first != TB_NIL);
    if (link.previous == TB_NIL) lane->first = link.next;
    else l->link[link.previous].next = link.next;
    if (link.next == TB_NIL) lane->last = link.previous;
    else l->link[link.next].previous = link.previous;
    if (lane->first == TB_NIL) number_leave(l, number);
}

/* Links for every slot, lanes for numbers up to and including this one. */
bool tb__lanes_reserve(tb_batcher *b, tb_lanes *l, uint32_t number)
{
    if (l->links < b->slots) {
        if (!tb__grow((void **)&l->link, b->slots, sizeof *l->link)) return false;
        l->links = b->slots;
    }
    if (number < l->lanes) return true;
    uint32_t want = l->lanes ? l->lanes : 16;
    while (want <= number) want *= 2;
    if (!tb__grow((void **)&l->lane, want, sizeof *l->lane)) return false;
    for (uint32_t i = l->lanes; i < want; i++) l->lane[i] = (tb_lane){TB_NIL, TB_NIL, TB_NIL, TB_NIL};
    l->lanes = want;
    return true;
}

/* --- marks ------------------------------------------------------------------ */

/* Every slot can have a group, once a record has one. */
bool tb__marks_reserve(tb_batcher *b, uint32_t group)
{
    if ((group == 0 && !b->group) || b->groups >= b->slots) return true;
    if (!tb__grow((void **)&b->group, b->slots, sizeof *b->group)) return false;
    memset(b->group + b->groups, 0, (b->slots - b->groups) * sizeof *b->group);
    b->groups = b->slots;
    b->has_marks = true;
    return true;
}

/* This key can be marked as one whose records run alone. */
bool tb__lone_reserve(tb_batcher *b, uint32_t key)
{
    if (key < b->lone_capacity) return true;
    uint32_t want = b->lone_capacity ? b->lone_capacity : 64;
    while (want <= key) want *= 2;
    if (!tb__grow((void **)&b->lone, want / 8, 1)) return false;
    memset(b->lone + b->lone_capacity / 8, 0, (want - b->lone_capacity) / 8);
    b->lone_capacity = want;
    return true;
}

/* --- accounts of groups -------------------------------------------------------- */

bool tb__groups_reserve(tb_batcher *b, uint32_t group)
{
    uint32_t before = b->by_group.lanes;
    if (!tb__lanes_reserve(b, &b->by_group, group)) return false;
    if (before == b->by_group.lanes) return true;
    if (!tb__grow((void **)&b->account, b->by_group.lanes, sizeof *b->account)) {
        b->by_group.lanes = before; /* the lanes have grown, which does no harm */
        return false;
    }
    memset(b->account + before, 0, (b->by_group.lanes - before) * sizeof *b->account);
    return true;
}

static void set_fill(tb_batcher *b, tb_group *g, uint8_t fill)
{
    b->groups_full += (fill == TB_FILL_YES) - (uint32_t)(g->fill == TB_FILL_YES);
    b->groups_unknown += (fill == TB_FILL_UNKNOWN) - (uint32_t)(g->fill == TB_FILL_UNKNOWN);
    g->fill = fill;
}

/* What its account tells of a group. `was_full`: it was, and has lost nobody since. */
static uint8_t fill_of(const tb_batcher *b, const tb_group *g, bool was_full)
{
    if (g->alone > 0) return TB_FILL_YES;
    if (!tb__is_full(b, &g->load)) return TB_FILL_NO;
    bool is_known = !g->is_inexact || b->config.cost_model == TB_COST_SUM ||
                    g->load.size >= b->config.max_batch_size;
    return is_known || was_full ? TB_FILL_YES : TB_FILL_UNKNOWN;
}

static void count_flags(tb_batcher *b, tb_group *g, uint32_t at, uint32_t by)
{
    const tb_slot *slot = &b->slot[at];
    g->overdue += slot->overdue ? by : 0;
    g->own += slot->own ? by : 0;
    g->alone += tb__is_lone(b, slot->key) ? by : 0;
}

void tb__group_add(tb_batcher *b, uint32_t at)
{
    uint32_t group = tb__group_of(b, at);
    tb_group *g = &b->account[group];
    tb__lane_add(&b->by_group, group, at);
    tb__load_add(&g->load, b->slot[at].cost, 0);
    count_flags(b, g, at, 1);
    set_fill(b, g, fill_of(b, g, g->fill == TB_FILL_YES));
}

void tb__group_remove(tb_batcher *b, uint32_t at)
{
    uint32_t group = tb__group_of(b, at);
    uint64_t cost = b->slot[at].cost;
    tb_group *g = &b->account[group];
    assert(g->load.size > 0);
    assert(g->load.sum >= cost);
    tb__lane_remove(&b->by_group, group, at);
    g->load.size--;
    g->load.sum -= cost;
    count_flags(b, g, at, UINT32_MAX);
    if (cost == g->load.largest) g->is_inexact = true;
    if (g->load.size == 0) {
        g->load.largest = 0;
        g->is_inexact = false;
    }
    set_fill(b, g, fill_of(b, g, false));
}

/* A queued record makes the queue due from now on. */
void tb__group_overdue(tb_batcher *b, uint32_t at)
{
    b->account[tb__group_of(b, at)].overdue++;
}

/* The key of a queued record is marked, or no longer. */
void tb__group_lone(tb_batcher *b, uint32_t at, bool is_lone)
{
    tb_group *g = &b->account[tb__group_of(b, at)];
    assert(is_lone || g->alone > 0);
    g->alone += is_lone ? 1 : UINT32_MAX;
    set_fill(b, g, fill_of(b, g, false));
}

/* The settings have changed. */
void tb__groups_judge(tb_batcher *b)
{
    for (uint32_t i = b->by_group.first; i != TB_NIL; i = b->by_group.lane[i].next)
        set_fill(b, &b->account[i], fill_of(b, &b->account[i], false));
}

/* Find out whether a group fills a batch: look at its records until a batch is full. */
static void find_out(tb_batcher *b, uint32_t group)
{
    tb_group *g = &b->account[group];
    tb_load load = {0};
    uint32_t at = b->by_group.lane[group].first;
    for (; at != TB_NIL && !tb__is_full(b, &load); at = b->by_group.link[at].next)
        tb__load_add(&load, b->slot[at].cost, 0);
    if (at == TB_NIL) {
        assert(load.sum == g->load.sum);
        g->load.largest = load.largest;
        g->is_inexact = false;
    }
    set_fill(b, g, tb__is_full(b, &load) ? TB_FILL_YES : TB_FILL_NO);
}

bool tb__group_fills(tb_batcher *b, uint32_t group)
{
    if (group >= b->by_group.lanes) return false;
    if (b->account[group].fill == TB_FILL_UNKNOWN) find_out(b, group);
    return b->account[group].fill == TB_FILL_YES;
}

/* Does some group fill a batch? */
bool tb__groups_fill(tb_batcher *b)
{
    if (b->groups_full > 0) return true;
    for (uint32_t i = b->by_group.first; b->groups_unknown; i = b->by_group.lane[i].next) {
        assert(i != TB_NIL);
        if (tb__group_fills(b, i)) return true;
    }
    return false;
}
