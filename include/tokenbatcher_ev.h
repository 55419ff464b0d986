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
 * ERRORS. Refusals are return codes of enum tb_error, and nothing has changed then. Misuse
 * (a null pointer, a turn inside a turn) asserts. What the system refuses after
 * tb_ev_new() has succeeded cannot happen to descriptors that are open, and asserts.
 *
 * MEMORY. Everything is allocated by tb_ev_new(). If libev itself runs out of memory it prints and aborts, its default.
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
 * (1 .. 2^20; each takes the size of a tb_post, allocated here). The calling thread is the loop's
 * thread: everything but tb_ev_post(), tb_ev_wake() and tb_ev_now() is called from it.
 * The driver is the caller's until tb_ev_free().
 * NULL: a capacity outside the bounds, no memory, or no descriptors left (it takes one of
 * libev's backend, a timerfd and an eventfd); nothing is kept then. */
tb_ev *tb_ev_new(uint32_t inbox_capacity);

/* Frees the driver and closes its own descriptors, that of tb_ev_fd() included; those it
 * watched stay open, they are the caller's. Watched signals get their default action back.
 * Posts not taken are dropped. NULL is fine. Before this the last post of another thread
 * must have returned. Not from inside a turn. */
void tb_ev_free(tb_ev *ev);

/* CLOCK_MONOTONIC now, microseconds. From any thread and from a signal handler; no
 * system call. Read it after tb_ev_take(), so that no post is from the future. */
int64_t tb_ev_now(void);

/* The same, as a whole number in a double, at a third of the cost where the processor's time-stamp counter may be
 * trusted (it is invariant, and the kernel's own clock); elsewhere it is tb_ev_now(). A few microseconds off
 * at the most, and never earlier than it was before. From the loop's thread. */
double tb_ev_clock(tb_ev *ev);

/* tb_submit_plain() at tb_ev_clock(), in one call. */
tb_id tb_ev_submit_plain(tb_ev *ev, tb_batcher *b, double cost);

/* One turn of the loop: blocks until `deadline_us` has come (TB_NEVER_US: no
 * deadline), a post arrived, tb_ev_wake() was called, or a watched descriptor or
 * signal fired. A deadline in the past, or 0, never blocks, nor does a wait while
 * events are unpolled or posts untaken. When the deadline has come, what arrived before that
 * has been seen, however long the process was stopped or its loop busy. May return early: ask what has happened, do not
 * conclude it. One or two system calls, one more when the deadline has changed.
 * Not from inside a turn: asserts. */
void tb_ev_wait(tb_ev *ev, int64_t deadline_us);

/* For a program whose loop is not libev's: a descriptor that polls readable while there
 * is work or once the armed deadline has passed. Made at the first call; owned by `ev`, the
 * same each time, valid until tb_ev_free(). Do not read from it.
 * -1 with errno set if it cannot be made (descriptors or memory); then the next call tries
 * again. */
int tb_ev_fd(tb_ev *ev);

/* Set the deadline of tb_ev_fd() without waiting (microseconds; TB_NEVER_US: none). Before
 * tb_ev_fd() has been called the deadline is only noted. One system call if it has changed. */
void tb_ev_arm(tb_ev *ev, int64_t deadline_us);

/* Make the present or the next tb_ev_wait() return, and tb_ev_fd() readable until
 * it has. From any thread, and from a signal handler (errno is kept). Several before that
 * wait count as one, and cost one system call. */
void tb_ev_wake(tb_ev *ev);

/* --- The inbox: records from other threads ------------------------------
 *
 * A post is copied twice, in and out; nobody keeps a pointer to it. The lock is held for
 * a copy, never across a system call.
 */

/* record: what tb_submit() will be given; its submitted_us is set by tb_ev_post(), so that
 * the time in the inbox counts as waiting.
 * tag: the caller's own; comes out with the record, and the driver never looks at it. */
struct tb_post {
    tb_submission record;
    uint64_t tag;
};
typedef struct tb_post tb_post;

/* Hand a record to the loop's thread, from any thread. Copies *post. Posts of one thread
 * keep their order. A burst costs one system call.
 * TB_OK; or TB_EFULL: inbox_capacity posts are untaken, and nothing has changed: try again
 * when the loop has turned, or refuse the record. */
int tb_ev_post(tb_ev *ev, const tb_post *post);

/* Take up to `max` posts, oldest first, from the loop's thread, into the caller's array.
 * Returns their number; if it is `max`, there may be more. 0 costs no lock. */
uint32_t tb_ev_take(tb_ev *ev, tb_post *posts, uint32_t max);

/* --- Descriptors and signals as events ----------------------------------
 *
 * All of it from the loop's thread. Eight descriptors and eight signals have places; full
 * is an answer, and nothing has changed then.
 */

/* TB_EV_READABLE: `value` of the event is a descriptor that became readable.
 * TB_EV_SIGNAL: it is the number of a signal that came.
 * TB_EV_WRITABLE: it is a descriptor that takes bytes again. */
enum tb_ev_kind { TB_EV_READABLE = 1, TB_EV_SIGNAL, TB_EV_WRITABLE };

/* kind: one of enum tb_ev_kind. value: see there. */
struct tb_ev_event {
    uint32_t kind;
    int32_t value;
};
typedef struct tb_ev_event tb_ev_event;

/* Report once when `fd` becomes readable (or at its end), then forget it; the caller
 * keeps the descriptor open until then. A plain file is always readable. Watching it
 * again before the report changes nothing. TB_EFULL: 8 descriptors are watched (or
 * reported and not polled) already. TB_EOPTION: not an open descriptor, or one that is
 * watched for writing. */
int tb_ev_watch(tb_ev *ev, int fd);

/* The same for writing: report once when `fd` takes bytes, or nobody reads any more (the next
 * write says so), then forget it. A plain file always takes them. For a descriptor that does
 * not block: of a pipe that does, one that takes bytes may still block for those that are
 * many. TB_EFULL as above (the 8 are for both). TB_EOPTION: not an open descriptor, or one that is
 * watched for reading: one that is read and written has two numbers, see dup(). */
int tb_ev_watch_write(tb_ev *ev, int fd);

/* From now on a wait ends while `fd` is readable; nothing is reported. For a module with
 * descriptors of its own in an epoll set: the caller looks into it after each wait. The
 * descriptor stays open until tb_ev_detach(). TB_EFULL and TB_EOPTION as above (it takes
 * one of the 8), and TB_EOPTION if it is watched already. */
int tb_ev_attach(tb_ev *ev, int fd);

/* Forget an attached descriptor, which may be closed afterwards.
 * TB_EOPTION: it is not attached. */
int tb_ev_detach(tb_ev *ev, int fd);

/* 1 if `path` names the plain file that `fd` has open, by whatever name; else 0 (also when
 * either cannot be looked at). Two system calls; from any thread. */
int tb_ev_same_file(int fd, const char *path);

/* Turn a signal into events from now on, until tb_ev_free(). For the program that owns the
 * process: libraries never call it, and only one driver of a process may take a given
 * signal. The same signal again changes nothing.
 * TB_EOPTION: not a signal that can be caught; TB_EFULL: 8 are watched. */
int tb_ev_signal(tb_ev *ev, int signum);

/* Take up to `max` events, signals first, into the caller's array; returns their number.
 * Each descriptor or signal is reported once per firing
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
