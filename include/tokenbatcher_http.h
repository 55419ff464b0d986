/* tokenbatcher_http.h - an HTTP client for one event loop, on libcurl.
 *
 * libcurl speaks the protocol, keeps the connections alive and resolves names in a thread
 * of its own; this is what lies between it and a loop. Nobody is called back: requests are
 * started, the loop waits, finished ids are taken in arrays. A pump on it is:
 *
 *     tb_http_start(http, &request)          any number of times
 *     wait until tb_http_fd() is readable or tb_http_next() has come
 *     tb_http_turn(http, ids, max)           what has finished
 *     tb_http_read(http, id, &response), tb_http_release(http, id)
 *
 * A whole one, that asks once and prints what came:
 *
 *     tb_http_request request = {
 *         .url = "http://127.0.0.1:8000/health", .timeout_us = 2000000,
 *         .max_response_bytes = 65536};
 *     double id = tb_http_start(http, &request), done = 0;
 *     while (id > 0 && tb_http_turn(http, &done, 1) == 0) {
 *         struct pollfd wait = {tb_http_fd(http), POLLIN, 0};
 *         poll(&wait, 1, 1);           a real pump sleeps until tb_http_next()
 *     }
 *     tb_http_response response;
 *     if (id > 0 && tb_http_read(http, done, &response) && response.outcome == TB_HTTP_DONE) {
 *         fwrite(response.body, 1, response.body_size, stdout);
 *     }
 *     tb_http_release(http, done);
 *
 * STATES. A request is in flight, then finished, then reported (its id came out of a turn:
 * it can be read, as often as one likes), then released. It may be released at any time.
 * One that is never released keeps its response and its place for ever.
 *
 * The descriptor is an epoll set that holds the sockets in use, so any loop can wait on
 * it: `make` builds a library of its own from this, which needs libcurl and no other part
 * of ours.
 *
 * It speaks HTTP/1.1 only, so a request has its connection to itself and one that is
 * released unfinished closes it: the server learns that nobody waits. HTTP and HTTPS
 * only; redirects are not followed; nothing is read from ~/.netrc; proxies are those of
 * the environment (http_proxy, https_proxy, no_proxy). It
 * asks for no compression unless a header of the request does; gzip and deflate are unpacked, asked
 * for or not: a body is bounded, and handed out, as it is unpacked.
 *
 * THREADS. A client belongs to one thread: every call is from it, and none from a signal
 * handler or beneath another. Clients share nothing. No function blocks: name look-ups run in threads of
 * libcurl, and one whose request is released is left behind.
 *
 * TIME. CLOCK_MONOTONIC in microseconds, read here; libcurl reads its own clock, too.
 *
 * THE SPECIAL PROBLEM OF A LOOP THAT WAS AWAY. While the process is stopped, or its loop is
 * busy with other things, answers come in and deadlines pass. A turn takes what has come
 * first; only then are those that are late by the clock ended.
 *
 * ERRORS. What is wrong with a request before it begins is a refusal, a negative number, and
 * nothing has changed. What goes wrong afterwards is an outcome of the response, with a
 * sentence. Misuse (a null pointer, a negative limit) asserts.
 *
 * MEMORY. A request takes a handle of libcurl's, which is kept for the next request in its
 * place, and what has come of its response. Nothing is given back before the release, and
 * handles and connections not before tb_http_free(): a client is as large as its busiest
 * moment has made it.
 */
#ifndef TOKENBATCHER_HTTP_H
#define TOKENBATCHER_HTTP_H

#ifndef TB_CDEF
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)
#endif

/* The most requests that are started and not released. */
enum { TB_HTTP_CAPACITY = 4096 };

/* The most bytes of headers, in all: of a request, and of a response. */
enum { TB_HTTP_HEADERS_BYTES = 65536 };

/* How a request ended.
 * DONE: a whole response came, whatever its status.
 * TIMEOUT: timeout_us passed.
 * CONNECT: no connection: the name, a refusal, TLS, or connect_timeout_ms passed.
 * TOO_LARGE: a body above max_response_bytes, or headers above TB_HTTP_HEADERS_BYTES.
 * BROKEN: the connection ended half-way, within the headers included, or what came is not
 *     HTTP: a status line without a status, say.
 * NO_MEMORY: it ran out; the rest of the client goes on. */
enum tb_http_outcome {
    TB_HTTP_DONE = 0, TB_HTTP_TIMEOUT, TB_HTTP_CONNECT, TB_HTTP_TOO_LARGE, TB_HTTP_BROKEN,
    TB_HTTP_NO_MEMORY
};

/* Why a request was not started; nothing has changed.
 * EFULL: TB_HTTP_CAPACITY requests are not released.
 * EURL: not a URL of http or https that libcurl can read.
 * EMEMORY: no memory.
 * EOPTION: libcurl does not take an option: a CA file or a socket's path.
 * EHEADERS: the headers are larger than TB_HTTP_HEADERS_BYTES. */
enum tb_http_refusal {
    TB_HTTP_EFULL = -1, TB_HTTP_EURL = -2, TB_HTTP_EMEMORY = -3, TB_HTTP_EOPTION = -4,
    TB_HTTP_EHEADERS = -5
};

/* POST_METHOD: a POST with `body`; without it a GET, and the body is not sent.
 * NO_VERIFY: accept any certificate: for tests. */
enum tb_http_flag { TB_HTTP_POST_METHOD = 1, TB_HTTP_NO_VERIFY = 2 };

/* What to ask for. All is copied by tb_http_start(), so it may be on the caller's stack.
 * Strings end with NUL; NULL: none.
 *
 * url: of http or https.
 * body, body_size: any bytes; `body` may be NULL when the size is 0.
 * headers: "Name: value" each ended by a line feed; the caller sees to it that no name or
 *     value has control characters. At most TB_HTTP_HEADERS_BYTES in all.
 * unix_socket: connect to this path (at most 107 bytes) instead of the URL's host.
 * ca_file: trust these certificates (PEM) instead of the system's.
 * timeout_us: for the whole request, in microseconds from tb_http_start(); 0: none.
 * connect_timeout_ms: until connected, TLS included; 0: libcurl's 300 s.
 * max_response_bytes: of the body, >= 0.
 * flags: of enum tb_http_flag, or-ed. */
struct tb_http_request {
    const char *url;
    const char *body;
    size_t body_size;
    const char *headers;
    const char *unix_socket;
    const char *ca_file;
    int64_t timeout_us;
    int64_t connect_timeout_ms;
    int64_t max_response_bytes;
    uint32_t flags;
};
typedef struct tb_http_request tb_http_request;

/* What came. The pointers are the client's, valid until the request is released.
 *
 * outcome: of enum tb_http_outcome.
 * status: 200 and so on; 0: no status line came.
 * body, body_size: as far as it came; may hold NUL, and none follows; NULL when empty.
 * headers, headers_size: header lines of the last response, each with its CR LF.
 * error: a sentence of at most 255 bytes; "" when done. It quotes neither a response nor
 *     credentials.
 * retry_after_s: of the Retry-After header in seconds, dates made relative; 0: none, or one that has passed.
 * was_sent: 1: the request, or some of it, went out; 0: nothing did, so that it is safe to
 *     send it again. */
struct tb_http_response {
    uint32_t outcome;
    int32_t status;
    const char *body;
    size_t body_size;
    const char *headers;
    size_t headers_size;
    const char *error;
    int64_t retry_after_s;
    int32_t was_sent;
};
typedef struct tb_http_response tb_http_response;

typedef struct tb_http tb_http;

/* To be compared with the header's own, for libraries of another version: changes with
 * every incompatible change of this header. */
enum { TB_HTTP_ABI = 2 };
int tb_http_abi(void);

/* A client, the caller's until tb_http_free(). One does for a program: connections are kept
 * alive within a client and shared by its requests. The first in a process sets libcurl up
 * (some milliseconds), which is not thread-safe in old libcurl: make it before threads
 * start. NULL: no memory or no descriptors; nothing is kept then. */
tb_http *tb_http_new(void);

/* Ends what is in flight, closes all connections and the descriptor, frees every response.
 * NULL is fine. Does not wait for name look-ups. */
void tb_http_free(tb_http *http);

/* Readable while tb_http_turn() has something to do; the client's own, the same until
 * tb_http_free(), not to be read. */
int tb_http_fd(const tb_http *http);

/* When tb_http_turn() is needed next, whether or not the descriptor is readable:
 * microseconds of CLOCK_MONOTONIC; 0: at once, -1: never. Changes with every other call
 * here: ask before each wait. O(1). */
int64_t tb_http_next(const tb_http *http);

/* Begin a request; the connection is begun, or the request sent on one kept alive, before
 * this returns. Returns its id (> 0, exact in a double, never used twice), which is the
 * caller's to release, or one of enum tb_http_refusal. */
double tb_http_start(tb_http *http, const tb_http_request *request);

/* Moves every transfer on; writes the ids of up to `max` requests that have finished and
 * were not reported, in the order in which they finished. Returns their number; if it is
 * `max` there may be more: call again, or tb_http_next() says at once. What has arrived by
 * now is taken before timeouts are served. Cost: one system call when nothing has come; a
 * copy of what came otherwise; O(requests in flight) when a deadline is due. Enters no code
 * of the caller's. */
uint32_t tb_http_turn(tb_http *http, double *ids, uint32_t max);

/* Nobody could look for `us` microseconds (>= 0): that does not count against the timeouts of the
 * requests in flight; connect_timeout_ms is libcurl's, and goes on. To be called before the
 * tb_http_turn() that would serve them. O(requests in flight). */
void tb_http_excuse(tb_http *http, int64_t us);

/* What came, into the caller's *response. 1; or 0: there is no such request (any more), or
 * it has not been reported as finished, and *response is unchanged. */
int tb_http_read(tb_http *http, double id, tb_http_response *response);

/* Forget a request in any state, also one of which nothing has come; from anywhere but a
 * signal handler, between any two other calls here, any number of times; the pointers of its
 * response die. One in flight is cancelled and its connection closed, and it will not be reported.
 * 1; or 0: there is no such request (any more). */
int tb_http_release(tb_http *http, double id);

#ifndef TB_CDEF
#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
#endif
