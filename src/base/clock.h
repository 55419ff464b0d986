/* clock.h - the one reading of the monotonic clock.
 *
 * THE ROOM. src/base is what several rooms would otherwise keep twice: small headers of static inline
 * functions, no object, so that a library of its own (the HTTP client) carries no other part
 * of ours. It knows the C library and nothing of ours. src/core has its own, hotter slots and
 * reads no clock, so it knows nothing of this room.
 *
 * Order: clock.h and slots.h know nobody, not even each other.
 */
#ifndef TB_BASE_CLOCK_H
#define TB_BASE_CLOCK_H

#include <assert.h>
#include <stdint.h>
#include <time.h>

enum { TB__US_PER_S = 1000000, TB__US_PER_MS = 1000, TB__NS_PER_US = 1000, TB__NS_PER_S = 1000000000 };

/* CLOCK_MONOTONIC in nanoseconds. From any thread and from a signal handler. */
static inline int64_t tb__clock_ns(void)
{
    struct timespec now;
    int failed = clock_gettime(CLOCK_MONOTONIC, &now);
    assert(!failed);
    (void)failed;
    return (int64_t)now.tv_sec * TB__NS_PER_S + now.tv_nsec;
}

/* The same in microseconds. */
static inline int64_t tb__clock_us(void)
{
    return tb__clock_ns() / TB__NS_PER_US;
}

#endif
