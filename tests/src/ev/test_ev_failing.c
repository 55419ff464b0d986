/* test_ev_failing.c - a driver when memory, descriptors and system calls run out: what is refused has changed nothing,
 * and works when there are some again.
 */
#include "../failing.h"
#include "test_ev.h"

#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

FAILING(int, epoll_create1, -1, (int flags), (flags))
FAILING_IF(what != EPOLL_CTL_DEL, int, epoll_ctl, -1, (int set, int what, int fd, struct epoll_event *event),
           (set, what, fd, event))
FAILING(int, eventfd, -1, (unsigned count, int flags), (count, flags))
FAILING(int, timerfd_create, -1, (int clock, int flags), (clock, flags))
FAILING(int, pthread_mutex_init, ENOMEM, (pthread_mutex_t *lock, const pthread_mutexattr_t *given), (lock, given))

static tb_ev *new_in_spite(void)
{
    tb_ev *ev = tb_ev_new(SMALL_INBOX);
    if (ev) return ev;
    assert_true(recovers());
    ev = tb_ev_new(SMALL_INBOX);
    assert_non_null(ev);
    return ev;
}

static void story(void)
{
    int ends[2];
    tb_ev_event event = {0};
    tb_post post;
    tb_ev *ev = new_in_spite();
    assert_int_equal(pipe(ends), 0);
    if (tb_ev_watch(ev, ends[0]) != TB_OK) {
        assert_true(recovers());
        assert_int_equal(tb_ev_watch(ev, ends[0]), TB_OK);
    }
    post_tag(ev, 7);
    if (tb_ev_fd(ev) < 0) {
        assert_int_equal(errno, ENOMEM);
        assert_true(recovers());
    }
    assert_true(tb_ev_fd(ev) >= 0);
    assert_int_equal(tb_ev_fd(ev), tb_ev_fd(ev));
    await_readable(ev); /* of the post, at the least */
    assert_int_equal(write(ends[1], "x", 1), 1);
    assert_int_equal(tb_ev_take(ev, &post, 1), 1);
    assert_true(post.tag == 7);
    event = await_event(ev); /* epoll that could not take it leaves it to a turn */
    assert_true(event.kind == TB_EV_READABLE && event.value == ends[0]);
    close(ends[0]);
    close(ends[1]);
    tb_ev_free(ev);
}

static void whatever_fails_it_goes_on(void **state)
{
    (void)state;
    uint64_t calls = tell_until_nothing_fails(story);
    print_message("  %d calls, each of them failed once\n", (int)calls);
    assert_true(calls >= 6);
}

static void the_same_file(void **state)
{
    (void)state;
    char path[] = "/tmp/tb_ev_XXXXXX", other[] = "/tmp/tb_ev_XXXXXX";
    int fd = mkstemp(path), fd_too = mkstemp(other), ends[2];
    assert_true(fd >= 0 && fd_too >= 0 && pipe(ends) == 0);
    assert_int_equal(tb_ev_same_file(fd, path), 1);
    assert_int_equal(tb_ev_same_file(fd, other), 0);
    assert_int_equal(tb_ev_same_file(ends[0], path), 0);
    assert_int_equal(tb_ev_same_file(fd, "/nowhere/at/all"), 0);
    assert_int_equal(tb_ev_same_file(-1, path), 0);
    unlink(other);
    assert_int_equal(link(path, other), 0); /* another name */
    assert_int_equal(tb_ev_same_file(fd, other), 1);
    unlink(path);
    unlink(other);
    close(fd), close(fd_too), close(ends[0]), close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_fails_it_goes_on),
        cmocka_unit_test(the_same_file),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("ev_failing", tests, NULL, NULL);
}
