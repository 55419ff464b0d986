/* view.c - the queue in other orders, for scripted policies.
 *
 * A view is a treap over the queued records: a search tree by the view's order, a heap
 * by random priorities, so that it stays shallow whatever comes. It is built when a
 * policy first asks for it and kept up to date from then on: 16 bytes a slot, O(log n)
 * for a record that comes or goes, O(1) on average for a step. A view that nobody
 * asked for costs nothing.
 *
 * The keys view is a list of records for each key, and a list of the keys that have
 * any; a key joins its end when it gets its first record.
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

/* --- keys ----------------------------------------------------------------- */

static void key_add(tb_batcher *b, uint32_t at)
{
    assert(b->slot[at].key < b->keys.lanes);
    assert(at < b->keys.links);
    tb_keys *k = &b->keys;
    uint32_t key = b->slot[at].key;
    tb_key_lane *lane = &k->lane[key];
    k->link[at] = (tb_key_link){lane->last, TB_NIL};
    if (lane->last == TB_NIL) {
        lane->first = at;
        lane->previous = k->last;
        lane->next = TB_NIL;
        if (k->last == TB_NIL) k->first = key;
        else k->lane[k->last].next = key;
        k->last = key;
    } else {
        k->link[lane->last].next = at;
    }
    lane->last = at;
}

static void key_leave(tb_keys *k, uint32_t key)
{
    const tb_key_lane *lane = &k->lane[key];
    if (lane->previous == TB_NIL) k->first = lane->next;
    else k->lane[lane->previous].next = lane->next;
    if (lane->next == TB_NIL) k->last = lane->previous;
    else k->lane[lane->next].previous = lane->previous;
}

static void key_remove(tb_batcher *b, uint32_t at)
{
    assert(b->keys.lane[b->slot[at].key].first != TB_NIL);
    tb_keys *k = &b->keys;
    uint32_t key = b->slot[at].key;
    tb_key_lane *lane = &k->lane[key];
    tb_key_link link = k->link[at];
    if (link.previous == TB_NIL) lane->first = link.next;
    else k->link[link.previous].next = link.next;
    if (link.next == TB_NIL) lane->last = link.previous;
    else k->link[link.next].previous = link.previous;
    if (lane->first == TB_NIL) key_leave(k, key);
}

/* Lanes for keys up to and including `key`. */
static bool lanes_reserve(tb_keys *k, uint32_t key)
{
    if (key < k->lanes) return true;
    uint32_t want = k->lanes ? k->lanes : 16;
    while (want <= key) want *= 2;
    tb_key_lane *grown = realloc(k->lane, (size_t)want * sizeof *grown);
    if (!grown) return false;
    for (uint32_t i = k->lanes; i < want; i++) grown[i] = (tb_key_lane){TB_NIL, TB_NIL, TB_NIL, TB_NIL};
    k->lane = grown;
    k->lanes = want;
    return true;
}

/* --- all views -------------------------------------------------------------- */

static bool grow(void **array, size_t count, size_t size)
{
    void *grown = realloc(*array, count * size);
    if (grown) *array = grown;
    return grown != NULL;
}

/* The views that are in use can hold every slot, and the lanes this key. */
bool tb__views_reserve(tb_batcher *b, uint32_t key)
{
    if (!b->views_in_use) return true;
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++) {
        tb_view *v = &b->view[i];
        if (!(b->views_in_use & (1u << i)) || v->capacity >= b->slots) continue;
        if (!grow((void **)&v->node, b->slots, sizeof *v->node)) return false;
        v->capacity = b->slots;
    }
    if (b->views_in_use & (1u << TB_VIEW_ORDER) && !tb__order_reserve(b)) return false;
    if (!(b->views_in_use & (1u << TB_VIEW_KEYS))) return true;
    if (b->keys.links < b->slots) {
        if (!grow((void **)&b->keys.link, b->slots, sizeof *b->keys.link)) return false;
        b->keys.links = b->slots;
    }
    return lanes_reserve(&b->keys, key);
}

void tb__views_add(tb_batcher *b, uint32_t at)
{
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++)
        if (b->views_in_use & (1u << i)) tree_add(b, i, at);
    if (b->views_in_use & (1u << TB_VIEW_KEYS)) key_add(b, at);
    if (b->views_in_use & (1u << TB_VIEW_ORDER)) tb__order_add(b, at);
}

void tb__views_remove(tb_batcher *b, uint32_t at)
{
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++)
        if (b->views_in_use & (1u << i)) tree_remove(&b->view[i], at);
    if (b->views_in_use & (1u << TB_VIEW_KEYS)) key_remove(b, at);
    if (b->views_in_use & (1u << TB_VIEW_ORDER)) tb__order_remove(b, at);
}

/* No views any more, until a policy asks for one. */
void tb__views_close(tb_batcher *b)
{
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++) free(b->view[i].node);
    free(b->keys.link);
    free(b->keys.lane);
    memset(b->view, 0, sizeof b->view);
    memset(&b->keys, 0, sizeof b->keys);
    b->views_in_use = 0;
}

static uint32_t largest_key_of(const tb_batcher *b, const tb_list *list)
{
    uint32_t key = 0;
    for (uint32_t at = list->first; at != TB_NIL; at = b->slot[at].next)
        if (b->slot[at].key > key) key = b->slot[at].key;
    return key;
}

/* Of those in line, too: when they are let in, there is no way to refuse them. */
static uint32_t largest_key(const tb_batcher *b)
{
    uint32_t queued = largest_key_of(b, &b->pending), waiting = largest_key_of(b, &b->waiting);
    return queued > waiting ? queued : waiting;
}

int tb_view_open(tb_batcher *b, uint32_t view, int64_t aging_us)
{
    assert(b != NULL);
    assert(view <= TB_VIEW_KEYS);
    assert(aging_us >= 0);
    bool is_open = b->views_in_use & (1u << view);
    if (is_open && (view != TB_VIEW_PRIORITY || aging_us == b->aging_us)) return TB_OK;
    uint32_t in_use = b->views_in_use;
    b->views_in_use |= 1u << view;
    if (!tb__views_reserve(b, largest_key(b))) {
        b->views_in_use = in_use;
        return TB_ENOMEM;
    }
    if (view == TB_VIEW_KEYS) {
        b->keys.first = b->keys.last = TB_NIL;
    } else {
        b->view[view].root = TB_NIL;
        b->view[view].seed = 2463534242u;
    }
    if (view == TB_VIEW_PRIORITY) b->aging_us = aging_us;
    for (uint32_t at = b->pending.first; at != TB_NIL; at = b->slot[at].next) {
        if (b->slot[at].state != TB_RECORD_QUEUED) continue;
        if (view == TB_VIEW_KEYS) key_add(b, at);
        else tree_add(b, view, at);
    }
    return TB_OK;
}

size_t tb__views_memory(const tb_batcher *b)
{
    size_t bytes = b->keys.links * sizeof *b->keys.link + b->keys.lanes * sizeof *b->keys.lane;
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++) bytes += b->view[i].capacity * sizeof *b->view[i].node;
    return bytes;
}
