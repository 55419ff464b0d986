/* timer.c - the deadline: one timerfd on CLOCK_MONOTONIC, absolute.
 *
 * It is never read. Arming it anew makes it unreadable, and a wait for a deadline
 * that has passed does not block, so its readiness is always true to the deadline.
 */
#include "driver.h"

#include "../base/clock.h"

#include <assert.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* The turn itself is what the deadline is for. */
static void on_timer(struct ev_loop *loop, ev_io *w, int revents)
{
    (void)loop;
    (void)w;
    (void)revents;
}

bool tb__ev_timer_open(tb_ev *ev)
{
    ev->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (ev->timer_fd < 0) {
        return false;
    }
    tb__ev_io_start(ev, &ev->timer_io, on_timer, ev->timer_fd, TB_EV_READABLE);
    return true;
}

void tb__ev_timer_close(tb_ev *ev)
{
    if (ev->timer_fd >= 0) {
        ev_io_stop(ev->loop, &ev->timer_io);
        close(ev->timer_fd);
    }
}

/* All zero disarms a timerfd, so the time 0 and those before it become 1 ns. */
static struct itimerspec timer_spec(int64_t deadline_us)
{
    struct itimerspec spec = {0};
    if (deadline_us == TB_NEVER_US) {
        return spec;
    }
    if (deadline_us <= 0) {
        spec.it_value.tv_nsec = 1;
        return spec;
    }
    spec.it_value.tv_sec = deadline_us / TB__US_PER_S;
    spec.it_value.tv_nsec = deadline_us % TB__US_PER_S * TB__NS_PER_US;
    return spec;
}

/* Set the timerfd to the deadline asked for last, unless it is already. */
void tb__ev_timer_arm(tb_ev *ev)
{
    if (ev->armed_us == ev->deadline_us) {
        return;
    }
    assert(ev->timer_fd >= 0);
    struct itimerspec spec = timer_spec(ev->deadline_us);
    int failed = timerfd_settime(ev->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
    assert(!failed);
    (void)failed;
    ev->armed_us = ev->deadline_us;
}
