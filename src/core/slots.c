/* slots.c - where records live: an array of slots, ids with generations, list links.
 *
 * A slot's generation goes up each time it is taken. One that has used up its
 * generations is retired (it goes back to no list), so that no id is ever used
 * twice: one slot in 2^29 records.
 */
#include "core.h"

#include <stdlib.h>

#define SLOT_MASK (TB_SLOTS_MAX - 1)

bool tb__split_id(tb_id id, uint32_t *slot, uint32_t *generation)
{
    if (!(id >= 1 && id < TB_ID_LIMIT)) return false;
    uint64_t bits = (uint64_t)id;
    if ((double)bits != id) return false;
    *slot = (uint32_t)(bits & SLOT_MASK);
    *generation = (uint32_t)(bits >> TB_SLOT_BITS);
    return true;
}

/* By an eighth: large arrays are moved by remapping pages, and a record's share of memory
 * never exceeds 9/8 of its size. */
uint32_t tb__grown(uint32_t capacity, uint32_t first)
{
    return capacity ? capacity + capacity / 8 + 1 : first;
}

static bool slots_grow(tb_batcher *b)
{
    assert(b->slots_used == b->slots);
    uint32_t want = tb__grown(b->slots, 256);
    if (b->slots >= TB_SLOTS_MAX) return false;
    if (want > TB_SLOTS_MAX) want = TB_SLOTS_MAX;
    tb_slot *grown = realloc(b->slot, (size_t)want * sizeof *grown);
    if (!grown) return false;
    b->slot = grown;
    b->slots = want;
    return true;
}

/* Room for one more record. False: no memory, or 2^24 slots are in use. */
bool tb__slots_reserve(tb_batcher *b)
{
    return b->free_slot != TB_NIL || b->slots_used < b->slots || slots_grow(b);
}

/* A slot that no record has had yet; tb__slots_reserve() has made room for it. */
uint32_t tb__slot_first_use(tb_batcher *b)
{
    assert(b->slots_used < b->slots);
    uint32_t at = b->slots_used++;
    b->slot[at].generation = 1;
    b->slot[at].state = TB_RECORD_NONE;
    return at;
}

/* The slot of a live record, or TB_NIL. */
uint32_t tb__slot_find(const tb_batcher *b, tb_id id)
{
    assert(b != NULL);
    uint32_t at, generation;
    if (!tb__split_id(id, &at, &generation) || at >= b->slots_used) return TB_NIL;
    const tb_slot *slot = &b->slot[at];
    if (slot->generation != generation || slot->state == TB_RECORD_NONE) return TB_NIL;
    return at;
}

void tb__list_remove(tb_batcher *b, tb_list *list, uint32_t at)
{
    assert(list->size > 0);
    assert(at < b->slots_used);
    const tb_slot *slot = &b->slot[at];
    if (slot->prev == TB_NIL) list->first = slot->next;
    else b->slot[slot->prev].next = slot->next;
    if (slot->next == TB_NIL) list->last = slot->prev;
    else b->slot[slot->next].prev = slot->prev;
    list->size--;
}
