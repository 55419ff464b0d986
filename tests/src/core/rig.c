/* rig.c - see rig.h. */
#include "rig.h"

static rig the_rig;

tb_config small_config(void)
{
    tb_config config;
    tb_config_init(&config);
    config.target_batch_cost = 100;
    config.max_batch_size = 4;
    config.prefetch_batches = 0;
    config.batch_timeout_us = 1000;
    return config;
}

rig *rig_start(const tb_config *config)
{
    rig *r = &the_rig;
    tb_free(r->b);
    memset(r, 0, sizeof *r);
    r->now_us = 10000LL * 1000000;
    r->b = tb_new(config);
    assert_non_null(r->b);
    assert_int_equal(tb_start(r->b, r->now_us), TB_OK);
    return r;
}

void rig_end(rig *r)
{
    assert_null(tb_verify(r->b));
    tb_free(r->b);
    r->b = NULL;
}

tb_id submit(rig *r, tb_submission record)
{
    return tb_submit(r->b, &record, r->now_us);
}

tb_id submit_cost(rig *r, double cost)
{
    return submit(r, (tb_submission){.cost = cost});
}

tb_id submit_waiting(rig *r, double cost)
{
    return submit(r, (tb_submission){.cost = cost, .flags = TB_MAY_WAIT});
}

tb_id submit_timeout(rig *r, double cost, int64_t timeout_us)
{
    return submit(r, (tb_submission){.cost = cost, .timeout_us = timeout_us});
}

tb_id occupy(rig *r)
{
    assert_true(submit(r, (tb_submission){.cost = 1, .batch_timeout_us = TB_AT_ONCE}) > 0);
    assert_int_equal(turn(r), 1);
    return r->batches[0];
}

void submit_many(rig *r, uint32_t n, double cost)
{
    while (n-- > 0) assert_true(submit_cost(r, cost) > 0);
}

static uint32_t poll_all(rig *r)
{
    enum { AT_ONCE = 8 }; /* few, so that "call again" is tried */
    uint32_t n, before = r->event_count;
    do {
        assert_true(r->event_count + AT_ONCE <= RIG_EVENTS);
        n = tb_poll(r->b, &r->events[r->event_count], AT_ONCE, r->now_us);
        r->event_count += n;
    } while (n == AT_ONCE);
    return r->event_count - before;
}

static uint32_t form_all(rig *r)
{
    uint32_t before = r->batch_count;
    for (tb_id batch; (batch = tb_form(r->b, r->now_us)) != 0;) {
        assert_true(batch > 0 && r->batch_count < RIG_BATCHES);
        r->batches[r->batch_count++] = batch;
    }
    return r->batch_count - before;
}

uint32_t turn(rig *r)
{
    r->event_count = r->batch_count = 0;
    uint32_t did;
    do {
        did = poll_all(r);
        did += form_all(r);
    } while (did);
    assert_null(tb_verify(r->b));
    assert_true(tb_next(r->b) == TB_NEVER_US || tb_next(r->b) > r->now_us);
    return r->batch_count;
}

uint32_t turn_at(rig *r, int64_t now_us)
{
    r->now_us = now_us;
    return turn(r);
}

uint32_t turns_until(rig *r, int64_t now_us)
{
    uint32_t batches = 0;
    for (int64_t next; (next = tb_next(r->b)) != TB_NEVER_US && next <= now_us;)
        batches += turn_at(r, next);
    r->now_us = now_us;
    return batches;
}

uint32_t event_count(const rig *r, uint32_t kind)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->event_count; i++) n += r->events[i].kind == kind;
    return n;
}

tb_stats stats(rig *r)
{
    tb_stats s;
    tb_stats_read(r->b, &s, r->now_us);
    assert_true(s.total_submitted == s.queue_size + s.prefetched_records + s.running_records +
                                         s.total_completed + s.total_failed + s.total_cancelled +
                                         s.total_expired);
    return s;
}

tb_batch batch_of(rig *r, tb_id batch)
{
    tb_batch read;
    assert_int_equal(tb_batch_read(r->b, batch, &read, NULL, NULL, 0), TB_OK);
    return read;
}

void finish(rig *r, tb_id batch)
{
    assert_int_equal(tb_batch_finish(r->b, batch, TB_COMPLETED, r->now_us), TB_OK);
}

void set(rig *r, const tb_config *config)
{
    assert_int_equal(tb_set(r->b, config, r->now_us), TB_OK);
}

void assert_batch(rig *r, tb_id batch, ...)
{
    static tb_id ids[RIG_RECORDS];
    tb_batch read;
    uint32_t n = 0;
    va_list list;
    assert_int_equal(tb_batch_read(r->b, batch, &read, ids, NULL, RIG_RECORDS), TB_OK);
    va_start(list, batch);
    for (tb_id id; (id = va_arg(list, tb_id)) != 0; n++) {
        assert_true(n < read.size);
        assert_true(ids[n] == id);
    }
    va_end(list);
    assert_int_equal(read.size, n);
}

void assert_went(const rig *r, uint32_t batches, uint32_t reason)
{
    tb_batch read;
    assert_int_equal(r->batch_count, batches);
    assert_int_equal(tb_batch_read(r->b, r->batches[0], &read, NULL, NULL, 0), TB_OK);
    assert_string_equal(tb_reason_name((int)read.reason), tb_reason_name((int)reason));
}

void assert_state(rig *r, tb_id record, int state)
{
    assert_int_equal(tb_record_state(r->b, record), state);
}

void assert_event(const rig *r, uint32_t index, uint32_t kind, tb_id id)
{
    assert_true(index < r->event_count);
    assert_int_equal(r->events[index].kind, kind);
    assert_true(r->events[index].id == id);
}
