/* steps.c - what can be done to a world, and what must hold whatever was done: see world.h. */
#include "world.h"

#include <stdio.h>
#include <string.h>

/* A step is what x 16 + which. */
enum what {
    PASS, POLL, FORM, FORM_DEFAULT, SUBMIT, SUBMIT_WAITING, CANCEL, COMPLETE, FAIL, FINISH, FINISH_FAILED, RETRY,
    CALL_ENDED, SET, FLUSH, STOP, STOP_SOON, START, ALONE, SHARED
};

static const char *const NAMES[] = {
    "a step of time", "poll", "form", "form as fifo would", "submit", "submit, may wait,", "cancel record",
    "complete record", "fail record", "complete batch", "fail batch", "retry batch", "ended: call", "set", "flush",
    "stop", "stop within a step", "start", "alone: key", "no longer alone: key"
};

typedef struct {
    uint16_t *out;
    uint32_t n;
} list;

static void add(list *l, enum what what, uint32_t which)
{
    assert(l->n < STEPS_MAX);
    l->out[l->n++] = (uint16_t)((uint32_t)what * 16 + which);
}

static void add_for_records(list *l, const world *w)
{
    const model *m = &w->d.m;
    for (uint32_t i = 0; i < m->record_count; i++) {
        add(l, CANCEL, i);
        if (m->records[i].state != TB_RECORD_RUNNING || !w->plan->has_settle) continue;
        add(l, COMPLETE, i);
        add(l, FAIL, i);
    }
    for (uint32_t i = 0; i < m->batch_count; i++) {
        add(l, FINISH, i);
        add(l, FINISH_FAILED, i);
        if (m->batches[i].inference_timeout_us) add(l, RETRY, i);
    }
    for (uint32_t i = 0; i < m->call_count; i++) add(l, CALL_ENDED, i);
}

uint32_t steps_of(const world *w, uint16_t *out)
{
    list l = {out, 0};
    const plan *p = w->plan;
    const model *m = &w->d.m;
    if (m->state == TB_STOPPED) {
        add(&l, START, 0);
    } else {
        add(&l, PASS, 0), add(&l, POLL, 0), add(&l, FORM, 0);
        if (w->d.b->config.policy == TB_POLICY_FIFO) add(&l, FORM_DEFAULT, 0);
        if (p->has_stop) add(&l, STOP, 0), add(&l, STOP_SOON, 0);
        if (p->has_flush) add(&l, FLUSH, 0);
    }
    if (m->record_count < p->records)
        for (uint32_t i = 0; i < p->kind_count; i++) add(&l, SUBMIT, i), add(&l, SUBMIT_WAITING, i);
    if (p->setting_count > 1) add(&l, SET, 0);
    if (p->lone_key) add(&l, m->lone[p->lone_key] ? SHARED : ALONE, p->lone_key);
    add_for_records(&l, w);
    return l.n;
}

void step_name(const world *w, uint16_t step, char *out)
{
    (void)w;
    snprintf(out, STEP_TEXT, "%s %d", NAMES[step / 16], step % 16);
}

/* --- doing ------------------------------------------------------------------------- */

static void expect(drive *d, const char *name, int got, int must)
{
    DRIVE_CHECK(d, got == must, "%s answers %d, must answer %d", name, got, must);
}

static void submit(world *w, uint32_t kind, uint32_t flags)
{
    drive *d = &w->d;
    tb_submission record = w->plan->kinds[kind];
    record.flags |= flags;
    tb_id id = tb_submit(d->b, &record, d->now_us);
    DRIVE_CHECK(d, model_find_record(&d->m, id) == d->m.record_count, "the id is in use");
    int must = model_submit(&d->m, &record, id, d->now_us);
    if (must) {
        expect(d, "submit", (int)id, must);
        return;
    }
    uint32_t slot, generation;
    DRIVE_CHECK(d, tb__split_id(id, &slot, &generation), "submit answers %g, must accept", id);
    DRIVE_CHECK(d, slot < WORLD_RECORDS && generation > w->last_generation[slot], "the id was used before");
    w->last_generation[slot] = generation;
}

/* F1 and F6, of a batch that has just gone, without the model's help. */
static void check_dispatched(drive *d, uint32_t busy_before)
{
    const tb_config *c = &d->b->config;
    tb_batch read;
    double costs[WORLD_RECORDS], sum = 0, largest = 0;
    tb_id ids[WORLD_RECORDS], batch = d->m.batches[d->m.batch_count - 1].id;
    DRIVE_CHECK(d, busy_before < c->max_concurrent_batches, "F6: a batch goes beyond max_concurrent_batches");
    tb_batch_read(d->b, batch, &read, ids, costs, WORLD_RECORDS);
    DRIVE_CHECK(d, read.size >= 1 && read.size <= c->max_batch_size, "a batch of %u records goes", read.size);
    for (uint32_t i = 0; i < read.size; i++) {
        uint32_t at = tb__slot_find(d->b, ids[i]);
        sum += costs[i];
        if (costs[i] > largest) largest = costs[i];
        DRIVE_CHECK(d, tb__group_of(d->b, at) == read.group, "F1: records of two groups share a batch");
        DRIVE_CHECK(d, read.size == 1 || !d->m.lone[d->b->slot[at].key], "R7: a record that runs alone shares a batch");
    }
    double cost = c->cost_model == TB_COST_PADDED ? read.size * largest : sum;
    DRIVE_CHECK(d, read.size == 1 || cost <= c->target_batch_cost, "F1: a batch of cost %g goes", cost);
}

static void form(drive *d)
{
    uint32_t before = d->m.batch_count, busy = d->b->running_batches + d->b->held_batches;
    drive_form(d);
    if (d->m.batch_count == before + 1) check_dispatched(d, busy);
}

/* What fifo would do is what it does. Cuts that are stale by now are left to tb_form(). */
static void form_default(drive *d)
{
    uint32_t reason = 0, size, busy;
    if (d->m.state == TB_DRAINING && d->m.stop_us <= d->now_us) return;
    while (d->m.call_count < WORLD_CALLS && drive_poll(d)) continue;
    model_clock(&d->m, d->now_us);
    if (d->m.state == TB_STOPPED) return;
    size = model_decide(&d->m, &reason);
    busy = d->b->running_batches + d->b->held_batches;
    tb_id batch = tb_form_default(d->b, d->now_us);
    DRIVE_CHECK(d, (batch != 0) == (size != 0), "a batch of %u records must go", size);
    if (batch) {
        drive_check_batch(d, batch, size, reason);
        check_dispatched(d, busy);
    }
    drive_form(d);
}

static void set(world *w)
{
    drive *d = &w->d;
    w->setting = (w->setting + 1) % w->plan->setting_count;
    expect(d, "set", tb_set(d->b, &w->plan->settings[w->setting], d->now_us), TB_OK);
    model_set(&d->m, &w->plan->settings[w->setting], d->now_us);
    uint32_t first = model_first_in(&d->m, TB_RECORD_CUT); /* they may be made anew at once, or later */
    if (first < d->m.record_count && tb_record_state(d->b, d->m.records[first].id) == TB_RECORD_QUEUED)
        model_dissolve(&d->m);
}

static void settle(drive *d, uint32_t i, int outcome)
{
    tb_id id = d->m.records[i].id;
    expect(d, "settle", tb_settle(d->b, id, outcome, d->now_us), model_settle(&d->m, id, outcome, d->now_us));
}

static void finish(drive *d, uint32_t i, int outcome)
{
    tb_id id = d->m.batches[i].id;
    expect(d, "finish", tb_batch_finish(d->b, id, outcome, d->now_us), model_finish(&d->m, id, outcome, d->now_us));
    expect(d, "finish again", tb_batch_finish(d->b, id, outcome, d->now_us), TB_ENOENT);
}

static void stop(drive *d, int64_t timeout_us)
{
    tb_stop(d->b, timeout_us, d->now_us);
    model_stop(&d->m, timeout_us, d->now_us);
}

static void alone(world *w, uint32_t key, int on)
{
    expect(&w->d, "key_alone", tb_key_alone(w->d.b, key, on, w->d.now_us), TB_OK);
    model_key_alone(&w->d.m, key, on, w->d.now_us);
}

/* Those that end records, and the rest. */
static void do_to_records(drive *d, enum what what, uint32_t which)
{
    tb_id id;
    switch (what) {
    case CANCEL:
        id = d->m.records[which].id;
        expect(d, "cancel", tb_cancel(d->b, id, d->now_us), model_cancel(&d->m, id, d->now_us));
        expect(d, "cancel again", tb_cancel(d->b, id, d->now_us), TB_ENOENT);
        break;
    case COMPLETE: settle(d, which, TB_COMPLETED); break;
    case FAIL: settle(d, which, TB_FAILED); break;
    case FINISH: finish(d, which, TB_COMPLETED); break;
    case FINISH_FAILED: finish(d, which, TB_FAILED); break;
    case RETRY:
        id = d->m.batches[which].id;
        expect(d, "retry", tb_batch_retry(d->b, id, d->now_us), model_retry(&d->m, id, d->now_us));
        break;
    default:
        id = d->m.calls[which].id;
        expect(d, "call_ended", tb_call_ended(d->b, id, d->now_us), model_call_ended(&d->m, id, d->now_us));
    }
}

static void start(drive *d)
{
    expect(d, "start", tb_start(d->b, d->now_us), model_start(&d->m, d->now_us));
}

void step_do(world *w, uint16_t step)
{
    drive *d = &w->d;
    enum what what = step / 16;
    uint32_t which = step % 16;
    switch (what) {
    case PASS: d->now_us++; break;
    case POLL:
        if (d->m.call_count < WORLD_CALLS) drive_poll(d); /* more do not change what can happen */
        break;
    case FORM: form(d); break;
    case FORM_DEFAULT: form_default(d); break;
    case SUBMIT: submit(w, which, 0); break;
    case SUBMIT_WAITING: submit(w, which, TB_MAY_WAIT); break;
    case SET: set(w); break;
    case FLUSH:
        tb_flush(d->b, d->now_us);
        model_flush(&d->m, d->now_us);
        break;
    case STOP: stop(d, TB_NO_TIMEOUT); break;
    case STOP_SOON: stop(d, 1); break;
    case START: start(d); break;
    case ALONE: alone(w, which, 1); break;
    case SHARED: alone(w, which, 0); break;
    default: do_to_records(d, what, which);
    }
}

/* --- what holds -------------------------------------------------------------------- */

/* The line and the queue are first come, first served: who came earlier is never behind. */
static void check_order(drive *d)
{
    int ahead = TB_RECORD_RUNNING;
    for (uint32_t i = 0; i < d->m.record_count; i++) {
        int state = tb_record_state(d->b, d->m.records[i].id);
        DRIVE_CHECK(d, state <= ahead, "FIFO: a record is ahead of one that came earlier");
        ahead = state;
    }
}

static void same_count(drive *d, const char *name, uint64_t core, double must)
{
    DRIVE_CHECK(d, (double)core == must, "%s is %.0f, must be %.0f", name, (double)core, must);
}

static void check_counts(drive *d)
{
    const tb_batcher *b = d->b;
    const tb_stats *s = &d->m.stats;
    same_count(d, "total_submitted", b->submitted, s->total_submitted);
    same_count(d, "total_completed", b->completed, s->total_completed);
    same_count(d, "total_failed", b->failed, s->total_failed);
    same_count(d, "total_cancelled", b->cancelled, s->total_cancelled);
    same_count(d, "total_expired", b->expired, s->total_expired);
    same_count(d, "total_rejected", b->rejected, s->total_rejected);
    same_count(d, "total_oversize", b->oversize, s->total_oversize);
    same_count(d, "abandoned_calls", b->calls, d->m.call_count);
    same_count(d, "C5: what was submitted and has not ended",
               b->submitted - b->completed - b->failed - b->cancelled - b->expired,
               (double)b->queued + b->cut_records + b->running_records);
    same_count(d, "live records", b->waiting.size + b->pending.size + b->running_records, d->m.record_count);
}

void step_check(world *w)
{
    drive_compare(&w->d);
    check_order(&w->d);
    check_counts(&w->d);
}

enum { TURNS_MAX = 40 };

void step_drain(world *w)
{
    drive *d = &w->d;
    if (d->m.state != TB_STOPPED) drive_turn(d);
    stop(d, TB_NO_TIMEOUT);
    for (uint32_t i = 0; d->m.state != TB_STOPPED; i++) {
        DRIVE_CHECK(d, i < TURNS_MAX, "S3: it does not drain");
        while (d->m.batch_count) finish(d, 0, TB_COMPLETED);
        while (d->m.call_count) do_to_records(d, CALL_ENDED, 0);
        if (d->m.state != TB_STOPPED) drive_turn(d);
    }
    step_check(w);
    DRIVE_CHECK(d, d->m.record_count == 0, "S3: %u records never settle", d->m.record_count);
}
