/* request.c - slots: requests by id, from start to release.
 */
#include "client.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static double id_of(const struct tb__http_slot *slot)
{
    return slot->index + slot->generation * TB_HTTP_CAPACITY;
}

static struct tb__http_slot *find(tb_http *http, double id)
{
    if (!(id > 0)) {
        return NULL;
    }
    uint32_t index = (uint32_t)fmod(id, TB_HTTP_CAPACITY);
    if (index >= http->slot_count) {
        return NULL;
    }
    struct tb__http_slot *slot = http->slots[index];
    return slot->state != TB__HTTP_FREE && id_of(slot) == id ? slot : NULL;
}

static struct tb__http_slot *new_slot(tb_http *http)
{
    struct tb__http_slot *slot = calloc(1, sizeof *slot);
    CURL *easy = slot ? curl_easy_init() : NULL;
    if (!easy) {
        free(slot);
        return NULL;
    }
    slot->easy = easy;
    slot->index = http->slot_count;
    http->slots[http->slot_count++] = slot;
    return slot;
}

static struct tb__http_slot *take_slot(tb_http *http)
{
    struct tb__http_slot *slot = http->free_slots;
    if (slot) {
        http->free_slots = slot->next;
    } else {
        slot = new_slot(http);
    }
    return slot;
}

static void give_slot(tb_http *http, struct tb__http_slot *slot)
{
    tb__http_clean(slot);
    slot->state = TB__HTTP_FREE;
    slot->next = http->free_slots;
    http->free_slots = slot;
}

double tb_http_start(tb_http *http, const tb_http_request *request)
{
    assert(http && request && request->url);
    if (!http->free_slots && http->slot_count == TB_HTTP_CAPACITY) {
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
    slot->generation++;
    http->in_flight++;
    if (request->timeout_us > 0) {
        slot->deadline_us = tb__http_now() + request->timeout_us;
        tb__http_expect(http, slot->deadline_us);
    }
    tb__http_progress(http); /* connects, or sends, now and not in the next turn */
    return id_of(slot);
}

static void end_flight(tb_http *http, struct tb__http_slot *slot)
{
    curl_multi_remove_handle(http->multi, slot->easy);
    http->in_flight--;
}

void tb__http_finish(tb_http *http, struct tb__http_slot *slot, CURLcode result)
{
    slot->result = result;
    end_flight(http, slot);
    slot->state = TB__HTTP_FINISHED;
    slot->next = NULL;
    *http->last_finished = slot;
    http->last_finished = &slot->next;
}

static void leave_line(tb_http *http, const struct tb__http_slot *slot)
{
    struct tb__http_slot **link = &http->first_finished;
    while (*link != slot) {
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
        end_flight(http, slot);
    } else if (slot->state == TB__HTTP_FINISHED) {
        leave_line(http, slot);
    }
    give_slot(http, slot);
    return 1;
}

void tb__http_close_slots(tb_http *http)
{
    for (uint32_t i = 0; i < http->slot_count; i++) {
        struct tb__http_slot *slot = http->slots[i];
        if (slot->state == TB__HTTP_IN_FLIGHT) {
            curl_multi_remove_handle(http->multi, slot->easy);
        }
        tb__http_clean(slot);
        curl_easy_cleanup(slot->easy);
        free(slot);
    }
}
