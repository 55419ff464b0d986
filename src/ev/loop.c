/* loop.c - the driver's life, its turn, and its face to a foreign loop.
 */
#include "driver.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { INBOX_CAPACITY_MAX = 1 << 20 };

tb_ev *tb_ev_new(uint32_t inbox_capacity)
{
    if (inbox_capacity < 1 || inbox_capacity > INBOX_CAPACITY_MAX) {
        return NULL;
    }
    tb_ev *ev = calloc(1, sizeof *ev);
    if (!ev) {
        return NULL;
    }
    ev->timer_fd = ev->wake_fd = ev->epoll_fd = -1;
    ev->deadline_us = ev->armed_us = TB_NEVER_US;
    tb__ev_clock_open(&ev->clock);
    ev->loop = ev_loop_new(EVFLAG_AUTO);
    if (ev->loop && tb__ev_timer_open(ev) && tb__ev_wake_open(ev) &&
        tb__ev_inbox_open(ev, inbox_capacity)) {
        return ev;
    }
    tb_ev_free(ev);
    return NULL;
}

/* Also of one that tb_ev_new() made half. */
void tb_ev_free(tb_ev *ev)
{
    if (!ev) {
        return;
    }
    assert(!ev->is_turning); /* nobody is called back from a turn */
    tb__ev_sources_close(ev);
    tb__ev_timer_close(ev);
    tb__ev_wake_close(ev);
    tb__ev_inbox_close(ev);
    if (ev->epoll_fd >= 0) {
        close(ev->epoll_fd);
    }
    if (ev->loop) {
        ev_loop_destroy(ev->loop);
    }
    free(ev);
}

static bool has_come(int64_t deadline_us)
{
    return deadline_us != TB_NEVER_US && deadline_us <= tb_ev_now();
}

/* A process that was stopped in its sleep is woken with nothing in hand (EINTR), the deadline
 * having passed: what has arrived meanwhile is looked for, so that whoever serves the
 * deadline next has seen it. The timerfd matters to a turn that blocks and to a foreign loop; others spare the
 * system call. */
void tb_ev_wait(tb_ev *ev, int64_t deadline_us)
{
    assert(ev);
    assert(!ev->is_turning);
    ev->is_turning = true;
    ev->deadline_us = deadline_us;
    bool blocks = !tb__ev_has_work(ev) && !has_come(deadline_us);
    if (blocks || ev->epoll_fd >= 0) {
        tb__ev_timer_arm(ev);
    }
    ev_run(ev->loop, blocks ? EVRUN_ONCE : EVRUN_NOWAIT);
    if (blocks && has_come(deadline_us)) {
        ev_run(ev->loop, EVRUN_NOWAIT);
    }
    atomic_exchange(&ev->woken, false);
    tb__ev_lower(ev);
    ev->is_turning = false;
}

void tb_ev_arm(tb_ev *ev, int64_t deadline_us)
{
    assert(ev);
    ev->deadline_us = deadline_us;
    if (ev->epoll_fd >= 0) {
        tb__ev_timer_arm(ev);
    }
}

/* What epoll refuses (a plain file) is left to a turn of the loop. */
static void show_watches(tb_ev *ev)
{
    for (int i = 0; i < TB__EV_SLOTS; i++) {
        struct tb__ev_watch *watch = &ev->watches[i];
        bool is_armed = watch->state == TB__EV_WATCHING || watch->state == TB__EV_ATTACHED;
        if (is_armed && !tb__ev_epoll_add(ev, watch->io.fd, watch->kind)) {
            tb_ev_wake(ev);
        }
    }
}

int tb_ev_fd(tb_ev *ev)
{
    assert(ev);
    if (ev->epoll_fd >= 0) {
        return ev->epoll_fd;
    }
    ev->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (ev->epoll_fd < 0) {
        return -1;
    }
    if (!tb__ev_epoll_add(ev, ev->timer_fd, TB_EV_READABLE) ||
        !tb__ev_epoll_add(ev, ev->wake_fd, TB_EV_READABLE)) {
        int kept_errno = errno;
        close(ev->epoll_fd);
        ev->epoll_fd = -1;
        errno = kept_errno;
        return -1;
    }
    show_watches(ev);
    tb__ev_timer_arm(ev);
    return ev->epoll_fd;
}
