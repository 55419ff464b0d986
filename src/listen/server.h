/* server.h - the inside of the HTTP server.
 *
 * THE ROOM. src/listen is an HTTP server for one event loop: a descriptor, a turn, and ids of
 * what is asked, in arrays. It knows libmicrohttpd, epoll, sockets and src/base; of the rest of
 * ours it knows nothing, and it is a library of its own: libmicrohttpd's licence (LGPL) asks for
 * one that can be replaced, and whoever does without it needs no libmicrohttpd. The Lua half (listen) and C
 * programs know it by tokenbatcher_listen.h.
 *
 * Order, a file knows those before it: socket exchange daemon listen
 *
 *     socket.c    the socket that listens: its address, its file, who may reach it
 *     exchange.c  one request and its answer, from the handler to the last byte
 *     daemon.c    libmicrohttpd's side: connections, how long they may take, the handler
 *     listen.c    life and turn: the public functions
 *
 * A connection has a peer, a request on it an exchange: reading (its body comes), asked
 * (suspended, in the line of those to report, then reported), answered, and gone when
 * libmicrohttpd says that it is over. Both lie in places of tables (see base/slots.h) that are
 * made at once for all there may be, so that they do not move.
 *
 * THE SPECIAL PROBLEM OF THE HANDLER. libmicrohttpd asks for an answer by a callback, and Lua
 * must not be called from one. So the handler suspends the connection and notes the exchange;
 * tb_listen_answer() makes the response and resumes the connection, and the handler, called once
 * more, finds it.
 *
 * THE SPECIAL PROBLEM OF A SUSPENDED CONNECTION. Its socket is not looked at, so that nobody
 * learns that its client has left: a stream with nothing to send is such a one. It is seen at the
 * next bytes. And no descriptor tells that one was resumed: `has_resumed` does.
 *
 * THE SPECIAL PROBLEM OF CLOSING. libmicrohttpd has no call that ends a connection. shutdown() of
 * its socket does, in the turn that follows.
 */
#ifndef TB_LISTEN_SERVER_H
#define TB_LISTEN_SERVER_H

#include "tokenbatcher_listen.h"

#include "../base/slots.h"

#include <microhttpd.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { TB__LISTEN_ADDRESS_SIZE = 128, TB__LISTEN_LOCAL_SIZE = 64, TB__LISTEN_TEXT_SIZE = 256 };

/* The socket that listens. */
struct tb__listen_socket {
    int fd;
    char address[TB__LISTEN_ADDRESS_SIZE]; /* as tb_listen_address() has it */
    struct sockaddr_un file;               /* sun_path is "" where there is none */
    struct stat made;                      /* of the file that bind() made */
};

enum tb__exchange_state { TB__READING, TB__ASKED, TB__REPORTED, TB__ANSWERED };

struct tb__peer {
    struct tb__slot taking; /* first: see base/slots.h */
    int fd;
    int64_t deadline_us; /* 0: none */
    struct tb__exchange *exchange; /* or NULL */
    bool is_ended;
    char local[TB__LISTEN_LOCAL_SIZE];
};

struct tb__exchange {
    struct tb__slot taking; /* first: see base/slots.h */
    struct tb_listen *listen;
    struct MHD_Connection *connection;
    struct tb__peer *peer;
    enum tb__exchange_state state;
    struct tb__exchange *next; /* in the line of those to report */
    bool is_suspended;
    char method[16], path[TB__LISTEN_TEXT_SIZE], host[TB__LISTEN_TEXT_SIZE];
    char *body;
    size_t body_size;
    bool is_too_large;
    struct MHD_Response *response; /* made and not handed over */
    unsigned status;
    bool is_stream, is_ended;
    char *kept; /* of a stream, from `done` to `size` */
    size_t size, done, room;
};

struct tb_listen {
    struct tb__listen_socket socket;
    struct MHD_Daemon *daemon;
    int epoll_fd;
    int64_t deaf_until_us; /* no connection is taken before; 0: they are */
    bool has_resumed; /* connections, of which libmicrohttpd has not heard yet */
    struct tb__slots peers, exchanges;
    struct tb__exchange *first_asked, **last_asked;
};

/* --- socket.c ------------------------------------------------------------------ */

/* 0, or one of tb_listen_refusal and a sentence in `err`. */
int tb__listen_socket_open(struct tb__listen_socket *out, const tb_listen_options *options, char *err, size_t err_size);
void tb__listen_socket_close(struct tb__listen_socket *listener);

/* The number of the address at this end of a connection; "" for a unix socket. */
void tb__listen_local(int fd, char *out, size_t size);

/* --- exchange.c ---------------------------------------------------------------- */

/* NULL: no room. */
struct tb__exchange *tb__exchange_begin(tb_listen *listen, struct MHD_Connection *connection, struct tb__peer *peer);
struct tb__exchange *tb__exchange_find(const tb_listen *listen, double id);
void tb__exchange_add_body(struct tb__exchange *exchange, const char *bytes, size_t size);
void tb__exchange_ask(struct tb__exchange *exchange); /* suspended, and in the line */
uint32_t tb__exchanges_report(tb_listen *listen, double *ids, uint32_t max);
int tb__exchange_answer(struct tb__exchange *exchange, const tb_listen_response *response);
int tb__exchange_send(struct tb__exchange *exchange, const char *bytes, size_t size);
void tb__exchange_resume(struct tb__exchange *exchange);
void tb__exchange_over(struct tb__exchange *exchange); /* libmicrohttpd has done with it */

/* --- daemon.c ------------------------------------------------------------------ */

bool tb__daemon_open(tb_listen *listen);
void tb__daemon_close(tb_listen *listen);
void tb__daemon_turn(tb_listen *listen);
int64_t tb__daemon_next(tb_listen *listen);

#endif
