/* test_ends.c - what comes after very much: a slot's last generation, the last slot, the last bucket. The state is
 * moved there by hand, where a program would need days.
 */
#include "../../../src/core/core.h"
#include "rig.h"

static const char *NAMES[] = {"wait", "service", "latency", "batch_size", "batch_cost"};

static void a_slot_ends_with_its_generations(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id first = submit_cost(r, 1);
    assert_int_equal(tb_cancel(r->b, first, r->now_us), TB_OK);
    uint32_t at = r->b->free_slot;
    r->b->slot[at].generation = TB_GENERATIONS - 2;
    tb_id last = submit_cost(r, 1); /* its last generation */
    assert_true(last == ((double)(TB_GENERATIONS - 1) * TB_SLOTS_MAX) + at);
    assert_true(last < TB_ID_LIMIT && last + TB_SLOTS_MAX >= TB_ID_LIMIT);
    assert_state(r, last, TB_RECORD_QUEUED);
    assert_int_equal(tb_cancel(r->b, last, r->now_us), TB_OK);
    assert_int_equal(r->b->free_slot, TB_NIL); /* it is given to nobody again */
    tb_id next = submit_cost(r, 1);
    assert_true(next > 0 && fmod(next, TB_SLOTS_MAX) != at);
    assert_int_equal(tb_cancel(r->b, last, r->now_us), TB_ENOENT);
    rig_end(r);
}

/* A queue may have 10^6 records, yet slots that have ended or run are slots, too: the number is bounded. */
static void slots_are_bounded(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb_id id = submit_cost(r, 1);
    uint32_t slots = r->b->slots, used = r->b->slots_used;
    r->b->slots = r->b->slots_used = TB_SLOTS_MAX;
    assert_true(submit_cost(r, 1) == TB_ENOMEM);
    r->b->slots = slots;
    r->b->slots_used = used;
    assert_true(submit_cost(r, 1) > id);
    rig_end(r);
}

/* They grow by an eighth, and to the bound, not beyond. */
static void the_last_growth_is_to_the_bound(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    uint32_t slots = r->b->slots, used = r->b->slots_used;
    r->b->slots = r->b->slots_used = TB_SLOTS_MAX - 10;
    assert_true(tb__slots_reserve(r->b)); /* address space: nobody writes there */
    assert_int_equal(r->b->slots, TB_SLOTS_MAX);
    r->b->slots = slots ? slots : 256;
    r->b->slots_used = used;
    assert_true(submit_cost(r, 1) > 0);
    rig_end(r);
}

static void buckets(void **state)
{
    (void)state;
    tb_config config = small_config();
    config.max_batch_size = 1;
    rig *r = rig_start(&config);
    for (int i = 1; i <= 4; i++) {
        submit_cost(r, i * 10);
        assert_int_equal(turn(r), 1);
        r->now_us += i * 100000;
        finish(r, r->batches[0]);
    }
    static const double SUMS[] = {0, 1000000, 1000000, 4, 100};
    for (uint32_t kind = TB_OF_WAIT; kind <= TB_OF_BATCH_COST; kind++) {
        if (tb_stats_sum(r->b, kind) != SUMS[kind]) fail_msg("%s: %f", NAMES[kind], tb_stats_sum(r->b, kind));
        assert_true(tb_stats_at_most(r->b, kind, -1) == 0);
        assert_true(tb_stats_at_most(r->b, kind, NAN) == 0);
        assert_true(tb_stats_at_most(r->b, kind, INFINITY) == 4);
        assert_true(tb_stats_at_most(r->b, kind, 1e18) == 4);
    }
    assert_true(tb_stats_at_most(r->b, TB_OF_WAIT, 0) == 4);
    assert_true(tb_stats_at_most(r->b, TB_OF_SERVICE, 99000) <= 1);
    assert_true(tb_stats_at_most(r->b, TB_OF_SERVICE, 250000) == 2);
    assert_true(tb_stats_at_most(r->b, TB_OF_BATCH_SIZE, 0) == 0);
    assert_true(tb_stats_at_most(r->b, TB_OF_BATCH_SIZE, 1) == 4);
    assert_true(tb_stats_at_most(r->b, TB_OF_BATCH_COST, 29) == 2);
    rig_end(r);
}

/* Values beyond the buckets are in the last one; the largest is known exactly. */
static void the_last_bucket(void **state)
{
    (void)state;
    tb_config config = small_config();
    rig *r = rig_start(&config);
    tb__histogram_add(&r->b->service_us, UINT64_MAX);
    tb_stats s = stats(r);
    assert_true(s.service_us.count == 1 && s.service_us.max == (double)UINT64_MAX);
    assert_true(s.service_us.p50 > 0 && s.service_us.p50 <= s.service_us.max);
    rig_end(r);
}

static void an_option_that_is_a_function_is_not_set(void **state)
{
    (void)state;
    tb_config config = small_config();
    uint32_t functions = 0;
    for (uint32_t i = 0; tb_option_at(i); i++) {
        if (tb_option_at(i)->kind < TB_KIND_FUNCTION) continue;
        assert_int_equal(tb_config_set(&config, i, 1), TB_EOPTION);
        functions++;
    }
    assert_true(functions > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("ends: a slot that has used up its generations is given to nobody again",
             a_slot_ends_with_its_generations),
        TEST("ends: slots are bounded", slots_are_bounded),
        TEST("ends: the last growth is to the bound", the_last_growth_is_to_the_bound),
        TEST("ends: how many values were at most so large", buckets),
        TEST("ends: values beyond the buckets are in the last one", the_last_bucket),
        TEST("ends: an option that is a function cannot be set to a number", an_option_that_is_a_function_is_not_set),
    };
    return cmocka_run_group_tests_name("ends", tests, NULL, NULL);
}
