/* drive.c - the random operations: see drive.h. */
#include "drive.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const int64_t clock_start_us = 10000LL * 1000000;

enum { MAX_LIVE = 60 }; /* beyond it nobody waits any more */

static int64_t pick(drive *d, uint32_t of_3, uint32_t below, int64_t otherwise)
{
    return drive_draw(d, 3) < of_3 ? 1 + (int64_t)drive_draw(d, below) : otherwise;
}

void drive_draw_config(drive *d, tb_config *config)
{
    uint32_t scale = drive_draw(d, 4) ? 1 : 6;
    tb_config_init(config);
    config->target_batch_cost = 2 + drive_draw(d, 16 * scale);
    config->max_queue_cost = (double)pick(d, 1, 30 * scale, 0);
    config->max_batch_size = 1 + drive_draw(d, 5 * scale);
    config->min_batch_size = 1 + drive_draw(d, config->max_batch_size);
    config->max_queue_size = 1 + drive_draw(d, 12 * scale);
    if (drive_draw(d, 2)) config->max_queue_size += 60; /* a bound that is not met makes nothing full */
    config->prefetch_batches = drive_draw(d, 4);
    config->max_concurrent_batches = 1 + drive_draw(d, 3);
    config->batch_timeout_us = drive_draw(d, 21);
    config->inference_timeout_us = pick(d, 1, 30, 0);
    config->max_wait_us = pick(d, 1, 25, 0);
    config->max_abandoned_calls = (int32_t)drive_draw(d, 4) - 1;
    config->abandon_us = drive_draw(d, 50);
    config->policy = drive_draw(d, 2);
    config->cost_model = drive_draw(d, 2);
    config->on_full = drive_draw(d, 2); /* the core only keeps it */
    config->on_oversize = drive_draw(d, 4) == 0;
}

void drive_begin(drive *d, const tb_config *config)
{
    model_init(&d->m, config);
    d->now_us = clock_start_us;
    d->log_count = d->dead_count = 0;
    d->groups = drive_draw(d, 2) ? 1 : 3;
    d->has_own = drive_draw(d, 2) == 0;
    d->b = tb_new(config);
    DRIVE_CHECK(d, d->b != NULL, "tb_new failed");
    drive_note(d, "start(%lld)", (long long)d->now_us);
    DRIVE_CHECK(d, tb_start(d->b, d->now_us) == model_start(&d->m, d->now_us), "tb_start failed");
    drive_compare(d);
}

void drive_end(drive *d)
{
    tb_free(d->b);
    d->b = NULL;
}

/* --- Choices ----------------------------------------------------------- */

static double draw_cost(drive *d)
{
    static const double bad[] = {NAN, INFINITY, -INFINITY, -1, -0.25, 1e13, 1000000000001.0};
    uint32_t target = (uint32_t)d->m.config.target_batch_cost;
    switch (drive_draw(d, 16)) {
    case 0: return bad[drive_draw(d, 7)];
    case 1: return target + drive_draw(d, 4);
    case 2: return 0;
    case 3: return drive_draw(d, target) + 0.25;
    case 4: return drive_draw(d, target + 1);
    case 5: return 1 + drive_draw(d, target / 12 + 1);
    default: return 1 + drive_draw(d, target / (d->m.config.max_batch_size > 5 ? 12 : 3) + 1);
    }
}

/* "Never earlier than the record ahead of it" says nothing about a record that is
 * no longer ahead: then the time drawn is not earlier either. */
static int64_t draw_submitted(drive *d)
{
    uint32_t n = d->m.record_count;
    int64_t from_us = d->now_us - 20;
    int ahead = n > 0 && d->m.records[n - 1].state != TB_RECORD_RUNNING &&
                d->m.records[n - 1].submitted_us == d->m.last_submitted_us;
    if (drive_draw(d, 2)) return 0;
    if (!ahead && from_us < d->m.last_submitted_us) from_us = d->m.last_submitted_us;
    return from_us >= d->now_us ? 0 : from_us + drive_draw(d, (uint32_t)(d->now_us - from_us));
}

/* Mostly one that lives, at times one that did, or never. */
static tb_id draw_record(drive *d)
{
    if (d->m.record_count > 0 && drive_draw(d, 8) != 0)
        return d->m.records[drive_draw(d, d->m.record_count)].id;
    uint32_t dead = d->dead_count < DRIVE_DEAD ? d->dead_count : DRIVE_DEAD;
    if (dead > 0 && drive_draw(d, 4) != 0) return d->dead[drive_draw(d, dead)];
    static const double never[] = {0, -1, 1.5, 1e18, 9007199254740991.0, 3, -1e300, NAN};
    return never[drive_draw(d, 8)];
}

static tb_id draw_batch(drive *d)
{
    if (d->m.batch_count > 0 && drive_draw(d, 8) != 0)
        return d->m.batches[drive_draw(d, d->m.batch_count)].id;
    return draw_record(d);
}

/* A clock that went back counts as the time it had. */
static int64_t draw_now(drive *d)
{
    return drive_draw(d, 16) ? d->now_us : d->now_us - drive_draw(d, 10);
}

/* --- Operations -------------------------------------------------------- */

static void check_id(drive *d, tb_id id, int error)
{
    for (uint32_t i = 0; i < d->dead_count && i < DRIVE_DEAD; i++)
        DRIVE_CHECK(d, d->dead[i] != id, "the id is used again");
    DRIVE_CHECK(d, error ? id == error : id > 0 && id < 9007199254740992.0 && floor(id) == id,
                "the answer must be %d", error);
}

/* A record of cost alone, by either call. */
static void do_submit_bare(drive *d)
{
    tb_submission s = {.cost = draw_cost(d)};
    int is_plain = drive_draw(d, 2) == 0;
    if (!is_plain) s.submitted_us = draw_submitted(d);
    int room = tb_has_room(d->b, s.cost);
    tb_id id = is_plain ? tb_submit_plain(d->b, s.cost, d->now_us) : tb_submit(d->b, &s, d->now_us);
    drive_note(d, "submit%s(cost %g, %lld) = %.0f", is_plain ? "_plain" : "", s.cost, (long long)d->now_us, id);
    DRIVE_CHECK(d, model_find_record(&d->m, id) == d->m.record_count, "the id is in use");
    int error = is_plain ? model_submit_plain(&d->m, s.cost, id, d->now_us) : model_submit(&d->m, &s, id, d->now_us);
    check_id(d, id, error);
    DRIVE_CHECK(d, room == !error, "tb_has_room was %d", room);
    if (is_plain) d->seen.plain_answers[-error]++;
}

static void do_submit(drive *d)
{
    if (drive_draw(d, 4) == 0) {
        do_submit_bare(d);
        return;
    }
    tb_submission s;
    memset(&s, 0, sizeof s);
    s.cost = draw_cost(d);
    s.priority = drive_draw(d, 3);
    s.key = drive_draw(d, MODEL_KEYS);
    if (drive_draw(d, 3) == 0) s.timeout_us = 1 + drive_draw(d, 40);
    if (drive_draw(d, 64) == 0) s.timeout_us = drive_draw(d, 2) ? -1 : (int64_t)1 << 50;
    s.group = drive_draw(d, d->groups);
    if (d->has_own && drive_draw(d, 3) == 0) s.batch_timeout_us = (int64_t)drive_draw(d, 40) - 1;
    if (d->has_own && drive_draw(d, 256) == 0) s.batch_timeout_us = drive_draw(d, 2) ? -2 : INT64_MAX;
    if (drive_draw(d, 256) == 0) *(drive_draw(d, 2) ? &s.group : &s.key) = 1u << TB_SLOT_BITS;
    s.submitted_us = draw_submitted(d);
    if (drive_draw(d, 4) < d->patience && d->m.record_count < MAX_LIVE) s.flags |= TB_MAY_WAIT;
    if (drive_draw(d, 4) == 0) s.flags |= TB_MORE;

    int room = tb_has_room(d->b, s.cost);
    tb_id id = tb_submit(d->b, &s, d->now_us);
    drive_note(d, "submit(cost %g, timeout %lld, linger %lld, submitted %lld, key %u, group %u, flags %u, %lld) = %.0f",
               s.cost, (long long)s.timeout_us, (long long)s.batch_timeout_us, (long long)s.submitted_us, s.key,
               s.group, s.flags, (long long)d->now_us, id);
    DRIVE_CHECK(d, model_find_record(&d->m, id) == d->m.record_count, "the id is in use");
    int error = model_submit(&d->m, &s, id, d->now_us);
    check_id(d, id, error);
    int queued = !error && d->m.records[d->m.record_count - 1].state == TB_RECORD_QUEUED;
    DRIVE_CHECK(d, room == queued || error == TB_ETIMEOUT || error == TB_ERECORD, "tb_has_room was %d", room);
    d->seen.groups += !error && s.group > 0;
    d->seen.own += !error && s.batch_timeout_us != 0;
    d->seen.submit_errors[-error]++;
}

static void do_submit_check(drive *d)
{
    double costs[8];
    uint32_t n = drive_draw(d, 9), culprit = 99, expected = 99;
    for (uint32_t i = 0; i < n; i++) costs[i] = draw_cost(d);
    uint32_t flags = drive_draw(d, 3) ? 0 : TB_MAY_WAIT;
    int got = tb_submit_check(d->b, costs, n, flags, drive_draw(d, 4) ? &culprit : NULL);
    int must = model_submit_check(&d->m, costs, n, flags, &expected);
    drive_note(d, "submit_check(%u costs) = %d, culprit %u", n, got, culprit);
    DRIVE_CHECK(d, got == must, "the answer must be %d (culprit %u)", must, expected);
    if (must && must != TB_ENOTRUNNING && culprit != 99)
        DRIVE_CHECK(d, culprit == expected, "the culprit is %u", expected);
    d->seen.check_errors[-must]++;
}

static void do_cancel(drive *d)
{
    int64_t now_us = draw_now(d);
    tb_id id = draw_record(d);
    int got = tb_cancel(d->b, id, now_us);
    drive_note(d, "cancel(%.0f, %lld) = %d", id, (long long)now_us, got);
    uint32_t at = model_find_record(&d->m, id);
    if (at < d->m.record_count) d->seen.cancelled[d->m.records[at].state]++;
    int must = model_cancel(&d->m, id, now_us);
    DRIVE_CHECK(d, got == must, "the answer must be %d", must);
}

static void do_settle(drive *d)
{
    int64_t now_us = draw_now(d);
    uint32_t running = model_first_unsent(&d->m);
    tb_id id = draw_record(d);
    if (running > 0 && drive_draw(d, 4) != 0) id = d->m.records[drive_draw(d, running)].id;
    int outcome = (int)drive_draw(d, 3), got = tb_settle(d->b, id, outcome, now_us);
    drive_note(d, "settle(%.0f, %d, %lld) = %d", id, outcome, (long long)now_us, got);
    int must = model_settle(&d->m, id, outcome, now_us);
    DRIVE_CHECK(d, got == must, "the answer must be %d", must);
}

static void do_finish(drive *d)
{
    int64_t now_us = draw_now(d);
    tb_id id = draw_batch(d);
    int outcome = (int)drive_draw(d, 3), got = tb_batch_finish(d->b, id, outcome, now_us);
    drive_note(d, "batch_finish(%.0f, %d, %lld) = %d", id, outcome, (long long)now_us, got);
    int must = model_finish(&d->m, id, outcome, now_us);
    DRIVE_CHECK(d, got == must, "the answer must be %d", must);
}

static void do_retry(drive *d)
{
    int64_t now_us = draw_now(d);
    tb_id id = draw_batch(d);
    int got = tb_batch_retry(d->b, id, now_us);
    drive_note(d, "batch_retry(%.0f, %lld) = %d", id, (long long)now_us, got);
    int must = model_retry(&d->m, id, now_us);
    DRIVE_CHECK(d, got == must, "the answer must be %d", must);
}

/* Some of a batch's records; at times one that is not of it. */
static void do_half(drive *d)
{
    int64_t now_us = draw_now(d);
    tb_id batch = draw_batch(d), ids[4];
    uint32_t n = drive_draw(d, 4);
    for (uint32_t i = 0, from = 0; i < n; i++) {
        while (from < d->m.record_count && d->m.records[from].batch != batch) from++;
        ids[i] = from < d->m.record_count && drive_draw(d, 8) ? d->m.records[from++].id : draw_record(d);
    }
    tb_batch out = {.cost = 77}, must = {.cost = 77};
    int got = tb_batch_half(d->b, batch, ids, n, &out, now_us);
    int expected = model_half(&d->m, batch, ids, n, &must, now_us);
    drive_note(d, "batch_half(%.0f, %u records, %lld) = %d", batch, n, (long long)now_us, got);
    DRIVE_CHECK(d, got == expected, "the answer must be %d", expected);
    DRIVE_CHECK(d,
                out.cost == must.cost && out.sum == must.sum && out.largest == must.largest &&
                out.padded == must.padded && out.size == must.size &&
                    out.started_us == must.started_us && out.deadline_us == must.deadline_us,
                "the half is described wrongly");
}

static void do_call_ended(drive *d)
{
    int64_t now_us = draw_now(d);
    tb_id id = draw_batch(d);
    if (d->m.call_count > 0 && drive_draw(d, 8) != 0) id = d->m.calls[drive_draw(d, d->m.call_count)].id;
    int got = tb_call_ended(d->b, id, now_us), must = model_call_ended(&d->m, id, now_us);
    drive_note(d, "call_ended(%.0f, %lld) = %d", id, (long long)now_us, got);
    DRIVE_CHECK(d, got == must, "the answer must be %d", must);
    d->seen.ended += got == TB_OK;
}

static void do_excuse(drive *d)
{
    int64_t us = 1 + drive_draw(d, 20);
    tb_calls_excuse(d->b, us);
    model_excuse(&d->m, us);
    drive_note(d, "calls_excuse(%lld)", (long long)us);
}

static void do_key_alone(drive *d)
{
    int64_t now_us = draw_now(d);
    uint32_t key = 1 + drive_draw(d, MODEL_KEYS - 1);
    int on = drive_draw(d, 3) == 0, got = tb_key_alone(d->b, key, on, now_us);
    drive_note(d, "key_alone(%u, %d, %lld) = %d", key, on, (long long)now_us, got);
    DRIVE_CHECK(d, got == TB_OK, "the answer must be %d", TB_OK);
    d->seen.lone += on;
    model_key_alone(&d->m, key, on, now_us);
}

static void do_set(drive *d)
{
    tb_config config, kept;
    int64_t now_us = draw_now(d);
    drive_draw_config(d, &config);
    int must = TB_OK;
    if (drive_draw(d, 4) == 0) {
        config.min_batch_size = config.max_batch_size + 1;
        must = TB_EMINMAX;
    } else if (drive_draw(d, 4) == 0) {
        config.max_concurrent_batches = drive_draw(d, 2) ? 0 : TB_MAX_BATCHES + 1;
        must = TB_EOPTION;
    }
    int got = tb_set(d->b, &config, now_us);
    drive_note(d, "set(..., %lld) = %d", (long long)now_us, got);
    DRIVE_CHECK(d, got == must, "the answer must be %d", must);
    if (must == TB_OK) model_set(&d->m, &config, now_us);
    /* "Cuts are made anew": whether they dissolve here or at the next tb_form() is left open. */
    uint32_t first = model_first_in(&d->m, TB_RECORD_CUT);
    if (must == TB_OK && first < d->m.record_count &&
        tb_record_state(d->b, d->m.records[first].id) == TB_RECORD_QUEUED)
        model_dissolve(&d->m);
    tb_get(d->b, &kept);
    DRIVE_CHECK(d,
                kept.target_batch_cost == d->m.config.target_batch_cost &&
                    kept.max_batch_size == d->m.config.max_batch_size &&
                    kept.policy == d->m.config.policy &&
                    kept.max_wait_us == d->m.config.max_wait_us,
                "tb_get does not tell what was set");
}

static void do_flush(drive *d)
{
    int64_t now_us = draw_now(d);
    tb_flush(d->b, now_us);
    model_flush(&d->m, now_us);
    drive_note(d, "flush(%lld)", (long long)now_us);
}

static void do_stop(drive *d)
{
    int64_t now_us = draw_now(d), timeout_us = TB_NO_TIMEOUT;
    if (drive_draw(d, 2)) timeout_us = drive_draw(d, 40);
    if (drive_draw(d, 16) == 0) timeout_us = INT64_MAX;
    tb_stop(d->b, timeout_us, now_us);
    model_stop(&d->m, timeout_us, now_us);
    drive_note(d, "stop(%lld, %lld)", (long long)timeout_us, (long long)now_us);
}

/* The clock may start anew only where nothing is left. */
static void do_start(drive *d)
{
    if (d->m.state == TB_STOPPED && drive_draw(d, 2))
        d->now_us = clock_start_us + drive_draw(d, 100);
    int got = tb_start(d->b, d->now_us), must = model_start(&d->m, d->now_us);
    drive_note(d, "start(%lld) = %d", (long long)d->now_us, got);
    DRIVE_CHECK(d, got == must, "the answer must be %d", must);
}

static void do_time(drive *d)
{
    int64_t next = tb_next(d->b);
    uint32_t how = drive_draw(d, 8);
    if (d->now_us < d->m.now_us) d->now_us = d->m.now_us;
    if (how >= 5 && next > d->now_us && next < d->now_us + 1000) d->now_us = next - (how == 7);
    else d->now_us += drive_draw(d, how == 0 ? 40 : 4);
    drive_note(d, "it is %lld", (long long)d->now_us);
}

static void remember_the_dead(drive *d, const tb_id *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (model_find_record(&d->m, ids[i]) == d->m.record_count)
            d->dead[d->dead_count++ % DRIVE_DEAD] = ids[i];
}

void drive_step(drive *d)
{
    static void (*const operations[])(drive *) = {
        do_submit,       do_submit, do_submit,  do_submit,  do_submit,  do_submit,
        do_submit_check, do_cancel, drive_turn, drive_turn, drive_turn, do_settle,
        do_finish,       do_finish, do_time,    do_time};
    static void (*const rare[])(drive *) = {do_retry,      do_set,  do_flush,     do_stop, do_start, do_cancel,
                                            do_call_ended, do_half, do_key_alone, do_excuse};
    if (d->m.call_count > MODEL_CALLS / 2) do_call_ended(d); /* more do not change what can happen */
    tb_id ids[MODEL_RECORDS];
    uint32_t n = d->m.record_count;
    for (uint32_t i = 0; i < n; i++) ids[i] = d->m.records[i].id;

    uint32_t what = drive_draw(d, 20);
    if (what == 19) rare[drive_draw(d, sizeof rare / sizeof *rare)](d);
    else if (d->m.state == TB_STOPPED && what > 8) do_start(d);
    else if (what == 18) drive_form(d);
    else if (what >= 16) drive_poll(d);
    else operations[what](d);
    remember_the_dead(d, ids, n);
    if (what < 14 || what > 15) drive_compare(d);
}
