/* order.c - positions: the queue in arrival order as an array, for scripted policies.
 *
 * In use from the first decision on. Records join at the end; one that leaves at the head moves
 * the head, one that leaves elsewhere leaves a hole, and a decision begins by closing the holes:
 * then position i is index[head + i - 1].
 */
#include "core.h"

#include <stdlib.h>

static bool grow(uint32_t **array, size_t count)
{
    uint32_t *grown = realloc(*array, count * sizeof *grown);
    if (grown) *array = grown;
    return grown != NULL;
}

bool tb__order_reserve(tb_batcher *b)
{
    assert(b->choice.used <= 2 * b->choice.capacity);
    tb_choice *c = &b->choice;
    if (c->capacity >= b->slots) return true;
    if (!grow(&c->index, (size_t)b->slots * 2) || !grow(&c->position, b->slots) ||
        !grow(&c->member, b->slots))
        return false;
    c->capacity = b->slots;
    return true;
}

/* Close the holes, from the first one on: those that are left move down. */
void tb__order_compact(tb_choice *c)
{
    assert(c->hole >= c->head);
    assert(c->hole <= c->used);
    uint32_t to = c->hole;
    for (uint32_t i = to; i < c->used; i++) {
        uint32_t at = c->index[i];
        c->index[to] = at;
        if (at != TB_NIL) c->position[at] = ++to;
    }
    c->used -= c->holes;
    c->hole = c->used;
    c->holes = 0;
}

/* What is in use moves to the front: it is at most half of the array. */
static void order_rewind(tb_choice *c)
{
    tb__order_compact(c);
    for (uint32_t i = c->head; i < c->used; i++) {
        c->index[i - c->head] = c->index[i];
        c->position[c->index[i]] = i - c->head + 1;
    }
    c->used -= c->head;
    c->hole = c->used;
    c->head = 0;
}

void tb__order_add(tb_batcher *b, uint32_t at)
{
    assert(b->choice.size == 0); /* nobody comes or goes while a policy chooses */
    assert(at < b->choice.capacity);
    tb_choice *c = &b->choice;
    if (c->used == 2 * c->capacity) order_rewind(c);
    if (c->holes == 0) c->hole++;
    c->index[c->used++] = at;
    c->position[at] = c->used;
}

/* A record that leaves at the head leaves no hole. */
void tb__order_remove(tb_batcher *b, uint32_t at)
{
    assert(b->choice.size == 0);
    assert(at < b->choice.capacity);
    tb_choice *c = &b->choice;
    uint32_t i = (c->position[at] & ~TB_CHOSEN) - 1;
    c->index[i] = TB_NIL;
    c->holes++;
    if (i == c->head) {
        for (; c->head < c->used && c->index[c->head] == TB_NIL; c->head++) c->holes--;
        if (c->hole < c->head) c->hole = c->head;
    } else if (i < c->hole) {
        c->hole = i;
    }
    if (c->holes == 0) c->hole = c->used;
}

bool tb__order_open(tb_batcher *b)
{
    if (tb__is_open(b, TB_VIEW_ORDER)) return true;
    if (!tb__order_reserve(b)) return false;
    b->views_in_use |= 1u << TB_VIEW_ORDER;
    b->choice.head = b->choice.used = b->choice.hole = b->choice.holes = 0;
    for (uint32_t at = b->pending.first; at != TB_NIL; at = b->slot[at].next) tb__order_add(b, at);
    return true;
}
