/* watcher.c - libev's set-up macros, kept in one place.
 *
 * They copy the callback through a pointer to another watcher type. That is libev's
 * own design and safe by its use of memmove(), but a compiler may warn about it.
 */
#include "driver.h"

#pragma GCC diagnostic ignored "-Wstrict-aliasing"

void tb__ev_io_start(tb_ev *ev, ev_io *w, tb__ev_io_callback *callback, int fd)
{
    ev_io_init(w, callback, fd, EV_READ);
    w->data = ev;
    ev_io_start(ev->loop, w);
}

void tb__ev_signal_start(tb_ev *ev, ev_signal *w, tb__ev_signal_callback *callback,
                         int signum)
{
    ev_signal_init(w, callback, signum);
    w->data = ev;
    ev_signal_start(ev->loop, w);
}
