/* test_ev_threads.c - the libev driver and other threads: wake-ups and posts.
 *
 * A lost wake-up shows as a wait that never ends; the alarm set in main() stops it.
 */
#include "tokenbatcher_ev.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    HANGS_AFTER_S = 300,
    PRODUCERS = 4,
    POSTS_EACH = 20000,
    PRODUCED = PRODUCERS * POSTS_EACH,
    WAKE_ROUNDS = 300
};

static void *wake_once(void *ev)
{
    tb_ev_wake(ev);
    return NULL;
}

static void a_wake_from_another_thread_ends_a_wait(void **state)
{
    (void)state;
    tb_ev *ev = tb_ev_new(1);
    assert_non_null(ev);
    for (int i = 0; i < WAKE_ROUNDS; i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, wake_once, ev), 0);
        tb_ev_wait(ev, TB_NEVER_US);
        pthread_join(thread, NULL);
        tb_ev_wait(ev, 0); /* a wake-up may come in two: forget the rest */
    }
    tb_ev_free(ev);
}

struct producer {
    pthread_t thread;
    tb_ev *ev;
    uint64_t number;
};

static void *produce(void *argument)
{
    struct producer *p = argument;
    for (uint64_t i = 0; i < POSTS_EACH; i++) {
        tb_post post = {.record = {.cost = 1}, .tag = p->number << 32 | i};
        while (tb_ev_post(p->ev, &post) == TB_EFULL) {
            sched_yield();
        }
    }
    return NULL;
}

struct intake {
    uint64_t next[PRODUCERS]; /* the number that each producer's next post must have */
    uint64_t taken;
    int64_t began_us;
};

static void take_and_check(tb_ev *ev, struct intake *in)
{
    tb_post posts[64];
    uint32_t n = tb_ev_take(ev, posts, 64);
    int64_t now_us = tb_ev_now();
    for (uint32_t i = 0; i < n; i++) {
        uint64_t producer = posts[i].tag >> 32;
        assert_in_range(producer, 0, PRODUCERS - 1);
        assert_int_equal(posts[i].tag & UINT32_MAX, in->next[producer]);
        in->next[producer]++;
        assert_in_range(posts[i].record.submitted_us, in->began_us, now_us);
    }
    in->taken += n;
}

/* `sleep_until_work` is where a lost wake-up would hang. */
static void take_from_producers(uint32_t capacity, void (*sleep_until_work)(tb_ev *))
{
    tb_ev *ev = tb_ev_new(capacity);
    assert_non_null(ev);
    struct producer producers[PRODUCERS];
    struct intake in = {.began_us = tb_ev_now()};
    for (uint64_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.ev = ev, .number = i};
        assert_int_equal(pthread_create(&producers[i].thread, NULL, produce, &producers[i]), 0);
    }
    while (in.taken < PRODUCED) {
        sleep_until_work(ev);
        take_and_check(ev, &in);
    }
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(producers[i].thread, NULL);
        assert_int_equal(in.next[i], POSTS_EACH);
    }
    tb_ev_free(ev);
}

static void sleep_in_wait(tb_ev *ev)
{
    tb_ev_wait(ev, TB_NEVER_US);
}

static void sleep_in_foreign_loop(tb_ev *ev)
{
    struct pollfd p = {.fd = tb_ev_fd(ev), .events = POLLIN};
    while (poll(&p, 1, -1) != 1) {
    }
    tb_ev_wait(ev, tb_ev_now());
    tb_ev_arm(ev, TB_NEVER_US);
}

static void posts_of_many_threads_arrive_complete_and_in_order(void **state)
{
    (void)state;
    take_from_producers(1024, sleep_in_wait);
    take_from_producers(3, sleep_in_wait);
}

static void a_foreign_loop_misses_no_post_of_many_threads(void **state)
{
    (void)state;
    take_from_producers(1024, sleep_in_foreign_loop);
    take_from_producers(3, sleep_in_foreign_loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wake_from_another_thread_ends_a_wait),
        cmocka_unit_test(posts_of_many_threads_arrive_complete_and_in_order),
        cmocka_unit_test(a_foreign_loop_misses_no_post_of_many_threads),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("ev_threads", tests, NULL, NULL);
}
