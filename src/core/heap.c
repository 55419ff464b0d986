/* heap.c - records with a deadline, ordered by the next time that matters to them.
 *
 * A binary heap of (time, slot). Of equal times the record that was submitted first
 * comes first. A slot knows its place in the heap, so removal is O(log n).
 */
#include "core.h"

#include <stdlib.h>

bool tb__heap_reserve(tb_heap *heap)
{
    if (heap->size < heap->capacity) return true;
    uint32_t want = tb__grown(heap->capacity, 64);
    tb_heap_entry *grown = realloc(heap->entry, (size_t)want * sizeof *grown);
    if (!grown) return false;
    heap->entry = grown;
    heap->capacity = want;
    return true;
}

static bool before(const tb_batcher *b, tb_heap_entry x, tb_heap_entry y)
{
    if (x.at_us != y.at_us) return x.at_us < y.at_us;
    return b->slot[x.slot].seq < b->slot[y.slot].seq;
}

static void place(tb_batcher *b, uint32_t at, tb_heap_entry entry)
{
    assert(at < b->heap.size);
    b->heap.entry[at] = entry;
    b->slot[entry.slot].heap_at = at;
}

static void sift_up(tb_batcher *b, uint32_t at, tb_heap_entry entry)
{
    while (at > 0) {
        uint32_t parent = (at - 1) / 2;
        if (!before(b, entry, b->heap.entry[parent])) break;
        place(b, at, b->heap.entry[parent]);
        at = parent;
    }
    place(b, at, entry);
}

static void sift_down(tb_batcher *b, uint32_t at, tb_heap_entry entry)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= b->heap.size) break;
        if (child + 1 < b->heap.size &&
            before(b, b->heap.entry[child + 1], b->heap.entry[child]))
            child++;
        if (!before(b, b->heap.entry[child], entry)) break;
        place(b, at, b->heap.entry[child]);
        at = child;
    }
    place(b, at, entry);
}

void tb__heap_push(tb_batcher *b, uint32_t slot, int64_t at_us)
{
    assert(b->slot[slot].heap_at == TB_NIL);
    assert(b->heap.size < b->heap.capacity);
    sift_up(b, b->heap.size++, (tb_heap_entry){at_us, slot});
}

/* Nothing happens if the record is not in the heap. */
void tb__heap_remove(tb_batcher *b, uint32_t slot)
{
    uint32_t at = b->slot[slot].heap_at;
    if (at == TB_NIL) return;
    assert(at < b->heap.size);
    assert(b->heap.entry[at].slot == slot);
    b->slot[slot].heap_at = TB_NIL;
    tb_heap_entry last = b->heap.entry[--b->heap.size];
    if (at == b->heap.size) return;
    if (at > 0 && before(b, last, b->heap.entry[(at - 1) / 2])) sift_up(b, at, last);
    else sift_down(b, at, last);
}

/* The top record's next time is `at_us`, later than its present one. */
void tb__heap_move_top(tb_batcher *b, int64_t at_us)
{
    assert(b->heap.size > 0);
    assert(at_us >= b->heap.entry[0].at_us);
    sift_down(b, 0, (tb_heap_entry){at_us, b->heap.entry[0].slot});
}
