/* test_redis_failing.c - a connection to Redis when memory, descriptors, threads and system calls run out: each ends it
 * with a sentence, or is refused, and opened again it works.
 */
#include "../failing.h"
#include "test_redis.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

FAILING(int, epoll_create1, -1, (int flags), (flags))
FAILING_IF(what != EPOLL_CTL_DEL, int, epoll_ctl, -1, (int set, int what, int fd, struct epoll_event *event),
           (set, what, fd, event))
FAILING(int, eventfd, -1, (unsigned count, int flags), (count, flags))
FAILING(int, socket, -1, (int domain, int type, int protocol), (domain, type, protocol))
FAILING(int, connect, -1, (int fd, const struct sockaddr *at, socklen_t size), (fd, at, size))
FAILING(ssize_t, send, -1, (int fd, const void *data, size_t size, int flags), (fd, data, size, flags))
FAILING(ssize_t, recv, -1, (int fd, void *data, size_t size, int flags), (fd, data, size, flags))
FAILING(int, pthread_create, EAGAIN,
        (pthread_t *thread, const pthread_attr_t *given, void *(*run)(void *), void *data), (thread, given, run, data))

enum { LARGE = 300000 };

static int listener = -1;
static tb_redis_address address;
static char large[LARGE];

static tb_redis *new_in_spite(void)
{
    tb_redis *redis = tb_redis_new();
    if (redis) return redis;
    assert_true(recovers());
    redis = tb_redis_new();
    assert_non_null(redis);
    return redis;
}

/* Has it closed? Then something had failed, and there is a sentence. */
static bool has_closed(tb_redis *redis)
{
    if (tb_redis_state(redis) != TB_REDIS_CLOSED) return false;
    assert_true(tb_redis_error(redis)[0] != '\0');
    if (!recovers()) fail_msg("nothing has failed, and yet: %s", tb_redis_error(redis));
    return true;
}

static uint32_t turn(tb_redis *redis)
{
    struct pollfd wait = {tb_redis_fd(redis), POLLIN, 0};
    poll(&wait, 1, tb_redis_next(redis) == 0 ? 0 : 10);
    return tb_redis_turn(redis);
}

/* Redis's side of one exchange: it reads until the command's end, and answers. A connection that was given up before
 * it was accepted is left. */
static void serve_one(int *server, size_t *came)
{
    static char bytes[65536];
    if (*server < 0) *server = accept(listener, NULL, NULL);
    ssize_t n = *server < 0 ? -1 : __real_recv(*server, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n == 0) {
        close(*server);
        *server = -1;
        *came = 0;
    }
    if (n <= 0) return;
    *came += (size_t)n;
    if (*came > LARGE && memcmp(bytes + n - 2, "\r\n", 2) == 0) {
        *came = 0;
        static const char REPLY[] = "*2\r\n$5\r\nhello\r\n:7\r\n";
        __real_send(*server, REPLY, sizeof REPLY - 1, MSG_NOSIGNAL);
    }
}

/* True: it was answered. False: the connection had to be closed. */
static bool exchange(tb_redis *redis)
{
    size_t came = 0;
    uint32_t count = 0;
    int refused = tb_redis_open(redis, &address);
    if (refused) {
        assert_int_equal(refused, TB_REDIS_EMEMORY);
        assert_true(recovers());
        return false;
    }
    int server = -1;
    bool asked_already = false, is_answered = false;
    while (!has_closed(redis) && !is_answered) {
        if (tb_redis_state(redis) == TB_REDIS_OPEN && !asked_already) {
            asked_already = true;
            assert_int_equal(tb_redis_begin(redis, 2), 0);
            tb_redis_word(redis, "ECHO", 4);
            tb_redis_word(redis, large, sizeof large);
        }
        serve_one(&server, &came);
        if (turn(redis) == 0) continue;
        const tb_redis_node *nodes = tb_redis_reply(redis, &count);
        assert_non_null(nodes);
        assert_int_equal(count, 3);
        assert_text(&nodes[1], TB_REDIS_STRING, "hello");
        assert_true(nodes[2].number == 7);
        is_answered = true;
    }
    if (server >= 0) close(server);
    return is_answered;
}

static void story(void)
{
    tb_redis *redis = new_in_spite();
    int tries = 0;
    while (!exchange(redis)) {
        if (++tries > 3) fail_msg("call %d: %s", (int)fail_at, tb_redis_error(redis));
    }
    tb_redis_close(redis);
    assert_true(exchange(redis) || exchange(redis));
    tb_redis_free(redis);
}

static void tell(const char *how, uint64_t least)
{
    memset(large, 'x', sizeof large);
    uint64_t calls = tell_until_nothing_fails(story);
    print_message("  %s: %d calls, each of them failed once\n", how, (int)calls);
    assert_true(calls >= least);
}

static void through_a_unix_socket(void **state)
{
    struct rig *rig = *state;
    listener = rig->listener;
    assert_int_equal(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
    address = address_of(rig);
    tell("a unix socket", 15);
}

static void by_a_name(void **state)
{
    (void)state;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    listener = __real_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(listener, 8), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &size), 0);
    address = (tb_redis_address){.host = "localhost", .port = ntohs(at.sin_port), .connect_timeout_us = 5 * US_PER_S,
                                 .silence_us = 5 * US_PER_S};
    tell("a name that is looked up", 15);
    close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {T(through_a_unix_socket), T(by_a_name)};
    alarm(HANGS_AFTER_MS / 1000 * 6);
    return cmocka_run_group_tests_name("redis_failing", tests, NULL, NULL);
}
