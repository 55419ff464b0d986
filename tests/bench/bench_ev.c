/* bench_ev.c - how late a wait for a deadline returns.
 *
 * Prints, for each timeout, `deadline_<n>us p50 <x> us p99 <y> us`: the microseconds
 * from the deadline to the return of tb_ev_wait().
 */
#include "tokenbatcher_ev.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

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

static void measure(tb_ev *ev, int64_t timeout_us)
{
    int64_t late_us[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        late_us[i] = lateness_us(ev, timeout_us);
    }
    qsort(late_us, ROUNDS, sizeof late_us[0], compare);
    printf("deadline_%" PRId64 "us p50 %" PRId64 " us p99 %" PRId64 " us\n", timeout_us,
           late_us[ROUNDS / 2], late_us[ROUNDS * 99 / 100]);
}

int main(void)
{
    tb_ev *ev = tb_ev_new(1);
    if (!ev) {
        perror("tb_ev_new");
        return 1;
    }
    measure(ev, 200);
    measure(ev, 1000);
    measure(ev, 5000);
    tb_ev_free(ev);
    return 0;
}
