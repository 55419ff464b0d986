/* client.c - the client's life, and its turn: the public calls that are not of one request.
 */
#include "client.h"

#include <assert.h>
#include <stdlib.h>
#include <unistd.h>

enum { CAPACITY_BITS = 12 };
_Static_assert(TB_HTTP_CAPACITY == 1 << CAPACITY_BITS, "an id's place");

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
    tb__slots_open(&http->places, sizeof(struct tb__http_place), CAPACITY_BITS);
    http->next_us = http->expiry_us = -1;
    http->epoll_fd = -1;
    http->last_finished = &http->first_finished;
    if (tb__http_open_multi(http)) {
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
    assert(http);
    return http->epoll_fd;
}

int64_t tb_http_next(const tb_http *http)
{
    assert(http);
    if (http->first_finished) {
        return 0;
    }
    if (http->in_flight == 0) {
        return -1;
    }
    bool is_ours = http->next_us < 0 || (http->expiry_us >= 0 && http->expiry_us < http->next_us);
    return is_ours ? http->expiry_us : http->next_us;
}

static uint32_t report(tb_http *http, double *ids, uint32_t max)
{
    uint32_t n = 0;
    while (http->first_finished && n < max) {
        struct tb__http_slot *slot = http->first_finished;
        http->first_finished = slot->next;
        assert(slot->state == TB__HTTP_FINISHED);
        slot->state = TB__HTTP_REPORTED;
        ids[n++] = slot->id;
    }
    if (!http->first_finished) {
        http->last_finished = &http->first_finished;
    }
    return n;
}

uint32_t tb_http_turn(tb_http *http, double *ids, uint32_t max)
{
    assert(http);
    assert(ids || max == 0);
    tb__http_move(http);
    return report(http, ids, max);
}

void tb_http_excuse(tb_http *http, int64_t us)
{
    assert(http);
    assert(us >= 0);
    const struct tb__http_place *place = tb__slots_next(&http->places, 0);
    for (; place; place = tb__slots_next(&http->places, tb__slots_place(&http->places, place) + 1)) {
        struct tb__http_slot *slot = place->slot;
        if (slot->state == TB__HTTP_IN_FLIGHT && slot->deadline_us) {
            slot->deadline_us += us;
        }
    }
    if (http->expiry_us >= 0) {
        http->expiry_us += us;
    }
}
