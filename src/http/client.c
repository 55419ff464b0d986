/* client.c - the client's life, its turn, and libcurl's sockets and timer.
 */
#include "client.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum {
    US_PER_S = 1000000,
    US_PER_MS = 1000,
    NS_PER_US = 1000,
    EVENTS = 64,
    /* A timer of 0 means: call again. Each call starts at least one transfer or ends its
     * step, so few rounds do; the rest comes in the next turn. */
    ROUNDS = 8
};

/* Read here and not handed in: libcurl drops a timer that it is told of too early, by less
 * than a millisecond, so what it asks for must count from a time after it asked. */
int64_t tb__http_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * US_PER_S + now.tv_nsec / NS_PER_US;
}

static int on_timer(CURLM *multi, long timeout_ms, void *data)
{
    (void)multi;
    tb_http *http = data;
    if (timeout_ms < 0) {
        http->next_us = -1;
    } else if (timeout_ms == 0) {
        http->next_us = 0;
    } else {
        http->next_us = tb__http_now() + timeout_ms * US_PER_MS;
    }
    return 0;
}

/* A socket that libcurl has told of before is in the set, unless it was closed meanwhile
 * and its number is another socket now. */
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *is_known)
{
    (void)easy;
    tb_http *http = data;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(http->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    struct epoll_event event = {.data.fd = fd};
    event.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    int likely = is_known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    int other = is_known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    curl_multi_assign(http->multi, fd, http);
    bool is_set = epoll_ctl(http->epoll_fd, likely, fd, &event) == 0 ||
                  epoll_ctl(http->epoll_fd, other, fd, &event) == 0;
    return is_set ? 0 : -1;
}

static bool set_up(tb_http *http)
{
    http->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    http->multi = curl_multi_init();
    if (http->epoll_fd < 0 || !http->multi) {
        return false;
    }
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
    return true;
}

int tb_http_abi(void)
{
    return TB_HTTP_ABI;
}

tb_http *tb_http_new(void)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return NULL;
    }
    tb_http *http = calloc(1, sizeof *http);
    if (!http) {
        curl_global_cleanup();
        return NULL;
    }
    http->next_us = http->expiry_us = -1;
    http->last_finished = &http->first_finished;
    if (set_up(http)) {
        return http;
    }
    tb_http_free(http);
    return NULL;
}

/* Also of one that tb_http_new() made half. */
void tb_http_free(tb_http *http)
{
    if (!http) {
        return;
    }
    tb__http_close_slots(http);
    if (http->multi) {
        curl_multi_cleanup(http->multi);
    }
    if (http->epoll_fd >= 0) {
        close(http->epoll_fd);
    }
    free(http);
    curl_global_cleanup();
}

int tb_http_fd(const tb_http *http)
{
    return http->epoll_fd;
}

int64_t tb_http_next(const tb_http *http)
{
    if (http->first_finished) {
        return 0;
    }
    if (http->in_flight == 0) {
        return -1;
    }
    bool is_ours = http->next_us < 0 || (http->expiry_us >= 0 && http->expiry_us < http->next_us);
    return is_ours ? http->expiry_us : http->next_us;
}

/* --- the turn --------------------------------------------------------------- */

static void drain(tb_http *http)
{
    int left;
    CURLMsg *message;
    while ((message = curl_multi_info_read(http->multi, &left))) {
        if (message->msg == CURLMSG_DONE) {
            struct tb__http_slot *slot;
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&slot);
            tb__http_finish(http, slot, message->data.result);
        }
    }
}

static bool timer_is_due(const tb_http *http)
{
    return http->next_us == 0 || (http->next_us > 0 && http->next_us <= tb__http_now());
}

void tb__http_progress(tb_http *http)
{
    int running;
    for (int round = 0; round < ROUNDS && timer_is_due(http); round++) {
        http->next_us = -1;
        curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
    drain(http);
}

static int curl_events(uint32_t events)
{
    return (events & EPOLLIN ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
           (events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
}

/* expiry_us is at or before the earliest deadline, which may have ended meanwhile. */
static void expire(tb_http *http)
{
    int64_t now_us = tb__http_now();
    if (http->expiry_us < 0 || http->expiry_us > now_us) {
        return;
    }
    http->expiry_us = -1;
    for (uint32_t i = 0; i < http->slot_count; i++) {
        struct tb__http_slot *slot = http->slots[i];
        if (slot->state != TB__HTTP_IN_FLIGHT || !slot->deadline_us) {
            continue;
        }
        if (slot->deadline_us <= now_us) {
            slot->is_late = true;
            tb__http_finish(http, slot, CURLE_OPERATION_TIMEDOUT);
        } else {
            tb__http_expect(http, slot->deadline_us);
        }
    }
}

void tb__http_expect(tb_http *http, int64_t deadline_us)
{
    if (http->expiry_us < 0 || deadline_us < http->expiry_us) {
        http->expiry_us = deadline_us;
    }
}

static uint32_t report(tb_http *http, double *ids, uint32_t max)
{
    uint32_t n = 0;
    while (http->first_finished && n < max) {
        struct tb__http_slot *slot = http->first_finished;
        http->first_finished = slot->next;
        slot->state = TB__HTTP_REPORTED;
        ids[n++] = slot->index + slot->generation * TB_HTTP_CAPACITY;
    }
    if (!http->first_finished) {
        http->last_finished = &http->first_finished;
    }
    return n;
}

uint32_t tb_http_turn(tb_http *http, double *ids, uint32_t max)
{
    assert(http && (ids || max == 0));
    struct epoll_event events[EVENTS];
    int running, n = epoll_wait(http->epoll_fd, events, EVENTS, 0);
    for (int i = 0; i < n; i++) {
        curl_multi_socket_action(http->multi, events[i].data.fd, curl_events(events[i].events),
                                 &running);
    }
    tb__http_progress(http);
    expire(http);
    return report(http, ids, max);
}
