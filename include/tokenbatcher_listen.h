/* tokenbatcher_listen.h - an HTTP server for one event loop, on libmicrohttpd: for figures and
 * pages that people and programs look at while something else is the program's work.
 *
 * libmicrohttpd speaks the protocol; this is what lies between it and a loop. Nobody is called
 * back: the loop waits, requests that have come whole are taken as ids in arrays, and answered
 * one by one. A pump on it is:
 *
 *     tb_listen_open(&listen, &options, err, sizeof err)
 *     wait until tb_listen_fd() is readable or tb_listen_next() has come
 *     tb_listen_turn(listen, ids, max)         what is asked
 *     tb_listen_read(listen, id, &request), tb_listen_answer(listen, id, &response)
 *
 * STREAMS. An answer with TB_LISTEN_STREAM has no end yet: tb_listen_send() adds to it as often
 * as one likes, tb_listen_end() ends it. That is what server-sent events are made of. What a
 * reader has not taken is kept, up to TB_LISTEN_STREAM_BYTES; tb_listen_pending() tells how much.
 *
 * STATES. A request is asked (its id came out of a turn), then answered, then gone: sent, or its
 * connection has ended. Ids of what is gone find nothing, and nothing has to be released.
 *
 * THE SPECIAL PROBLEM OF READERS. Nobody who connects may cost more than this: a place among
 * TB_LISTEN_CONNECTIONS, 16 KiB for what he asks, TB_LISTEN_BODY_BYTES of a body, a copy of one
 * answer, what a stream keeps for him and what the kernel does. Who comes when all places are
 * taken gets a 503 and is closed. Who does not ask for something whole within 15 s, has not taken
 * an answer 30 s after it was given, or takes nothing of a stream for 10 s is closed. No call
 * here waits for anybody.
 *
 * THE SPECIAL PROBLEM OF A LOOP THAT WAS AWAY. A turn takes what has come before it judges by the
 * clock. A request that waits for its answer is never late.
 *
 * The descriptor is an epoll set, the same from tb_listen_open() to tb_listen_free(). `make`
 * builds a library of its own from this, which needs libmicrohttpd and no other part of ours.
 *
 * HTTP/1.1 and 1.0 in clear text, without compression or authentication. Keep it on loopback.
 *
 * THREADS. A listener belongs to one thread: every call is from it, and none from a signal handler.
 * Listeners share nothing. No threads are made.
 *
 * TIME. CLOCK_MONOTONIC in microseconds, read here.
 *
 * ERRORS. What keeps a listener from being opened is a refusal, with a sentence; a connection
 * that goes wrong is closed, and nobody is told. Misuse (a null pointer) asserts.
 */
#ifndef TOKENBATCHER_LISTEN_H
#define TOKENBATCHER_LISTEN_H

#ifndef TB_CDEF
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)
#endif

/* The most connections at a time; the most bytes of a request's body; the most bytes that a
 * stream keeps for its reader. */
enum { TB_LISTEN_CONNECTIONS = 64, TB_LISTEN_BODY_BYTES = 65536, TB_LISTEN_STREAM_BYTES = 1048576 };

/* Why a listener was not opened, or bytes were not taken; nothing has changed.
 * EADDRESS: neither the number of an address with a port from 0 to 65535, nor a path of at most
 *     107 bytes.
 * EREMOTE: the address is not a loopback one, and TB_LISTEN_REMOTE is not given.
 * EINUSE: somebody listens there, or at the path is a file that is no socket.
 * ESYSTEM: the system does not let us; the sentence has its words.
 * EMEMORY: no memory or no descriptor.
 * EFULL: TB_LISTEN_STREAM_BYTES are kept for this reader.
 * EGONE: no such request (any more). */
enum tb_listen_refusal {
    TB_LISTEN_EADDRESS = -1, TB_LISTEN_EREMOTE = -2, TB_LISTEN_EINUSE = -3, TB_LISTEN_ESYSTEM = -4,
    TB_LISTEN_EMEMORY = -5, TB_LISTEN_EFULL = -6, TB_LISTEN_EGONE = -7
};

/* REMOTE: an address that other machines may reach is taken, too. */
enum tb_listen_flag { TB_LISTEN_REMOTE = 1 };

/* Where. Copied by tb_listen_open().
 *
 * host: the number of an IPv4 or IPv6 address, as in "127.0.0.1" and "::1"; or NULL.
 * port: 0: any that is free, see tb_listen_address().
 * path: of a unix socket, in the place of host and port; it is made with mode 0600, from its first
 *     moment, and removed by tb_listen_free(). A socket there that nobody listens at is replaced.
 * flags: of enum tb_listen_flag, or-ed. */
struct tb_listen_options {
    const char *host;
    int32_t port;
    const char *path;
    uint32_t flags;
};
typedef struct tb_listen_options tb_listen_options;

/* What is asked. The texts end with NUL; the pointers are the listener's, valid until the request
 * is answered or the next tb_listen_turn().
 *
 * method: "GET" and the like; at most 15 bytes, what is longer is cut.
 * path: unescaped (as it was written, where it has a NUL), without the query; at most 255 bytes,
 *     what is longer is cut.
 * host: of the Host header; "": there was none, or several, or one of more than 255 bytes.
 * local: the number of the address that the client has reached, without port; "": a unix socket.
 * body, body_size: may hold NUL; NULL when there is none.
 * is_too_large: 1: a body above TB_LISTEN_BODY_BYTES, which was dropped. */
struct tb_listen_request {
    const char *method;
    const char *path;
    const char *host;
    const char *local;
    const char *body;
    size_t body_size;
    int32_t is_too_large;
};
typedef struct tb_listen_request tb_listen_request;

/* STREAM: no end yet, see above; `body` is its beginning. */
enum tb_listen_response_flag { TB_LISTEN_STREAM = 1 };

/* An answer. All is copied. To a HEAD the body is not sent, its length is told.
 *
 * status: 200 .. 599.
 * headers: "Name: value" each ended by a line feed, NULL: none; of the caller's making, not the
 *     client's. Content-Length, Date and Connection are set here.
 * body, body_size: `body` may be NULL when the size is 0.
 * flags: of enum tb_listen_response_flag. */
struct tb_listen_response {
    int32_t status;
    const char *headers;
    const char *body;
    size_t body_size;
    uint32_t flags;
};
typedef struct tb_listen_response tb_listen_response;

typedef struct tb_listen tb_listen;

/* To be compared with the header's own, for libraries of another version. */
enum { TB_LISTEN_ABI = 1 };
int tb_listen_abi(void);

/* Open a listener; it takes connections from now on. 0 and the listener in *out, the caller's
 * until tb_listen_free(); or one of enum tb_listen_refusal, *out is NULL and `err` (of err_size
 * bytes, may be NULL) holds a sentence without the address. Looks up no name. */
int tb_listen_open(tb_listen **out, const tb_listen_options *options, char *err, size_t err_size);

/* Closes every connection, whatever it waits for, and the descriptor; removes the socket's file,
 * if it is still the one that was made. Streams are ended first, and an answer that its reader has
 * room for is sent. NULL is fine. */
void tb_listen_free(tb_listen *listen);

/* Where it listens: "127.0.0.1:9464", "[::1]:9464" or "unix:PATH". Valid until tb_listen_free(). */
const char *tb_listen_address(const tb_listen *listen);

/* Readable while tb_listen_turn() has something to do; not to be read. */
int tb_listen_fd(const tb_listen *listen);

/* When tb_listen_turn() is needed next, whether or not the descriptor is readable: microseconds
 * of CLOCK_MONOTONIC; 0: at once, -1: never. Ask before each wait. O(connections). */
int64_t tb_listen_next(tb_listen *listen);

/* Takes connections and what has come on them, sends what waits, closes who is late; writes the
 * ids of up to `max` requests that have come whole, oldest first. Returns their number; if it is
 * `max` there may be more, and tb_listen_next() says at once. Cost: one system call when nothing
 * has come. */
uint32_t tb_listen_turn(tb_listen *listen, double *ids, uint32_t max);

/* What is asked, into the caller's *request. 1; or 0: no such request is asked (any more), and
 * *request is unchanged. */
int tb_listen_read(tb_listen *listen, double id, tb_listen_request *request);

/* The value of an argument of the query, unescaped; NULL: there is none, or no such request is
 * asked (any more). Valid as the texts of a request are. */
const char *tb_listen_argument(tb_listen *listen, double id, const char *name);

/* Answer a request that is asked, once; it goes out in the next turn. 0, EGONE, or EMEMORY: its
 * connection is closed then. */
int tb_listen_answer(tb_listen *listen, double id, const tb_listen_response *response);

/* Add to a stream: all of it or nothing. 0, EGONE (its reader has left, or it is no stream, or it
 * was ended), EFULL, EMEMORY. Cost: a copy. */
int tb_listen_send(tb_listen *listen, double id, const char *bytes, size_t size);

/* How many bytes of a stream the reader's connection has not taken; EGONE. */
int64_t tb_listen_pending(tb_listen *listen, double id);

/* A stream is whole once what it keeps is sent. 0 or EGONE. */
int tb_listen_end(tb_listen *listen, double id);

#ifndef TB_CDEF
#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
#endif
