/* test_engine_records.c - scripts in C programs: loading, records, results, refusals. */
#include "test_engine.h"

static void assert_refused(struct ev_loop *loop, const char *text, const char *part)
{
    tb_engine *engine = (tb_engine *)1;
    char err[TEXT];
    assert_int_equal(try_engine(&engine, loop, text, err), TB_ENGINE_ESCRIPT);
    assert_null(engine);
    assert_contains(err, "/tmp/tb_engine_");
    assert_contains(err, part);
}

static void a_script_that_cannot_be_loaded_is_an_error_with_file_and_line(void **state)
{
    struct rig *rig = *state;
    assert_refused(rig->loop, "\nreturn {", ":2:");
    assert_refused(rig->loop, "\n\nerror 'no model here'", ":3: no model here");
    assert_refused(rig->loop, "return 7", "must return a table of options");
    assert_refused(rig->loop, "return { max_batch_sise = 3 }", "did you mean 'max_batch_size'");
    assert_refused(rig->loop, "return { max_batch_size = 3 }", "requires either 'inference_fn'");
    assert_refused(rig->loop, "return {" ECHO " policy = function() error 'bad day' end }", "bad day");
    assert_refused(rig->loop, "\nrequire('tokenbatcher').spawn(function() error 'loose' end) return {" ECHO "}",
                   "loose");
    tb_engine *engine;
    char err[TEXT], tiny[8];
    assert_int_equal(tb_engine_new(&engine, rig->loop, "/no/such.lua", err, TEXT), TB_ENGINE_ESCRIPT);
    assert_contains(err, "/no/such.lua");
    assert_int_equal(tb_engine_new(&engine, rig->loop, "/no/such.lua", NULL, 0), TB_ENGINE_ESCRIPT);
    assert_int_equal(tb_engine_new(&engine, rig->loop, "/no/such.lua", tiny, sizeof tiny),
                     TB_ENGINE_ESCRIPT);
    assert_string_equal(tiny, "/no/suc");
}

static void the_options_of_a_script_with_setup_have_their_defaults(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine;
    char err[TEXT];
    const char *text = "return { options = { tail = { 'what is added', '!' } }, setup = function(opt)"
                       " return { batch_timeout_s = 0, inference_fn = function(r)"
                       " return { r[1] .. opt.tail } end } end }";
    assert_int_equal(try_engine(&engine, rig->loop, text, err), TB_OK);
    must_submit(engine, "hi", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 1);
    assert_string_equal(rig->notes.list[0].data, "hi!");
    tb_engine_free(engine);
}

static void bytes_go_in_and_bytes_come_out_whatever_they_are(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 0");
    char bytes[256];
    for (int i = 0; i < 256; i++) bytes[i] = (char)i;
    int64_t first = tb_engine_submit(engine, bytes, sizeof bytes, NULL, on_result, &rig->notes);
    memset(bytes, 'x', sizeof bytes); /* it was copied */
    int64_t second = tb_engine_submit(engine, NULL, 0, NULL, on_result, &rig->notes);
    assert_true(first > 0 && second > 0 && first != second);
    assert_int_equal(rig->notes.results, 0); /* never inside submit */
    run_until(rig->loop, &rig->notes.results, 2);
    assert_int_equal(rig->notes.list[0].id, first);
    assert_int_equal(rig->notes.list[0].size, 256);
    for (int i = 0; i < 256; i++) assert_int_equal(rig->notes.list[0].data[i], (char)i);
    assert_int_equal(rig->notes.list[1].id, second);
    assert_int_equal(rig->notes.list[1].size, 0);
    assert_int_equal(unanswered(engine), 0);
    tb_engine_free(engine);
}

static void a_record_without_a_callback_runs_all_the_same(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 0");
    assert_true(tb_engine_submit(engine, "a", 1, NULL, NULL, NULL) > 0);
    must_submit(engine, "b", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 1);
    assert_string_equal(rig->notes.list[0].data, "b");
    assert_int_equal(unanswered(engine), 0);
    tb_engine_free(engine);
}

static void records_and_results_go_through_decode_and_encode(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop,
        "decode = function(s) return { n = assert(tonumber(s), 'no number') } end,"
        "encode = function(record, result) if result == 9 then error 'nine' end"
        " if result == 16 then return 16 end return record.n .. ' squared is ' .. result end,"
        "batch_timeout_s = 0, inference_fn = function(r) local out = {} "
        "for i = 1, #r do out[i] = r[i].n ^ 2 end return out end");
    must_submit(engine, "2", &rig->notes);
    must_submit(engine, "3", &rig->notes);
    must_submit(engine, "4", &rig->notes);
    assert_int_equal(submit(engine, "five", NULL, &rig->notes), TB_ENGINE_EINPUT);
    assert_contains(tb_engine_message(engine), "decode raised");
    assert_contains(tb_engine_message(engine), "no number");
    run_until(rig->loop, &rig->notes.results, 3);
    assert_string_equal(rig->notes.list[0].data, "2 squared is 4");
    assert_string_equal(rig->notes.list[1].code, "bad_output");
    assert_contains(rig->notes.list[1].message, "nine");
    assert_string_equal(rig->notes.list[2].code, "bad_output");
    assert_contains(rig->notes.list[2].message, "encode returned a number");
    tb_engine_free(engine);
}

/* A record of bytes and a cost takes a shorter way than others: to the same callback. */
static void records_of_a_cost_alone_are_answered_like_others(void **state)
{
    enum { ROUNDS = 40, EACH = 6 };
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, "batch_timeout_s = 0, join = function(r) return r == 'same' and r or nil"
        " end, inference_fn = function(r) local out = {} for i = 1, #r do out[i] = 're:' .. r[i] end return out end");
    const tb_submit_options cost = {.size = sizeof cost, .estimated_tokens = 3};
    const tb_submit_options keyed = {.size = sizeof keyed, .estimated_tokens = 3, .key = "k"};
    for (int round = 0; round < ROUNDS; round++) {
        char text[EACH][16];
        int64_t ids[EACH];
        rig->notes = (struct notes){0};
        for (int i = 0; i < EACH; i++) {
            snprintf(text[i], sizeof text[i], i < 4 ? "%d of %d" : "same", i, round);
            ids[i] = submit(engine, text[i], i == 1 ? &keyed : i == 2 ? NULL : &cost, &rig->notes);
            assert_true(ids[i] > 0);
        }
        assert_int_equal(tb_engine_cancel(engine, ids[3]), TB_OK);
        assert_int_equal(tb_engine_cancel(engine, ids[3]), TB_ENOENT);
        run_until(rig->loop, &rig->notes.results, EACH);
        for (int n = 0; n < EACH; n++) {
            const struct note *note = &rig->notes.list[n];
            int i = 0;
            while (i < EACH && ids[i] != note->id) i++;
            assert_true(i < EACH);
            if (i == 3) assert_string_equal(note->code, "cancelled");
            else assert_string_equal(note->data + 3, text[i]);
        }
    }
    assert_int_equal(unanswered(engine), 0);
    tb_engine_free(engine);
}

static void a_cost_alone_is_refused_like_any_record(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, ECHO "max_queue_size = 2, on_full = 'reject', log = function() end,"
        "on_oversize = 'reject', target_batch_cost = 10, batch_timeout_s = 0");
    tb_submit_options cost = {.size = sizeof cost, .estimated_tokens = 11};
    assert_int_equal(submit(engine, "a", &cost, &rig->notes), TB_EOVERSIZE);
    cost.estimated_tokens = 3;
    assert_true(submit(engine, "a", &cost, &rig->notes) > 0);
    assert_true(submit(engine, "b", &cost, &rig->notes) > 0);
    assert_int_equal(submit(engine, "c", &cost, &rig->notes), TB_EFULL);
    assert_contains(tb_engine_message(engine), "the queue is full");
    run_until(rig->loop, &rig->notes.results, 2);
    /* of another thread: the answer says so */
    cost.estimated_tokens = 11;
    assert_true(tb_engine_submit_threadsafe(engine, "d", 1, &cost, on_result, &rig->notes) > 0);
    run_until(rig->loop, &rig->notes.results, 3);
    assert_string_equal(rig->notes.list[2].code, "oversize");
    tb_engine_numbers numbers;
    assert_int_equal(tb_engine_stats(engine, &numbers, sizeof numbers), TB_OK);
    assert_int_equal(numbers.batcher.total_rejected, 3);
    tb_engine_free(engine);
}

static void without_encode_a_result_that_is_no_string_is_bad_output(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop,
        "batch_timeout_s = 0, inference_fn = function(r) return { {}, 'fine' } end");
    must_submit(engine, "a", &rig->notes);
    must_submit(engine, "b", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 2);
    assert_string_equal(rig->notes.list[0].code, "bad_output");
    assert_contains(rig->notes.list[0].message, "the result is a table");
    assert_string_equal(rig->notes.list[1].data, "fine");
    tb_engine_free(engine);
}

static void a_script_that_fails_tells_why_and_where(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop,
        "batch_timeout_s = 0, max_batch_size = 1, inference_fn = function(r)\n"
        "if r[1] == 'raise' then error('out of order') end\n"
        "return { tb.failure('not this one') } end");
    must_submit(engine, "raise", &rig->notes);
    must_submit(engine, "fail", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 2);
    assert_string_equal(rig->notes.list[0].code, "inference_failed");
    assert_contains(rig->notes.list[0].message, ":3: out of order");
    assert_contains(rig->notes.list[0].traceback, "stack traceback");
    assert_string_equal(rig->notes.list[1].code, "inference_failed");
    assert_string_equal(rig->notes.list[1].message, "not this one");
    tb_engine_free(engine);
}

static void refusals_change_nothing_and_no_callback_follows(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, ECHO
        "max_queue_size = 1, batch_timeout_s = 60, target_batch_tokens = 100, on_oversize = 'reject',"
        "token_estimator = function(s) if s == 'odd' then return 'many' end return 1 end");
    tb_submit_options cost = {.size = sizeof cost, .estimated_tokens = -1};
    tb_submit_options time = {.size = sizeof time, .timeout_s = -1};
    tb_submit_options priority = {.size = sizeof priority, .priority = 0.0 / 0.0};
    tb_submit_options big = {.size = sizeof big, .estimated_tokens = 101};
    assert_int_equal(submit(engine, "a", &cost, &rig->notes), TB_ECOST);
    cost.estimated_tokens = 0.0 / 0.0;
    assert_int_equal(submit(engine, "a", &cost, &rig->notes), TB_ECOST);
    assert_int_equal(submit(engine, "a", &time, &rig->notes), TB_ETIMEOUT);
    assert_int_equal(submit(engine, "a", &priority, &rig->notes), TB_ERECORD);
    assert_int_equal(submit(engine, "a", &big, &rig->notes), TB_EOVERSIZE);
    assert_contains(tb_engine_message(engine), "target_batch_cost");
    assert_int_equal(submit(engine, "odd", NULL, &rig->notes), TB_ECOST);
    assert_contains(tb_engine_message(engine), "many");
    assert_int_equal(unanswered(engine), 0);
    must_submit(engine, "in", &rig->notes);
    assert_int_equal(submit(engine, "out", NULL, &rig->notes), TB_EFULL);
    assert_contains(tb_engine_message(engine), "the queue is full");
    assert_int_equal(unanswered(engine), 1);
    tb_engine_stop(engine, -1, on_stopped, &rig->notes);
    run_until(rig->loop, &rig->notes.stops, 1);
    assert_int_equal(rig->notes.results, 1);
    assert_int_equal(submit(engine, "late", NULL, &rig->notes), TB_ENOTRUNNING);
    tb_engine_free(engine);
    assert_int_equal(rig->notes.results, 1);
}

static void options_reach_the_batcher(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop,
        "batch_timeout_s = 0, policy = { form = function(queue, batch) "
        "for i in queue:by_priority() do seen = queue:key(i) batch:add(i) end end },"
        "inference_fn = function(r, info) local out = {} "
        "for i = 1, #r do out[i] = r[i] .. ' costs ' .. info.costs[i] .. ' last key ' .. seen end return out end");
    tb_submit_options low = {.size = sizeof low, .estimated_tokens = 7, .priority = 1, .key = "anna"};
    tb_submit_options high = {.size = sizeof high, .estimated_tokens = 8, .priority = 2, .key = "ben"};
    submit(engine, "low", &low, &rig->notes);
    submit(engine, "high", &high, &rig->notes);
    run_until(rig->loop, &rig->notes.results, 2);
    assert_string_equal(rig->notes.list[0].data, "high costs 8 last key anna");
    assert_string_equal(rig->notes.list[1].data, "low costs 7 last key anna");
    tb_engine_free(engine);
}

static void a_script_may_sleep_and_a_record_may_expire_on_the_hosts_loop(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop,
        "policy = 'eager', max_batch_size = 1, inference_fn = function(r) tb.sleep(0.01) return { 'slept' } end");
    tb_submit_options soon = {.size = sizeof soon, .timeout_s = 0.001};
    must_submit(engine, "a", &rig->notes);
    assert_true(submit(engine, "b", &soon, &rig->notes) > 0);
    run_until(rig->loop, &rig->notes.results, 2);
    int expired = rig->notes.list[0].code[0] ? 0 : 1; /* a loop that is late sees the answer first */
    assert_string_equal(rig->notes.list[expired].code, "deadline");
    assert_string_equal(rig->notes.list[1 - expired].data, "slept");
    tb_engine_free(engine);
}

static void statistics_are_a_snapshot_of_the_size_asked_for(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 0");
    for (int i = 0; i < 3; i++) must_submit(engine, "a", &rig->notes);
    tb_engine_numbers numbers = {.policy_errors = 7, .unanswered = 7};
    assert_int_equal(tb_engine_stats(engine, &numbers, sizeof numbers.batcher), TB_OK);
    assert_int_equal(numbers.batcher.queue_size, 3);
    assert_int_equal(numbers.unanswered, 7); /* beyond the size */
    assert_int_equal(tb_engine_stats(engine, &numbers, sizeof numbers), TB_OK);
    assert_int_equal(numbers.unanswered, 3);
    assert_int_equal(numbers.policy_errors, 0);
    run_until(rig->loop, &rig->notes.results, 3);
    assert_int_equal(tb_engine_stats(engine, &numbers, sizeof numbers), TB_OK);
    assert_int_equal(numbers.batcher.total_completed, 3);
    assert_int_equal(numbers.batcher.total_batches, 1);
    assert_int_equal(numbers.unanswered, 0);
    assert_true(numbers.batcher.latency_us.count == 3);
    tb_engine_free(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(a_script_that_cannot_be_loaded_is_an_error_with_file_and_line),
        WITH_RIG(the_options_of_a_script_with_setup_have_their_defaults),
        WITH_RIG(bytes_go_in_and_bytes_come_out_whatever_they_are),
        WITH_RIG(a_record_without_a_callback_runs_all_the_same),
        WITH_RIG(records_and_results_go_through_decode_and_encode),
        WITH_RIG(records_of_a_cost_alone_are_answered_like_others),
        WITH_RIG(a_cost_alone_is_refused_like_any_record),
        WITH_RIG(without_encode_a_result_that_is_no_string_is_bad_output),
        WITH_RIG(a_script_that_fails_tells_why_and_where),
        WITH_RIG(refusals_change_nothing_and_no_callback_follows),
        WITH_RIG(options_reach_the_batcher),
        WITH_RIG(a_script_may_sleep_and_a_record_may_expire_on_the_hosts_loop),
        WITH_RIG(statistics_are_a_snapshot_of_the_size_asked_for),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("engine_records", tests, NULL, NULL);
}
