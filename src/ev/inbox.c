/* inbox.c - records from other threads: a ring of fixed capacity under a mutex.
 *
 * The lock is held for a copy and never across a system call, so producers and the
 * loop do not wait for each other's wake-ups.
 */
#include "driver.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

bool tb__ev_inbox_open(tb_ev *ev, uint32_t capacity)
{
    struct tb__ev_inbox *in = &ev->inbox;
    assert(capacity > 0);
    assert(!in->posts);
    in->posts = calloc(capacity, sizeof *in->posts);
    if (!in->posts) {
        return false;
    }
    if (pthread_mutex_init(&in->lock, NULL) != 0) {
        free(in->posts);
        in->posts = NULL;
        return false;
    }
    in->capacity = capacity;
    return true;
}

void tb__ev_inbox_close(tb_ev *ev)
{
    if (ev->inbox.posts) {
        pthread_mutex_destroy(&ev->inbox.lock);
        free(ev->inbox.posts);
    }
}

static bool push(struct tb__ev_inbox *in, const tb_post *post)
{
    uint32_t count = atomic_load_explicit(&in->count, memory_order_relaxed);
    assert(count <= in->capacity);
    if (count == in->capacity) {
        return false;
    }
    in->posts[(in->head + count) % in->capacity] = *post;
    atomic_store(&in->count, count + 1);
    return true;
}

/* The clock is read before the lock: a producer's wait for it is the record's wait. */
int tb_ev_post(tb_ev *ev, const tb_post *post)
{
    assert(ev && post);
    tb_post stamped = *post;
    stamped.record.submitted_us = tb_ev_now();
    pthread_mutex_lock(&ev->inbox.lock);
    bool pushed = push(&ev->inbox, &stamped);
    pthread_mutex_unlock(&ev->inbox.lock);
    if (!pushed) {
        return TB_EFULL;
    }
    tb__ev_raise(ev);
    return TB_OK;
}

/* The oldest posts lie from head to the end of the ring, the rest at its beginning. */
static uint32_t pull(struct tb__ev_inbox *in, tb_post *posts, uint32_t max)
{
    uint32_t count = atomic_load_explicit(&in->count, memory_order_relaxed);
    assert(count <= in->capacity && in->head < in->capacity);
    uint32_t taken = count < max ? count : max;
    uint32_t to_end = in->capacity - in->head;
    uint32_t first = taken < to_end ? taken : to_end;
    memcpy(posts, in->posts + in->head, first * sizeof *posts);
    memcpy(posts + first, in->posts, (taken - first) * sizeof *posts);
    in->head = (in->head + taken) % in->capacity;
    atomic_store(&in->count, count - taken);
    return taken;
}

uint32_t tb_ev_take(tb_ev *ev, tb_post *posts, uint32_t max)
{
    assert(ev && (posts || max == 0));
    if (max == 0 || atomic_load(&ev->inbox.count) == 0) {
        return 0;
    }
    pthread_mutex_lock(&ev->inbox.lock);
    uint32_t taken = pull(&ev->inbox, posts, max);
    pthread_mutex_unlock(&ev->inbox.lock);
    tb__ev_lower(ev);
    return taken;
}
