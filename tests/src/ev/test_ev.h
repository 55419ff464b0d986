/* test_ev.h - what the tests of the libev driver share: a driver for each test, and
 * questions to it.
 */
#ifndef TEST_EV_H
#define TEST_EV_H

#include "tokenbatcher_ev.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

enum { HANGS_AFTER_S = 60, SMALL_INBOX = 4 };

#define WITH_DRIVER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

static inline int set_up(void **state)
{
    *state = tb_ev_new(SMALL_INBOX);
    return *state ? 0 : -1;
}

static inline int tear_down(void **state)
{
    tb_ev_free(*state);
    return 0;
}

static inline bool polls_readable(tb_ev *ev)
{
    struct pollfd p = {.fd = tb_ev_fd(ev), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* For what must become readable by itself. */
static inline void await_readable(tb_ev *ev)
{
    struct pollfd p = {.fd = tb_ev_fd(ev), .events = POLLIN};
    while (poll(&p, 1, -1) != 1) {
    }
}

static inline void post_tag(tb_ev *ev, uint64_t tag)
{
    tb_post post = {.tag = tag};
    assert_int_equal(tb_ev_post(ev, &post), TB_OK);
}

/* Turns until something is reported; one event. */
static inline tb_ev_event await_event(tb_ev *ev)
{
    tb_ev_event event;
    while (tb_ev_poll(ev, &event, 1) == 0) {
        tb_ev_wait(ev, TB_NEVER_US);
    }
    return event;
}

static inline void assert_no_event(tb_ev *ev)
{
    tb_ev_event event;
    tb_ev_wait(ev, 0);
    assert_int_equal(tb_ev_poll(ev, &event, 1), 0);
}

#endif
