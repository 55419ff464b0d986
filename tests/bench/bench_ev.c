/* bench_ev.c - how late a wait for a deadline returns, beside the least that this machine
 * can do: a thread that sleeps in read() on a timerfd.
 *
 * Prints, for each timeout, `deadline_<n>us p50 <x> us p99 <y> us` and the same for
 * `bare_timer_<n>us`: the microseconds from the deadline to the return. The two are
 * measured in turns. `bare_wake`: from the write to an eventfd to the return of a thread that has
 * slept in read() on it for half a millisecond, which is the least that one record costs another thread.
 */
#include "tokenbatcher_ev.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 400, WAKES = 2000, IDLE_NS = 500000 };

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

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static struct {
    int there, back; /* eventfds */
    double woken_us;
} sleeper;

static void *sleep_and_note(void *unused)
{
    uint64_t count = 1;
    for (int i = 0; i < WAKES; i++) {
        if (read(sleeper.there, &count, sizeof count) < 0) abort();
        sleeper.woken_us = now_us();
        if (write(sleeper.back, &count, sizeof count) < 0) abort();
    }
    return unused;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bare_wake(void)
{
    static double took_us[WAKES];
    const struct timespec idle = {.tv_nsec = IDLE_NS};
    uint64_t count = 1;
    pthread_t thread;
    sleeper.there = eventfd(0, 0);
    sleeper.back = eventfd(0, 0);
    if (sleeper.there < 0 || sleeper.back < 0 || pthread_create(&thread, NULL, sleep_and_note, NULL)) abort();
    for (int i = 0; i < WAKES; i++) {
        nanosleep(&idle, NULL);
        double written_us = now_us();
        if (write(sleeper.there, &count, sizeof count) < 0 || read(sleeper.back, &count, sizeof count) < 0) abort();
        took_us[i] = sleeper.woken_us - written_us;
    }
    pthread_join(thread, NULL);
    close(sleeper.there);
    close(sleeper.back);
    qsort(took_us, WAKES, sizeof took_us[0], by_value);
    printf("bare_wake p50 %.1f us p99 %.1f us\n", took_us[WAKES / 2], took_us[WAKES * 99 / 100]);
}

int main(void)
{
    tb_ev *ev = tb_ev_new(1);
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    if (!ev || timer < 0) {
        perror("bench_ev");
        return 1;
    }
    bare_wake();
    measure(ev, timer, 200);
    measure(ev, timer, 1000);
    measure(ev, timer, 5000);
    close(timer);
    tb_ev_free(ev);
    return 0;
}
