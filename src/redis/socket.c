/* socket.c - the socket of a connection: connecting, writing, reading, and what closes it.
 */
#include "client.h"

#include "../base/clock.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { CHUNK = 65536, CHUNKS = 64 }; /* read at most so much in a turn */

/* What the loop waits for, in the descriptor's epoll set. */
void tb__redis_watch(tb_redis *redis)
{
    int fd = redis->lookup ? tb__redis_lookup_fd(redis->lookup) : redis->socket;
    bool wants_room = redis->state == TB_REDIS_CONNECTING || redis->out.size > redis->out.done;
    uint32_t events = EPOLLIN | (redis->socket >= 0 && wants_room ? EPOLLOUT : 0u);
    if (fd < 0 || events == redis->watched) {
        return;
    }
    struct epoll_event event = {.events = events};
    int done = epoll_ctl(redis->epoll_fd, redis->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
    redis->watched = events;
    if (done != 0) {
        tb__redis_fail(redis, "the loop cannot wait for it", strerror(errno));
    }
}

/* A descriptor that is closed leaves the set by itself, unless another process has it, too. */
static void unwatch(tb_redis *redis, int fd)
{
    if (redis->watched) {
        epoll_ctl(redis->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
        redis->watched = 0;
    }
}

static void close_socket(tb_redis *redis)
{
    if (redis->socket >= 0) {
        unwatch(redis, redis->socket);
        close(redis->socket);
        redis->socket = -1;
    }
}

void tb__redis_shut(tb_redis *redis)
{
    close_socket(redis);
    if (redis->lookup) {
        unwatch(redis, tb__redis_lookup_fd(redis->lookup));
        tb__redis_lookup_leave(redis->lookup);
        redis->lookup = NULL;
    }
    tb__redis_empty(&redis->out);
    redis->state = TB_REDIS_CLOSED;
    redis->late_us = -1;
    redis->owed = redis->words_left = 0;
    redis->is_out_of_memory = false;
}

void tb__redis_fail(tb_redis *redis, const char *what, const char *detail)
{
    snprintf(redis->error, sizeof redis->error, "%s%s%s", what, detail ? ": " : "", detail ? detail : "");
    tb__redis_shut(redis);
}

/* --- connecting ------------------------------------------------------------------ */

static bool begin(tb_redis *redis, const struct tb__redis_address *address)
{
    int on = 1, family = address->at.ss_family;
    redis->socket = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (redis->socket < 0) {
        return false;
    }
    if (family != AF_UNIX) {
        setsockopt(redis->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(redis->socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    }
    return connect(redis->socket, (const struct sockaddr *)&address->at, address->size) == 0 || errno == EINPROGRESS;
}

/* A unix socket whose queue is full says EAGAIN: it is tried again by whoever opens it again. */
void tb__redis_connect(tb_redis *redis)
{
    assert(redis->socket < 0 && redis->address_count > 0);
    redis->state = TB_REDIS_CONNECTING;
    while (redis->address_next < redis->address_count) {
        if (begin(redis, &redis->addresses[redis->address_next++])) {
            tb__redis_watch(redis);
            return;
        }
        int why = errno;
        close_socket(redis);
        if (redis->address_next == redis->address_count) {
            tb__redis_fail(redis, "cannot connect", strerror(why));
        }
    }
}

void tb__redis_resolved(tb_redis *redis)
{
    struct epoll_event event;
    const char *error;
    if (epoll_wait(redis->epoll_fd, &event, 1, 0) < 1) {
        return;
    }
    redis->address_count = tb__redis_lookup_take(redis->lookup, redis->addresses, &error);
    redis->address_next = 0;
    unwatch(redis, tb__redis_lookup_fd(redis->lookup));
    tb__redis_lookup_leave(redis->lookup);
    redis->lookup = NULL;
    if (redis->address_count == 0) {
        tb__redis_fail(redis, "the host's name cannot be looked up", error);
    } else {
        tb__redis_connect(redis);
    }
}

/* Has it connected, or will it not? The next address is tried then. */
void tb__redis_connected(tb_redis *redis)
{
    struct epoll_event event;
    int error = 0;
    socklen_t size = sizeof error;
    if (epoll_wait(redis->epoll_fd, &event, 1, 0) < 1) {
        return;
    }
    getsockopt(redis->socket, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error == 0) {
        redis->state = TB_REDIS_OPEN;
        redis->late_us = redis->owed > 0 ? tb__clock_us() + redis->silence_us : -1;
        return;
    }
    close_socket(redis);
    if (redis->address_next < redis->address_count) {
        tb__redis_connect(redis);
    } else {
        tb__redis_fail(redis, "cannot connect", strerror(error));
    }
}

/* --- bytes ------------------------------------------------------------------------- */

void tb__redis_write(tb_redis *redis)
{
    while (redis->out.size > redis->out.done) {
        ssize_t n = send(redis->socket, redis->out.data + redis->out.done, redis->out.size - redis->out.done,
                         MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return;
        }
        if (n < 0) {
            tb__redis_fail(redis, "cannot write", strerror(errno));
            return;
        }
        tb__redis_drop(&redis->out, (size_t)n);
    }
}

/* One read; false: there is no more for now, or it has closed. */
static bool read_some(tb_redis *redis)
{
    char chunk[CHUNK];
    ssize_t n = recv(redis->socket, chunk, sizeof chunk, 0);
    if (n < 0 && errno == EINTR) {
        return true;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return false;
    }
    if (n < 0) {
        tb__redis_fail(redis, "cannot read", strerror(errno));
        return false;
    }
    if (n == 0) {
        tb__redis_fail(redis, "Redis has closed the connection", NULL);
        return false;
    }
    uint32_t before = tb__redis_replies_left(&redis->in);
    const char *problem = tb__redis_replies_feed(&redis->in, chunk, (size_t)n);
    uint32_t came = tb__redis_replies_left(&redis->in) - before;
    if (!problem && came > redis->owed) {
        problem = "a reply came that no command has asked for";
    }
    if (problem) {
        tb__redis_fail(redis, problem, NULL);
        return false;
    }
    redis->owed -= came;
    redis->late_us = redis->owed > 0 ? tb__clock_us() + redis->silence_us : -1;
    return n == (ssize_t)sizeof chunk;
}

void tb__redis_read(tb_redis *redis)
{
    for (int i = 0; i < CHUNKS && read_some(redis); i++) {
    }
}
