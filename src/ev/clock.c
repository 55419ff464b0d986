/* clock.c - the readings of clock.h. */
#include "driver.h"

#include "../base/clock.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int64_t tb_ev_now(void)
{
    return tb__clock_us();
}

#if defined(__x86_64__)
#include <cpuid.h>
#include <x86intrin.h>

static const unsigned POWER_LEAF = 0x80000007;

enum { INVARIANT_BIT = 8 };

/* It runs at one rate whatever the processor does. */
static bool is_invariant(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(POWER_LEAF, &eax, &ebx, &ecx, &edx) && (edx >> INVARIANT_BIT & 1);
}

/* Is it what the kernel makes its own clock of? Then all processors of the machine agree on it. */
static bool is_clocksource(void)
{
    char name[8] = {0};
    int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t size = read(fd, name, sizeof name - 1);
    close(fd);
    return size > 0 && strcmp(name, "tsc\n") == 0;
}

void tb__ev_clock_open(struct tb__ev_clock *clock)
{
    clock->has_ticks = is_invariant() && is_clocksource();
}

static __attribute__((noinline)) int64_t tie(struct tb__ev_clock *clock)
{
    uint64_t before = __rdtsc();
    int64_t ns = tb__clock_ns();
    return tb__ev_clock_tie(clock, before, ns, __rdtsc());
}

static inline int64_t clock_us(tb_ev *ev)
{
    struct tb__ev_clock *clock = &ev->clock;
    if (!clock->has_ticks) {
        return tb_ev_now();
    }
    int64_t us = tb__ev_clock_at(clock, __rdtsc());
    return us >= 0 ? us : tie(clock);
}

#else

void tb__ev_clock_open(struct tb__ev_clock *clock)
{
    (void)clock;
}

static inline int64_t clock_us(tb_ev *ev)
{
    (void)ev;
    return tb_ev_now();
}
#endif

double tb_ev_clock(tb_ev *ev)
{
    assert(ev);
    return (double)clock_us(ev);
}

tb_id tb_ev_submit_plain(tb_ev *ev, tb_batcher *b, double cost)
{
    assert(ev);
    return tb_submit_plain(b, cost, clock_us(ev));
}
