/* test_ev_away.c - the libev driver of a process that was stopped, or whose loop was busy. */
#include "test_ev.h"

#include <stdlib.h>
#include <sys/wait.h>

enum { DEADLINE_US = 100000 };

/* Says on `ready` that it will wait, then waits once. 0: what arrived was seen with the
 * deadline, not after it. */
static int wait_once(int watched, int ready)
{
    tb_ev *ev = tb_ev_new(SMALL_INBOX);
    tb_ev_event event;
    if (!ev || tb_ev_watch(ev, watched) != TB_OK) return 2;
    int64_t deadline_us = tb_ev_now() + DEADLINE_US;
    if (write(ready, "x", 1) != 1) return 2;
    while (tb_ev_now() < deadline_us) tb_ev_wait(ev, deadline_us);
    int status = tb_ev_poll(ev, &event, 1) == 1 && event.value == watched ? 0 : 1;
    tb_ev_free(ev);
    return status;
}

static char state_of(pid_t pid)
{
    char path[64], state = '?';
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%*d %*s %c", &state), 1);
    fclose(file);
    return state;
}

/* Stop a child that sleeps in its wait, let something arrive and the deadline pass, go on. */
static void stop_and_go_on(pid_t child, int arrival)
{
    int64_t began_us = tb_ev_now();
    while (state_of(child) != 'S') {
    }
    kill(child, SIGSTOP);
    while (state_of(child) != 'T') {
    }
    assert_int_equal(write(arrival, "x", 1), 1);
    while (tb_ev_now() < began_us + 2 * DEADLINE_US) {
    }
    kill(child, SIGCONT);
}

/* R5: completions that have arrived are taken first. */
static void what_arrived_while_the_process_was_stopped_is_seen_with_the_deadline(void **state)
{
    (void)state;
    int arrival[2], ready[2], status;
    char byte;
    assert_int_equal(pipe(arrival) | pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) _exit(wait_once(arrival[0], ready[1]));
    assert_int_equal(read(ready[0], &byte, 1), 1);
    stop_and_go_on(child, arrival[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close(arrival[0]), close(arrival[1]), close(ready[0]), close(ready[1]);
}

static void what_arrived_while_the_loop_was_busy_is_seen_with_the_deadline(void **state)
{
    tb_ev *ev = *state;
    int ends[2];
    tb_ev_event event;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(tb_ev_watch(ev, ends[0]), TB_OK);
    int64_t deadline_us = tb_ev_now() + 1000;
    tb_ev_wait(ev, tb_ev_now());
    assert_int_equal(write(ends[1], "x", 1), 1);
    while (tb_ev_now() < 2 * 1000 + deadline_us) { /* busy */
    }
    tb_ev_wait(ev, deadline_us);
    assert_int_equal(tb_ev_poll(ev, &event, 1), 1);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_arrived_while_the_process_was_stopped_is_seen_with_the_deadline),
        WITH_DRIVER(what_arrived_while_the_loop_was_busy_is_seen_with_the_deadline),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("ev_away", tests, NULL, NULL);
}
