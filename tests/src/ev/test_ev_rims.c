/* test_ev_rims.c - what lies at a rim of the driver: a wait without an end, the time 0, errno of who was interrupted,
 * an inbox of one. */
#include "test_ev.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>

struct sleeper {
    tb_ev *ev;
    long thread; /* of the waiting one, by the kernel's number */
    atomic_bool was_seen_asleep;
};

static bool is_asleep(long thread)
{
    char path[64], line[512] = {0};
    snprintf(path, sizeof path, "/proc/self/task/%ld/stat", thread);
    FILE *file = fopen(path, "r");
    if (!file) return false;
    size_t size = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    const char *end = size > 0 ? strrchr(line, ')') : NULL;
    return end && end[2] == 'S';
}

static void *wake_once_asleep(void *argument)
{
    struct sleeper *s = argument;
    while (!is_asleep(s->thread)) continue;
    atomic_store(&s->was_seen_asleep, true);
    tb_ev_wake(s->ev);
    return NULL;
}

static void a_wait_without_an_end_sleeps_until_it_is_woken(void **state)
{
    struct sleeper s = {.ev = *state, .thread = syscall(SYS_gettid)};
    pthread_t waker;
    assert_int_equal(pthread_create(&waker, NULL, wake_once_asleep, &s), 0);
    tb_ev_wait(s.ev, TB_NEVER_US);
    bool was_asleep = atomic_load(&s.was_seen_asleep);
    pthread_join(waker, NULL);
    assert_true(was_asleep);
}

static void a_foreign_loop_sees_a_deadline_of_0_as_one_that_has_come(void **state)
{
    tb_ev *ev = *state;
    assert_false(polls_readable(ev));
    tb_ev_arm(ev, 0);
    assert_true(polls_readable(ev));
    tb_ev_arm(ev, TB_NEVER_US);
    assert_false(polls_readable(ev));
}

static void waking_keeps_errno(void **state)
{
    tb_ev *ev = *state;
    errno = EXDEV;
    tb_ev_wake(ev);
    assert_int_equal(errno, EXDEV);
    tb_ev_wake(ev); /* it is raised already */
    assert_int_equal(errno, EXDEV);
}

static void an_inbox_of_one_takes_one(void **state)
{
    (void)state;
    tb_post post = {.tag = 7}, taken[2];
    tb_ev *ev = tb_ev_new(1);
    assert_non_null(ev);
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(tb_ev_post(ev, &post), TB_OK);
        assert_int_equal(tb_ev_post(ev, &post), TB_EFULL);
        assert_int_equal(tb_ev_take(ev, taken, 2), 1);
        assert_true(taken[0].tag == 7);
        assert_int_equal(tb_ev_take(ev, taken, 2), 0);
    }
    tb_ev_free(ev);
    assert_null(tb_ev_new(0));
    ev = tb_ev_new(1 << 20);
    assert_non_null(ev);
    tb_ev_free(ev);
    assert_null(tb_ev_new((1 << 20) + 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_DRIVER(a_wait_without_an_end_sleeps_until_it_is_woken),
        WITH_DRIVER(a_foreign_loop_sees_a_deadline_of_0_as_one_that_has_come),
        WITH_DRIVER(waking_keeps_errno),
        cmocka_unit_test(an_inbox_of_one_takes_one),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("ev_rims", tests, NULL, NULL);
}
