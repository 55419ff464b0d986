/* sources.c - descriptors and signals as events.
 *
 * A watcher only notes in its slot that it fired; tb_ev_poll() reports from the slots.
 * A descriptor keeps its slot until it is reported, so no queue of events can fill up. One
 * that is attached only ends waits, and keeps its slot until it is detached.
 *
 * THE SPECIAL PROBLEM OF SIGNALS IN FOREIGN LOOPS. libev writes a signal to its own
 * pipe only while it sleeps itself. A signal that arrives while a foreign loop sleeps
 * on tb_ev_fd() is not lost, but seen only in the next tb_ev_wait(): such a program
 * catches signals with its own loop. A signal belongs to one loop per process.
 */
#include "driver.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>

static void stop(tb_ev *ev, struct tb__ev_watch *watch)
{
    ev_io_stop(ev->loop, &watch->io);
    tb__ev_epoll_remove(ev, watch->io.fd);
}

static void on_ready(struct ev_loop *loop, ev_io *w, int revents)
{
    (void)loop;
    (void)revents; /* an error is for who reads or writes to find, as end of file is */
    struct tb__ev_watch *watch = (struct tb__ev_watch *)w;
    tb_ev *ev = w->data;
    assert(watch->state == TB__EV_WATCHING);
    stop(ev, watch);
    watch->state = TB__EV_FIRED;
    ev->unreported++;
}

static void on_signal(struct ev_loop *loop, ev_signal *w, int revents)
{
    (void)loop;
    (void)revents;
    struct tb__ev_signal *slot = (struct tb__ev_signal *)w;
    tb_ev *ev = w->data;
    assert(ev->unreported < UINT32_MAX);
    slot->seen++;
    ev->unreported++;
}

/* The slot that holds `fd`, else a free one, else NULL. */
static struct tb__ev_watch *watch_slot(tb_ev *ev, int fd)
{
    struct tb__ev_watch *idle = NULL;
    for (int i = 0; i < TB__EV_SLOTS; i++) {
        struct tb__ev_watch *watch = &ev->watches[i];
        if (watch->state == TB__EV_IDLE) {
            idle = idle ? idle : watch;
        } else if (watch->io.fd == fd) {
            return watch;
        }
    }
    return idle;
}

/* libev aborts on a descriptor that is not open. */
static bool is_open(int fd)
{
    return fd >= 0 && fcntl(fd, F_GETFD) >= 0;
}

static int watch_for(tb_ev *ev, int fd, enum tb_ev_kind kind)
{
    assert(ev);
    if (!is_open(fd)) {
        return TB_EOPTION;
    }
    struct tb__ev_watch *watch = watch_slot(ev, fd);
    if (!watch) {
        return TB_EFULL;
    }
    if (watch->state != TB__EV_IDLE) {
        return watch->kind == kind ? TB_OK : TB_EOPTION;
    }
    tb__ev_io_start(ev, &watch->io, on_ready, fd, kind);
    watch->state = TB__EV_WATCHING;
    watch->kind = kind;
    if (ev->epoll_fd >= 0 && !tb__ev_epoll_add(ev, fd, kind)) {
        tb_ev_wake(ev); /* a plain file: the next turn finds it ready */
    }
    return TB_OK;
}

int tb_ev_watch(tb_ev *ev, int fd)
{
    return watch_for(ev, fd, TB_EV_READABLE);
}

int tb_ev_watch_write(tb_ev *ev, int fd)
{
    return watch_for(ev, fd, TB_EV_WRITABLE);
}

/* The end of the wait is all that it is for. */
static void on_attached(struct ev_loop *loop, ev_io *w, int revents)
{
    (void)loop;
    (void)w;
    (void)revents;
}

int tb_ev_attach(tb_ev *ev, int fd)
{
    assert(ev);
    if (!is_open(fd)) {
        return TB_EOPTION;
    }
    struct tb__ev_watch *watch = watch_slot(ev, fd);
    if (!watch || watch->state != TB__EV_IDLE) {
        return watch ? TB_EOPTION : TB_EFULL;
    }
    tb__ev_io_start(ev, &watch->io, on_attached, fd, TB_EV_READABLE);
    watch->state = TB__EV_ATTACHED;
    watch->kind = TB_EV_READABLE;
    if (ev->epoll_fd >= 0) {
        tb__ev_epoll_add(ev, fd, watch->kind); /* what epoll refuses is always readable: nobody attaches it */
    }
    return TB_OK;
}

int tb_ev_detach(tb_ev *ev, int fd)
{
    assert(ev);
    struct tb__ev_watch *watch = watch_slot(ev, fd);
    if (!watch || watch->state != TB__EV_ATTACHED) {
        return TB_EOPTION;
    }
    stop(ev, watch);
    watch->state = TB__EV_IDLE;
    return TB_OK;
}

/* sigaction() knows the bounds and the C library's private signals. */
static bool can_be_caught(int signum)
{
    struct sigaction present;
    return signum != SIGKILL && signum != SIGSTOP &&
           sigaction(signum, NULL, &present) == 0;
}

static bool is_watched(const tb_ev *ev, int signum)
{
    for (uint32_t i = 0; i < ev->signals_used; i++) {
        if (ev->signals[i].watcher.signum == signum) {
            return true;
        }
    }
    return false;
}

int tb_ev_signal(tb_ev *ev, int signum)
{
    assert(ev);
    if (!can_be_caught(signum)) {
        return TB_EOPTION;
    }
    if (is_watched(ev, signum)) {
        return TB_OK;
    }
    if (ev->signals_used == TB__EV_SLOTS) {
        return TB_EFULL;
    }
    struct tb__ev_signal *slot = &ev->signals[ev->signals_used++];
    tb__ev_signal_start(ev, &slot->watcher, on_signal, signum);
    return TB_OK;
}

static uint32_t report_signals(tb_ev *ev, tb_ev_event *events, uint32_t max)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < ev->signals_used; i++) {
        struct tb__ev_signal *slot = &ev->signals[i];
        for (; slot->seen > 0 && n < max; slot->seen--) {
            events[n++] = (tb_ev_event){TB_EV_SIGNAL, slot->watcher.signum};
        }
    }
    return n;
}

static uint32_t report_watches(tb_ev *ev, tb_ev_event *events, uint32_t max)
{
    uint32_t n = 0;
    for (int i = 0; i < TB__EV_SLOTS && n < max; i++) {
        struct tb__ev_watch *watch = &ev->watches[i];
        if (watch->state == TB__EV_FIRED) {
            events[n++] = (tb_ev_event){watch->kind, watch->io.fd};
            watch->state = TB__EV_IDLE;
        }
    }
    return n;
}

uint32_t tb_ev_poll(tb_ev *ev, tb_ev_event *events, uint32_t max)
{
    assert(ev && (events || max == 0));
    if (ev->unreported == 0 || max == 0) {
        return 0;
    }
    uint32_t n = report_signals(ev, events, max);
    n += report_watches(ev, events + n, max - n);
    assert(n <= max && n <= ev->unreported);
    ev->unreported -= n;
    tb__ev_lower(ev);
    return n;
}

/* Stopping a signal's watcher gives the signal its default action back. */
void tb__ev_sources_close(tb_ev *ev)
{
    for (int i = 0; i < TB__EV_SLOTS; i++) {
        enum tb__ev_watch_state state = ev->watches[i].state;
        if (state == TB__EV_WATCHING || state == TB__EV_ATTACHED) {
            ev_io_stop(ev->loop, &ev->watches[i].io);
        }
    }
    for (uint32_t i = 0; i < ev->signals_used; i++) {
        ev_signal_stop(ev->loop, &ev->signals[i].watcher);
    }
}
