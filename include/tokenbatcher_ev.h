/* tokenbatcher_ev.h - the libev driver: one loop, one deadline, one inbox.
 *
 * It waits (for a deadline, a post from another thread, a readable descriptor, a
 * signal) and reports; it decides nothing and calls nobody back. A pump on it is:
 *
 *     tb_ev_wait(ev, tb_next(b))       one turn of the loop
 *     tb_ev_poll(ev, ...)              signals and descriptors that fired
 *     tb_ev_take(ev, ...)              what other threads posted
 *     now = tb_ev_now()                after the take: a post is never from the future
 *     tb_submit() what was taken, tb_poll(), tb_form(): see tokenbatcher.h
 *
 * THE SPECIAL PROBLEM OF SHORT TIMEOUTS. On epoll libev sleeps in whole
 * milliseconds, and its timers count from a cached time. Deadlines here are one
 * timerfd, armed to an absolute CLOCK_MONOTONIC time (`make bench` shows how late).
 *
 * THE SPECIAL PROBLEM OF FOREIGN LOOPS. A program whose loop is not libev's polls
 * tb_ev_fd(), which becomes readable when there is work or the deadline of the last
 * tb_ev_wait() or tb_ev_arm() has come. Its turn is then
 *
 *     tb_ev_wait(ev, 0)                never blocks
 *     ... take, submit, poll, form as above
 *     tb_ev_arm(ev, tb_next(b))        or the descriptor stays readable
 *
 * A signal (tb_ev_signal) that comes while a foreign loop sleeps is seen in the next
 * tb_ev_wait() only; such a program has signal handling of its own.
 *
 * MEMORY. If libev itself runs out of memory it prints and aborts, its default.
 *
 * Like the core's header it holds no function-pointer types and is a source of the
 * ffi.cdef. All times are int64 microseconds of CLOCK_MONOTONIC.
 */
#ifndef TOKENBATCHER_EV_H
#define TOKENBATCHER_EV_H

#include "tokenbatcher.h"

#ifndef TB_CDEF
#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)
#endif

typedef struct tb_ev tb_ev;

/* A driver with a libev loop of its own and an inbox of `inbox_capacity` posts
 * (1 .. 2^20). NULL: a capacity outside that, no memory, or no descriptors. Owned by the
 * calling thread. */
tb_ev *tb_ev_new(uint32_t inbox_capacity);

/* Frees it, closes its descriptors; NULL is fine. No thread may post any more. */
void tb_ev_free(tb_ev *ev);

/* CLOCK_MONOTONIC now, microseconds. From any thread. */
int64_t tb_ev_now(void);

/* One turn of the loop: blocks until `deadline_us` has come (TB_NEVER_US: no
 * deadline), a post arrived, tb_ev_wake() was called, or a watched descriptor or
 * signal fired. A deadline in the past, or 0, never blocks. May return early.
 * Not from inside a turn. */
void tb_ev_wait(tb_ev *ev, int64_t deadline_us);

/* For a host that owns the loop: a descriptor that polls readable while there is
 * work or once the armed deadline has passed. Owned by `ev`; do not read from it.
 * -1 with errno set if it cannot be made. */
int tb_ev_fd(tb_ev *ev);

/* Set the deadline of tb_ev_fd() without waiting (TB_NEVER_US: none). */
void tb_ev_arm(tb_ev *ev, int64_t deadline_us);

/* Make the present or the next tb_ev_wait() return, and tb_ev_fd() readable until
 * it has. From any thread, and from a signal handler. */
void tb_ev_wake(tb_ev *ev);

/* --- The inbox: records from other threads ------------------------------ */

struct tb_post {
    tb_submission record; /* submitted_us is set by tb_ev_post() */
    uint64_t tag;         /* the caller's; comes out with the record */
};
typedef struct tb_post tb_post;

/* Hand a record to the loop's thread, from any thread. Copies. TB_OK, or TB_EFULL:
 * the inbox is full and nothing has changed. Posts of one thread keep their order. */
int tb_ev_post(tb_ev *ev, const tb_post *post);

/* Take up to `max` posts, oldest first, from the loop's thread. Returns their number. */
uint32_t tb_ev_take(tb_ev *ev, tb_post *posts, uint32_t max);

/* --- Descriptors and signals as events ---------------------------------- */

enum tb_ev_kind {
    TB_EV_READABLE = 1, /* value: a descriptor */
    TB_EV_SIGNAL        /* value: a signal number */
};
struct tb_ev_event {
    uint32_t kind;
    int32_t value;
};
typedef struct tb_ev_event tb_ev_event;

/* Report once when `fd` becomes readable (or at its end), then forget it; the caller
 * keeps the descriptor open until then. A plain file is always readable. Watching it
 * again before the report changes nothing. TB_EFULL: 8 descriptors are watched (or
 * reported and not polled) already. TB_EOPTION: not an open descriptor. */
int tb_ev_watch(tb_ev *ev, int fd);

/* From now on a wait ends while `fd` is readable; nothing is reported. For a module with
 * descriptors of its own in an epoll set: the caller looks into it after each wait. The
 * descriptor stays open until tb_ev_detach(). TB_EFULL and TB_EOPTION as above (it takes
 * one of the 8), and TB_EOPTION if it is watched already. */
int tb_ev_attach(tb_ev *ev, int fd);

/* Forget an attached descriptor. TB_EOPTION: it is not attached. */
int tb_ev_detach(tb_ev *ev, int fd);

/* 1 if `path` names the plain file that `fd` has open, by whatever name; else 0. */
int tb_ev_same_file(int fd, const char *path);

/* Turn a signal into events from now on. For the program that owns the process:
 * libraries never call it, and only one driver of a process may take a given signal.
 * TB_EOPTION: not a signal that can be caught; TB_EFULL: 8 are watched. */
int tb_ev_signal(tb_ev *ev, int signum);

/* Take up to `max` events. Each descriptor or signal is reported once per firing
 * (signals that came several times meanwhile, as often as they were seen). While
 * events are untaken tb_ev_wait() does not block. */
uint32_t tb_ev_poll(tb_ev *ev, tb_ev_event *events, uint32_t max);

#ifndef TB_CDEF
#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
#endif
