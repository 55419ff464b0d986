/* test_listen.h - what the tests of the HTTP server share: a listener, and clients that the test
 * plays itself, byte by byte, in the same thread.
 */
#ifndef TEST_LISTEN_H
#define TEST_LISTEN_H

#include "tokenbatcher_listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { HANGS_AFTER_S = 120, BUFFER = 262144, US_PER_S = 1000000 };

struct rig {
    tb_listen *listen;
    int port;
    char text[BUFFER];
};

static inline int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * US_PER_S + now.tv_nsec / 1000;
}

static inline int set_up(void **state)
{
    struct rig *rig = calloc(1, sizeof *rig);
    tb_listen_options options = {.host = "127.0.0.1"};
    char err[256];
    alarm(HANGS_AFTER_S);
    if (tb_listen_open(&rig->listen, &options, err, sizeof err) != 0) {
        print_error("%s\n", err);
        return -1;
    }
    rig->port = atoi(strrchr(tb_listen_address(rig->listen), ':') + 1);
    *state = rig;
    return 0;
}

static inline int tear_down(void **state)
{
    struct rig *rig = *state;
    tb_listen_free(rig->listen);
    free(rig);
    alarm(0);
    return 0;
}

static inline int join(const struct rig *rig)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)rig->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

static inline void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* What a loop does: sleep until the descriptor or the time says so, at most `most_ms`, then turn. */
static inline uint32_t wait_and_turn(struct rig *rig, double *ids, uint32_t max, int most_ms)
{
    int64_t next_us = tb_listen_next(rig->listen), left_us = next_us - now_us();
    int ms = next_us < 0 ? most_ms : left_us <= 0 ? 0 : (int)(left_us / 1000) + 1;
    struct pollfd wait = {.fd = tb_listen_fd(rig->listen), .events = POLLIN};
    poll(&wait, 1, ms < most_ms ? ms : most_ms);
    return tb_listen_turn(rig->listen, ids, max);
}

/* The id of the next request. */
static inline double await_request(struct rig *rig)
{
    double id = 0;
    while (wait_and_turn(rig, &id, 1, 1000) == 0) {
    }
    return id;
}

static inline tb_listen_request read_request(struct rig *rig, double id)
{
    tb_listen_request request;
    assert_int_equal(tb_listen_read(rig->listen, id, &request), 1);
    return request;
}

static inline void answer(struct rig *rig, double id, const char *body)
{
    tb_listen_response response = {.status = 200, .headers = "Content-Type: text/plain\nX-One: 1\n", .body = body,
                                   .body_size = strlen(body)};
    assert_int_equal(tb_listen_answer(rig->listen, id, &response), 0);
}

/* Turn until what the client has got holds `end`, or its connection has ended. All of it. */
static inline const char *hear(struct rig *rig, int fd, const char *end)
{
    size_t size = 0;
    rig->text[0] = '\0';
    while (!strstr(rig->text, end)) {
        double id;
        assert_int_equal(wait_and_turn(rig, &id, 1, 1), 0);
        ssize_t got = recv(fd, rig->text + size, BUFFER - 1 - size, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN)) {
            break;
        }
        size += got > 0 ? (size_t)got : 0;
        rig->text[size] = '\0';
    }
    return rig->text;
}

/* Turn until the client's connection has ended. */
static inline void await_end(struct rig *rig, int fd)
{
    char bytes[4096];
    ssize_t got;
    double id;
    do {
        assert_int_equal(wait_and_turn(rig, &id, 1, 50), 0);
        got = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    } while (got > 0 || (got < 0 && errno == EAGAIN));
}

/* The id of a stream that has begun. */
static inline double open_stream(struct rig *rig, int fd)
{
    say(fd, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    double id = await_request(rig);
    tb_listen_response response = {.status = 200, .headers = "Content-Type: text/event-stream\n", .body = "begin",
                                   .body_size = 5, .flags = TB_LISTEN_STREAM};
    assert_int_equal(tb_listen_answer(rig->listen, id, &response), 0);
    return id;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
