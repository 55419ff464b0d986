/* test_http.h - what the tests of the HTTP client share: a client, and a server that the
 * test plays itself, step by step, in the same thread: what is sent to a loopback socket
 * waits there.
 */
#ifndef TEST_HTTP_H
#define TEST_HTTP_H

#include "tokenbatcher_http.h"

#include <arpa/inet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { HANGS_AFTER_S = 60, US_PER_S = 1000000, BUFFER = 65536 };

struct rig {
    tb_http *http;
    int listener;
    char url[64];
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
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    rig->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bind(rig->listener, (struct sockaddr *)&at, sizeof at);
    listen(rig->listener, 16);
    getsockname(rig->listener, (struct sockaddr *)&at, &size);
    snprintf(rig->url, sizeof rig->url, "http://127.0.0.1:%d/path", ntohs(at.sin_port));
    rig->http = tb_http_new();
    *state = rig;
    return rig->http ? 0 : -1;
}

static inline int tear_down(void **state)
{
    struct rig *rig = *state;
    tb_http_free(rig->http);
    close(rig->listener);
    free(rig);
    return 0;
}

static inline tb_http_request asking(const char *url)
{
    return (tb_http_request){.url = url, .max_response_bytes = BUFFER};
}

static inline double start(struct rig *rig)
{
    tb_http_request request = asking(rig->url);
    double id = tb_http_start(rig->http, &request);
    assert_true(id > 0);
    return id;
}

static inline void expect_none(struct rig *rig)
{
    double id;
    assert_int_equal(tb_http_turn(rig->http, &id, 1), 0);
}

/* What a loop does: sleep until the descriptor or the time says so, then turn. */
static inline void wait_and_turn(struct rig *rig, double *id, uint32_t *n)
{
    int64_t next_us = tb_http_next(rig->http);
    int64_t left_us = next_us - now_us();
    int timeout_ms = next_us < 0 ? -1 : left_us <= 0 ? 0 : (int)((left_us + 999) / 1000);
    struct pollfd p = {.fd = tb_http_fd(rig->http), .events = POLLIN};
    poll(&p, 1, timeout_ms);
    *n = tb_http_turn(rig->http, id, 1);
}

static inline tb_http_response await(struct rig *rig, double id)
{
    double finished = 0;
    uint32_t n = 0;
    while (n == 0) {
        wait_and_turn(rig, &finished, &n);
    }
    assert_true(finished == id);
    tb_http_response response;
    assert_int_equal(tb_http_read(rig->http, id, &response), 1);
    return response;
}

/* Accept the connection of a request, and read the request into `text`. */
static inline void read_request(struct rig *rig, int connection, char *text)
{
    size_t size = 0;
    text[0] = '\0';
    while (!strstr(text, "\r\n\r\n")) {
        expect_none(rig);
        ssize_t got = recv(connection, text + size, BUFFER - 1 - size, MSG_DONTWAIT);
        size += got > 0 ? (size_t)got : 0;
        text[size] = '\0';
    }
}

static inline int accept_request(struct rig *rig, char *text)
{
    int connection = accept(rig->listener, NULL, NULL);
    assert_true(connection >= 0);
    read_request(rig, connection, text);
    return connection;
}

static inline void say(int connection, const char *text)
{
    assert_int_equal(send(connection, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Nothing more comes: the other side has closed. */
static inline bool is_closed(int connection)
{
    char byte;
    return recv(connection, &byte, 1, 0) == 0;
}

#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

#endif
