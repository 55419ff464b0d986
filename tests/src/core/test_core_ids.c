/* test_core_ids.c - no id is ever used twice, and none but the right one works. */
#include "rig.h"

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void ids_are_never_reused(void **state)
{
    enum { MANY = 200000 };
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    double *ids = calloc(MANY, sizeof *ids);
    assert_non_null(ids);
    for (int i = 0; i < MANY; i++) {
        ids[i] = submit_cost(r, 1);
        assert_true(ids[i] > 0 && ids[i] < 9007199254740992.0 && floor(ids[i]) == ids[i]);
        if (i % 3) assert_int_equal(tb_cancel(r->b, ids[i], r->now_us), TB_OK);
        turn_at(r, r->now_us + 1);
        for (uint32_t k = 0; k < r->batch_count; k++) finish(r, r->batches[k]);
    }
    qsort(ids, MANY, sizeof *ids, by_value);
    for (int i = 1; i < MANY; i++) assert_true(ids[i] != ids[i - 1]);
    free(ids);
    rig_end(r);
}

/* A slot runs out of generations after 2^29 records; a lone one would use the same for ever. */
static void ids_outlive_a_slot(void **state)
{
    enum { SLOTS = 64 };
    static tb_id last_record[SLOTS], last_batch[SLOTS];
    (void)state;
    if (!getenv("TB_SLOW")) {
        print_message("  skipped: takes a minute; set TB_SLOW=1\n");
        skip();
    }
    tb_config config = small_config();
    rig *r = rig_start(&config);
    for (uint64_t i = 0; i < (1u << 29) + 100000; i++) {
        tb_id record = submit_cost(r, 100), batch = tb_form(r->b, r->now_us);
        double record_slot = fmod(record, 1 << TB_SLOT_BITS),
               batch_slot = fmod(batch, TB_MAX_BATCHES);
        if (record <= 0 || record >= 0x1p53 || record_slot >= SLOTS)
            fail_msg("record %.0f", record);
        if (batch <= 0 || batch >= 0x1p53 || batch_slot >= SLOTS) fail_msg("batch %.0f", batch);
        if (record <= last_record[(int)record_slot]) fail_msg("record %.0f again", record);
        if (batch <= last_batch[(int)batch_slot]) fail_msg("batch %.0f again", batch);
        last_record[(int)record_slot] = record;
        last_batch[(int)batch_slot] = batch;
        if (tb_batch_finish(r->b, batch, TB_COMPLETED, r->now_us) != TB_OK)
            fail_msg("lost a batch");
    }
    assert_true(stats(r).total_completed == (1u << 29) + 100000);
    rig_end(r);
}

static void stale_ids(void **state)
{
    static const double never[] = {0,     -1,       1,          16777217,  0.5,
                                   3,     16777216, 16777217.5, 1e15,      NAN,
                                   1e300, -1e300,   INFINITY,   -INFINITY, 9007199254740991.0,
                                   1e17,  -0.0};
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id id = submit_cost(r, 1);
    tb_batch read;
    turn_at(r, r->now_us + 1000);
    assert_int_equal(tb_settle(r->b, id, TB_COMPLETED, r->now_us), TB_OK);
    assert_int_equal(tb_settle(r->b, id, TB_COMPLETED, r->now_us), TB_ENOENT);
    assert_int_equal(tb_cancel(r->b, id, r->now_us), TB_ENOENT);
    assert_state(r, id, TB_RECORD_NONE);
    assert_true(submit_cost(r, 1) != id);
    finish(r, r->batches[0]);
    assert_int_equal(tb_batch_finish(r->b, r->batches[0], TB_COMPLETED, r->now_us), TB_ENOENT);
    assert_int_equal(tb_batch_retry(r->b, r->batches[0], r->now_us), TB_ENOENT);
    assert_int_equal(tb_batch_read(r->b, r->batches[0], &read, NULL, NULL, 0), TB_ENOENT);
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        assert_state(r, never[i], TB_RECORD_NONE);
        assert_int_equal(tb_cancel(r->b, never[i], r->now_us), TB_ENOENT);
        assert_int_equal(tb_settle(r->b, never[i], TB_FAILED, r->now_us), TB_ENOENT);
        assert_int_equal(tb_batch_finish(r->b, never[i], TB_FAILED, r->now_us), TB_ENOENT);
        assert_int_equal(tb_batch_retry(r->b, never[i], r->now_us), TB_ENOENT);
        assert_int_equal(tb_batch_read(r->b, never[i], &read, NULL, NULL, 0), TB_ENOENT);
    }
    rig_end(r);
}

/* Near a living record or batch, but not it. */
static void near_misses(void **state)
{
    static const double off_by[] = {0.5, -0.5, 1, -1, 1 << 24, -(1 << 24), 0x1p52, -0x1p30};
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id queued = 0, batch = 0;
    for (int round = 0; round < 3; round++) {
        queued = submit_cost(r, 100);
        assert_int_equal(turn(r), 1);
        batch = r->batches[0];
        if (round < 2) finish(r, batch);
    }
    queued = submit_cost(r, 1);
    assert_state(r, queued, TB_RECORD_QUEUED);
    for (size_t i = 0; i < sizeof off_by / sizeof *off_by; i++) {
        if (tb_record_state(r->b, queued + off_by[i]) == TB_RECORD_RUNNING) continue; /* its mate */
        assert_state(r, queued + off_by[i], TB_RECORD_NONE);
        assert_int_equal(tb_cancel(r->b, queued + off_by[i], r->now_us), TB_ENOENT);
        assert_int_equal(tb_batch_finish(r->b, batch + off_by[i], 0, r->now_us), TB_ENOENT);
    }
    assert_true(stats(r).queue_size == 1 && stats(r).running_batches == 1);
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("ids: whole, below 2^53, and never used twice", ids_are_never_reused),
        TEST("ids: none is used twice after the 2^29 generations of a slot", ids_outlive_a_slot),
        TEST("ids: stale and made-up ids are TB_ENOENT everywhere", stale_ids),
        TEST("ids: what is near an id is not that id", near_misses),
    };
    return cmocka_run_group_tests_name("ids", tests, NULL, NULL);
}
