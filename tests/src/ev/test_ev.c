/* test_ev.c - the libev driver in one thread: deadlines, wake-ups, the inbox, foreign
 * loops. test_ev_watch.c has descriptors and signals, test_ev_threads.c the threads.
 *
 * No result depends on how long something takes: a wait that never ends is stopped by
 * the alarm set in main().
 */
#include "test_ev.h"

#include <pthread.h>
#include <sys/resource.h>

/* --- Life and deadlines -------------------------------------------------- */

static void refuses_a_capacity_outside_its_bounds(void **state)
{
    (void)state;
    assert_null(tb_ev_new(0));
    assert_null(tb_ev_new((1u << 20) + 1));
    tb_ev *largest = tb_ev_new(1u << 20);
    assert_non_null(largest);
    tb_ev_free(largest);
    tb_ev_free(NULL);
}

static void without_descriptors_there_is_no_driver_and_nothing_leaks(void **state)
{
    (void)state;
    struct rlimit before, tight;
    getrlimit(RLIMIT_NOFILE, &before);
    int next_fd = dup(0);
    close(next_fd);
    for (int spare = 0; spare < 8; spare++) {
        tight = before;
        tight.rlim_cur = (rlim_t)next_fd + (rlim_t)spare;
        setrlimit(RLIMIT_NOFILE, &tight);
        tb_ev *ev = tb_ev_new(1);
        assert_true(ev != NULL || spare < 4);
        assert_true(ev == NULL || spare >= 2);
        tb_ev_free(ev);
    }
    setrlimit(RLIMIT_NOFILE, &before);
    int same_fd = dup(0);
    close(same_fd);
    assert_int_equal(same_fd, next_fd);
}

static void a_deadline_in_the_past_never_blocks(void **state)
{
    tb_ev *ev = *state;
    tb_ev_wait(ev, 0);
    tb_ev_wait(ev, 1);
    tb_ev_wait(ev, INT64_MIN);
    tb_ev_wait(ev, tb_ev_now());
    tb_ev_fd(ev);
    tb_ev_wait(ev, 0);
    tb_ev_wait(ev, INT64_MIN);
    tb_ev_wait(ev, tb_ev_now());
}

static void a_deadline_ends_a_wait_and_not_before_it_has_come(void **state)
{
    tb_ev *ev = *state;
    for (int i = 0; i < 50; i++) {
        int64_t deadline_us = tb_ev_now() + 300;
        tb_ev_wait(ev, deadline_us);
        assert_true(tb_ev_now() >= deadline_us);
        tb_ev_wait(ev, deadline_us); /* the same again: it has passed */
    }
}

static void an_old_deadline_does_not_end_a_wait_for_a_later_one(void **state)
{
    tb_ev *ev = *state;
    int64_t early_us = tb_ev_now() + 200;
    tb_ev_wait(ev, early_us);
    int64_t late_us = tb_ev_now() + 3000;
    tb_ev_wait(ev, late_us);
    assert_true(tb_ev_now() >= late_us);
}

/* --- Wake-ups ------------------------------------------------------------- */

static void a_wake_before_a_wait_is_not_lost(void **state)
{
    tb_ev *ev = *state;
    tb_ev_wake(ev);
    tb_ev_wake(ev);
    tb_ev_wait(ev, TB_NEVER_US);
    int64_t deadline_us = tb_ev_now() + 500;
    tb_ev_wait(ev, deadline_us);
    assert_true(tb_ev_now() >= deadline_us); /* the two wakes were one */
}

static void a_wake_between_wait_and_take_is_not_lost(void **state)
{
    tb_ev *ev = *state;
    tb_post post;
    post_tag(ev, 1);
    tb_ev_wait(ev, TB_NEVER_US);
    tb_ev_wake(ev);
    assert_int_equal(tb_ev_take(ev, &post, 1), 1);
    assert_true(polls_readable(ev));
    tb_ev_wait(ev, TB_NEVER_US);
    assert_false(polls_readable(ev));
}

static tb_ev *woken_by_handler;

static void wake_in_handler(int signum)
{
    (void)signum;
    tb_ev_wake(woken_by_handler);
}

static void a_signal_handler_may_wake(void **state)
{
    tb_ev *ev = *state;
    struct sigaction action = {.sa_handler = wake_in_handler}, before;
    woken_by_handler = ev;
    assert_int_equal(sigaction(SIGUSR2, &action, &before), 0);
    assert_int_equal(pthread_kill(pthread_self(), SIGUSR2), 0);
    tb_ev_wait(ev, TB_NEVER_US);
    sigaction(SIGUSR2, &before, NULL);
}

/* --- The inbox ------------------------------------------------------------ */

static void a_full_inbox_refuses_and_loses_nothing(void **state)
{
    tb_ev *ev = *state;
    tb_post extra = {.tag = 99}, posts[SMALL_INBOX + 1];
    for (uint64_t round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < SMALL_INBOX; i++) {
            post_tag(ev, i + round);
        }
        assert_int_equal(tb_ev_post(ev, &extra), TB_EFULL);
        assert_int_equal(tb_ev_take(ev, posts, 1), 1);
        post_tag(ev, SMALL_INBOX + round);
        assert_int_equal(tb_ev_post(ev, &extra), TB_EFULL);
        assert_int_equal(tb_ev_take(ev, posts + 1, SMALL_INBOX), SMALL_INBOX);
        for (uint64_t i = 0; i <= SMALL_INBOX; i++) {
            assert_int_equal(posts[i].tag, i + round);
        }
        assert_int_equal(tb_ev_take(ev, posts, SMALL_INBOX), 0);
    }
}

static void a_post_comes_out_as_it_went_in_but_for_its_time(void **state)
{
    tb_ev *ev = *state;
    tb_post in = {.record = {.cost = 7, .priority = -2, .timeout_us = 5, .submitted_us = 1,
                             .key = 3, .flags = TB_MAY_WAIT},
                  .tag = UINT64_MAX};
    tb_post out;
    int64_t before_us = tb_ev_now();
    assert_int_equal(tb_ev_post(ev, &in), TB_OK);
    assert_int_equal(in.record.submitted_us, 1);
    assert_int_equal(tb_ev_take(ev, &out, 1), 1);
    assert_in_range(out.record.submitted_us, before_us, tb_ev_now());
    out.record.submitted_us = 1;
    assert_memory_equal(&in, &out, sizeof in);
}

static void a_wait_does_not_block_while_posts_are_untaken(void **state)
{
    tb_ev *ev = *state;
    tb_post post;
    post_tag(ev, 1);
    post_tag(ev, 2);
    tb_ev_wait(ev, TB_NEVER_US);
    assert_int_equal(tb_ev_take(ev, &post, 1), 1);
    tb_ev_wait(ev, TB_NEVER_US);
    tb_ev_wait(ev, TB_NEVER_US);
    assert_int_equal(tb_ev_take(ev, &post, 1), 1);
    assert_int_equal(post.tag, 2);
    int64_t deadline_us = tb_ev_now() + 500;
    tb_ev_wait(ev, deadline_us);
    assert_true(tb_ev_now() >= deadline_us);
}

/* --- Foreign loops ------------------------------------------------------------ */

static void without_work_the_descriptor_is_not_readable(void **state)
{
    tb_ev *ev = *state;
    assert_true(tb_ev_fd(ev) >= 0);
    assert_int_equal(tb_ev_fd(ev), tb_ev_fd(ev));
    assert_false(polls_readable(ev));
    tb_ev_arm(ev, tb_ev_now() + 3600 * INT64_C(1000000));
    assert_false(polls_readable(ev));
    tb_ev_arm(ev, INT64_MAX);
    assert_false(polls_readable(ev));
}

static void the_descriptor_is_readable_from_a_wake_to_the_next_wait(void **state)
{
    tb_ev *ev = *state;
    tb_ev_wake(ev);
    assert_true(polls_readable(ev));
    assert_true(polls_readable(ev));
    tb_ev_wait(ev, TB_NEVER_US);
    assert_false(polls_readable(ev));
    tb_ev_wake(ev);
    assert_true(polls_readable(ev));
}

static void the_descriptor_is_readable_once_the_deadline_has_come(void **state)
{
    tb_ev *ev = *state;
    int64_t deadline_us = tb_ev_now() + 500;
    tb_ev_arm(ev, deadline_us); /* before the descriptor is made */
    await_readable(ev);
    assert_true(tb_ev_now() >= deadline_us);
    tb_ev_arm(ev, TB_NEVER_US);
    assert_false(polls_readable(ev));
    tb_ev_arm(ev, tb_ev_now() + 500); /* and after */
    await_readable(ev);
    tb_ev_arm(ev, TB_NEVER_US);
    tb_ev_wait(ev, 1); /* the deadline of a wait counts as well */
    assert_true(polls_readable(ev));
    tb_ev_arm(ev, TB_NEVER_US);
    assert_false(polls_readable(ev));
}

static void the_descriptor_is_readable_until_the_last_post_is_taken(void **state)
{
    tb_ev *ev = *state;
    tb_post post;
    post_tag(ev, 1);
    assert_true(polls_readable(ev));
    post_tag(ev, 2);
    tb_ev_wait(ev, TB_NEVER_US);
    assert_true(polls_readable(ev));
    tb_ev_take(ev, &post, 1);
    assert_true(polls_readable(ev));
    tb_ev_take(ev, &post, 1);
    assert_false(polls_readable(ev));
    post_tag(ev, 3);
    assert_true(polls_readable(ev));
}

static void the_descriptor_is_readable_until_the_last_event_is_reported(void **state)
{
    tb_ev *ev = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(tb_ev_watch(ev, ends[0]), TB_OK); /* before the descriptor is made */
    assert_false(polls_readable(ev));
    assert_int_equal(write(ends[1], "x", 1), 1);
    assert_true(polls_readable(ev));
    tb_ev_wait(ev, TB_NEVER_US);
    assert_true(polls_readable(ev));
    tb_ev_event event;
    assert_int_equal(tb_ev_poll(ev, &event, 1), 1);
    assert_false(polls_readable(ev));
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_a_capacity_outside_its_bounds),
        cmocka_unit_test(without_descriptors_there_is_no_driver_and_nothing_leaks),
        WITH_DRIVER(a_deadline_in_the_past_never_blocks),
        WITH_DRIVER(a_deadline_ends_a_wait_and_not_before_it_has_come),
        WITH_DRIVER(an_old_deadline_does_not_end_a_wait_for_a_later_one),
        WITH_DRIVER(a_wake_before_a_wait_is_not_lost),
        WITH_DRIVER(a_wake_between_wait_and_take_is_not_lost),
        WITH_DRIVER(a_signal_handler_may_wake),
        WITH_DRIVER(a_full_inbox_refuses_and_loses_nothing),
        WITH_DRIVER(a_post_comes_out_as_it_went_in_but_for_its_time),
        WITH_DRIVER(a_wait_does_not_block_while_posts_are_untaken),
        WITH_DRIVER(without_work_the_descriptor_is_not_readable),
        WITH_DRIVER(the_descriptor_is_readable_from_a_wake_to_the_next_wait),
        WITH_DRIVER(the_descriptor_is_readable_once_the_deadline_has_come),
        WITH_DRIVER(the_descriptor_is_readable_until_the_last_post_is_taken),
        WITH_DRIVER(the_descriptor_is_readable_until_the_last_event_is_reported),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("ev", tests, NULL, NULL);
}
