/* slots.h - places that are taken and given back, under ids that are never used twice.
 *
 * An id is generation * 2^bits + place, from 2^bits on and below 2^53: exact in a double, so
 * that it survives a Lua number. A place's generation grows by one each time it is taken; an
 * id whose generation is not the place's is stale and finds nothing.
 *
 * A user's slot is a struct whose first member is a struct tb__slot. What else is in it stays
 * as it was when the place was given back. Slots move when the table grows: keep ids, and
 * pointers only to what a slot points to.
 */
#ifndef TB_BASE_SLOTS_H
#define TB_BASE_SLOTS_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { TB__SLOTS_FIRST = 64, TB__ID_BITS = 53 };

struct tb__slot {
    uint64_t generation; /* 0: never taken */
    uint32_t next_free;  /* place + 1 while free; 0: the last */
    bool is_taken;
};

struct tb__slots {
    char *slots;
    size_t slot_size;             /* bytes of a user's slot */
    uint32_t bits;                /* at most 2^bits places */
    uint32_t capacity, used;      /* places with memory; those taken ever */
    uint32_t free_first, taken;   /* place + 1; places taken now */
};

static inline void tb__slots_open(struct tb__slots *table, size_t slot_size, uint32_t bits)
{
    assert(slot_size >= sizeof(struct tb__slot));
    assert(bits > 0 && bits < 32);
    *table = (struct tb__slots){.slot_size = slot_size, .bits = bits};
}

static inline void tb__slots_close(struct tb__slots *table)
{
    free(table->slots);
    *table = (struct tb__slots){0};
}

/* The slot at a place that was taken at least once, taken now or not. */
static inline void *tb__slots_at(const struct tb__slots *table, uint32_t place)
{
    assert(place < table->used);
    return table->slots + place * table->slot_size;
}

static inline uint32_t tb__slots_place(const struct tb__slots *table, const void *slot)
{
    size_t offset = (size_t)((const char *)slot - table->slots);
    assert(offset % table->slot_size == 0);
    assert(offset / table->slot_size < table->used);
    return (uint32_t)(offset / table->slot_size);
}

static inline int64_t tb__slots_id(const struct tb__slots *table, const void *slot)
{
    const struct tb__slot *s = slot;
    assert(s->generation > 0);
    return (int64_t)(s->generation << table->bits | tb__slots_place(table, slot));
}

static inline bool tb__slots_grow(struct tb__slots *table)
{
    if (table->capacity == 1u << table->bits) return false;
    uint32_t capacity = table->capacity ? table->capacity * 2 : TB__SLOTS_FIRST;
    if (capacity > 1u << table->bits) capacity = 1u << table->bits;
    char *slots = realloc(table->slots, capacity * table->slot_size);
    if (!slots) return false;
    memset(slots + table->capacity * table->slot_size, 0,
           (capacity - table->capacity) * table->slot_size);
    table->slots = slots;
    table->capacity = capacity;
    return true;
}

/* A free place, the last given back first. NULL: all 2^bits are taken, or no memory. */
static inline void *tb__slots_take(struct tb__slots *table)
{
    assert(table->slot_size > 0);
    struct tb__slot *slot;
    if (table->free_first) {
        slot = tb__slots_at(table, table->free_first - 1);
        assert(!slot->is_taken);
        table->free_first = slot->next_free;
    } else {
        if (table->used == table->capacity && !tb__slots_grow(table)) return NULL;
        slot = (struct tb__slot *)(table->slots + table->used++ * table->slot_size);
    }
    uint64_t last = (UINT64_C(1) << (TB__ID_BITS - table->bits)) - 1;
    slot->generation = slot->generation % last + 1; /* a wrap would take years of one place */
    slot->is_taken = true;
    table->taken++;
    return slot;
}

/* The slot that is taken under this id, or NULL. */
static inline void *tb__slots_find(const struct tb__slots *table, int64_t id)
{
    if (id <= 0) return NULL;
    uint32_t place = (uint32_t)((uint64_t)id & ((UINT64_C(1) << table->bits) - 1));
    if (place >= table->used) return NULL;
    struct tb__slot *slot = tb__slots_at(table, place);
    return slot->is_taken && slot->generation == (uint64_t)id >> table->bits ? slot : NULL;
}

static inline void tb__slots_give(struct tb__slots *table, void *given)
{
    struct tb__slot *slot = given;
    assert(slot->is_taken);
    assert(table->taken > 0);
    slot->is_taken = false;
    slot->next_free = table->free_first;
    table->free_first = tb__slots_place(table, slot) + 1;
    table->taken--;
}

/* The first place at or after `place` that is taken, as its slot; NULL: none. */
static inline void *tb__slots_next(const struct tb__slots *table, uint32_t place)
{
    for (; place < table->used; place++) {
        struct tb__slot *slot = tb__slots_at(table, place);
        if (slot->is_taken) return slot;
    }
    return NULL;
}

#endif
