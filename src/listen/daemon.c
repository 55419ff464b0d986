/* daemon.c - libmicrohttpd's side of a turn: connections come and go, requests come in, and who
 * takes too long is closed.
 *
 * Connections are taken here and not by libmicrohttpd, which would leave those above its limit
 * without a word in the system's line.
 */
#include "server.h"

#include "../base/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    PEER_MEMORY = 16384,        /* of a connection, for what is asked and the head of the answer */
    SEND_BUFFER = 131072,       /* the kernel's, for what a client has not taken */
    AT_ONCE = 16,               /* connections that a turn takes */
    REQUEST_S = 15,             /* until a request has come whole */
    DEAF_US = 100000,           /* no descriptor is free: so long nobody is taken */
    LAST_ROUNDS = 8,            /* a step of an answer each */
    LISTENER = 0, DAEMON = 1,   /* in the epoll set */
};

static const char FULL[] = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
                           "Content-Type: application/json\r\nContent-Length: 53\r\n\r\n"
                           "{\"error\":{\"message\":\"too many connections at once\"}}\n";

/* --- what libmicrohttpd tells, by callbacks that only take notes ----------------- */

static void on_connection(void *user, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    tb_listen *listen = user;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        struct tb__peer *peer = info ? tb__slots_take(&listen->peers) : NULL;
        *context = peer;
        if (peer) {
            *peer = (struct tb__peer){.taking = peer->taking, .fd = info->connect_fd,
                                      .deadline_us = tb__clock_us() + (int64_t)REQUEST_S * TB__US_PER_S};
            tb__listen_local(peer->fd, peer->local, sizeof peer->local);
        }
    } else if (*context) {
        tb__slots_give(&listen->peers, *context);
        *context = NULL;
    }
}

static struct tb__peer *peer_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static enum MHD_Result hand_over(struct tb__exchange *exchange)
{
    if (!exchange->response) {
        return MHD_NO; /* memory ran out */
    }
    enum MHD_Result result = MHD_queue_response(exchange->connection, exchange->status, exchange->response);
    MHD_destroy_response(exchange->response);
    exchange->response = NULL;
    return result;
}

static void keep_words(struct tb__exchange *exchange, const char *method, const char *path)
{
    snprintf(exchange->method, sizeof exchange->method, "%s", method);
    snprintf(exchange->path, sizeof exchange->path, "%s", path);
}

/* First with the headers, then with each part of a body, then with none; and once more when it
 * was answered. MHD_NO closes the connection. */
static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path, const char *method,
                                  const char *version, const char *bytes, size_t *size, void **context)
{
    struct tb__exchange *exchange = *context;
    (void)version;
    if (!exchange) {
        struct tb__peer *peer = peer_of(connection);
        exchange = peer ? tb__exchange_begin(user, connection, peer) : NULL;
        *context = exchange;
        if (exchange) {
            keep_words(exchange, method, path);
        }
        return exchange ? MHD_YES : MHD_NO;
    }
    if (exchange->state == TB__ANSWERED) {
        return hand_over(exchange);
    }
    if (*size > 0) {
        tb__exchange_add_body(exchange, bytes, *size);
        *size = 0;
    } else if (exchange->state == TB__READING) {
        tb__exchange_ask(exchange);
    }
    return MHD_YES;
}

static void on_completed(void *user, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode why)
{
    struct tb__exchange *exchange = *context;
    (void)user;
    (void)connection;
    (void)why;
    if (exchange) {
        exchange->peer->deadline_us = tb__clock_us() + (int64_t)REQUEST_S * TB__US_PER_S;
        tb__exchange_over(exchange);
        *context = NULL;
    }
}

/* A NUL would end a text before its end: what has one stays as it was written. */
static size_t unescape(void *user, struct MHD_Connection *connection, char *text)
{
    (void)user;
    (void)connection;
    return strstr(text, "%00") ? strlen(text) : MHD_http_unescape(text);
}

/* --- connections ---------------------------------------------------------------- */

static bool watch(tb_listen *listen, int fd, uint64_t what)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = what};
    return epoll_ctl(listen->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static void refuse_connection(int fd)
{
    char ignored[4096];
    recv(fd, ignored, sizeof ignored, MSG_DONTWAIT); /* what is unread would make a reset of the close */
    send(fd, FULL, sizeof FULL - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    close(fd);
}

static void take_connection(tb_listen *listen, int fd, const struct sockaddr *from, socklen_t size)
{
    int room = SEND_BUFFER;
    if (listen->peers.taken == TB_LISTEN_CONNECTIONS) {
        refuse_connection(fd);
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    MHD_add_connection(listen->daemon, fd, from, size); /* closes it where it fails */
}

static void take_connections(tb_listen *listen)
{
    for (int i = 0; i < AT_ONCE; i++) {
        struct sockaddr_storage from = {0};
        socklen_t size = sizeof from;
        int fd = accept4(listen->socket.fd, (struct sockaddr *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            take_connection(listen, fd, (struct sockaddr *)&from, size);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            epoll_ctl(listen->epoll_fd, EPOLL_CTL_DEL, listen->socket.fd, NULL);
            listen->deaf_until_us = tb__clock_us() + DEAF_US;
            return;
        } else if (errno != ECONNABORTED && errno != EINTR) {
            return;
        }
    }
}

static void listen_again(tb_listen *listen)
{
    if (listen->deaf_until_us && tb__clock_us() >= listen->deaf_until_us &&
        watch(listen, listen->socket.fd, LISTENER)) {
        listen->deaf_until_us = 0;
    }
}

static struct tb__peer *next_peer(const tb_listen *listen, const struct tb__peer *after)
{
    return tb__slots_next(&listen->peers, after ? tb__slots_place(&listen->peers, after) + 1 : 0);
}

/* The end is seen by libmicrohttpd: of a suspended connection once it is resumed. */
static void end(struct tb__peer *peer)
{
    peer->is_ended = true;
    peer->deadline_us = 0;
    shutdown(peer->fd, SHUT_RDWR);
    if (peer->exchange) {
        tb__exchange_resume(peer->exchange);
    }
}

/* Returns whether it has ended anybody. */
static bool end_late(tb_listen *listen)
{
    int64_t now_us = tb__clock_us();
    bool any = false;
    for (struct tb__peer *peer = next_peer(listen, NULL); peer; peer = next_peer(listen, peer)) {
        if (peer->deadline_us && peer->deadline_us <= now_us) {
            end(peer);
            any = true;
        }
    }
    return any;
}

/* --- life and turn --------------------------------------------------------------- */

static bool start(tb_listen *listen)
{
    listen->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, listen,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)TB_LISTEN_CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)PEER_MEMORY, MHD_OPTION_NOTIFY_CONNECTION, on_connection, listen, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, listen, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL,
        MHD_OPTION_END);
    return listen->daemon != NULL;
}

bool tb__daemon_open(tb_listen *listen)
{
    listen->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (listen->epoll_fd < 0 || !start(listen)) {
        return false;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(listen->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    return info && info->epoll_fd >= 0 && watch(listen, info->epoll_fd, DAEMON) &&
           watch(listen, listen->socket.fd, LISTENER);
}

static void run(tb_listen *listen)
{
    listen->has_resumed = false;
    MHD_run(listen->daemon);
}

static bool has_more(tb_listen *listen)
{
    MHD_UNSIGNED_LONG_LONG ms;
    return listen->has_resumed || (MHD_get_timeout(listen->daemon, &ms) == MHD_YES && ms == 0);
}

/* What is a stream ends as one, so far as its reader takes it at once. */
static void end_streams(tb_listen *listen)
{
    for (struct tb__peer *peer = next_peer(listen, NULL); peer; peer = next_peer(listen, peer)) {
        struct tb__exchange *exchange = peer->exchange;
        if (exchange && exchange->is_stream) {
            exchange->is_ended = true;
            tb__exchange_resume(exchange);
        }
    }
    for (int round = 0; round < LAST_ROUNDS && has_more(listen); round++) {
        run(listen);
    }
}

/* libmicrohttpd wants none suspended when it stops. */
void tb__daemon_close(tb_listen *listen)
{
    if (listen->daemon) {
        end_streams(listen);
        for (struct tb__peer *peer = next_peer(listen, NULL); peer; peer = next_peer(listen, peer)) {
            end(peer);
        }
        run(listen);
        MHD_stop_daemon(listen->daemon);
    }
    if (listen->epoll_fd >= 0) {
        close(listen->epoll_fd);
    }
}

void tb__daemon_turn(tb_listen *listen)
{
    struct epoll_event events[2];
    int n = epoll_wait(listen->epoll_fd, events, 2, 0);
    listen_again(listen);
    for (int i = 0; i < n; i++) {
        if (events[i].data.u64 == LISTENER) {
            take_connections(listen);
        }
    }
    if (n > 0 || has_more(listen)) {
        run(listen);
    }
    if (listen->peers.taken > 0 && end_late(listen)) {
        run(listen);
    }
}

int64_t tb__daemon_next(tb_listen *listen)
{
    int64_t at_us = listen->deaf_until_us ? listen->deaf_until_us : -1;
    if (has_more(listen)) {
        return 0;
    }
    for (const struct tb__peer *peer = next_peer(listen, NULL); peer; peer = next_peer(listen, peer)) {
        if (peer->deadline_us && (at_us < 0 || peer->deadline_us < at_us)) {
            at_us = peer->deadline_us;
        }
    }
    return at_us;
}
