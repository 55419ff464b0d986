/* test_engine_options.c - scripts in C programs: options of a record, of the batcher while it
 * runs, and the script's own.
 */
#include "test_engine.h"

#define SAYS_GROUP "inference_fn = function(r, info) local out = {} " \
    "for i = 1, #r do out[i] = #r .. ' of ' .. tostring(info.group) end return out end,"

/* --- a record's ---------------------------------------------------------------- */

/* What an engine cannot do, no engine of this build can. */
static void skip_without_groups(struct rig *rig)
{
    tb_engine *engine = engine_on(rig->loop, SAYS_GROUP "batch_timeout_s = 0");
    tb_submit_options options = {.size = sizeof options, .group = "a"};
    submit(engine, "x", &options, &rig->notes);
    run_until(rig->loop, &rig->notes.results, 1);
    bool is_known = strcmp(rig->notes.list[0].data, "1 of a") == 0;
    tb_engine_free(engine);
    rig->notes.results = 0;
    if (!is_known) {
        print_message("skipped: the batcher's submit does not know `group` yet\n");
        skip();
    }
}

/* F1: records of different groups never share a batch. */
static void groups_share_no_batch_from_whichever_thread_they_come(void **state)
{
    static const char *const groups[] = {"a", "b", "a"};
    struct rig *rig = *state;
    skip_without_groups(rig);
    tb_engine *engine = engine_on(rig->loop, SAYS_GROUP "batch_timeout_s = 0, policy = 'eager'");
    for (int i = 0; i < 3; i++) {
        char name[2] = {groups[i][0], '\0'}; /* copied, as the bytes are */
        tb_submit_options options = {.size = sizeof options, .group = name, .key = "k"};
        assert_true(submit(engine, "x", &options, &rig->notes) > 0);
        assert_true(tb_engine_submit_threadsafe(engine, "y", 1, &options, on_result, &rig->notes) > 0);
        name[0] = '?';
    }
    run_until(rig->loop, &rig->notes.results, 6);
    for (int i = 0; i < 6; i++) {
        assert_contains("1 of a, 1 of b, 2 of a, 2 of b, 3 of a, 4 of a", rig->notes.list[i].data);
    }
    tb_engine_free(engine);
}

/* F3: a record's own batch_timeout_s makes the queue due, and fails nothing. */
static void a_record_brings_its_own_linger(void **state)
{
    struct rig *rig = *state;
    skip_without_groups(rig);
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 3600");
    tb_submit_options soon = {.size = sizeof soon, .batch_timeout_s = 0.001};
    must_submit(engine, "patient", &rig->notes);
    assert_true(submit(engine, "hurried", &soon, &rig->notes) > 0);
    run_until(rig->loop, &rig->notes.results, 2);
    assert_string_equal(rig->notes.list[0].data, "patient");
    assert_string_equal(rig->notes.list[1].data, "hurried");
    tb_engine_free(engine);
}

/* What the program says wins over the script's submit_options; what that gets wrong is the record's input. */
static void a_script_says_what_submit_is_to_know_of_a_record(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, "batch_timeout_s = 0, inference_fn = function(r, info) "
        "local out = {} for i = 1, #r do out[i] = info.keys[i] .. ' ' .. info.group end return out end, "
        "submit_options = function(r) if r == 'bad' then return {kee = 1} end "
        "return {key = 'script', group = 'script'} end");
    tb_submit_options options = {.size = sizeof options, .key = "program"};
    must_submit(engine, "x", &rig->notes);
    assert_true(submit(engine, "y", &options, &rig->notes) > 0);
    assert_int_equal(submit(engine, "bad", NULL, &rig->notes), TB_ENGINE_EINPUT);
    assert_contains(tb_engine_message(engine), "did you mean 'key'?");
    run_until(rig->loop, &rig->notes.results, 2);
    assert_string_equal(rig->notes.list[0].data, "script script");
    assert_string_equal(rig->notes.list[1].data, "program script");
    tb_engine_free(engine);
}

/* As of a program that was compiled with a later header. */
struct later_options {
    tb_submit_options known;
    double unknown;
};

static void options_of_another_size_are_taken_as_far_as_they_are_known(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 0");
    tb_submit_options of_no_size = {.key = "k"}, too_small = {.size = 8};
    assert_true(submit(engine, "no size", &of_no_size, &rig->notes) > 0);
    assert_int_equal(submit(engine, "small", &too_small, &rig->notes), TB_EOPTION);
    assert_true(strlen(tb_engine_message(engine)) > 0);
    struct later_options later = {.known = {.size = sizeof later}};
    assert_true(submit(engine, "not given", &later.known, &rig->notes) > 0);
    later.unknown = 1;
    assert_int_equal(submit(engine, "given", &later.known, &rig->notes), TB_EOPTION);
    assert_int_equal(tb_engine_submit_threadsafe(engine, "x", 1, &later.known, NULL, NULL), TB_EOPTION);
    run_until(rig->loop, &rig->notes.results, 2);
    assert_int_equal(unanswered(engine), 0);
    tb_engine_free(engine);
}

static void a_linger_that_is_no_time_is_refused(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 0");
    tb_submit_options bad = {.size = sizeof bad, .batch_timeout_s = -0.5};
    assert_int_equal(submit(engine, "x", &bad, &rig->notes), TB_ETIMEOUT);
    bad.batch_timeout_s = 0.0 / 0.0;
    assert_int_equal(submit(engine, "x", &bad, &rig->notes), TB_ETIMEOUT);
    tb_engine_free(engine);
}

/* --- the batcher's, while it runs (X4) -------------------------------------------- */

static int set_one(tb_engine *engine, const char *name, const char *value, char *err)
{
    tb_engine_option option = {name, value};
    return tb_engine_set(engine, &option, 1, err, TEXT);
}

static void set_changes_what_is_queued_while_the_engine_runs(void **state)
{
    struct rig *rig = *state;
    char err[TEXT] = "stale";
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 3600, max_batch_size = 100");
    must_submit(engine, "a", &rig->notes);
    must_submit(engine, "b", &rig->notes);
    ev_run(rig->loop, EVRUN_NOWAIT);
    assert_int_equal(rig->notes.results, 0);
    tb_engine_option options[] = {{"max_batch_size", "2"}, {"policy", "length_bucketed"}};
    assert_int_equal(tb_engine_set(engine, options, 2, err, TEXT), TB_OK);
    assert_string_equal(err, "");
    run_until(rig->loop, &rig->notes.results, 2);
    assert_int_equal(tb_engine_set(engine, NULL, 0, NULL, 0), TB_OK);
    tb_engine_stop(engine, -1, on_stopped, &rig->notes);
    run_until(rig->loop, &rig->notes.stops, 1);
    assert_int_equal(set_one(engine, "batch_timeout_s", "0", err), TB_OK); /* of no use, no harm */
    tb_engine_free(engine);
}

static void set_is_all_or_nothing_and_says_what_is_wrong(void **state)
{
    struct rig *rig = *state;
    char err[TEXT];
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 3600, min_batch_size = 4");
    must_submit(engine, "a", &rig->notes);
    tb_engine_option options[] = {{"batch_timeout_s", "0"}, {"max_batch_sise", "2"}};
    assert_int_equal(tb_engine_set(engine, options, 2, err, TEXT), TB_EOPTION);
    assert_string_equal(err, "set: unknown option 'max_batch_sise'; did you mean 'max_batch_size'?");
    assert_string_equal(tb_engine_message(engine), err);
    options[1] = (tb_engine_option){"max_batch_size", "3"};
    assert_int_equal(tb_engine_set(engine, options, 2, err, TEXT), TB_EOPTION);
    assert_contains(err, "'min_batch_size' (4) is above 'max_batch_size' (3)");
    assert_int_equal(set_one(engine, "max_batch_size", "many", err), TB_EOPTION);
    assert_contains(err, "whole number");
    assert_int_equal(set_one(engine, "inference_fn", "x", err), TB_EOPTION);
    assert_contains(err, "is a function");
    assert_int_equal(set_one(engine, "policy", "nope", err), TB_EOPTION);
    assert_contains(err, "nope");
    char tiny[4];
    assert_int_equal(tb_engine_set(engine, options, 2, tiny, sizeof tiny), TB_EOPTION);
    assert_int_equal(strlen(tiny), 3);
    ev_run(rig->loop, EVRUN_NOWAIT);
    assert_int_equal(rig->notes.results, 0); /* the good half of each has changed nothing */
    assert_int_equal(set_one(engine, "batch_timeout_s", "0", err), TB_OK);
    run_until(rig->loop, &rig->notes.results, 1);
    tb_engine_free(engine);
}

static tb_engine *called_engine;
static int called_error;
void set_from_the_script(void);
void set_from_the_script(void)
{
    char err[TEXT];
    called_error = set_one(called_engine, "batch_timeout_s", "0", err);
    assert_contains(err, "from beneath its own script");
}

static void set_from_beneath_the_script_is_busy(void **state)
{
    struct rig *rig = *state;
    called_engine = engine_on(rig->loop,
        "batch_timeout_s = 0, inference_fn = function(r) local ffi = require 'ffi' "
        "ffi.cdef 'void set_from_the_script(void);' ffi.C.set_from_the_script() return r end");
    must_submit(called_engine, "a", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 1);
    assert_int_equal(called_error, TB_ENGINE_EBUSY);
    tb_engine_free(called_engine);
}

/* --- the script's own ---------------------------------------------------------------- */

static const char WITH_OPTIONS[] =
    "return { options = { word = {'help', 'hello'}, times = {'help', 2}, loud = {'help', false} },\n"
    "setup = function(opt) return { batch_timeout_s = 0, inference_fn = function(r)\n"
    "local text = opt.word:rep(opt.times) return { opt.loud and text:upper() or text } end } end }";

static int engine_with(struct rig *rig, tb_engine **engine, const char *text,
                       const tb_engine_option *options, size_t count, char *err)
{
    char *path = script_file(text);
    int error = tb_engine_new_with(engine, rig->loop, path, options, count, err, TEXT);
    unlink(path);
    return error;
}

static void a_script_gets_its_own_options_from_the_program(void **state)
{
    static const tb_engine_option options[] = {{"word", "aha"}, {"loud", "true"}, {"times", "3"}};
    static const char *const answers[] = {"hellohello", "ahaaha", "AHAAHA", "AHAAHAAHA"};
    struct rig *rig = *state;
    for (size_t count = 0; count <= 3; count++) {
        char err[TEXT];
        tb_engine *engine;
        if (engine_with(rig, &engine, WITH_OPTIONS, options, count, err) != TB_OK) fail_msg("%s", err);
        must_submit(engine, "x", &rig->notes);
        run_until(rig->loop, &rig->notes.results, (int)count + 1);
        assert_string_equal(rig->notes.list[count].data, answers[count]);
        tb_engine_free(engine);
    }
}

static void an_option_that_a_script_does_not_take_is_refused(void **state)
{
    static const struct {
        tb_engine_option option;
        const char *sentence;
    } bad[] = {
        {{"wort", "x"}, "unknown option 'wort'; did you mean 'word'?"},
        {{"times", "many"}, "option 'times' needs a number, got 'many'"},
        {{"times", "nan"}, "option 'times' needs a number, got 'nan'"},
        {{"loud", "yes"}, "option 'loud' needs true or false, got 'yes'"},
        {{"max_batch_size", "2"}, "unknown option 'max_batch_size'"},
    };
    struct rig *rig = *state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char err[TEXT];
        tb_engine *engine = (tb_engine *)1;
        assert_int_equal(engine_with(rig, &engine, WITH_OPTIONS, &bad[i].option, 1, err), TB_EOPTION);
        assert_null(engine);
        assert_contains(err, bad[i].sentence);
    }
    char err[TEXT];
    tb_engine *engine;
    assert_int_equal(engine_with(rig, &engine, "return {" ECHO "}", &bad[0].option, 1, err), TB_EOPTION);
    assert_contains(err, "the script declares no options");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(groups_share_no_batch_from_whichever_thread_they_come),
        WITH_RIG(a_record_brings_its_own_linger),
        WITH_RIG(a_script_says_what_submit_is_to_know_of_a_record),
        WITH_RIG(options_of_another_size_are_taken_as_far_as_they_are_known),
        WITH_RIG(a_linger_that_is_no_time_is_refused),
        WITH_RIG(set_changes_what_is_queued_while_the_engine_runs),
        WITH_RIG(set_is_all_or_nothing_and_says_what_is_wrong),
        WITH_RIG(set_from_beneath_the_script_is_busy),
        WITH_RIG(a_script_gets_its_own_options_from_the_program),
        WITH_RIG(an_option_that_a_script_does_not_take_is_refused),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("engine_options", tests, NULL, NULL);
}
