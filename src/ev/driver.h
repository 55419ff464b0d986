/* driver.h - the inside of the libev driver.
 *
 * THE ROOM. src/ev waits on libev: for a deadline, for posts of other threads, for
 * descriptors and signals; it reports what came, decides nothing and calls nobody back.
 * It knows libev, POSIX threads, src/base and, of the core, the public header alone. It
 * knows no Lua. Whoever owns a loop (src/script's engines have the program's instead, the
 * Lua runtime, a C program's pump) knows it by tokenbatcher_ev.h.
 *
 * Order, a file knows those before it: file libev clock timer wake inbox sources loop
 *
 * What ends a wait is one of four things, and each has one home:
 *
 *     timer.c   the deadline: a timerfd, re-armed only when it changes
 *     wake.c    the wake-up: an eventfd, and the rule when it is readable
 *     inbox.c   posts of other threads: a ring under a mutex
 *     sources.c descriptors and signals: fixed slots that remember what fired
 *
 * loop.c makes them, turns the loop and shows them to a foreign loop as one epoll
 * descriptor; libev.c is the only file that starts libev's watchers.
 *
 * THE SPECIAL PROBLEM OF THE LOST WAKE-UP. There is "work" while posts, unreported
 * events or a wake-up are outstanding. Two promises hold whenever the loop's thread is
 * outside this driver: if there is work, the eventfd is readable (or about to be: the
 * thread that made the work is between raising the flag and writing), and the next
 * wait does not block. `raised` is there so that a burst of posts costs one write:
 *
 *     producer                          loop's thread (tb__ev_lower)
 *     1. make the work visible          1. read the eventfd empty
 *     2. was = exchange(raised, 1)      2. exchange(raised, 0)
 *     3. if !was: write the eventfd     3. if there is work: raise again
 *
 * If the producer's 2 comes before the loop's 2, the loop sees the work in its 3; if
 * after, the producer finds 0 and writes, and no read follows. A write that is late
 * (its flag lowered meanwhile) costs one needless turn and loses nothing.
 */
#ifndef TB_EV_DRIVER_H
#define TB_EV_DRIVER_H

#include "clock.h"
#include "tokenbatcher_ev.h"

#include <ev.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { TB__EV_SLOTS = 8 }; /* of descriptors, and of signals */

enum tb__ev_watch_state { TB__EV_IDLE, TB__EV_WATCHING, TB__EV_FIRED, TB__EV_ATTACHED };

/* The watcher is the first member, so that its address is the slot's. */
struct tb__ev_watch {
    ev_io io;
    enum tb__ev_watch_state state;
    enum tb_ev_kind kind; /* TB_EV_READABLE or TB_EV_WRITABLE: what it is watched for */
};

struct tb__ev_signal {
    ev_signal watcher;
    uint32_t seen; /* times it fired and was not yet reported */
};

/* head and the posts belong to whoever holds the lock; `count` is written under it
 * and may be read without. */
struct tb__ev_inbox {
    pthread_mutex_t lock;
    tb_post *posts;
    uint32_t capacity;
    uint32_t head; /* the oldest post */
    atomic_uint count;
};

struct tb_ev {
    struct ev_loop *loop;
    struct tb__ev_clock clock;

    ev_io timer_io;
    int timer_fd;
    int64_t deadline_us; /* asked for last */
    int64_t armed_us;    /* what the timerfd is set to */

    ev_io wake_io;
    int wake_fd;
    bool wake_seen;     /* libev found the eventfd readable since it was read last */
    atomic_bool raised; /* see above */
    atomic_bool woken;  /* tb_ev_wake() since the last wait returned */

    int epoll_fd; /* tb_ev_fd(), or -1 */

    struct tb__ev_inbox inbox;

    struct tb__ev_watch watches[TB__EV_SLOTS];
    struct tb__ev_signal signals[TB__EV_SLOTS];
    uint32_t signals_used;
    uint32_t unreported; /* fired watches plus signals seen */
    bool is_turning;     /* within tb_ev_wait() */
};

/* clock.c */
void tb__ev_clock_open(struct tb__ev_clock *clock);

/* timer.c */
bool tb__ev_timer_open(tb_ev *ev);
void tb__ev_timer_close(tb_ev *ev);
void tb__ev_timer_arm(tb_ev *ev);

/* wake.c */
bool tb__ev_wake_open(tb_ev *ev);
void tb__ev_wake_close(tb_ev *ev);
bool tb__ev_has_work(tb_ev *ev);
void tb__ev_raise(tb_ev *ev);   /* from any thread, and from a signal handler */
void tb__ev_lower(tb_ev *ev);   /* the eventfd is readable only if there is work */

/* inbox.c */
bool tb__ev_inbox_open(tb_ev *ev, uint32_t capacity);
void tb__ev_inbox_close(tb_ev *ev);

/* sources.c */
void tb__ev_sources_close(tb_ev *ev);

/* libev.c: show a descriptor to the foreign loop, there being one. False if epoll will not
 * have it (a plain file). To hide one is fine in any case. */
bool tb__ev_epoll_add(tb_ev *ev, int fd, enum tb_ev_kind kind);
void tb__ev_epoll_remove(tb_ev *ev, int fd);

/* libev.c: set up and start; w->data is `ev`. */
typedef void tb__ev_io_callback(struct ev_loop *, ev_io *, int);
typedef void tb__ev_signal_callback(struct ev_loop *, ev_signal *, int);
void tb__ev_io_start(tb_ev *ev, ev_io *w, tb__ev_io_callback *callback, int fd,
                     enum tb_ev_kind kind);
void tb__ev_signal_start(tb_ev *ev, ev_signal *w, tb__ev_signal_callback *callback,
                         int signum);

#endif
