/* test_engine_life.c - scripts in C programs: cancel, stop, free, and calls from inside
 * callbacks and scripts.
 */
#include "test_engine.h"

#define NEVER_DUE ECHO "batch_timeout_s = 60"
#define SLEEPS_ON_B "inference_fn = function(r) if r[1] == 'b' then tb.sleep(60) end return r end"
#define SLEEPS "policy = 'eager', inference_fn = function(r) tb.sleep(60) return r end"

/* Until the engine has dispatched what was submitted. */
static void run_until_running(struct ev_loop *loop, tb_engine *engine, int records)
{
    tb_engine_numbers numbers = {0};
    while (numbers.batcher.running_records < records) {
        ev_run(loop, EVRUN_ONCE);
        tb_engine_stats(engine, &numbers, sizeof numbers);
    }
}

static void a_queued_record_can_be_cancelled_once(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, NEVER_DUE);
    int64_t a = must_submit(engine, "a", &rig->notes), b = must_submit(engine, "b", &rig->notes);
    assert_int_equal(tb_engine_cancel(engine, a), TB_OK);
    assert_int_equal(rig->notes.results, 0); /* not inside cancel */
    assert_int_equal(tb_engine_cancel(engine, a), TB_ENOENT);
    run_until(rig->loop, &rig->notes.results, 1);
    assert_int_equal(rig->notes.list[0].id, a);
    assert_string_equal(rig->notes.list[0].code, "cancelled");
    assert_int_equal(tb_engine_cancel(engine, a), TB_ENOENT);
    tb_engine_stop(engine, -1, on_stopped, &rig->notes);
    run_until(rig->loop, &rig->notes.stops, 1);
    assert_int_equal(rig->notes.list[1].id, b);
    assert_string_equal(rig->notes.list[1].data, "b");
    tb_engine_free(engine);
}

static void ids_that_are_nobodys_cannot_be_cancelled(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, NEVER_DUE);
    int64_t a = must_submit(engine, "a", &rig->notes);
    const int64_t strange[] = {0, -1, a + 1, a + (1 << 24), INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        assert_int_equal(tb_engine_cancel(engine, strange[i]), TB_ENOENT);
    }
    assert_int_equal(tb_engine_cancel(engine, a), TB_OK);
    run_until(rig->loop, &rig->notes.results, 1);
    int64_t again = must_submit(engine, "b", &rig->notes);
    assert_int_not_equal(a, again); /* the same slot, another generation */
    assert_int_equal(tb_engine_cancel(engine, a), TB_ENOENT);
    tb_engine_free(engine);
}

static void a_running_record_can_be_cancelled(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, SLEEPS);
    int64_t a = must_submit(engine, "a", &rig->notes);
    run_until_running(rig->loop, engine, 1);
    assert_int_equal(tb_engine_cancel(engine, a), TB_OK);
    run_until(rig->loop, &rig->notes.results, 1);
    assert_string_equal(rig->notes.list[0].code, "cancelled");
    tb_engine_free(engine);
}

static void a_record_posted_but_not_seen_yet_can_be_cancelled(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, NEVER_DUE);
    int64_t id = tb_engine_submit_threadsafe(engine, "a", 1, NULL, on_result, &rig->notes);
    assert_int_equal(tb_engine_cancel(engine, id), TB_OK);
    run_until(rig->loop, &rig->notes.results, 1);
    assert_string_equal(rig->notes.list[0].code, "cancelled");
    tb_engine_free(engine);
}

static void stop_drains_then_tells_and_then_the_loop_is_free(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, NEVER_DUE);
    for (int i = 0; i < 5; i++) must_submit(engine, "a", &rig->notes);
    int64_t posted = tb_engine_submit_threadsafe(engine, "b", 1, NULL, on_result, &rig->notes);
    assert_true(posted > 0);
    assert_int_equal(tb_engine_stop(engine, -1, on_stopped, &rig->notes), TB_OK);
    assert_int_equal(rig->notes.stops, 0);
    assert_int_equal(submit(engine, "late", NULL, &rig->notes), TB_ENOTRUNNING);
    assert_int_equal(tb_engine_submit_threadsafe(engine, "l", 1, NULL, on_result, &rig->notes),
                     TB_ENOTRUNNING);
    ev_run(rig->loop, 0); /* returns: nothing is left on the loop */
    assert_int_equal(rig->notes.stops, 1);
    assert_int_equal(rig->notes.results, 6);
    assert_int_equal(rig->notes.stopped_after, 6);
    assert_string_equal(rig->notes.list[5].data, "b");
    tb_engine_free(engine);
}

static void stop_can_be_called_again_and_each_call_is_told(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, NEVER_DUE);
    must_submit(engine, "a", &rig->notes);
    assert_int_equal(tb_engine_stop(engine, 0.0 / 0.0, on_stopped, &rig->notes), TB_ETIMEOUT);
    assert_int_equal(tb_engine_stop(engine, -1, on_stopped, &rig->notes), TB_OK);
    assert_int_equal(tb_engine_stop(engine, 1.0 / 0.0, NULL, NULL), TB_OK);
    assert_int_equal(tb_engine_stop(engine, 60, on_stopped, &rig->notes), TB_OK);
    ev_run(rig->loop, 0);
    assert_int_equal(rig->notes.stops, 2);
    assert_int_equal(tb_engine_stop(engine, -1, on_stopped, &rig->notes), TB_OK);
    assert_int_equal(rig->notes.stops, 2); /* not inside stop */
    ev_run(rig->loop, 0);
    assert_int_equal(rig->notes.stops, 3);
    assert_int_equal(rig->notes.results, 1);
    tb_engine_free(engine);
}

static void what_is_left_when_stop_runs_out_of_time_fails(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, SLEEPS ", max_batch_size = 1");
    for (int i = 0; i < 3; i++) must_submit(engine, "a", &rig->notes);
    run_until_running(rig->loop, engine, 1);
    tb_engine_stop(engine, -1, on_stopped, &rig->notes);
    tb_engine_stop(engine, 0.001, on_stopped, &rig->notes); /* the earlier end counts */
    ev_run(rig->loop, 0);
    assert_int_equal(rig->notes.stops, 2);
    assert_int_equal(rig->notes.stopped_after, 3);
    for (int i = 0; i < 3; i++) assert_string_equal(rig->notes.list[i].code, "stopped");
    tb_engine_free(engine);
}

static void free_answers_every_record_with_stopped_and_then_those_who_wait_for_stop(void **state)
{
    struct rig *rig = *state;
    tb_engine_free(NULL);
    tb_engine *engine = engine_on(rig->loop, SLEEPS ", max_batch_size = 1");
    must_submit(engine, "running", &rig->notes);
    run_until_running(rig->loop, engine, 1);
    must_submit(engine, "queued", &rig->notes);
    tb_engine_stop(engine, -1, on_stopped, &rig->notes);
    tb_engine_free(engine);
    assert_int_equal(rig->notes.results, 2);
    for (int i = 0; i < 2; i++) assert_string_equal(rig->notes.list[i].code, "stopped");
    assert_int_equal(rig->notes.stops, 1);
    assert_int_equal(rig->notes.stopped_after, 2);
    ev_run(rig->loop, 0); /* nothing is left on it */

    engine = engine_on(rig->loop, NEVER_DUE);
    tb_engine_submit_threadsafe(engine, "posted", 6, NULL, on_result, &rig->notes);
    tb_engine_free(engine);
    assert_int_equal(rig->notes.results, 3);
    assert_string_equal(rig->notes.list[2].code, "stopped");
}

/* --- from inside a callback ---------------------------------------------- */

struct inside {
    struct notes notes;
    int calls, cancelled;
};

static void free_inside(tb_engine *engine, const tb_engine_result *result, void *user)
{
    struct inside *inside = user;
    if (inside->calls++ == 0) {
        tb_engine_free(engine);
        tb_engine_free(engine); /* says the same again */
        assert_int_equal(submit(engine, "late", NULL, &inside->notes), TB_ENOTRUNNING);
        assert_int_equal(tb_engine_stop(engine, -1, on_stopped, &inside->notes), TB_ENOTRUNNING);
        assert_non_null(result->data); /* still there */
        assert_string_equal(result->data, "a");
    }
}

static void an_engine_can_be_freed_inside_a_callback(void **state)
{
    struct rig *rig = *state;
    struct inside inside = {0};
    tb_engine *engine = engine_on(rig->loop, SLEEPS_ON_B ", batch_timeout_s = 0, max_batch_size = 2");
    for (int i = 0; i < 2; i++) tb_engine_submit(engine, "a", 1, NULL, free_inside, &inside);
    must_submit(engine, "b", &inside.notes);
    ev_run(rig->loop, 0);
    assert_int_equal(inside.calls, 2);
    assert_int_equal(inside.notes.results, 1);
    assert_string_equal(inside.notes.list[0].code, "stopped");
    assert_int_equal(inside.notes.stops, 0);
}

static void an_engine_can_be_freed_when_it_says_that_it_has_stopped(void **state)
{
    struct rig *rig = *state;
    rig->notes.owns = true;
    tb_engine *engine = engine_on(rig->loop, NEVER_DUE);
    must_submit(engine, "a", &rig->notes);
    tb_engine_stop(engine, -1, on_stopped, &rig->notes);
    ev_run(rig->loop, 0);
    assert_int_equal(rig->notes.results, 1);
    assert_int_equal(rig->notes.stops, 1);
}

static void submit_and_cancel_inside(tb_engine *engine, const tb_engine_result *result, void *user)
{
    struct inside *inside = user;
    (void)result;
    if (inside->calls++ == 0) {
        inside->cancelled = tb_engine_cancel(engine, must_submit(engine, "b", &inside->notes));
    }
    if (inside->calls < 20) {
        assert_true(tb_engine_submit(engine, "a", 1, NULL, submit_and_cancel_inside, inside) > 0);
    } else {
        assert_int_equal(tb_engine_stop(engine, -1, on_stopped, &inside->notes), TB_OK);
    }
}

static void a_callback_may_submit_cancel_and_stop(void **state)
{
    struct rig *rig = *state;
    struct inside inside = {0};
    tb_engine *engine = engine_on(rig->loop, "policy = 'eager', max_batch_size = 1, "
                                             "inference_fn = function(r) tb.sleep(0) return r end");
    tb_engine_submit(engine, "a", 1, NULL, submit_and_cancel_inside, &inside);
    ev_run(rig->loop, 0);
    assert_int_equal(inside.calls, 20);
    assert_int_equal(inside.cancelled, TB_OK);
    assert_string_equal(inside.notes.list[0].code, "cancelled");
    assert_int_equal(inside.notes.stops, 1);
    tb_engine_free(engine);
}

/* --- from beneath the script ---------------------------------------------- */

static tb_engine *beneath;
static int busy[5];

/* Scripts below find this by the ffi. */
__attribute__((visibility("default"))) void test_engine_call_back(int frees);
void test_engine_call_back(int frees)
{
    tb_engine_numbers numbers;
    busy[0] = (int)tb_engine_submit(beneath, "x", 1, NULL, NULL, NULL);
    busy[1] = tb_engine_cancel(beneath, 1);
    busy[2] = tb_engine_stop(beneath, -1, NULL, NULL);
    busy[3] = tb_engine_stats(beneath, &numbers, sizeof numbers);
    busy[4]++;
    if (frees) tb_engine_free(beneath);
}

#define FFI "inference_fn = function(r) local ffi = require 'ffi' " \
            "ffi.cdef 'void test_engine_call_back(int frees);' " \
            "ffi.C.test_engine_call_back(r[1] == 'free' and 1 or 0) return r end, batch_timeout_s = 0"

static void a_script_that_calls_back_is_told_that_the_engine_is_busy(void **state)
{
    struct rig *rig = *state;
    beneath = engine_on(rig->loop, FFI);
    busy[4] = 0;
    must_submit(beneath, "a", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 1);
    assert_string_equal(rig->notes.list[0].data, "a");
    for (int i = 0; i < 4; i++) assert_int_equal(busy[i], TB_ENGINE_EBUSY);
    assert_int_equal(busy[4], 1);
    must_submit(beneath, "free", &rig->notes);
    ev_run(rig->loop, 0);
    assert_int_equal(busy[4], 2);
    assert_int_equal(rig->notes.results, 2);
}

/* --- several engines, logs ------------------------------------------------ */

static void engines_on_one_loop_do_not_meet(void **state)
{
    struct rig *rig = *state;
    tb_engine *a = engine_on(rig->loop, "batch_timeout_s = 0, inference_fn = function(r) "
                                        "calls = (calls or 0) + 1 return { 'a' .. calls } end");
    tb_engine *b = engine_on(rig->loop, "batch_timeout_s = 0, inference_fn = function(r) "
                                        "calls = (calls or 0) + 1 return { 'b' .. calls } end");
    must_submit(a, "x", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 1);
    must_submit(b, "x", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 2);
    tb_engine_free(a);
    must_submit(b, "x", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 3);
    assert_string_equal(rig->notes.list[0].data, "a1");
    assert_string_equal(rig->notes.list[1].data, "b1");
    assert_string_equal(rig->notes.list[2].data, "b2");
    tb_engine_free(b);
}

struct heard {
    int lines;
    char level[TEXT], text[TEXT];
};

static void on_log(void *user, const char *level, const char *text)
{
    struct heard *heard = user;
    heard->lines++;
    copy_text(heard->level, TEXT, level);
    copy_text(heard->text, TEXT, text);
}

static void warnings_and_loose_errors_go_to_the_log_callback(void **state)
{
    struct rig *rig = *state;
    struct heard heard = {0};
    tb_engine *engine = engine_on(rig->loop,
        "batch_timeout_s = 0, policy = { form = function() error 'no idea' end },"
        "inference_fn = function(r) if r[1] == 'loose' then "
        "tb.spawn(function() error 'somewhere else' end) end return r end");
    tb_engine_set_log(engine, on_log, &heard);
    for (int i = 0; i < 10; i++) {
        must_submit(engine, "a", &rig->notes);
        run_until(rig->loop, &rig->notes.results, i + 1);
        assert_int_equal(heard.lines, i < 9 ? 1 : 2); /* the first error, and the policy's end */
    }
    assert_string_equal(heard.level, "warn");
    assert_contains(heard.text, "no idea");
    must_submit(engine, "loose", &rig->notes);
    run_until(rig->loop, &heard.lines, 3);
    assert_string_equal(heard.level, "error");
    assert_contains(heard.text, "somewhere else");
    tb_engine_free(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(a_queued_record_can_be_cancelled_once),
        WITH_RIG(ids_that_are_nobodys_cannot_be_cancelled),
        WITH_RIG(a_running_record_can_be_cancelled),
        WITH_RIG(a_record_posted_but_not_seen_yet_can_be_cancelled),
        WITH_RIG(stop_drains_then_tells_and_then_the_loop_is_free),
        WITH_RIG(stop_can_be_called_again_and_each_call_is_told),
        WITH_RIG(what_is_left_when_stop_runs_out_of_time_fails),
        WITH_RIG(free_answers_every_record_with_stopped_and_then_those_who_wait_for_stop),
        WITH_RIG(an_engine_can_be_freed_inside_a_callback),
        WITH_RIG(an_engine_can_be_freed_when_it_says_that_it_has_stopped),
        WITH_RIG(a_callback_may_submit_cancel_and_stop),
        WITH_RIG(a_script_that_calls_back_is_told_that_the_engine_is_busy),
        WITH_RIG(engines_on_one_loop_do_not_meet),
        WITH_RIG(warnings_and_loose_errors_go_to_the_log_callback),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("engine_life", tests, NULL, NULL);
}
