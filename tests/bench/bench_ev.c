/* bench_ev.c - how late a wait for a deadline returns, beside the least that this machine
 * can do: a thread that sleeps in read() on a timerfd.
 *
 * Prints, for each timeout, `deadline_<n>us p50 <x> us p99 <y> us` and the same for
 * `bare_timer_<n>us`: the microseconds from the deadline to the return. The two are
 * measured in turns.
 */
#include "tokenbatcher_ev.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { ROUNDS = 400 };

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* A wait may return early, so it is repeated until the deadline has come. */
static int64_t lateness_us(tb_ev *ev, int64_t timeout_us)
{
    int64_t deadline_us = tb_ev_now() + timeout_us;
    int64_t now_us;
    do {
        tb_ev_wait(ev, deadline_us);
        now_us = tb_ev_now();
    } while (now_us < deadline_us);
    return now_us - deadline_us;
}

static int64_t bare_lateness_us(int timer, int64_t timeout_us)
{
    uint64_t expirations;
    int64_t deadline_us = tb_ev_now() + timeout_us;
    struct itimerspec at = {.it_value = {deadline_us / 1000000, deadline_us % 1000000 * 1000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    if (read(timer, &expirations, sizeof expirations) < 0) perror("read");
    return tb_ev_now() - deadline_us;
}

static void print(const char *name, int64_t timeout_us, int64_t *late_us)
{
    qsort(late_us, ROUNDS, sizeof late_us[0], compare);
    printf("%s_%" PRId64 "us p50 %" PRId64 " us p99 %" PRId64 " us\n", name, timeout_us,
           late_us[ROUNDS / 2], late_us[ROUNDS * 99 / 100]);
}

static void measure(tb_ev *ev, int timer, int64_t timeout_us)
{
    int64_t late_us[ROUNDS], bare_us[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        late_us[i] = lateness_us(ev, timeout_us);
        bare_us[i] = bare_lateness_us(timer, timeout_us);
    }
    print("deadline", timeout_us, late_us);
    print("bare_timer", timeout_us, bare_us);
}

int main(void)
{
    tb_ev *ev = tb_ev_new(1);
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    if (!ev || timer < 0) {
        perror("bench_ev");
        return 1;
    }
    measure(ev, timer, 200);
    measure(ev, timer, 1000);
    measure(ev, timer, 5000);
    close(timer);
    tb_ev_free(ev);
    return 0;
}
