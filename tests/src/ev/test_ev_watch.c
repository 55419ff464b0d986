/* test_ev_watch.c - the libev driver's descriptors and signals. */
#include "test_ev.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>

/* --- Descriptors ----------------------------------------------------------- */

static void a_readable_pipe_is_reported_once(void **state)
{
    tb_ev *ev = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(tb_ev_watch(ev, ends[0]), TB_OK);
    assert_no_event(ev);
    assert_int_equal(write(ends[1], "x", 1), 1);
    tb_ev_event event = await_event(ev);
    assert_int_equal(event.kind, TB_EV_READABLE);
    assert_int_equal(event.value, ends[0]);
    assert_no_event(ev); /* though it still is readable */
    assert_int_equal(tb_ev_watch(ev, ends[0]), TB_OK);
    assert_int_equal(await_event(ev).value, ends[0]);
    close(ends[0]);
    close(ends[1]);
}

static void the_end_of_a_pipe_is_reported(void **state)
{
    tb_ev *ev = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(tb_ev_watch(ev, ends[0]), TB_OK);
    close(ends[1]);
    assert_int_equal(await_event(ev).value, ends[0]);
    close(ends[0]);
}

static void a_plain_file_is_always_readable(void **state)
{
    tb_ev *ev = *state;
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(tb_ev_watch(ev, fileno(file)), TB_OK);
    assert_int_equal(await_event(ev).value, fileno(file));
    assert_false(polls_readable(ev));
    assert_int_equal(tb_ev_watch(ev, fileno(file)), TB_OK);
    assert_true(polls_readable(ev));
    assert_int_equal(await_event(ev).value, fileno(file));
    assert_false(polls_readable(ev));
    fclose(file);
}

static void a_descriptor_that_is_not_open_is_refused(void **state)
{
    tb_ev *ev = *state;
    int closed_fd = dup(0);
    close(closed_fd);
    assert_int_equal(tb_ev_watch(ev, closed_fd), TB_EOPTION);
    assert_int_equal(tb_ev_watch(ev, -1), TB_EOPTION);
    assert_no_event(ev);
}

static void watches_eight_descriptors_and_refuses_the_ninth(void **state)
{
    tb_ev *ev = *state;
    int ends[9][2];
    for (int i = 0; i < 9; i++) {
        assert_int_equal(pipe(ends[i]), 0);
        assert_int_equal(tb_ev_watch(ev, ends[i][0]), i < 8 ? TB_OK : TB_EFULL);
        assert_int_equal(write(ends[i][1], "x", 1), 1);
    }
    assert_int_equal(tb_ev_watch(ev, ends[3][0]), TB_OK); /* again: still once */
    tb_ev_wait(ev, TB_NEVER_US);
    tb_ev_event events[9];
    assert_int_equal(tb_ev_poll(ev, events, 3), 3);
    tb_ev_wait(ev, TB_NEVER_US); /* five are unreported: does not block */
    assert_int_equal(tb_ev_poll(ev, events + 3, 6), 5);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(events[i].value, ends[i][0]);
    }
    assert_int_equal(tb_ev_watch(ev, ends[8][0]), TB_OK);
    assert_int_equal(await_event(ev).value, ends[8][0]);
    for (int i = 0; i < 9; i++) {
        close(ends[i][0]);
        close(ends[i][1]);
    }
}

static void a_reused_descriptor_number_is_watched_anew(void **state)
{
    tb_ev *ev = *state;
    tb_ev_fd(ev);
    for (int i = 0; i < 3; i++) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        assert_int_equal(tb_ev_watch(ev, ends[0]), TB_OK);
        assert_no_event(ev);
        tb_ev_arm(ev, TB_NEVER_US);
        assert_false(polls_readable(ev));
        assert_int_equal(write(ends[1], "x", 1), 1);
        assert_true(polls_readable(ev));
        assert_int_equal(await_event(ev).value, ends[0]);
        close(ends[0]);
        close(ends[1]);
    }
}

/* --- Writing ------------------------------------------------------------------ */

static void fill(int fd)
{
    static const char bytes[4096];
    assert_int_not_equal(fcntl(fd, F_SETFL, O_NONBLOCK), -1);
    while (write(fd, bytes, sizeof bytes) > 0) {
    }
}

static void drain(int fd)
{
    static char bytes[65536];
    assert_int_not_equal(fcntl(fd, F_SETFL, O_NONBLOCK), -1);
    while (read(fd, bytes, sizeof bytes) > 0) {
    }
}

static void a_full_pipe_is_reported_once_when_it_takes_bytes_again(void **state)
{
    tb_ev *ev = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fill(ends[1]);
    assert_int_equal(tb_ev_watch_write(ev, ends[1]), TB_OK);
    assert_int_equal(tb_ev_watch_write(ev, ends[1]), TB_OK);
    assert_no_event(ev);
    drain(ends[0]);
    tb_ev_event event = await_event(ev);
    assert_int_equal(event.kind, TB_EV_WRITABLE);
    assert_int_equal(event.value, ends[1]);
    assert_no_event(ev); /* though it still takes bytes */
    close(ends[0]);
    close(ends[1]);
}

static void a_pipe_that_nobody_reads_any_more_is_reported_to_its_writer(void **state)
{
    tb_ev *ev = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fill(ends[1]);
    assert_int_equal(tb_ev_watch_write(ev, ends[1]), TB_OK);
    close(ends[0]);
    assert_int_equal(await_event(ev).kind, TB_EV_WRITABLE);
    close(ends[1]);
}

static void a_plain_file_always_takes_bytes(void **state)
{
    tb_ev *ev = *state;
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(tb_ev_watch_write(ev, fileno(file)), TB_OK);
    assert_int_equal(await_event(ev).kind, TB_EV_WRITABLE);
    assert_int_equal(tb_ev_watch_write(ev, -1), TB_EOPTION);
    fclose(file);
}

static void a_descriptor_is_watched_for_reading_or_for_writing(void **state)
{
    tb_ev *ev = *state;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    assert_int_equal(tb_ev_watch(ev, ends[0]), TB_OK);
    assert_int_equal(tb_ev_watch_write(ev, ends[0]), TB_EOPTION);
    int twin = dup(ends[0]);
    assert_int_equal(tb_ev_watch_write(ev, twin), TB_OK);
    assert_int_equal(tb_ev_watch(ev, twin), TB_EOPTION);
    assert_int_equal(tb_ev_attach(ev, twin), TB_EOPTION);
    tb_ev_event event = await_event(ev);
    assert_int_equal(event.kind, TB_EV_WRITABLE);
    assert_int_equal(event.value, twin);
    assert_int_equal(tb_ev_watch(ev, twin), TB_OK); /* the report has given its place back */
    assert_int_equal(write(ends[1], "x", 1), 1);
    assert_int_equal(await_event(ev).kind, TB_EV_READABLE);
    assert_int_equal(await_event(ev).kind, TB_EV_READABLE);
    close(twin);
    close(ends[0]);
    close(ends[1]);
}

static void a_foreign_loop_sees_a_pipe_that_takes_bytes_again(void **state)
{
    tb_ev *ev = *state;
    int early[2], late[2];
    assert_int_equal(pipe(early), 0);
    assert_int_equal(pipe(late), 0);
    fill(early[1]);
    fill(late[1]);
    assert_int_equal(tb_ev_watch_write(ev, early[1]), TB_OK);
    assert_false(polls_readable(ev)); /* makes the descriptor for foreign loops */
    drain(early[0]);
    assert_true(polls_readable(ev));
    assert_int_equal(await_event(ev).value, early[1]);
    assert_int_equal(tb_ev_watch_write(ev, late[1]), TB_OK);
    assert_false(polls_readable(ev));
    drain(late[0]);
    assert_true(polls_readable(ev));
    assert_int_equal(await_event(ev).value, late[1]);
    for (int i = 0; i < 2; i++) {
        close(early[i]);
        close(late[i]);
    }
}

/* --- Attached descriptors ---------------------------------------------------- */

static void an_attached_descriptor_ends_waits_as_long_as_it_is_readable(void **state)
{
    tb_ev *ev = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(tb_ev_attach(ev, ends[0]), TB_OK);
    assert_int_equal(write(ends[1], "x", 1), 1);
    for (int i = 0; i < 3; i++) {
        tb_ev_wait(ev, TB_NEVER_US); /* returns, or alarm() ends the test */
        assert_no_event(ev);
    }
    char byte;
    assert_int_equal(read(ends[0], &byte, 1), 1);
    int64_t deadline_us = tb_ev_now() + 2000;
    tb_ev_wait(ev, deadline_us);
    assert_true(tb_ev_now() >= deadline_us); /* it no longer ends a wait */
    assert_int_equal(tb_ev_detach(ev, ends[0]), TB_OK);
    close(ends[0]);
    close(ends[1]);
}

static void an_attached_descriptor_shows_to_a_foreign_loop(void **state)
{
    tb_ev *ev = *state;
    int early[2], late[2];
    assert_int_equal(pipe(early), 0);
    assert_int_equal(pipe(late), 0);
    assert_int_equal(tb_ev_attach(ev, early[0]), TB_OK);
    assert_false(polls_readable(ev)); /* makes the descriptor for foreign loops */
    assert_int_equal(tb_ev_attach(ev, late[0]), TB_OK);
    assert_int_equal(write(early[1], "x", 1), 1);
    assert_true(polls_readable(ev));
    assert_int_equal(tb_ev_detach(ev, early[0]), TB_OK);
    assert_false(polls_readable(ev));
    assert_int_equal(write(late[1], "x", 1), 1);
    assert_true(polls_readable(ev));
    assert_int_equal(tb_ev_detach(ev, late[0]), TB_OK);
    close(late[0]);
    close(late[1]);
    close(early[0]);
    close(early[1]);
}

static void attaching_takes_a_place_and_detaching_gives_it_back(void **state)
{
    tb_ev *ev = *state;
    int ends[9][2];
    for (int i = 0; i < 9; i++) {
        assert_int_equal(pipe(ends[i]), 0);
        assert_int_equal(tb_ev_attach(ev, ends[i][0]), i < 8 ? TB_OK : TB_EFULL);
    }
    assert_int_equal(tb_ev_attach(ev, ends[3][0]), TB_EOPTION);
    assert_int_equal(tb_ev_detach(ev, ends[8][0]), TB_EOPTION);
    assert_int_equal(tb_ev_attach(ev, -1), TB_EOPTION);
    assert_int_equal(tb_ev_detach(ev, ends[3][0]), TB_OK);
    assert_int_equal(tb_ev_watch(ev, ends[8][0]), TB_OK);
    assert_int_equal(tb_ev_detach(ev, ends[8][0]), TB_EOPTION); /* watched, not attached */
    for (int i = 0; i < 9; i++) {
        tb_ev_detach(ev, ends[i][0]);
    }
    assert_int_equal(write(ends[8][1], "x", 1), 1);
    assert_int_equal(await_event(ev).value, ends[8][0]);
    for (int i = 0; i < 9; i++) {
        close(ends[i][0]);
        close(ends[i][1]);
    }
}

/* --- Signals ---------------------------------------------------------------- */

static void a_signal_becomes_an_event(void **state)
{
    tb_ev *ev = *state;
    assert_int_equal(tb_ev_signal(ev, SIGUSR1), TB_OK);
    assert_int_equal(tb_ev_signal(ev, SIGUSR1), TB_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kill(getpid(), SIGUSR1), 0);
        tb_ev_event event = await_event(ev);
        assert_int_equal(event.kind, TB_EV_SIGNAL);
        assert_int_equal(event.value, SIGUSR1);
        assert_no_event(ev);
    }
}

static void unreported_signals_are_counted_and_keep_waits_short(void **state)
{
    tb_ev *ev = *state;
    assert_int_equal(tb_ev_signal(ev, SIGUSR1), TB_OK);
    assert_int_equal(pthread_kill(pthread_self(), SIGUSR1), 0);
    tb_ev_wait(ev, TB_NEVER_US);
    assert_int_equal(pthread_kill(pthread_self(), SIGUSR1), 0);
    tb_ev_wait(ev, TB_NEVER_US);
    tb_ev_event events[3];
    assert_int_equal(tb_ev_poll(ev, events, 3), 2);
}

static void only_signals_that_can_be_caught_are_taken(void **state)
{
    tb_ev *ev = *state;
    assert_int_equal(tb_ev_signal(ev, 0), TB_EOPTION);
    assert_int_equal(tb_ev_signal(ev, -1), TB_EOPTION);
    assert_int_equal(tb_ev_signal(ev, 1000), TB_EOPTION);
    assert_int_equal(tb_ev_signal(ev, SIGKILL), TB_EOPTION);
    assert_int_equal(tb_ev_signal(ev, SIGSTOP), TB_EOPTION);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(tb_ev_signal(ev, SIGRTMIN + i), TB_OK);
    }
    assert_int_equal(tb_ev_signal(ev, SIGUSR1), TB_EFULL);
}

static void a_freed_driver_gives_a_signal_its_default_action_back(void **state)
{
    (void)state;
    tb_ev *ev = tb_ev_new(1);
    assert_int_equal(tb_ev_signal(ev, SIGUSR1), TB_OK);
    tb_ev_free(ev);
    struct sigaction action;
    sigaction(SIGUSR1, NULL, &action);
    assert_true(action.sa_handler == SIG_DFL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_DRIVER(a_readable_pipe_is_reported_once),
        WITH_DRIVER(the_end_of_a_pipe_is_reported),
        WITH_DRIVER(a_plain_file_is_always_readable),
        WITH_DRIVER(a_descriptor_that_is_not_open_is_refused),
        WITH_DRIVER(watches_eight_descriptors_and_refuses_the_ninth),
        WITH_DRIVER(a_reused_descriptor_number_is_watched_anew),
        WITH_DRIVER(a_full_pipe_is_reported_once_when_it_takes_bytes_again),
        WITH_DRIVER(a_pipe_that_nobody_reads_any_more_is_reported_to_its_writer),
        WITH_DRIVER(a_plain_file_always_takes_bytes),
        WITH_DRIVER(a_descriptor_is_watched_for_reading_or_for_writing),
        WITH_DRIVER(a_foreign_loop_sees_a_pipe_that_takes_bytes_again),
        WITH_DRIVER(an_attached_descriptor_ends_waits_as_long_as_it_is_readable),
        WITH_DRIVER(an_attached_descriptor_shows_to_a_foreign_loop),
        WITH_DRIVER(attaching_takes_a_place_and_detaching_gives_it_back),
        WITH_DRIVER(a_signal_becomes_an_event),
        WITH_DRIVER(unreported_signals_are_counted_and_keep_waits_short),
        WITH_DRIVER(only_signals_that_can_be_caught_are_taken),
        cmocka_unit_test(a_freed_driver_gives_a_signal_its_default_action_back),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("ev_watch", tests, NULL, NULL);
}
