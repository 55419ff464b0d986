/* client.h - the inside of the HTTP client.
 *
 * THE ROOM. src/http is an HTTP client for one event loop: a descriptor, a turn, and ids of
 * what has finished, in arrays. It knows libcurl, epoll and src/base; of the rest of ours it
 * knows nothing, not even the core's header, and it is a library of its own: whoever does
 * without it needs no libcurl. The Lua half (backend/http) and C programs know it by
 * tokenbatcher_http.h.
 *
 * Order, a file knows those before it: transfer multi request client
 *
 *     transfer.c  one transfer: its options, what comes in, how it ended
 *     multi.c     libcurl's sockets and timer, what has finished, deadlines
 *     request.c   start, read, release
 *     client.c    life and turn
 *
 * A request has a slot: new (being set up), in flight, finished (in the line of those to
 * report) or reported. Slots lie in places of a table (see base/slots.h), which gives them
 * their ids; a slot and its curl handle stay with their place for the next request.
 *
 * THE SPECIAL PROBLEM OF CURL'S CALLBACKS. libcurl must not be entered from its own
 * callbacks, nor handles be removed there. So they only take notes: the socket's goes
 * into the epoll set, the timer's into next_us, and what has finished is drained from
 * curl_multi_info_read() at the top level of a turn.
 *
 * THE SPECIAL PROBLEM OF CURL'S TIMEOUTS. They count in milliseconds, and of two timers of a
 * transfer that are due within one millisecond libcurl forgets the second. So the deadline
 * of a whole request is kept here, to the microsecond; only connecting is bounded by
 * libcurl, which knows when it is over.
 */
#ifndef TB_HTTP_CLIENT_H
#define TB_HTTP_CLIENT_H

#include "tokenbatcher_http.h"

#include "../base/slots.h"

#include <curl/curl.h>
#include <stdbool.h>

enum tb__http_state { TB__HTTP_NEW, TB__HTTP_IN_FLIGHT, TB__HTTP_FINISHED, TB__HTTP_REPORTED };

struct tb__http_bytes {
    char *data;
    size_t size, room, limit;
    const char *excess; /* a sentence for more than `limit` */
};

struct tb__http_slot {
    enum tb__http_state state;
    double id;
    struct tb__http_slot *next; /* in the line of the finished */
    CURL *easy;
    struct curl_slist *header_list;
    struct tb__http_bytes body, headers;
    int64_t deadline_us; /* 0: none */
    bool is_late;        /* its deadline passed */
    bool has_headers;    /* the blank line after them has come */
    const char *excess;  /* what is larger than allowed, or NULL */
    bool is_out_of_memory;
    CURLcode result;
    char error[CURL_ERROR_SIZE];
};

/* Slots do not move: libcurl keeps their addresses. */
struct tb__http_place {
    struct tb__slot taking; /* first: see base/slots.h */
    struct tb__http_slot *slot;
};

struct tb_http {
    CURLM *multi;
    int epoll_fd;
    int64_t next_us;   /* libcurl's timer: 0 at once, -1 none */
    int64_t expiry_us; /* no deadline of a slot is earlier; -1: there is none */
    struct tb__slots places;
    uint32_t in_flight;
    struct tb__http_slot *first_finished, **last_finished;
};

/* transfer.c: 0, or one of tb_http_refusal; then, too, the slot is to be cleaned. */
int tb__http_set_up(struct tb__http_slot *slot, const tb_http_request *request);
void tb__http_describe(struct tb__http_slot *slot, tb_http_response *out);
void tb__http_clean(struct tb__http_slot *slot);

/* multi.c */
bool tb__http_open_multi(tb_http *http);
void tb__http_move(tb_http *http);     /* all that has come or is due */
void tb__http_progress(tb_http *http); /* libcurl acts on what is due; notes what has finished */
void tb__http_expect(tb_http *http, int64_t deadline_us); /* look at deadlines by then */
void tb__http_end_flight(tb_http *http, struct tb__http_slot *slot);
void tb__http_finish(tb_http *http, struct tb__http_slot *slot, CURLcode result);

/* request.c */
void tb__http_close_slots(tb_http *http);

#endif
