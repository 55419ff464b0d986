/* request.c - slots: requests by id, from start to release.
 */
#include "client.h"

#include "../base/clock.h"

#include <assert.h>
#include <stdlib.h>

static struct tb__http_slot *find(const tb_http *http, double id)
{
    assert(http);
    if (!(id > 0 && id < 0x1p53)) {
        return NULL;
    }
    const struct tb__http_place *place = tb__slots_find(&http->places, (int64_t)id);
    return place && place->slot->id == id ? place->slot : NULL;
}

/* A place keeps its slot, and that its curl handle, when it is given back. */
static struct tb__http_slot *new_slot(void)
{
    struct tb__http_slot *slot = calloc(1, sizeof *slot);
    CURL *easy = slot ? curl_easy_init() : NULL;
    if (!easy) {
        free(slot);
        return NULL;
    }
    slot->easy = easy;
    return slot;
}

/* NULL: no memory. */
static struct tb__http_slot *take_slot(tb_http *http)
{
    struct tb__http_place *place = tb__slots_take(&http->places);
    if (!place) {
        return NULL;
    }
    if (!place->slot) {
        place->slot = new_slot();
    }
    if (!place->slot) {
        tb__slots_give(&http->places, place);
        return NULL;
    }
    int64_t id = tb__slots_id(&http->places, place);
    assert(id > 0 && id < INT64_C(1) << TB__ID_BITS);
    place->slot->id = (double)id;
    return place->slot;
}

static void give_slot(tb_http *http, struct tb__http_slot *slot)
{
    struct tb__http_place *place = tb__slots_find(&http->places, (int64_t)slot->id);
    assert(place && place->slot == slot);
    tb__http_clean(slot);
    slot->state = TB__HTTP_NEW;
    tb__slots_give(&http->places, place);
}

double tb_http_start(tb_http *http, const tb_http_request *request)
{
    assert(http && request);
    assert(request->url);
    assert(request->body || request->body_size == 0);
    assert(request->timeout_us >= 0 && request->connect_timeout_ms >= 0);
    assert(request->max_response_bytes >= 0);
    if (http->places.taken == TB_HTTP_CAPACITY) {
        return TB_HTTP_EFULL;
    }
    struct tb__http_slot *slot = take_slot(http);
    if (!slot) {
        return TB_HTTP_EMEMORY;
    }
    int refusal = tb__http_set_up(slot, request);
    if (!refusal && curl_multi_add_handle(http->multi, slot->easy) != CURLM_OK) {
        refusal = TB_HTTP_EMEMORY;
    }
    if (refusal) {
        give_slot(http, slot);
        return refusal;
    }
    slot->state = TB__HTTP_IN_FLIGHT;
    http->in_flight++;
    if (request->timeout_us > 0) {
        slot->deadline_us = tb__clock_us() + request->timeout_us;
        tb__http_expect(http, slot->deadline_us);
    }
    tb__http_progress(http); /* connects, or sends, now and not in the next turn */
    return slot->id;
}

static void leave_line(tb_http *http, const struct tb__http_slot *slot)
{
    struct tb__http_slot **link = &http->first_finished;
    while (*link != slot) {
        assert(*link);
        link = &(*link)->next;
    }
    *link = slot->next;
    if (!*link) {
        http->last_finished = link;
    }
}

int tb_http_read(tb_http *http, double id, tb_http_response *response)
{
    struct tb__http_slot *slot = find(http, id);
    if (!slot || slot->state != TB__HTTP_REPORTED) {
        return 0;
    }
    assert(response);
    tb__http_describe(slot, response);
    return 1;
}

int tb_http_release(tb_http *http, double id)
{
    struct tb__http_slot *slot = find(http, id);
    if (!slot) {
        return 0;
    }
    if (slot->state == TB__HTTP_IN_FLIGHT) {
        tb__http_end_flight(http, slot);
    } else if (slot->state == TB__HTTP_FINISHED) {
        leave_line(http, slot);
    }
    give_slot(http, slot);
    return 1;
}

static void free_slot(tb_http *http, struct tb__http_slot *slot)
{
    if (slot->state == TB__HTTP_IN_FLIGHT) {
        tb__http_end_flight(http, slot);
    }
    tb__http_clean(slot);
    curl_easy_cleanup(slot->easy);
    free(slot);
}

void tb__http_close_slots(tb_http *http)
{
    for (uint32_t i = 0; i < http->places.used; i++) {
        const struct tb__http_place *place = tb__slots_at(&http->places, i);
        if (place->slot) {
            free_slot(http, place->slot);
        }
    }
    assert(http->in_flight == 0);
    tb__slots_close(&http->places);
}
