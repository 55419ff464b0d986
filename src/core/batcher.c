/* batcher.c - the life of a batcher, and the pump's two questions: what happened
 * (tb_poll), and when must I ask again (tb_next). */
#include "core.h"

#include <stdlib.h>

static const tb_list EMPTY = {TB_NIL, TB_NIL, 0};

static bool cuts_reserve(tb_batcher *b, uint32_t count)
{
    if (count <= b->cut_capacity) return true;
    tb_cut *grown = malloc(count * sizeof *grown);
    if (!grown) return false;
    tb__cuts_dissolve(b);
    free(b->cut);
    b->cut = grown;
    b->cut_capacity = count;
    return true;
}

static void adopt(tb_batcher *b, const tb_config *config)
{
    b->config = *config;
    b->budget = (uint64_t)config->target_batch_cost;
    b->max_queued_cost = config->max_queue_cost > 0 ? (uint64_t)config->max_queue_cost : UINT64_MAX;
}

tb_batcher *tb_new(const tb_config *config)
{
    assert(config != NULL);
    if (tb_config_check(config)) return NULL;
    tb_batcher *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    adopt(b, config);
    b->state = TB_STOPPED;
    b->free_slot = TB_NIL;
    b->waiting = b->pending = EMPTY;
    b->open.next = b->plain = TB_NIL;
    tb__views_close(b, false);
    b->stop_at_us = b->ask_at_us = TB_TIME_MAX;
    if (!tb__batches_reserve(b, config->max_concurrent_batches) ||
        !cuts_reserve(b, config->prefetch_batches)) {
        tb_free(b);
        return NULL;
    }
    return b;
}

void tb_free(tb_batcher *b)
{
    if (!b) return;
    free(b->slot);
    free(b->heap.entry);
    free(b->cut);
    free(b->batch);
    free(b->call);
    free(b->group);
    free(b->lone);
    tb__views_close(b, false);
    free(b->choice.index);
    free(b->choice.position);
    free(b->choice.member);
    free(b);
}

size_t tb_memory(const tb_batcher *b)
{
    assert(b != NULL);
    return sizeof *b + b->slots * sizeof *b->slot + b->heap.capacity * sizeof *b->heap.entry +
           b->cut_capacity * sizeof *b->cut + b->batches * sizeof *b->batch +
           b->groups * sizeof *b->group + b->lone_capacity / 8 + b->calls_capacity * sizeof *b->call +
           tb__views_memory(b) + (size_t)b->choice.capacity * 4 * sizeof *b->choice.index;
}

int tb_state(const tb_batcher *b)
{
    assert(b != NULL);
    return b->state;
}

int tb_start(tb_batcher *b, int64_t now_us)
{
    assert(b != NULL);
    assert(now_us >= 0);
    assert(now_us < TB_TIME_MAX);
    if (b->state != TB_STOPPED) return TB_ERUNNING;
    b->now_us = b->accounted_us = now_us;
    b->stop_at_us = TB_TIME_MAX;
    b->was_refused = false;
    b->state = TB_RUNNING;
    return TB_OK;
}

void tb_stop(tb_batcher *b, int64_t timeout_us, int64_t now_us)
{
    assert(b != NULL);
    tb__advance(b, now_us);
    if (b->state == TB_STOPPED) return;
    b->state = TB_DRAINING;
    b->news = true;
    if (timeout_us < 0 || timeout_us > TB_TIME_MAX / 2) return;
    int64_t at = b->now_us + timeout_us;
    if (at < b->stop_at_us) b->stop_at_us = at;
}

void tb_flush(tb_batcher *b, int64_t now_us)
{
    assert(b != NULL);
    tb__advance(b, now_us);
    b->asked_due = false;
    if (b->pending.size) b->flushed_seq = b->slot[b->pending.last].seq + 1;
}

int tb_set(tb_batcher *b, const tb_config *config, int64_t now_us)
{
    assert(b != NULL);
    assert(config != NULL);
    assert(b->choice.size == 0);
    int error = tb_config_check(config);
    if (error) return error;
    bool is_scripted = config->policy == TB_POLICY_SCRIPT;
    bool opens_groups = is_scripted && b->group;
    if (!tb__batches_reserve(b, config->max_concurrent_batches) ||
        (opens_groups && !tb__view_reserve(b, TB_VIEW_GROUPS)) ||
        !cuts_reserve(b, config->prefetch_batches)) /* last: it dissolves the cuts */
        return TB_ENOMEM;
    tb__cuts_dissolve(b); /* a view that is opened takes them in their order */
    if (opens_groups) {
        bool is_open = tb__view_open(b, TB_VIEW_GROUPS, 0);
        assert(is_open); /* its memory is there */
        (void)is_open;
    }
    tb__advance(b, now_us);
    tb__account(b);
    adopt(b, config);
    if (!is_scripted) tb__views_close(b, false);
    tb__open_reset(b);
    tb__groups_judge(b);
    tb__calls_review(b);
    b->news = true;
    b->ask_at_us = TB_TIME_MAX;
    return TB_OK;
}

void tb_get(const tb_batcher *b, tb_config *config)
{
    assert(b != NULL);
    assert(config != NULL);
    *config = b->config;
}

/* --- cancelling ------------------------------------------------------------ */

int tb_cancel(tb_batcher *b, tb_id record, int64_t now_us)
{
    assert(b != NULL);
    tb__advance(b, now_us);
    uint32_t at = tb__slot_find(b, record);
    if (at == TB_NIL) return TB_ENOENT;
    if (b->slot[at].state == TB_RECORD_RUNNING) {
        tb__batch_leave(b, at);
        tb__slot_give(b, at);
    } else {
        tb__queue_forget(b, at);
    }
    b->cancelled++;
    return TB_OK;
}

/* --- records of a key alone ------------------------------------------------- */

/* The account of groups follows. There is one for scripts alone, for which nothing is cut ahead. */
static void groups_follow(tb_batcher *b, uint32_t key, bool is_lone)
{
    if (!tb__is_open(b, TB_VIEW_GROUPS)) return;
    assert(b->cut_records == 0);
    for (uint32_t at = b->pending.first; at != TB_NIL; at = b->slot[at].next)
        if (b->slot[at].key == key) tb__group_lone(b, at, is_lone);
}

int tb_key_alone(tb_batcher *b, uint32_t key, int on, int64_t now_us)
{
    assert(b != NULL);
    assert(key > 0);
    assert(key < TB_SLOTS_MAX);
    tb__advance(b, now_us);
    if (tb__is_lone(b, key) == (on != 0)) return TB_OK;
    if (!tb__lone_reserve(b, key)) return TB_ENOMEM;
    b->lone[key / 8] ^= (uint8_t)(1u << key % 8);
    b->lone_keys += on ? 1 : UINT32_MAX;
    b->has_marks = b->group || b->lone_keys > 0;
    groups_follow(b, key, on != 0);
    tb__marks_changed(b);
    return TB_OK;
}

/* --- tb_poll ------------------------------------------------------------ */

static bool batch_timed_out(tb_batcher *b, tb_event *event)
{
    if (b->timed_batches == 0) return false;
    for (uint32_t at = 0; at < b->batches; at++) {
        if (!b->batch[at].in_use || b->batch[at].expires_us > b->now_us) continue;
        *event = (tb_event){tb__batch_id(b, at), TB_EVENT_BATCH_TIMED_OUT, 0};
        tb__batch_end(b, at, TB_FAILED);
        tb__call_abandoned(b, at, true);
        return true;
    }
    return false;
}

static bool any_batch_stopped(tb_batcher *b, tb_event *event)
{
    for (uint32_t at = 0; at < b->batches; at++) {
        if (!b->batch[at].in_use) continue;
        *event = (tb_event){tb__batch_id(b, at), TB_EVENT_BATCH_STOPPED, 0};
        tb__batch_end(b, at, TB_FAILED);
        tb__call_abandoned(b, at, false);
        return true;
    }
    return false;
}

/* Stop has run out of time: one thing that is left fails. */
static bool stopped_one(tb_batcher *b, tb_event *event)
{
    assert(b->state == TB_DRAINING);
    uint32_t at = b->pending.first;
    if (at != TB_NIL) {
        *event = (tb_event){tb__slot_id(b, at), TB_EVENT_STOPPED, 0};
        tb__queue_forget(b, at);
        b->failed++;
        return true;
    }
    at = b->waiting.first;
    if (at != TB_NIL) {
        *event = (tb_event){tb__slot_id(b, at), TB_EVENT_REFUSED, 0};
        tb__queue_forget(b, at);
        b->submitted--; /* a refusal is no submission */
        b->rejected++;
        return true;
    }
    return any_batch_stopped(b, event);
}

/* Draining is over when no record is left. A batch may be left all the same, whose
 * records were all cancelled while it ran: it is abandoned. */
static bool drained(tb_batcher *b, tb_event *event)
{
    assert(b->state == TB_DRAINING);
    assert(b->pending.size || b->waiting.size == 0); /* an empty queue has let the first one in */
    if (b->pending.size || b->running_records) return false;
    if (any_batch_stopped(b, event)) return true;
    tb__calls_release_all(b); /* calls that nobody waits for keep nobody from stopping */
    tb__account(b);
    b->state = TB_STOPPED;
    *event = (tb_event){0, TB_EVENT_DRAINED, 0};
    return true;
}

static bool next_event(tb_batcher *b, tb_event *event)
{
    assert(event != NULL);
    if (batch_timed_out(b, event)) return true;
    if (tb__pop_expired(b, &event->id)) {
        event->kind = TB_EVENT_EXPIRED;
        return true;
    }
    if (b->state == TB_DRAINING && b->stop_at_us <= b->now_us && stopped_one(b, event)) return true;
    if (tb__admit_next(b, &event->id)) {
        event->kind = TB_EVENT_ADMITTED;
        return true;
    }
    return b->state == TB_DRAINING && drained(b, event);
}

uint32_t tb_poll(tb_batcher *b, tb_event *events, uint32_t max, int64_t now_us)
{
    assert(b != NULL);
    assert(events != NULL || max == 0);
    uint32_t n = 0;
    tb__advance(b, now_us);
    if (b->state == TB_STOPPED) return 0;
    if (b->held_batches) tb__calls_release(b);
    while (n < max && next_event(b, &events[n])) {
        events[n].reserved = 0;
        n++;
        if (b->state == TB_STOPPED) break;
    }
    return n;
}

/* --- tb_next ------------------------------------------------------------ */

static int64_t earlier(int64_t x, int64_t y)
{
    return x < y ? x : y;
}

static int64_t earliest_timeout(const tb_batcher *b)
{
    int64_t at = TB_TIME_MAX;
    if (b->timed_batches == 0) return at;
    for (uint32_t i = 0; i < b->batches; i++)
        if (b->batch[i].in_use) at = earlier(at, b->batch[i].expires_us);
    return at;
}

int64_t tb_next(const tb_batcher *b)
{
    assert(b != NULL);
    if (b->state == TB_STOPPED) return TB_NEVER_US;
    int64_t at = earlier(earliest_timeout(b), tb__calls_next_us(b));
    if (b->heap.size) at = earlier(at, b->heap.entry[0].at_us);
    if (b->state == TB_DRAINING) at = earlier(at, b->stop_at_us);
    if (tb__has_idle_slot(b)) {
        bool is_scripted = b->config.policy == TB_POLICY_SCRIPT;
        at = earlier(at, is_scripted ? tb__ask_us(b) : tb__due_us(b));
        if (b->cuts || (!is_scripted && tb__is_bounded(b))) at = 0;
    }
    bool over = b->pending.size == 0 && b->waiting.size == 0 && b->running_records == 0;
    if (b->state == TB_DRAINING && over) at = 0;
    return at == TB_TIME_MAX ? TB_NEVER_US : at;
}
