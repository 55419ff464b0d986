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
 * The descriptor is an epoll set that holds the sockets in use, so any loop can wait on
 * it: `make` builds a library of its own from this, which needs libcurl and no other part
 * of ours.
 *
 * It speaks HTTP/1.1 only, so a request has its connection to itself and one that is
 * released unfinished closes it: the server learns that nobody waits. HTTP and HTTPS
 * only; redirects are not followed; nothing is read from ~/.netrc; proxies are those of
 * the environment (http_proxy, https_proxy, no_proxy).
 *
 * A client belongs to one thread. No function blocks: name look-ups run in threads of
 * libcurl, and one that is released is left behind.
 *
 * Times are CLOCK_MONOTONIC in microseconds, read here; libcurl reads its own clock, too.
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

enum { TB_HTTP_CAPACITY = 4096 }; /* requests started and not released */

/* How a request ended. */
enum tb_http_outcome {
    TB_HTTP_DONE = 0,  /* a whole response came, whatever its status */
    TB_HTTP_TIMEOUT,   /* timeout_us passed */
    TB_HTTP_CONNECT,   /* no connection: name, refusal, TLS, or connect_timeout_ms */
    TB_HTTP_TOO_LARGE, /* more than max_response_bytes, or more than 64 KiB of headers */
    TB_HTTP_BROKEN,    /* the connection ended half-way, or what came is not HTTP */
    TB_HTTP_NO_MEMORY
};

/* Why a request was not started; nothing has changed. */
enum tb_http_refusal {
    TB_HTTP_EFULL = -1,   /* TB_HTTP_CAPACITY requests are not released */
    TB_HTTP_EURL = -2,    /* not a URL of http or https that libcurl can read */
    TB_HTTP_EMEMORY = -3, /* no memory */
    TB_HTTP_EOPTION = -4  /* libcurl does not take an option: a CA file or a socket's path */
};

enum tb_http_flag {
    TB_HTTP_POST_METHOD = 1, /* POST with `body`; without it a GET */
    TB_HTTP_NO_VERIFY = 2    /* accept any certificate */
};

/* All is copied by tb_http_start(). Strings end with NUL; NULL: none. */
struct tb_http_request {
    const char *url;
    const char *body;
    size_t body_size;
    const char *headers;        /* "Name: value" each ended by a line feed; the caller sees
                                   to it that no name or value has control characters */
    const char *unix_socket;    /* connect to this path instead of the URL's host */
    const char *ca_file;        /* trust these certificates (PEM) instead of the system's */
    int64_t timeout_us;         /* the whole request; 0: none */
    int64_t connect_timeout_ms; /* until connected, TLS included; 0: libcurl's 300 s */
    int64_t max_response_bytes; /* of the body, >= 0 */
    uint32_t flags;             /* of tb_http_flag */
};
typedef struct tb_http_request tb_http_request;

/* The pointers are the client's, valid until the request is released. */
struct tb_http_response {
    uint32_t outcome;      /* of tb_http_outcome */
    int32_t status;        /* 200; 0: no status line came */
    const char *body;      /* as far as it came; may hold NUL; NULL when empty */
    size_t body_size;
    const char *headers;   /* header lines of the last response, each with its CR LF */
    size_t headers_size;
    const char *error;     /* a sentence; "" when done */
    int64_t retry_after_s; /* of the Retry-After header, dates made relative; 0: none */
    int32_t was_sent;      /* 1: the request, or some of it, went out; 0: nothing did */
};
typedef struct tb_http_response tb_http_response;

typedef struct tb_http tb_http;

/* To be compared with the header's own, for libraries of another version. */
enum { TB_HTTP_ABI = 1 };
int tb_http_abi(void);

/* A client. NULL: no memory or no descriptors. */
tb_http *tb_http_new(void);

/* Ends what is in flight, closes all connections. NULL is fine. */
void tb_http_free(tb_http *http);

/* Readable while tb_http_turn() has something to do; the client's own, not to be read. */
int tb_http_fd(const tb_http *http);

/* When tb_http_turn() is needed next, whether or not the descriptor is readable: 0: at
 * once, -1: never. */
int64_t tb_http_next(const tb_http *http);

/* Begin a request. Returns its id (> 0, exact in a double, never used twice) or one of
 * tb_http_refusal. */
double tb_http_start(tb_http *http, const tb_http_request *request);

/* Moves every transfer on; writes the ids of up to `max` requests that have finished and
 * were not reported, oldest first. Returns their number; if it is `max` there may be
 * more. */
uint32_t tb_http_turn(tb_http *http, double *ids, uint32_t max);

/* What came. 1, or 0: there is no such request, or it has not been reported as finished. */
int tb_http_read(tb_http *http, double id, tb_http_response *response);

/* Forget a request. One in flight is cancelled and its connection closed, and it will not
 * be reported. 1, or 0: there is no such request. */
int tb_http_release(tb_http *http, double id);

#ifndef TB_CDEF
#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
#endif
