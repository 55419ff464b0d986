/* libev.c - the two things that wait for a descriptor: libev and, for a foreign loop, an
 * epoll set; and libev's set-up macros, kept in one place.
 *
 * Those copy the callback through a pointer to another watcher type. That is libev's
 * own design and safe by its use of memmove(), but a compiler may warn about it.
 */
#include "driver.h"

#include <assert.h>
#include <sys/epoll.h>

#pragma GCC diagnostic ignored "-Wstrict-aliasing"

void tb__ev_io_start(tb_ev *ev, ev_io *w, tb__ev_io_callback *callback, int fd,
                     enum tb_ev_kind kind)
{
    assert(ev->loop && fd >= 0);
    ev_io_init(w, callback, fd, kind == TB_EV_WRITABLE ? EV_WRITE : EV_READ);
    w->data = ev;
    ev_io_start(ev->loop, w);
}

void tb__ev_signal_start(tb_ev *ev, ev_signal *w, tb__ev_signal_callback *callback,
                         int signum)
{
    assert(ev->loop && signum > 0);
    ev_signal_init(w, callback, signum);
    w->data = ev;
    ev_signal_start(ev->loop, w);
}

bool tb__ev_epoll_add(tb_ev *ev, int fd, enum tb_ev_kind kind)
{
    assert(ev->epoll_fd >= 0 && fd >= 0);
    struct epoll_event event = {.events = kind == TB_EV_WRITABLE ? EPOLLOUT : EPOLLIN,
                                .data.fd = fd};
    return epoll_ctl(ev->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

void tb__ev_epoll_remove(tb_ev *ev, int fd)
{
    if (ev->epoll_fd >= 0) {
        epoll_ctl(ev->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    }
}
