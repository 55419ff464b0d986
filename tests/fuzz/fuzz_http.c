/* fuzz_http.c - what a server, or whoever plays it, may answer: any bytes, in any pieces, through one end of a socket
 * pair. A request ends, one way or the other; what is read of it keeps to its bounds; the client goes on.
 *
 * The first byte says how long the pieces are, the second how large a body may be and whether the server goes away.
 * libcurl's socket() and connect() are the program's.
 */
#include "tokenbatcher_http.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int server = -1; /* the other end of the latest connection */

static int pair(int type)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | (type & SOCK_CLOEXEC), 0, ends)) return -1;
    if (server >= 0) close(server);
    server = ends[1];
    return ends[0];
}

/* Sockets of libcurl's that it asks only whether there is such a family are pairs, too. */
int socket(int domain, int type, int protocol)
{
    (void)domain;
    (void)protocol;
    return pair(type);
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
    (void)fd;
    (void)address;
    (void)size;
    return 0;
}

/* Options of TCP that a pair has not. */
int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    (void)fd, (void)level, (void)name, (void)value, (void)size;
    return 0;
}

static void check(const tb_http_response *response, int64_t most)
{
    assert(response->outcome <= TB_HTTP_NO_MEMORY);
    assert((response->body != NULL) == (response->body_size > 0));
    assert(response->body_size <= (uint64_t)most);
    assert(response->headers_size <= TB_HTTP_HEADERS_BYTES);
    assert(response->error && strlen(response->error) <= 255);
    assert((response->outcome == TB_HTTP_DONE) == (response->error[0] == '\0'));
    assert(response->outcome != TB_HTTP_DONE || response->status > 0);
    assert(response->retry_after_s >= 0);
    assert(!memchr(response->error, '\n', strlen(response->error)));
    char *copy = malloc(response->body_size + response->headers_size + 1); /* all of it can be read */
    assert(copy);
    if (response->body) memcpy(copy, response->body, response->body_size);
    if (response->headers) memcpy(copy + response->body_size, response->headers, response->headers_size);
    free(copy);
}

/* Turns until the request has ended, or nothing more is to come and nothing happens. */
static bool has_ended(tb_http *http, double id, int wait_ms)
{
    double done;
    struct pollfd p = {.fd = tb_http_fd(http), .events = POLLIN};
    if (tb_http_next(http) != 0) poll(&p, 1, wait_ms);
    if (tb_http_turn(http, &done, 1) == 0) return false;
    assert(done == id);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    tb_http *http = tb_http_new(); /* one that has no connection from before */
    assert(http);
    size_t piece = data[0] ? data[0] : size;
    int64_t most = data[1] & 1 ? 64 : 65536;
    bool stays = data[1] & 2;
    tb_http_request request = {.url = "http://127.0.0.1:1/", .max_response_bytes = most, .headers = "X: y\n",
                               .timeout_us = stays ? 20000 : 2000000, .flags = data[1] & 4 ? TB_HTTP_POST_METHOD : 0};
    double id = tb_http_start(http, &request);
    assert(id > 0);
    bool ended = has_ended(http, id, 0);
    for (size_t at = 2; at < size && !ended && server >= 0; at += piece) {
        size_t n = piece < size - at ? piece : size - at;
        if (send(server, data + at, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
        ended = has_ended(http, id, 0);
    }
    if (!stays && server >= 0) {
        close(server);
        server = -1;
    }
    while (!ended) ended = has_ended(http, id, 50);
    tb_http_response response;
    assert(tb_http_read(http, id, &response) == 1);
    check(&response, most);
    assert(tb_http_release(http, id) == 1);
    assert(tb_http_read(http, id, &response) == 0);
    tb_http_free(http);
    return 0;
}

#include "replay.h"
