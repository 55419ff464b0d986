/* drive_check.c - where a batcher and its model must agree: see drive.h. */
#include "drive.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t drive_draw(drive *d, uint32_t below)
{
    return d->draw(d->source, below);
}

void drive_note(drive *d, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(d->log[d->log_count++ % DRIVE_LOG], DRIVE_LINE, format, list);
    va_end(list);
}

static void print_config(const tb_config *c)
{
    fprintf(stderr,
            "  target %.0f size %u..%u queue %u cost %.0f prefetch %u slots %u timeout %lld "
            "inference %lld abandoned %d for %lld max_wait %lld policy %u model %u oversize %u\n",
            c->target_batch_cost, c->min_batch_size, c->max_batch_size, c->max_queue_size,
            c->max_queue_cost, c->prefetch_batches, c->max_concurrent_batches,
            (long long)c->batch_timeout_us, (long long)c->inference_timeout_us, c->max_abandoned_calls,
            (long long)c->abandon_us,
            (long long)c->max_wait_us, c->policy, c->cost_model, c->on_oversize);
}

_Noreturn void drive_fail(drive *d, const char *format, ...)
{
    uint32_t from = d->log_count > DRIVE_LOG ? d->log_count - DRIVE_LOG : 0;
    for (uint32_t i = from; i < d->log_count; i++) fprintf(stderr, "  %s\n", d->log[i % DRIVE_LOG]);
    print_config(&d->m.config);
    static const char *const states[] = {"none", "waiting", "queued", "cut", "running"};
    for (uint32_t i = 0; i < d->m.record_count; i++) {
        const model_record *r = &d->m.records[i];
        fprintf(stderr, "  %.0f cost %.0f submitted %lld timeout %lld: %s, the core says %s\n",
                r->id, r->cost, (long long)r->submitted_us, (long long)r->timeout_us,
                states[r->state], states[tb_record_state(d->b, r->id)]);
    }
    fprintf(stderr, "FAILED (%s), at %lld, operation %u: ", d->label, (long long)d->m.now_us,
            d->log_count);
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fprintf(stderr, "\n");
    abort();
}

static void same(drive *d, const char *name, double core, double expected)
{
    DRIVE_CHECK(d, core == expected, "%s is %.17g, must be %.17g", name, core, expected);
}

static void same_summary(drive *d, const char *name, const tb_summary *core, const tb_summary *m)
{
    DRIVE_CHECK(d, core->count == m->count, "%s.count is %g, must be %g", name, core->count,
                m->count);
    DRIVE_CHECK(d, fabs(core->mean - m->mean) <= 1e-9 * m->mean, "%s.mean is %.17g, must be %.17g",
                name, core->mean, m->mean);
    DRIVE_CHECK(d, core->max == m->max, "%s.max is %g, must be %g", name, core->max, m->max);
    DRIVE_CHECK(d,
                core->p50 <= core->p90 && core->p90 <= core->p99 && core->p99 <= core->max * 1.03,
                "%s: percentiles out of order", name);
}

static void compare_stats(drive *d)
{
    tb_stats s, m;
    model_clock(&d->m, d->now_us);
    tb_stats_read(d->b, &s, d->now_us);
    model_stats(&d->m, &m);
#define SAME(field) same(d, #field, s.field, m.field)
    SAME(total_submitted), SAME(total_completed), SAME(total_failed), SAME(total_cancelled);
    SAME(total_expired), SAME(total_rejected), SAME(total_oversize), SAME(total_batches);
    SAME(total_batch_records), SAME(total_batch_cost), SAME(queue_size), SAME(queue_cost);
    SAME(waiting_submits), SAME(prefetched_records), SAME(running_batches), SAME(running_records);
    SAME(busy_us), SAME(idle_us), SAME(padded_cost), SAME(sum_cost);
    SAME(oldest_queued_us), SAME(oldest_running_us), SAME(abandoned_calls);
    if (!d->m.cuts_stale) SAME(prefetched_batches);
#undef SAME
    for (int i = 0; i < TB_REASONS; i++)
        same(d, tb_reason_name(i), s.dispatched[i], m.dispatched[i]);
    same_summary(d, "wait_us", &s.wait_us, &m.wait_us);
    same_summary(d, "service_us", &s.service_us, &m.service_us);
    same_summary(d, "latency_us", &s.latency_us, &m.latency_us);
    same_summary(d, "batch_size", &s.batch_size, &m.batch_size);
    same_summary(d, "batch_cost", &s.batch_cost, &m.batch_cost);
    same(d, "C5: submitted less what became of it",
         s.total_submitted - s.queue_size - s.prefetched_records - s.running_records -
             s.total_completed - s.total_failed - s.total_cancelled - s.total_expired,
         0);
}

static void compare_batches(drive *d)
{
    for (uint32_t i = 0; i < d->m.batch_count; i++) {
        tb_id ids[MODEL_RECORDS], batch = d->m.batches[i].id;
        double costs[MODEL_RECORDS];
        tb_batch read;
        uint32_t n = 0;
        int error = tb_batch_read(d->b, batch, &read, ids, costs, MODEL_RECORDS);
        DRIVE_CHECK(d, error == TB_OK, "batch %.0f cannot be read: %d", batch, error);
        for (uint32_t r = 0; r < d->m.record_count; r++) {
            if (d->m.records[r].batch != batch) continue;
            DRIVE_CHECK(d,
                        n < read.size && ids[n] == d->m.records[r].id &&
                            costs[n] == d->m.records[r].cost,
                        "record %u of batch %.0f is not %.0f", n, batch, d->m.records[r].id);
            n++;
        }
        DRIVE_CHECK(d, n == read.size, "batch %.0f has size %u, must be %u", batch, read.size, n);
    }
}

void drive_compare(drive *d)
{
    const char *broken = tb_verify(d->b);
    DRIVE_CHECK(d, broken == NULL, "tb_verify: %s", broken);
    DRIVE_CHECK(d, tb_state(d->b) == d->m.state, "the state is %d, must be %d", tb_state(d->b),
                d->m.state);
    for (uint32_t i = 0; i < d->m.record_count; i++) {
        const model_record *r = &d->m.records[i];
        int state = tb_record_state(d->b, r->id);
        DRIVE_CHECK(d, state == r->state, "record %.0f is %d, must be %d", r->id, state, r->state);
        int64_t deadline_us = r->timeout_us ? r->deadline_us : TB_NEVER_US;
        DRIVE_CHECK(d, tb_record_deadline(d->b, r->id) == deadline_us || r->timeout_us > (int64_t)1 << 49,
                    "the deadline of record %.0f is not %lld", r->id, (long long)deadline_us);
    }
    for (uint32_t i = 0; i < d->dead_count && i < DRIVE_DEAD; i++) {
        int state = tb_record_state(d->b, d->dead[i]);
        DRIVE_CHECK(d, state == TB_RECORD_NONE, "dead record %.0f is %d", d->dead[i], state);
    }
    uint32_t waiting = model_count_state(&d->m, TB_RECORD_WAITING);
    DRIVE_CHECK(d, tb_waiting(d->b) == waiting, "%u wait, must be %u", tb_waiting(d->b), waiting);
    compare_batches(d);
    /* Not every time: reading brings the times up to date and would hide who forgets to. */
    if (drive_draw(d, 4) != 0) compare_stats(d);
}

void drive_check_batch(drive *d, tb_id batch, uint32_t size, uint32_t reason)
{
    tb_batch expected, read;
    model_dispatch(&d->m, size, reason, batch, &expected);
    int error = tb_batch_read(d->b, batch, &read, NULL, NULL, 0);
    DRIVE_CHECK(d, error == TB_OK, "batch %.0f cannot be read: %d", batch, error);
    DRIVE_CHECK(d, read.size == size, "the batch has %u records, must have %u", read.size, size);
    DRIVE_CHECK(d, read.reason == reason, "the reason is %s, must be %s",
                tb_reason_name((int)read.reason), tb_reason_name((int)reason));
    same(d, "batch.cost", read.cost, expected.cost);
    same(d, "batch.sum", read.sum, expected.sum);
    same(d, "batch.largest", read.largest, expected.largest);
    same(d, "batch.padded", read.padded, expected.padded);
    same(d, "batch.started_us", (double)read.started_us, (double)expected.started_us);
    same(d, "batch.group", read.group, expected.group);
    same(d, "batch.deadline_us", (double)read.deadline_us, (double)expected.deadline_us);
    DRIVE_CHECK(d, size == 1 || read.cost <= d->m.config.target_batch_cost,
                "F1: %g is over the budget", read.cost);
    d->seen.reasons[reason]++;
    d->seen.oversize += read.cost > d->m.config.target_batch_cost;
}

/* One call of tb_poll(); the number of events. */
int drive_poll(drive *d)
{
    tb_event events[4];
    uint32_t max = 1 + drive_draw(d, 4), n = tb_poll(d->b, events, max, d->now_us);
    model_clock(&d->m, d->now_us);
    model_release(&d->m);
    drive_note(d, "poll(max %u, %lld) = %u", max, (long long)d->now_us, n);
    DRIVE_CHECK(d, n <= max, "%u events for a maximum of %u", n, max);
    for (uint32_t i = 0; i < n; i++) {
        drive_note(d, "  event %u of %.0f", events[i].kind, events[i].id);
        DRIVE_CHECK(d, events[i].kind < DRIVE_KINDS, "no such kind of event");
        uint32_t batches = d->m.batch_count, records = d->m.record_count;
        const char *wrong = model_event(&d->m, &events[i], d->now_us);
        DRIVE_CHECK(d, wrong == NULL, "event %u of %.0f: %s", events[i].kind, events[i].id, wrong);
        d->seen.events[events[i].kind]++;
        if (events[i].kind == TB_EVENT_BATCH_STOPPED && records == 0)
            d->seen.drained_by_abandoning += batches > 0;
    }
    d->seen.held += model_held(&d->m);
    uint32_t pending = model_pending(&d->m);
    DRIVE_CHECK(d, n == max || pending == 0, "an event of kind %u was not reported", pending);
    d->polled_all = n < max;
    if (d->polled_all) model_make_room(&d->m);
    return (int)n;
}

static int drive_poll_all(drive *d)
{
    int n = 0;
    do n += drive_poll(d);
    while (!d->polled_all);
    return n;
}

/* Whether half a timeout, or a linger of its own (F3) makes the queue due before tb_poll() has seen that time
 * pass is left open: a turn polls first. */
static int half_a_timeout_passed(const drive *d)
{
    for (uint32_t i = model_first_unsent(&d->m); i < d->m.record_count; i++) {
        const model_record *r = &d->m.records[i];
        if (r->timeout_us && r->submitted_us + r->timeout_us / 2 <= d->m.now_us) return 1;
        if (r->linger_us && model_lingers_until(&d->m, r) <= d->m.now_us) return 1;
    }
    return 0;
}

/* tb_form() until it has nothing more; the number of batches. */
int drive_form(drive *d)
{
    int batches = 0;
    int64_t now_us = d->now_us > d->m.now_us ? d->now_us : d->m.now_us;
    /* Whether a batch goes when stop has run out of time but was not polled is left open. */
    if (d->m.state == TB_DRAINING && d->m.stop_us <= now_us) return 0;
    model_clock(&d->m, d->now_us);
    if (half_a_timeout_passed(d) && model_next_deadline(&d->m) > d->m.now_us) drive_poll_all(d);
    for (;;) {
        uint32_t reason = 0, size = model_decide(&d->m, &reason);
        tb_id batch = tb_form(d->b, d->now_us);
        drive_note(d, "form(%lld) = %.0f", (long long)d->now_us, batch);
        DRIVE_CHECK(d, batch >= 0, "tb_form failed: %.0f", batch);
        DRIVE_CHECK(d, (batch != 0) == (size != 0), "a batch of %u records must go (%s)", size,
                    tb_reason_name((int)reason));
        if (batch == 0) break;
        drive_check_batch(d, batch, size, reason);
        batches++;
        /* The states between two calls are left open while there are cuts. */
        if (d->m.config.prefetch_batches == 0 && model_count_state(&d->m, TB_RECORD_CUT) == 0 &&
            drive_draw(d, 2))
            return batches;
    }
    uint32_t cut = model_count_state(&d->m, TB_RECORD_CUT);
    model_cut(&d->m);
    d->seen.cuts += model_count_state(&d->m, TB_RECORD_CUT) > cut;
    d->seen.dissolved += model_count_state(&d->m, TB_RECORD_CUT) < cut && batches == 0;
    return batches;
}

/* A complete turn, as the header defines it. */
void drive_turn(drive *d)
{
    int64_t asked = tb_next(d->b);
    int did = 0, busy, n;
    do {
        busy = drive_poll_all(d);
        do busy += n = drive_form(d);
        while (n);
        did += busy;
    } while (busy);
    int64_t next = tb_next(d->b), latest = model_next(&d->m);
    DRIVE_CHECK(d, next == TB_NEVER_US || next > d->m.now_us,
                "after a complete turn at %lld tb_next is %lld", (long long)d->m.now_us,
                (long long)next);
    DRIVE_CHECK(d, latest == TB_NEVER_US || (next != TB_NEVER_US && next <= latest),
                "tb_next is %lld, something happens at %lld", (long long)next, (long long)latest);
    if (asked == d->m.now_us) d->seen.late_turns++;
    if (asked == d->m.now_us && did == 0) d->seen.needless_turns++;
}
