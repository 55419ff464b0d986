/* multi.c - libcurl's side of a turn: its sockets and its timer, what has finished, and the
 * deadlines that are kept here in its place.
 */
#include "client.h"

#include "../base/clock.h"

#include <assert.h>
#include <sys/epoll.h>

/* A timer of 0 means: call again. Each call starts at least one transfer or ends its
 * step, so few rounds do; the rest comes in the next turn. */
enum { EVENTS = 64, ROUNDS = 8 };

/* How often a turn looks for more before it ends requests as late: enough for an event of
 * each of TB_HTTP_CAPACITY sockets, and for the megabytes that a socket holds. */
enum { LAST_LOOKS = 256 };

/* --- what libcurl asks for, by callbacks that only take notes ---------------- */

static int on_timer(CURLM *multi, long timeout_ms, void *data)
{
    tb_http *http = data;
    assert(http->multi == multi);
    if (timeout_ms < 0) {
        http->next_us = -1;
    } else if (timeout_ms == 0) {
        http->next_us = 0;
    } else {
        http->next_us = tb__clock_us() + timeout_ms * TB__US_PER_MS;
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
    assert(http->epoll_fd >= 0 && fd >= 0);
    struct epoll_event event = {.data.fd = fd};
    event.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    int likely = is_known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    int other = is_known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    curl_multi_assign(http->multi, fd, http);
    bool is_set = epoll_ctl(http->epoll_fd, likely, fd, &event) == 0 ||
                  epoll_ctl(http->epoll_fd, other, fd, &event) == 0;
    return is_set ? 0 : -1;
}

bool tb__http_open_multi(tb_http *http)
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

/* --- flights ------------------------------------------------------------------ */

void tb__http_end_flight(tb_http *http, struct tb__http_slot *slot)
{
    assert(slot->state == TB__HTTP_IN_FLIGHT);
    assert(http->in_flight > 0);
    curl_multi_remove_handle(http->multi, slot->easy);
    http->in_flight--;
}

void tb__http_finish(tb_http *http, struct tb__http_slot *slot, CURLcode result)
{
    slot->result = result;
    tb__http_end_flight(http, slot);
    slot->state = TB__HTTP_FINISHED;
    slot->next = NULL;
    *http->last_finished = slot;
    http->last_finished = &slot->next;
    assert(http->first_finished);
}

static void drain(tb_http *http)
{
    int left;
    CURLMsg *message;
    while ((message = curl_multi_info_read(http->multi, &left))) {
        if (message->msg == CURLMSG_DONE) {
            struct tb__http_slot *slot;
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&slot);
            assert(slot->easy == message->easy_handle);
            tb__http_finish(http, slot, message->data.result);
        }
    }
}

/* --- the turn ------------------------------------------------------------------- */

static bool timer_is_due(const tb_http *http)
{
    return http->next_us == 0 || (http->next_us > 0 && http->next_us <= tb__clock_us());
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

/* expiry_us is at or before the earliest deadline, which may have ended meanwhile. */
static void expire(tb_http *http)
{
    int64_t now_us = tb__clock_us();
    if (http->expiry_us < 0 || http->expiry_us > now_us) {
        return;
    }
    http->expiry_us = -1;
    const struct tb__http_place *place = tb__slots_next(&http->places, 0);
    for (; place; place = tb__slots_next(&http->places, tb__slots_place(&http->places, place) + 1)) {
        struct tb__http_slot *slot = place->slot;
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
    assert(deadline_us > 0);
    if (http->expiry_us < 0 || deadline_us < http->expiry_us) {
        http->expiry_us = deadline_us;
    }
}

static int curl_events(uint32_t events)
{
    return (events & EPOLLIN ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
           (events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
}

/* What has come, of up to EVENTS sockets; their number. */
static int take_arrivals(tb_http *http)
{
    struct epoll_event events[EVENTS];
    int running, n = epoll_wait(http->epoll_fd, events, EVENTS, 0);
    for (int i = 0; i < n; i++) {
        curl_multi_socket_action(http->multi, events[i].data.fd, curl_events(events[i].events),
                                 &running);
    }
    tb__http_progress(http);
    return n;
}

static bool may_expire(const tb_http *http)
{
    return http->expiry_us >= 0 && http->expiry_us <= tb__clock_us();
}

/* The loop may have been away, or the process stopped, while answers came in and deadlines
 * passed: an answer that has arrived counts. */
void tb__http_move(tb_http *http)
{
    int n = take_arrivals(http);
    for (int i = 0; n > 0 && i < LAST_LOOKS && may_expire(http); i++) {
        n = take_arrivals(http);
    }
    expire(http);
}
