/* test_core_options.c - the table of options, settings, names of errors and reasons. */
#include "rig.h"

/* Its index, by either name; fails if there is none. */
static uint32_t find(const char *name)
{
    for (uint32_t i = 0; i < tb_option_count(); i++) {
        const tb_option *o = tb_option_at(i);
        if (strcmp(o->name, name) == 0 || (o->token_name && strcmp(o->token_name, name) == 0))
            return i;
    }
    fail_msg("no option %s", name);
    return 0;
}

static int is_number(const tb_option *o)
{
    return o->kind == TB_KIND_COUNT || o->kind == TB_KIND_COST || o->kind == TB_KIND_SECONDS ||
           o->kind == TB_KIND_NUMBER;
}

static int is_choice(const tb_option *o)
{
    return o->kind == TB_KIND_CHOICE || o->kind == TB_KIND_POLICY;
}

static uint32_t choices_of(const tb_option *o)
{
    uint32_t n = 1;
    for (const char *c = o->choices; *c; c++) n += *c == '|';
    return n;
}

static void every_option_is_described(void **state)
{
    (void)state;
    assert_true(tb_option_count() > 0);
    assert_null(tb_option_at(tb_option_count()));
    assert_null(tb_option_at(UINT32_MAX));
    for (uint32_t i = 0; i < tb_option_count(); i++) {
        const tb_option *o = tb_option_at(i);
        assert_non_null(o);
        assert_true(o->name && *o->name && o->text && strlen(o->text) > 10 && o->unit);
        assert_int_equal(o->text[strlen(o->text) - 1], '.');
        assert_int_equal(find(o->name), i); /* no name twice */
        if (o->token_name) assert_int_equal(find(o->token_name), i);
        assert_true(o->kind <= TB_KIND_SLO && o->has_default <= 1);
        if (is_number(o)) assert_true(*o->unit && o->min <= o->max && isfinite(o->max));
        if (is_choice(o)) assert_int_equal(choices_of(o), (int)o->max + 1);
        else assert_null(o->choices);
        if (o->has_default) assert_true(o->fallback >= o->min && o->fallback <= o->max);
    }
}

static void the_defaults(void **state)
{
    static const struct {
        const char *name;
        double value;
    } with[] = {{"target_batch_tokens", 32000},
                {"target_batch_cost", 32000},
                {"default_token_estimate", 1},
                {"default_cost", 1},
                {"max_batch_size", 256},
                {"min_batch_size", 1},
                {"batch_timeout_s", 0.05},
                {"max_queue_size", 5000},
                {"prefetch_batches", 2},
                {"max_concurrent_batches", 1},
                {"policy", TB_POLICY_FIFO},
                {"cost_model", TB_COST_SUM},
                {"on_full", TB_FULL_WAIT},
                {"on_oversize", TB_OVERSIZE_ALONE},
                {"on_error", 0}};
    static const char *const without[] = {
        "max_queue_cost", "inference_timeout_s", "max_wait_s",      "log",           "name",
        "inference_fn",   "process_fn",          "token_estimator", "cost_estimator"};
    (void)state;
    for (size_t i = 0; i < sizeof with / sizeof *with; i++) {
        const tb_option *o = tb_option_at(find(with[i].name));
        assert_true(o->has_default && o->fallback == with[i].value);
    }
    for (size_t i = 0; i < sizeof without / sizeof *without; i++)
        assert_false(tb_option_at(find(without[i]))->has_default);
    assert_string_equal(tb_option_at(find("policy"))->choices, "fifo|eager|script");
    assert_string_equal(tb_option_at(find("cost_model"))->choices, "sum|padded");
    assert_string_equal(tb_option_at(find("on_full"))->choices, "wait|reject");
    assert_string_equal(tb_option_at(find("on_oversize"))->choices, "alone|reject");
    assert_string_equal(tb_option_at(find("on_error"))->choices, "fail|bisect");
}

static void init_gives_the_defaults(void **state)
{
    (void)state;
    tb_config c;
    memset(&c, 0xee, sizeof c);
    tb_config_init(&c);
    assert_true(c.target_batch_cost == 32000 && c.max_queue_cost == 0);
    assert_true(c.batch_timeout_us == 50000 && c.inference_timeout_us == 0 && c.max_wait_us == 0);
    assert_true(c.max_batch_size == 256 && c.min_batch_size == 1 && c.max_queue_size == 5000);
    assert_true(c.prefetch_batches == 2 && c.max_concurrent_batches == 1);
    assert_true(c.policy == TB_POLICY_FIFO && c.cost_model == TB_COST_SUM);
    assert_true(c.on_full == TB_FULL_WAIT && c.on_oversize == TB_OVERSIZE_ALONE);
    assert_int_equal(tb_config_check(&c), TB_OK);
}

static void refuses(tb_config *c, uint32_t i, double value)
{
    tb_config before = *c;
    assert_int_equal(tb_config_set(c, i, value), TB_EOPTION);
    assert_memory_equal(c, &before, sizeof before);
}

static void set_refuses_what_is_out_of_bounds(void **state)
{
    (void)state;
    tb_config c;
    memset(&c, 0, sizeof c);
    tb_config_init(&c);
    for (uint32_t i = 0; i < tb_option_count(); i++) {
        const tb_option *o = tb_option_at(i);
        if (!is_number(o) && !is_choice(o)) continue;
        refuses(&c, i, NAN);
        refuses(&c, i, INFINITY);
        refuses(&c, i, -INFINITY);
        refuses(&c, i, -1);
        refuses(&c, i, o->max * 1.01 + 1);
        refuses(&c, i, 1e300);
        if (o->min > 0) refuses(&c, i, 0);
        if (o->kind != TB_KIND_SECONDS && o->kind != TB_KIND_NUMBER) refuses(&c, i, o->max - 0.5);
        assert_int_equal(tb_config_set(&c, i, o->max), TB_OK);
        assert_int_equal(tb_config_set(&c, i, o->min), TB_OK);
        if (o->has_default) assert_int_equal(tb_config_set(&c, i, o->fallback), TB_OK);
    }
    refuses(&c, tb_option_count(), 1);
    refuses(&c, UINT32_MAX, 1);
}

static void set_reaches_its_field(void **state)
{
    (void)state;
    tb_config c;
    tb_config_init(&c);
    assert_int_equal(tb_config_set(&c, find("target_batch_tokens"), 1e15), TB_OK);
    assert_int_equal(tb_config_set(&c, find("max_queue_cost"), 5), TB_OK);
    assert_int_equal(tb_config_set(&c, find("batch_timeout_s"), 0.0002), TB_OK);
    assert_int_equal(tb_config_set(&c, find("inference_timeout_s"), 1.5), TB_OK);
    assert_int_equal(tb_config_set(&c, find("max_wait_s"), 2), TB_OK);
    assert_int_equal(tb_config_set(&c, find("max_batch_size"), 1000000), TB_OK);
    assert_int_equal(tb_config_set(&c, find("min_batch_size"), 3), TB_OK);
    assert_int_equal(tb_config_set(&c, find("max_queue_size"), 10000000), TB_OK);
    assert_int_equal(tb_config_set(&c, find("prefetch_batches"), 0), TB_OK);
    assert_int_equal(tb_config_set(&c, find("max_concurrent_batches"), TB_MAX_BATCHES), TB_OK);
    assert_int_equal(tb_config_set(&c, find("policy"), TB_POLICY_EAGER), TB_OK);
    assert_int_equal(tb_config_set(&c, find("cost_model"), TB_COST_PADDED), TB_OK);
    assert_int_equal(tb_config_set(&c, find("on_full"), TB_FULL_REJECT), TB_OK);
    assert_int_equal(tb_config_set(&c, find("on_oversize"), TB_OVERSIZE_REJECT), TB_OK);
    assert_true(c.target_batch_cost == 1e15 && c.max_queue_cost == 5 && c.batch_timeout_us == 200);
    assert_true(c.inference_timeout_us == 1500000 && c.max_wait_us == 2000000);
    assert_true(c.max_batch_size == 1000000 && c.min_batch_size == 3 &&
                c.max_queue_size == 10000000);
    assert_true(c.prefetch_batches == 0 && c.max_concurrent_batches == TB_MAX_BATCHES);
    assert_true(c.policy == TB_POLICY_EAGER && c.cost_model == TB_COST_PADDED);
    assert_true(c.on_full == TB_FULL_REJECT && c.on_oversize == TB_OVERSIZE_REJECT);
    assert_int_equal(tb_config_check(&c), TB_OK);
}

/* The smallest time that is not none must not round to none. */
static void a_small_time_is_not_none(void **state)
{
    static const char *const times[] = {"inference_timeout_s", "max_wait_s"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        tb_config c;
        tb_config_init(&c);
        uint32_t at = find(times[i]);
        assert_int_equal(tb_config_set(&c, at, tb_option_at(at)->min), TB_OK);
        assert_true(c.inference_timeout_us + c.max_wait_us > 0);
        assert_int_equal(tb_config_set(&c, at, 0), TB_EOPTION); /* none is unset, not 0 */
    }
}

static void unset_is_for_options_without_a_default(void **state)
{
    (void)state;
    tb_config c;
    tb_config_init(&c);
    c.max_queue_cost = 5;
    c.inference_timeout_us = 6;
    c.max_wait_us = 7;
    assert_int_equal(tb_config_unset(&c, find("max_queue_cost")), TB_OK);
    assert_int_equal(tb_config_unset(&c, find("inference_timeout_s")), TB_OK);
    assert_int_equal(tb_config_unset(&c, find("max_wait_s")), TB_OK);
    assert_true(c.max_queue_cost == 0 && c.inference_timeout_us == 0 && c.max_wait_us == 0);
    assert_int_equal(tb_config_unset(&c, find("batch_timeout_s")), TB_EOPTION);
    assert_int_equal(tb_config_unset(&c, find("policy")), TB_EOPTION);
    assert_int_equal(tb_config_unset(&c, tb_option_count()), TB_EOPTION);
}

static void check_knows_every_bound(void **state)
{
    (void)state;
    tb_config good, c;
    tb_config_init(&good);
#define BAD(field, value, error)                        \
    do {                                                \
        c = good;                                       \
        c.field = (value);                              \
        assert_int_equal(tb_config_check(&c), (error)); \
        assert_null(tb_new(&c));                        \
    } while (0)
    BAD(target_batch_cost, 0, TB_EOPTION);
    BAD(target_batch_cost, NAN, TB_EOPTION);
    BAD(target_batch_cost, 1.1e15, TB_EOPTION);
    BAD(max_queue_cost, -1, TB_EOPTION);
    BAD(max_queue_cost, NAN, TB_EOPTION);
    BAD(batch_timeout_us, -1, TB_EOPTION);
    BAD(batch_timeout_us, INT64_MAX, TB_EOPTION);
    BAD(inference_timeout_us, -1, TB_EOPTION);
    BAD(inference_timeout_us, INT64_MAX, TB_EOPTION);
    BAD(max_wait_us, INT64_MIN, TB_EOPTION);
    BAD(max_wait_us, INT64_MAX, TB_EOPTION);
    BAD(max_batch_size, 0, TB_EOPTION);
    BAD(max_batch_size, 1000001, TB_EOPTION);
    BAD(min_batch_size, 0, TB_EOPTION);
    BAD(min_batch_size, 257, TB_EMINMAX);
    BAD(max_queue_size, 0, TB_EOPTION);
    BAD(max_queue_size, 10000001, TB_EOPTION);
    BAD(prefetch_batches, 1025, TB_EOPTION);
    BAD(max_concurrent_batches, 0, TB_EOPTION);
    BAD(max_concurrent_batches, TB_MAX_BATCHES + 1, TB_EOPTION);
    BAD(policy, 3, TB_EOPTION);
    BAD(cost_model, 2, TB_EOPTION);
    BAD(on_full, UINT32_MAX, TB_EOPTION);
    BAD(on_oversize, 2, TB_EOPTION);
#undef BAD
}

static void names(void **state)
{
    (void)state;
    assert_int_equal(tb_abi(), TB_ABI);
    for (int error = TB_ETOOLARGE; error <= TB_OK; error++) {
        assert_true(strcmp(tb_error_name(error), "unknown") != 0);
        assert_true(strlen(tb_error_text(error)) > 1);
    }
    assert_string_equal(tb_error_name(TB_EFULL), "queue_full");
    assert_string_equal(tb_error_name(TB_EOVERSIZE), "oversize");
    assert_string_equal(tb_error_name(TB_ECOST), "bad_cost");
    assert_string_equal(tb_error_name(TB_ENOTRUNNING), "not_running");
    assert_string_equal(tb_error_name(TB_ETOOLARGE - 1), "unknown");
    assert_string_equal(tb_error_name(1), "unknown");
    assert_non_null(tb_error_text(12345));
    static const char *const reasons[] = {"full", "timeout", "idle", "drain", "policy"};
    for (int i = 0; i < TB_REASONS; i++) assert_string_equal(tb_reason_name(i), reasons[i]);
    assert_non_null(tb_reason_name(-1));
    assert_non_null(tb_reason_name(TB_REASONS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("options: each has a name of its own, bounds, a unit and a sentence",
             every_option_is_described),
        TEST("options: the defaults are those of the design", the_defaults),
        TEST("options: tb_config_init gives the defaults", init_gives_the_defaults),
        TEST("options: NaN, infinities, fractions and what is out of bounds are refused; nothing "
             "changes",
             set_refuses_what_is_out_of_bounds),
        TEST("options: each value reaches its field, in the field's unit", set_reaches_its_field),
        TEST("options: the smallest time is not none", a_small_time_is_not_none),
        TEST("options: unset is for options without a default",
             unset_is_for_options_without_a_default),
        TEST("options: tb_config_check and tb_new know every bound; F5: min > max",
             check_knows_every_bound),
        TEST("errors and reasons have names", names),
    };
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
