/* clock.h - a clock that costs a third of CLOCK_MONOTONIC, by the processor's time-stamp counter.
 *
 * Now and then the counter is tied to CLOCK_MONOTONIC: both are read, the counter before and after. In
 * between the time is that of the tie plus the ticks since, at the rate that the last two ties show. So
 * whatever happens to the counter, the clock is not for long on its own, and after a pause it is read anew.
 *
 * THE SPECIAL PROBLEM OF TIES. A thread that is put aside between the readings of a tie would make a clock
 * that is ahead by as long. Readings too far apart tie nothing; the time is that of CLOCK_MONOTONIC then.
 *
 * It never goes back. What decides is here, and reads no clock; what reads is in clock.c.
 */
#ifndef TB_EV_CLOCK_H
#define TB_EV_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

enum {
    TB__TIE_TICKS_BITS = 24,   /* a tie is good for 2^24 ticks: 4 to 8 ms */
    TB__TIE_TICKS_MOST = 2000, /* between its two readings of the counter: less than 1 us */
    TB__RATE_NS_LEAST = 1000000, /* between two ties that show a rate */
    TB__RATE_NS_MOST = 100000000,
    TB__RATE_BITS = 34 /* of the fraction: 2^24 ticks of at most 1 us fill 58 bits */
};

struct tb__ev_clock {
    bool has_ticks; /* the counter may be trusted here */
    uint64_t rate;  /* microseconds a tick, times 2^TB__RATE_BITS; 0: not known */
    uint64_t tied_ticks;
    int64_t tied_ns; /* CLOCK_MONOTONIC at the tie; 0: there was none */
    int64_t tied_us;
    uint64_t tied_fraction; /* of tied_us, times 2^TB__RATE_BITS */
    int64_t last_us;        /* what it said last */
};

/* Never back. */
static inline int64_t tb__ev_clock_say(struct tb__ev_clock *clock, int64_t us)
{
    if (us > clock->last_us) clock->last_us = us;
    return clock->last_us;
}

/* The time, microseconds; -1: a new tie is needed. */
static inline int64_t tb__ev_clock_at(struct tb__ev_clock *clock, uint64_t ticks)
{
    uint64_t since = ticks - clock->tied_ticks;
    if (since >> TB__TIE_TICKS_BITS || clock->rate == 0) return -1;
    uint64_t passed = (clock->tied_fraction + since * clock->rate) >> TB__RATE_BITS;
    return tb__ev_clock_say(clock, clock->tied_us + (int64_t)passed);
}

/* At the rate that passed since the last tie; 0: too little, too much or nothing has. */
static inline uint64_t tb__ev_clock_rate(const struct tb__ev_clock *clock, uint64_t ticks, int64_t ns)
{
    int64_t passed_ns = ns - clock->tied_ns;
    if (clock->tied_ns == 0 || passed_ns > TB__RATE_NS_MOST || ticks <= clock->tied_ticks) return 0;
    double us_per_tick = (double)passed_ns / 1000 / (double)(int64_t)(ticks - clock->tied_ticks);
    return us_per_tick < 1 ? (uint64_t)(us_per_tick * (double)(UINT64_C(1) << TB__RATE_BITS)) : 0;
}

/* It was `ns` by CLOCK_MONOTONIC between two readings of the counter. Ties the clock if they allow it.
 * @return the time, microseconds */
static inline int64_t tb__ev_clock_tie(struct tb__ev_clock *clock, uint64_t before, int64_t ns, uint64_t after)
{
    uint64_t took = after - before, ticks = before + took / 2;
    bool is_late_enough = clock->tied_ns == 0 || ns - clock->tied_ns >= TB__RATE_NS_LEAST;
    if (took < TB__TIE_TICKS_MOST && is_late_enough) {
        clock->rate = tb__ev_clock_rate(clock, ticks, ns);
        clock->tied_ns = ns;
        clock->tied_us = ns / 1000;
        clock->tied_fraction = ((uint64_t)(ns % 1000) << TB__RATE_BITS) / 1000;
        clock->tied_ticks = ticks;
    }
    return tb__ev_clock_say(clock, ns / 1000);
}

#endif
