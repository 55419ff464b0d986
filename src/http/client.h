/* client.h - the inside of the HTTP client.
 *
 *     client.c    life, the turn, sockets and the timer of libcurl
 *     request.c   slots: start, read, release
 *     transfer.c  one transfer: its options, what comes in, how it ended
 *
 * A slot is free, in flight, finished (in the line of those to report) or reported. Its
 * curl handle stays with it for the next request. An id is slot + generation x
 * TB_HTTP_CAPACITY.
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

#include <curl/curl.h>
#include <stdbool.h>

enum tb__http_state { TB__HTTP_FREE, TB__HTTP_IN_FLIGHT, TB__HTTP_FINISHED, TB__HTTP_REPORTED };

struct tb__http_bytes {
    char *data;
    size_t size, room, limit;
    const char *excess; /* a sentence for more than `limit` */
};

struct tb__http_slot {
    enum tb__http_state state;
    uint32_t index;
    double generation;
    struct tb__http_slot *next; /* in the free list, or in the line of the finished */
    CURL *easy;
    struct curl_slist *header_list;
    struct tb__http_bytes body, headers;
    int64_t deadline_us; /* 0: none */
    bool is_late;        /* its deadline passed */
    const char *excess; /* what is larger than allowed, or NULL */
    bool is_out_of_memory;
    CURLcode result;
    char error[CURL_ERROR_SIZE];
};

struct tb_http {
    CURLM *multi;
    int epoll_fd;
    int64_t next_us;   /* libcurl's timer: 0 at once, -1 none */
    int64_t expiry_us; /* no deadline of a slot is earlier; -1: there is none */
    struct tb__http_slot *slots[TB_HTTP_CAPACITY];
    uint32_t slot_count, in_flight;
    struct tb__http_slot *free_slots;
    struct tb__http_slot *first_finished, **last_finished;
};

/* client.c */
int64_t tb__http_now(void);
void tb__http_progress(tb_http *http); /* libcurl acts on what is due; notes what has finished */
void tb__http_expect(tb_http *http, int64_t deadline_us); /* look at deadlines by then */

/* request.c */
void tb__http_finish(tb_http *http, struct tb__http_slot *slot, CURLcode result);
void tb__http_close_slots(tb_http *http);

/* transfer.c */
int tb__http_set_up(struct tb__http_slot *slot, const tb_http_request *request);
void tb__http_describe(struct tb__http_slot *slot, tb_http_response *out);
void tb__http_clean(struct tb__http_slot *slot);

#endif
