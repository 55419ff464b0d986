/* wake.c - the wake-up: one eventfd, readable while there is work. See driver.h for
 * why nothing is lost.
 */
#include "driver.h"

#include <assert.h>
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Not read here: the turn's end decides whether it may become unreadable. */
static void on_wake(struct ev_loop *loop, ev_io *w, int revents)
{
    (void)loop;
    (void)revents;
    tb_ev *ev = w->data;
    assert(w == &ev->wake_io);
    ev->wake_seen = true;
}

bool tb__ev_wake_open(tb_ev *ev)
{
    ev->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (ev->wake_fd < 0) {
        return false;
    }
    tb__ev_io_start(ev, &ev->wake_io, on_wake, ev->wake_fd, TB_EV_READABLE);
    return true;
}

void tb__ev_wake_close(tb_ev *ev)
{
    if (ev->wake_fd >= 0) {
        ev_io_stop(ev->loop, &ev->wake_io);
        close(ev->wake_fd);
    }
}

bool tb__ev_has_work(tb_ev *ev)
{
    return ev->unreported > 0 || atomic_load(&ev->woken) ||
           atomic_load(&ev->inbox.count) > 0;
}

/* The write can only fail because the counter is full, and then it is readable.
 * errno is kept for the code that a signal handler interrupted. */
void tb__ev_raise(tb_ev *ev)
{
    if (atomic_exchange(&ev->raised, true)) {
        return;
    }
    int kept_errno = errno;
    assert(ev->wake_fd >= 0);
    uint64_t one = 1;
    ssize_t written = write(ev->wake_fd, &one, sizeof one);
    (void)written;
    errno = kept_errno;
}

void tb__ev_lower(tb_ev *ev)
{
    if (tb__ev_has_work(ev)) {
        tb__ev_raise(ev);
        return;
    }
    if (!ev->wake_seen && !atomic_load(&ev->raised)) {
        return;
    }
    uint64_t count;
    ssize_t got = read(ev->wake_fd, &count, sizeof count);
    (void)got; /* nothing to read: its writer is late, the next turn reads it */
    ev->wake_seen = false;
    atomic_exchange(&ev->raised, false);
    if (tb__ev_has_work(ev)) {
        tb__ev_raise(ev);
    }
}

void tb_ev_wake(tb_ev *ev)
{
    assert(ev);
    atomic_store(&ev->woken, true);
    tb__ev_raise(ev);
}
