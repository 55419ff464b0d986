/* view.c - the queue in other orders, for scripted policies.
 *
 * A view is a treap over the queued records: a search tree by the view's order, a heap
 * by random priorities, so that it stays shallow whatever comes. It is built when a
 * policy first asks for it and kept up to date from then on: 16 bytes a slot, O(log n)
 * for a record that comes or goes, O(1) on average for a step. A view that nobody
 * asked for costs nothing.
 *
 * The views by key and by group are lanes (lanes.c).
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

/* priority + age / aging, without the `now` that is the same for all. */
static double aged_priority(const tb_batcher *b, const tb_slot *slot)
{
    if (b->aging_us == 0) return slot->priority;
    return slot->priority - (double)slot->submitted_us / (double)b->aging_us;
}

/* Is record x before record y? Ties are broken by arrival. */
bool tb__view_before(const tb_batcher *b, uint32_t view, uint32_t x, uint32_t y)
{
    const tb_slot *p = &b->slot[x], *q = &b->slot[y];
    if (view == TB_VIEW_COST && p->cost != q->cost) return p->cost < q->cost;
    if (view == TB_VIEW_DEADLINE && p->deadline_us != q->deadline_us)
        return p->deadline_us < q->deadline_us;
    if (view == TB_VIEW_PRIORITY) {
        double x_rank = aged_priority(b, p), y_rank = aged_priority(b, q);
        if (x_rank != y_rank) return x_rank > y_rank;
    }
    return p->seq < q->seq;
}

/* xorshift: the shape of a tree decides nothing but its speed. */
static uint32_t draw(tb_view *v)
{
    v->seed ^= v->seed << 13;
    v->seed ^= v->seed >> 17;
    v->seed ^= v->seed << 5;
    return v->seed;
}

/* Put `child` where `old` hung below `parent`. */
static void hang(tb_view *v, uint32_t parent, uint32_t old, uint32_t child)
{
    if (parent == TB_NIL) v->root = child;
    else if (v->node[parent].left == old) v->node[parent].left = child;
    else v->node[parent].right = child;
    if (child != TB_NIL) v->node[child].parent = parent;
}

/* `at` takes its parent's place, order kept. */
static void rotate_up(tb_view *v, uint32_t at)
{
    assert(v->node[at].parent != TB_NIL);
    tb_view_node *n = v->node;
    uint32_t parent = n[at].parent;
    bool is_left = n[parent].left == at;
    uint32_t moved = is_left ? n[at].right : n[at].left;
    hang(v, n[parent].parent, parent, at);
    if (is_left) {
        n[at].right = parent;
        n[parent].left = moved;
    } else {
        n[at].left = parent;
        n[parent].right = moved;
    }
    n[parent].parent = at;
    if (moved != TB_NIL) n[moved].parent = parent;
}

static void tree_add(tb_batcher *b, uint32_t view, uint32_t at)
{
    assert(at < b->view[view].capacity);
    tb_view *v = &b->view[view];
    tb_view_node *n = v->node;
    uint32_t parent = TB_NIL, below = v->root;
    bool is_left = false;
    while (below != TB_NIL) {
        parent = below;
        is_left = tb__view_before(b, view, at, below);
        below = is_left ? n[below].left : n[below].right;
    }
    n[at] = (tb_view_node){TB_NIL, TB_NIL, parent, draw(v)};
    if (parent == TB_NIL) v->root = at;
    else if (is_left) n[parent].left = at;
    else n[parent].right = at;
    while (n[at].parent != TB_NIL && n[n[at].parent].weight < n[at].weight) rotate_up(v, at);
}

static void tree_remove(tb_view *v, uint32_t at)
{
    assert(at < v->capacity);
    tb_view_node *n = v->node;
    while (n[at].left != TB_NIL && n[at].right != TB_NIL)
        rotate_up(v, n[n[at].left].weight > n[n[at].right].weight ? n[at].left : n[at].right);
    hang(v, n[at].parent, at, n[at].left != TB_NIL ? n[at].left : n[at].right);
}

uint32_t tb__tree_first(const tb_view *v)
{
    uint32_t at = v->root;
    while (at != TB_NIL && v->node[at].left != TB_NIL) at = v->node[at].left;
    return at;
}

uint32_t tb__tree_next(const tb_view *v, uint32_t at)
{
    assert(at < v->capacity);
    const tb_view_node *n = v->node;
    if (n[at].right != TB_NIL) {
        at = n[at].right;
        while (n[at].left != TB_NIL) at = n[at].left;
        return at;
    }
    uint32_t parent = n[at].parent;
    while (parent != TB_NIL && n[parent].right == at) {
        at = parent;
        parent = n[at].parent;
    }
    return parent;
}

uint32_t tb__tree_previous(const tb_view *v, uint32_t at)
{
    assert(at < v->capacity);
    const tb_view_node *n = v->node;
    if (n[at].left != TB_NIL) {
        at = n[at].left;
        while (n[at].right != TB_NIL) at = n[at].right;
        return at;
    }
    uint32_t parent = n[at].parent;
    while (parent != TB_NIL && n[parent].left == at) {
        at = parent;
        parent = n[at].parent;
    }
    return parent;
}

/* The first arrival of those that cost as much as `at`. */
uint32_t tb__tree_alike(const tb_batcher *b, uint32_t at)
{
    const tb_view *v = &b->view[TB_VIEW_COST];
    uint64_t cost = b->slot[at].cost;
    uint32_t below = v->root;
    while (below != TB_NIL) {
        uint64_t other = b->slot[below].cost;
        if (other == cost) at = below;
        below = other < cost ? v->node[below].right : v->node[below].left;
    }
    return at;
}

/* --- all views -------------------------------------------------------------- */

/* The views that are in use can hold every slot, and their lanes this key and this group. */
bool tb__views_reserve(tb_batcher *b, uint32_t key, uint32_t group)
{
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++) {
        tb_view *v = &b->view[i];
        if (!tb__is_open(b, i) || v->capacity >= b->slots) continue;
        if (!tb__grow((void **)&v->node, b->slots, sizeof *v->node)) return false;
        v->capacity = b->slots;
    }
    if (tb__is_open(b, TB_VIEW_ORDER) && !tb__order_reserve(b)) return false;
    if (tb__is_open(b, TB_VIEW_KEYS) && !tb__lanes_reserve(b, &b->by_key, key)) return false;
    return !tb__is_open(b, TB_VIEW_GROUPS) || tb__groups_reserve(b, group);
}

void tb__views_add(tb_batcher *b, uint32_t at)
{
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++)
        if (tb__is_open(b, i)) tree_add(b, i, at);
    if (tb__is_open(b, TB_VIEW_KEYS)) tb__lane_add(&b->by_key, b->slot[at].key, at);
    if (tb__is_open(b, TB_VIEW_GROUPS)) tb__group_add(b, at);
    if (tb__is_open(b, TB_VIEW_ORDER)) tb__order_add(b, at);
    if (tb__is_open(b, TB_VIEW_LINGER)) tb__plain_enter(b, at);
}

void tb__views_remove(tb_batcher *b, uint32_t at)
{
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++)
        if (tb__is_open(b, i)) tree_remove(&b->view[i], at);
    if (tb__is_open(b, TB_VIEW_KEYS)) tb__lane_remove(&b->by_key, b->slot[at].key, at);
    if (tb__is_open(b, TB_VIEW_GROUPS)) tb__group_remove(b, at);
    if (tb__is_open(b, TB_VIEW_ORDER)) tb__order_remove(b, at);
    if (tb__is_open(b, TB_VIEW_LINGER)) tb__plain_leave(b, at);
}

static void lanes_free(tb_lanes *l)
{
    free(l->link);
    free(l->lane);
    *l = (tb_lanes){.first = TB_NIL, .last = TB_NIL};
}

/* Views are forgotten until a policy asks for them, but for the one by group if that is kept. */
void tb__views_close(tb_batcher *b, bool keep_groups)
{
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++) free(b->view[i].node);
    memset(b->view, 0, sizeof b->view);
    lanes_free(&b->by_key);
    b->views_in_use &= 1u << TB_VIEW_LINGER | (keep_groups ? 1u << TB_VIEW_GROUPS : 0);
    if (tb__is_open(b, TB_VIEW_GROUPS)) return;
    lanes_free(&b->by_group);
    free(b->account);
    b->account = NULL;
    b->groups_full = b->groups_unknown = 0;
}

/* The largest key and group of all that may be queued. Of those in line, too: when they are let
 * in, there is no way to refuse them. */
static void largest(const tb_batcher *b, uint32_t *key, uint32_t *group)
{
    const tb_list *lists[] = {&b->pending, &b->waiting};
    *key = *group = 0;
    for (int i = 0; i < 2; i++)
        for (uint32_t at = lists[i]->first; at != TB_NIL; at = b->slot[at].next) {
            if (b->slot[at].key > *key) *key = b->slot[at].key;
            if (tb__group_of(b, at) > *group) *group = tb__group_of(b, at);
        }
}

static void enter_view(tb_batcher *b, uint32_t view, uint32_t at)
{
    assert(b->slot[at].state == TB_RECORD_QUEUED); /* nothing is cut ahead for a script */
    if (view == TB_VIEW_KEYS) tb__lane_add(&b->by_key, b->slot[at].key, at);
    else if (view == TB_VIEW_GROUPS) tb__group_add(b, at);
    else tree_add(b, view, at);
}

/* All the memory that opening a view needs. */
bool tb__view_reserve(tb_batcher *b, uint32_t view)
{
    uint32_t in_use = b->views_in_use, key, group;
    largest(b, &key, &group);
    b->views_in_use |= 1u << view;
    bool has_room = tb__views_reserve(b, key, group);
    b->views_in_use = in_use;
    return has_room;
}

bool tb__view_open(tb_batcher *b, uint32_t view, int64_t aging_us)
{
    if (tb__is_open(b, view) && (view != TB_VIEW_PRIORITY || aging_us == b->aging_us)) return true;
    if (!tb__view_reserve(b, view)) return false;
    b->views_in_use |= 1u << view;
    if (view < TB_VIEW_KEYS) {
        b->view[view].root = TB_NIL;
        b->view[view].seed = 2463534242u;
    }
    if (view == TB_VIEW_PRIORITY) b->aging_us = aging_us;
    for (uint32_t at = b->pending.first; at != TB_NIL; at = b->slot[at].next) enter_view(b, view, at);
    return true;
}

int tb_view_open(tb_batcher *b, uint32_t view, int64_t aging_us)
{
    assert(b != NULL);
    assert(b->config.policy == TB_POLICY_SCRIPT);
    assert(view <= TB_VIEW_GROUPS);
    assert(aging_us >= 0);
    return tb__view_open(b, view, aging_us) ? TB_OK : TB_ENOMEM;
}

/* The account of groups stays while a script decides over records that have some: it tells
 * when the queue is full (F2). */
void tb_views_close(tb_batcher *b)
{
    assert(b != NULL);
    assert(b->choice.size == 0);
    tb__views_close(b, b->group && b->config.policy == TB_POLICY_SCRIPT);
}

static size_t lanes_memory(const tb_lanes *l)
{
    return l->links * sizeof *l->link + l->lanes * sizeof *l->lane;
}

size_t tb__views_memory(const tb_batcher *b)
{
    size_t bytes = lanes_memory(&b->by_key) + lanes_memory(&b->by_group) + b->by_group.lanes * sizeof *b->account;
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++) bytes += b->view[i].capacity * sizeof *b->view[i].node;
    return bytes;
}
