/* world.c - see world.h. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The core's own struct up to its histograms, which decide nothing. */
enum { CORE_SIZE = offsetof(tb_batcher, wait_us) };

static uint32_t draw(void *source, uint32_t below)
{
    (void)source;
    return below == 4 ? 0 : below - 1; /* one event a poll, one batch a form; no statistics in between */
}

/* One record of each kind comes and goes, under all settings. */
static void grow(world *w)
{
    const plan *p = w->plan;
    tb_batcher *b = w->d.b;
    int64_t now = w->d.now_us;
    tb_start(b, now);
    for (uint32_t i = p->setting_count; i-- > 0;) tb_set(b, &p->settings[i], now);
    tb_id ids[WORLD_RECORDS];
    for (uint32_t i = 0; i < WORLD_RECORDS; i++) {
        tb_submission record = p->kinds[i % p->kind_count];
        record.flags |= TB_MAY_WAIT;
        ids[i] = tb_submit(b, &record, now);
    }
    for (uint32_t i = 0; i < WORLD_RECORDS; i++) tb_cancel(b, ids[i], now);
    if (p->lone_key) tb_key_alone(b, p->lone_key, 1, now), tb_key_alone(b, p->lone_key, 0, now);
    tb_event event;
    tb_stop(b, TB_NO_TIMEOUT, now);
    while (tb_poll(b, &event, 1, now) == 1) continue;
    b->calls_capacity = 16;
    b->call = realloc(b->call, b->calls_capacity * sizeof *b->call);
    b->submitted = b->cancelled = 0;
    b->rejected = 0;
    b->flushed_seq = 0;
}

void world_begin(world *w, const plan *p)
{
    memset(w, 0, sizeof *w);
    w->plan = p;
    drive *d = &w->d;
    d->draw = draw;
    d->label = p->name;
    d->now_us = 10000000000;
    d->b = tb_new(&p->settings[0]);
    if (!d->b) abort();
    grow(w);
    model_init(&d->m, &p->settings[0]);
    if (tb_start(d->b, d->now_us) || model_start(&d->m, d->now_us)) abort();
    for (uint32_t i = 0; i < d->b->slots_used; i++) w->last_generation[i] = d->b->slot[i].generation;
}

void world_end(world *w)
{
    tb_free(w->d.b);
}

/* --- putting aside --------------------------------------------------------------- */

/* Both ways by one list of what there is, so that none is forgotten in one of them. */
typedef struct {
    char *at;
    int is_saving;
} stream;

static void pass(stream *s, void *data, size_t size)
{
    if (s->is_saving) memcpy(s->at, data, size);
    else memcpy(data, s->at, size);
    s->at += size;
}

static void pass_core(stream *s, tb_batcher *b)
{
    const void *slot = b->slot, *batch = b->batch, *cut = b->cut, *group = b->group;
    pass(s, b, CORE_SIZE);
    assert(slot == b->slot && batch == b->batch && cut == b->cut && group == b->group); /* nothing has grown */
    assert(b->slots_used <= WORLD_RECORDS && b->batches <= WORLD_BATCHES && b->calls <= b->calls_capacity);
    (void)slot, (void)batch, (void)cut, (void)group;
    pass(s, b->slot, b->slots_used * sizeof *b->slot);
    pass(s, b->heap.entry, b->heap.size * sizeof *b->heap.entry);
    pass(s, b->batch, b->batches * sizeof *b->batch);
    if (b->cut_capacity) pass(s, b->cut, b->cut_capacity * sizeof *b->cut);
    if (b->group) pass(s, b->group, b->slots_used * sizeof *b->group);
    if (b->lone) pass(s, b->lone, b->lone_capacity / 8);
    pass(s, b->call, b->calls * sizeof *b->call);
}

static void pass_model(stream *s, model *m)
{
    pass(s, m, offsetof(model, records));
    pass(s, &m->record_count, sizeof m->record_count);
    pass(s, m->records, m->record_count * sizeof *m->records);
    pass(s, &m->batch_count, sizeof m->batch_count);
    pass(s, m->batches, m->batch_count * sizeof *m->batches);
    pass(s, &m->cut_batches, sizeof m->cut_batches);
    pass(s, &m->call_count, sizeof m->call_count);
    pass(s, m->calls, m->call_count * sizeof *m->calls);
    pass(s, m->lone, sizeof m->lone);
    pass(s, &m->was_refused, sizeof m->was_refused);
    pass(s, &m->cuts_stale, sizeof m->cuts_stale);
    pass(s, &m->stats, sizeof m->stats);
}

static size_t pass_world(world *w, char *bytes, int is_saving)
{
    stream s = {bytes, is_saving};
    pass_core(&s, w->d.b);
    pass_model(&s, &w->d.m);
    pass(&s, &w->d.now_us, sizeof w->d.now_us);
    pass(&s, &w->setting, sizeof w->setting);
    pass(&s, w->last_generation, sizeof w->last_generation);
    assert(s.at - bytes <= WORLD_BYTES_MAX);
    return (size_t)(s.at - bytes);
}

size_t world_save(const world *w, char *out)
{
    return pass_world((world *)w, out, 1);
}

void world_restore(world *w, const char *saved)
{
    pass_world(w, (char *)saved, 0);
    w->d.log_count = 0;
}

/* --- telling apart ----------------------------------------------------------------- */

enum { FAR = 30 }; /* no timeout of a plan reaches so far */

typedef struct {
    const world *w;
    char *at;
    uint8_t place[WORLD_RECORDS]; /* of slots, in the order in which records are put down */
    uint8_t places;
} form;

static void put(form *f, int64_t value)
{
    *f->at++ = (char)value;
}

static int64_t bounded(int64_t us)
{
    return us < 0 ? 0 : us > FAR ? FAR : us;
}

/* A time to come; what has come is all one. */
static void put_time(form *f, int64_t at_us)
{
    put(f, at_us >= TB_TIME_MAX ? FAR + 1 : bounded(at_us - f->w->d.now_us));
}

/* What of a record's past matters: how long it has waited, up to the longest that any setting asks about. */
static void put_age(form *f, int64_t since_us)
{
    int64_t age = bounded(f->w->d.now_us - since_us), most = 0;
    for (uint32_t i = 0; i < f->w->plan->setting_count; i++) {
        const tb_config *c = &f->w->plan->settings[i];
        if (c->batch_timeout_us > most) most = c->batch_timeout_us;
        if (c->max_wait_us > most) most = c->max_wait_us;
    }
    put(f, age < most ? age : most);
}

static void put_records(form *f, const tb_list *list, int has_begun)
{
    const tb_batcher *b = f->w->d.b;
    const model *m = &f->w->d.m;
    put(f, list->size);
    for (uint32_t at = list->first; at != TB_NIL; at = b->slot[at].next) {
        const tb_slot *slot = &b->slot[at];
        f->place[at] = ++f->places;
        put(f, slot->state), put(f, (int64_t)slot->cost), put(f, slot->key), put(f, tb__group_of(b, at));
        put_time(f, slot->deadline_us);
        if (has_begun) continue;
        put_age(f, slot->submitted_us);
        put(f, slot->overdue | slot->own << 1 | slot->more << 2 | (slot->seq < b->flushed_seq) << 3);
        put_time(f, slot->heap_at == TB_NIL ? TB_TIME_MAX : b->heap.entry[slot->heap_at].at_us);
        uint32_t known = model_find_record(m, tb__slot_id(b, at));
        put(f, known < m->record_count ? m->records[known].flushed : 2);
    }
}

static int64_t place_of(const form *f, uint32_t at)
{
    return at == TB_NIL ? 0 : f->place[at];
}

static void put_queue(form *f)
{
    const tb_batcher *b = f->w->d.b;
    put_records(f, &b->waiting, 0);
    put_records(f, &b->pending, 0);
    put(f, b->was_refused), put(f, b->cuts_stale), put(f, b->cuts), put(f, b->cut_records);
    for (uint32_t i = 0; i < b->cuts; i++) {
        const tb_cut *cut = &b->cut[(b->cut_first + i) % b->cut_capacity];
        put(f, cut->load.size), put(f, b->cuts_stale ? 0 : place_of(f, cut->first));
    }
    put(f, b->open.load.size), put(f, (int64_t)b->open.load.sum), put(f, (int64_t)b->open.load.largest);
    put(f, b->open.load.mark), put(f, b->open.load.mark & TB_ALONE ? 1 : 0), put(f, b->open.full);
    put(f, b->cuts_stale ? 0 : place_of(f, b->open.next));
}

static void put_batches(form *f)
{
    const tb_batcher *b = f->w->d.b;
    const model *m = &f->w->d.m;
    put(f, m->batch_count);
    for (uint32_t i = 0; i < m->batch_count; i++) {
        uint32_t at = 0;
        const tb_running *batch = tb__batch_find(b, m->batches[i].id, &at);
        if (!batch) continue; /* which drive_compare() says */
        put_records(f, &batch->records, 1);
        put_time(f, batch->expires_us), put(f, batch->is_padded), put(f, batch->timeout_us);
    }
    put(f, b->calls);
    for (uint32_t i = 0; i < b->calls; i++) {
        put(f, b->call[i].is_held);
        put_time(f, b->call[i].is_held ? b->call[i].until_us : TB_TIME_MAX);
    }
}

size_t world_form(const world *w, char *out)
{
    form f = {.w = w, .at = out};
    const tb_batcher *b = w->d.b;
    const model *m = &w->d.m;
    put(&f, b->state), put(&f, w->setting), put_time(&f, b->stop_at_us);
    put(&f, b->lone_keys), put(&f, m->cuts_stale), put(&f, m->cut_batches), put(&f, m->was_refused);
    put_queue(&f);
    put_batches(&f);
    return (size_t)(f.at - out);
}
