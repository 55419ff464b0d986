/* test_engine_rims.c - scripts in C programs, at the rims: what lies between a post and the next turn, a callback that
 * runs the loop, who owns an option's text.
 */
#include "test_engine.h"

#define SLEEPS "policy = 'eager', inference_fn = function(r) tb.sleep(3600) return r end,"

/* Answers are the batch's group and key, and its size. */
#define TELLS \
    "batch_timeout_s = 0, inference_fn = function(records, info) local out = {}" \
    " for i = 1, #records do out[i] = info.group .. ' ' .. info.keys[i] .. ' ' .. #records end" \
    " return out end,"

static void the_texts_of_options_are_copied(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, TELLS);
    char group[] = "left", key[] = "anna";
    tb_submit_options options = {.size = sizeof options, .estimated_tokens = 1, .group = group, .key = key};
    assert_true(tb_engine_submit_threadsafe(engine, "a", 1, &options, on_result, &rig->notes) > 0);
    strcpy(group, "rite");
    strcpy(key, "otto");
    assert_true(tb_engine_submit_threadsafe(engine, "b", 1, &options, on_result, &rig->notes) > 0);
    strcpy(group, "none");
    strcpy(key, "none");
    run_until(rig->loop, &rig->notes.results, 2);
    assert_string_equal(rig->notes.list[0].data, "left anna 1");
    assert_string_equal(rig->notes.list[1].data, "rite otto 1");
    tb_engine_free(engine);
}

static void a_group_counts_beside_a_cost(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, TELLS);
    tb_submit_options options = {.size = sizeof options, .estimated_tokens = 1};
    const char *const groups[] = {"one", "one", "two", NULL};
    for (int i = 0; i < 4; i++) {
        options.group = groups[i];
        assert_true(submit(engine, "a", &options, &rig->notes) > 0);
    }
    run_until(rig->loop, &rig->notes.results, 4);
    assert_string_equal(rig->notes.list[0].data, "one  2");
    assert_string_equal(rig->notes.list[2].data, "two  1");
    assert_string_equal(rig->notes.list[3].data, "  1");
    tb_engine_free(engine);
}

/* What was taken out of the inbox and is not yet in Lua's count counts all the same. */
static void the_inbox_keeps_its_bound_between_two_turns(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, SLEEPS "max_queue_size = 1, max_batch_size = 1");
    int accepted = 0;
    while (tb_engine_submit_threadsafe(engine, "d", 1, NULL, NULL, NULL) > 0) accepted++;
    assert_int_equal(accepted, TB_ENGINE_INBOX);
    assert_int_equal(tb_engine_cancel(engine, 12345), TB_ENOENT); /* hands all of them in */
    assert_int_equal(tb_engine_submit_threadsafe(engine, "e", 1, NULL, NULL, NULL), TB_EFULL);
    tb_engine_free(engine);
}

static void what_was_posted_can_be_cancelled_before_a_turn(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, SLEEPS);
    int64_t id = tb_engine_submit_threadsafe(engine, "a", 1, NULL, on_result, &rig->notes);
    assert_true(id > 0);
    assert_int_equal(tb_engine_cancel(engine, id), TB_OK);
    assert_int_equal(tb_engine_cancel(engine, id), TB_ENOENT);
    run_until(rig->loop, &rig->notes.results, 1);
    assert_string_equal(rig->notes.list[0].code, "cancelled");
    tb_engine_free(engine);
}

static void what_was_posted_before_stop_is_answered(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 0");
    assert_true(tb_engine_submit_threadsafe(engine, "a", 1, NULL, on_result, &rig->notes) > 0);
    assert_int_equal(tb_engine_stop(engine, -1, on_stopped, &rig->notes), TB_OK);
    assert_int_equal(tb_engine_submit_threadsafe(engine, "b", 1, NULL, on_result, &rig->notes), TB_ENOTRUNNING);
    run_until(rig->loop, &rig->notes.stops, 1);
    assert_int_equal(rig->notes.results, 1);
    assert_string_equal(rig->notes.list[0].data, "a");
    tb_engine_free(engine);
}

/* What has settled and was not told yet is told as it is, not as stopped. */
static void free_tells_what_has_settled_already(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, SLEEPS);
    int64_t id = must_submit(engine, "a", &rig->notes);
    must_submit(engine, "b", &rig->notes);
    assert_int_equal(tb_engine_cancel(engine, id), TB_OK);
    tb_engine_free(engine);
    assert_int_equal(rig->notes.results, 2);
    assert_int_equal(rig->notes.list[0].id, id);
    assert_string_equal(rig->notes.list[0].code, "cancelled");
    assert_string_equal(rig->notes.list[1].code, "stopped");
}

/* --- a callback that runs the loop ------------------------------------------------------- */

struct nested {
    struct rig *rig;
    int has_run;
};

static void run_the_loop_inside(tb_engine *engine, const tb_engine_result *result, void *user)
{
    struct nested *nested = user;
    on_result(engine, result, &nested->rig->notes);
    if (nested->has_run++) return;
    must_submit(engine, "later", &nested->rig->notes);
    for (int i = 0; i < 20; i++) ev_run(nested->rig->loop, EVRUN_NOWAIT);
    assert_int_equal(nested->rig->notes.results, 1); /* nobody is called beneath a callback */
}

static void a_callback_that_runs_the_loop_finds_the_engine_at_rest(void **state)
{
    struct rig *rig = *state;
    struct nested nested = {rig, 0};
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 0");
    const char *const texts[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++)
        assert_true(tb_engine_submit(engine, texts[i], 1, NULL, run_the_loop_inside, &nested) > 0);
    run_until(rig->loop, &rig->notes.results, 4);
    for (int i = 0; i < 3; i++) assert_string_equal(rig->notes.list[i].data, texts[i]);
    assert_string_equal(rig->notes.list[3].data, "later");
    tb_engine_free(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(the_texts_of_options_are_copied),
        WITH_RIG(a_group_counts_beside_a_cost),
        WITH_RIG(the_inbox_keeps_its_bound_between_two_turns),
        WITH_RIG(what_was_posted_can_be_cancelled_before_a_turn),
        WITH_RIG(what_was_posted_before_stop_is_answered),
        WITH_RIG(free_tells_what_has_settled_already),
        WITH_RIG(a_callback_that_runs_the_loop_finds_the_engine_at_rest),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("engine_rims", tests, NULL, NULL);
}
