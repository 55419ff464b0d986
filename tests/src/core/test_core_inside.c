/* test_core_inside.c - what takes 2^29 records or 2^24 that live at once to come to: the test goes there by
 * writing into the core's own state. The one test beside the search that knows it. */
#include "rig.h"

#include "core.h"

static void a_slot_is_retired(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id first = submit_cost(r, 1);
    assert_int_equal(tb_cancel(r->b, first, r->now_us), TB_OK);
    r->b->slot[0].generation = TB_GENERATIONS - 2;
    tb_id last = submit_cost(r, 1);
    assert_true(last == (TB_GENERATIONS - 1.0) * TB_SLOTS_MAX); /* slot 0, its last generation */
    assert_state(r, last, TB_RECORD_QUEUED);
    assert_int_equal(tb_cancel(r->b, last, r->now_us), TB_OK);
    tb_id next = submit_cost(r, 1);
    assert_true(next == TB_SLOTS_MAX + 1.0); /* another slot */
    assert_state(r, last, TB_RECORD_NONE);
    assert_int_equal(tb_cancel(r->b, next, r->now_us), TB_OK);
    assert_true(submit_cost(r, 1) == 2.0 * TB_SLOTS_MAX + 1); /* which is used again */
    rig_end(r);
}

static void no_id_is_at_the_limit(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_batch read;
    submit_cost(r, 100);
    assert_int_equal(turn(r), 1);
    uint64_t generation = r->b->batch[0].generation;
    r->b->slot[0].generation = TB_GENERATIONS; /* which none comes to: see above */
    assert_state(r, TB_ID_LIMIT, TB_RECORD_NONE);
    assert_int_equal(tb_cancel(r->b, TB_ID_LIMIT, r->now_us), TB_ENOENT);
    r->b->slot[0].generation = 1;
    r->b->batch[0].generation = (uint64_t)TB_ID_LIMIT / TB_MAX_BATCHES;
    assert_int_equal(tb_batch_read(r->b, TB_ID_LIMIT, &read, NULL, NULL, 0), TB_ENOENT);
    r->b->batch[0].generation--;
    assert_int_equal(tb_batch_read(r->b, TB_ID_LIMIT - TB_MAX_BATCHES, &read, NULL, NULL, 0), TB_OK);
    r->b->batch[0].generation = generation;
    rig_end(r);
}

static void so_many_records_live(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    submit_cost(r, 1);
    uint32_t slots = r->b->slots, used = r->b->slots_used;
    r->b->slots = r->b->slots_used = TB_SLOTS_MAX;
    assert_true(submit_cost(r, 1) == TB_ENOMEM);
    assert_true(tb_submit_plain(r->b, 1, r->now_us) == TB_ENOMEM);
    r->b->slots = slots;
    r->b->slots_used = used;
    assert_true(submit_cost(r, 1) > 0);
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("ids: a slot that has used up its generations is used no more", a_slot_is_retired),
        TEST("ids: 2^53 is none, whatever the slots say", no_id_is_at_the_limit),
        TEST("2^24 records live at once, and no more", so_many_records_live),
    };
    return cmocka_run_group_tests_name("inside", tests, NULL, NULL);
}
