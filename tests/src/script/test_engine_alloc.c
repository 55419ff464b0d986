/* test_engine_alloc.c - an engine when memory runs out in C.
 *
 * A story is told again and again (failing.h). A refused call must have changed nothing, and done
 * once more, with memory, it must succeed. (LuaJIT and libev have allocators of their own, which
 * this does not reach.)
 */
#include "../failing.h"
#include "test_engine.h"

enum { RECORDS = 70 }; /* more than the first slots of the table of callbacks */

static const char SCRIPT[] =
    "return { options = { tail = {'help', '!'} }, setup = function(opt) return { batch_timeout_s = 3600,\n"
    "max_batch_size = 1000, policy = 'length_bucketed', inference_fn = function(r) local out = {}\n"
    "for i = 1, #r do out[i] = r[i] .. opt.tail end return out end } end }";

/* A call that returns `error`, which must be want of memory if there was any, is done again. */
#define WITH_MEMORY(result, call) \
    do { \
        result = (call); \
        if (result < 0) assert_true(recovers()); \
        if (result < 0) result = (call); \
        if (result < 0) fail_msg("%s: %d", #call, (int)result); \
    } while (0)

static struct rig *rig;
static char *path;

static tb_engine *begin(void)
{
    static const tb_engine_option tail = {"tail", "?"};
    char err[TEXT];
    tb_engine *engine;
    int error = tb_engine_new_with(&engine, rig->loop, path, &tail, 1, err, sizeof err);
    if (error) {
        assert_true(recovers());
        assert_null(engine);
        assert_contains(err, "memory");
        assert_int_equal(tb_engine_new_with(&engine, rig->loop, path, &tail, 1, err, sizeof err), TB_OK);
    }
    return engine;
}

/* Hands in, from here and as other threads do, changes an option, cancels, stops. */
static void tell_story(void)
{
    static struct notes many[RECORDS + 1];
    memset(many, 0, sizeof many);
    tb_engine *engine = begin();
    int64_t id = 0, first = 0;
    tb_submit_options options = {.size = sizeof options, .key = "k", .timeout_s = 3000};
    for (int i = 0; i < RECORDS; i++) {
        if (i % 2) {
            WITH_MEMORY(id, tb_engine_submit(engine, "a", 1, &options, on_result, &many[i]));
        } else {
            WITH_MEMORY(id, tb_engine_submit_threadsafe(engine, "b", 1, &options, on_result, &many[i]));
        }
        if (i == 1) first = id;
    }
    tb_engine_option max = {"max_batch_size", "30"};
    int error;
    WITH_MEMORY(error, tb_engine_set(engine, &max, 1, NULL, 0));
    WITH_MEMORY(error, tb_engine_cancel(engine, first));
    WITH_MEMORY(error, tb_engine_stop(engine, -1, on_stopped, &many[RECORDS]));
    fail_at = NEVER;
    while (many[RECORDS].stops == 0) ev_run(rig->loop, EVRUN_ONCE);
    for (int i = 0; i < RECORDS; i++) {
        const struct note *note = &many[i].list[0];
        assert_int_equal(many[i].results, 1); /* each once, none lost */
        bool is_lost = failed > 0 && i % 2 == 0 && strcmp(note->code, "inference_failed") == 0;
        if (is_lost) { /* there was no memory to take it in, when its thread had been told its id */
            assert_contains(note->message, "memory");
            continue;
        }
        assert_string_equal(note->code, i == 1 ? "cancelled" : "");
        if (i != 1) assert_string_equal(note->data, i % 2 ? "a?" : "b?");
    }
    assert_int_equal(many[RECORDS].stops, 1);
    assert_int_equal(unanswered(engine), 0);
    tb_engine_free(engine);
}

static void every_call_survives_that_memory_runs_out_in_it(void **state)
{
    rig = *state;
    path = script_file(SCRIPT);
    uint64_t allocations = tell_until_nothing_fails(tell_story);
    assert_true(allocations >= 20);
    print_message("%d allocations failed, one after the other\n", (int)allocations);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {WITH_RIG(every_call_survives_that_memory_runs_out_in_it)};
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("engine_alloc", tests, NULL, NULL);
}
