/* test_misuse.c - misuse aborts, at the line that states what was asked for.
 *
 * Each misuse runs in a child process, which must end by SIGABRT: a null pointer that
 * crashes further in, or a call that hangs or returns, is a failure.
 */
#include "rig.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static rig *r;
static tb_config config;
static tb_batch batch;
static tb_queue queue;
static tb_look_at look;
static tb_stats numbers;
static tb_submission record = {.cost = 1};

typedef struct misuse {
    const char *call;
    void (*commit)(void);
} misuse;

#define MISUSE(name, call) \
    static void name(void) \
    {                      \
        call;              \
    }

/* Every function of the header that takes a batcher is called without one. */
MISUSE(state, tb_state(NULL))
MISUSE(start, tb_start(NULL, 1))
MISUSE(stop, tb_stop(NULL, 0, 1))
MISUSE(flush, tb_flush(NULL, 1))
MISUSE(set_none, tb_set(NULL, &config, 1))
MISUSE(set_nothing, tb_set(r->b, NULL, 1))
MISUSE(get_none, tb_get(NULL, &config))
MISUSE(get_nowhere, tb_get(r->b, NULL))
MISUSE(new_nothing, tb_new(NULL))
MISUSE(init, tb_config_init(NULL))
MISUSE(config_set, tb_config_set(NULL, 3, 1))
MISUSE(config_unset, tb_config_unset(NULL, 3))
MISUSE(config_check, tb_config_check(NULL))
MISUSE(submit_none, tb_submit(NULL, &record, 1))
MISUSE(submit_nothing, tb_submit(r->b, NULL, 1))
MISUSE(submit_plain_none, tb_submit_plain(NULL, 1, 1))
MISUSE(check_none, tb_submit_check(NULL, NULL, 0, 0, NULL))
MISUSE(check_nothing, tb_submit_check(r->b, NULL, 1, 0, NULL))
MISUSE(has_room, tb_has_room(NULL, 1))
MISUSE(record_state, tb_record_state(NULL, 1))
MISUSE(record_deadline, tb_record_deadline(NULL, 1))
MISUSE(cancel, tb_cancel(NULL, 1, 1))
MISUSE(refuse, tb_refuse(NULL, 1))
MISUSE(waiting, tb_waiting(NULL))
MISUSE(poll_none, tb_poll(NULL, NULL, 0, 1))
MISUSE(poll_nowhere, tb_poll(r->b, NULL, 1, 1))
MISUSE(next, tb_next(NULL))
MISUSE(form, tb_form(NULL, 1))
MISUSE(form_default, tb_form_default(NULL, 1))
MISUSE(read_none, tb_batch_read(NULL, 1, &batch, NULL, NULL, 0))
MISUSE(read_nowhere, tb_batch_read(r->b, 1, NULL, NULL, NULL, 0))
MISUSE(settle_none, tb_settle(NULL, 1, TB_COMPLETED, 1))
MISUSE(settle_77, tb_settle(r->b, 1, 77, 1))
MISUSE(settle_minus_1, tb_settle(r->b, 1, -1, 1))
MISUSE(finish_none, tb_batch_finish(NULL, 1, TB_COMPLETED, 1))
MISUSE(finish_77, tb_batch_finish(r->b, 1, 77, 1))
MISUSE(finish_minus_1, tb_batch_finish(r->b, 1, -1, 1))
MISUSE(retry, tb_batch_retry(NULL, 1, 1))
MISUSE(half_none, tb_batch_half(NULL, 1, NULL, 0, &batch, 1))
MISUSE(half_nothing, tb_batch_half(r->b, 1, NULL, 1, &batch, 1))
MISUSE(half_nowhere, tb_batch_half(r->b, 1, NULL, 0, NULL, 1))
MISUSE(ask, tb_ask(NULL, 1))
MISUSE(ask_again, tb_ask_again(NULL, 1))
MISUSE(choose_none, tb_choose(NULL, &queue, 1))
MISUSE(choose_nowhere, tb_choose(r->b, NULL, 1))
MISUSE(choose_add, tb_choose_add(NULL, 1))
MISUSE(choose_limit, tb_choose_limit(NULL, 1))
MISUSE(choose_read, tb_choose_read(NULL, &batch))
MISUSE(choose_read_nowhere, tb_choose_read(r->b, NULL))
MISUSE(choose_budget, tb_choose_budget(NULL))
MISUSE(choose_end, tb_choose_end(NULL))
MISUSE(choose_reset, tb_choose_reset(NULL))
MISUSE(choose_abandon, tb_choose_abandon(NULL))
MISUSE(look_none, tb_look(NULL, 1, &look))
MISUSE(look_nowhere, tb_look(r->b, 1, NULL))
MISUSE(look_cost, tb_look_cost(NULL, 1))
MISUSE(view_open, tb_view_open(NULL, TB_VIEW_COST, 0))
MISUSE(view_open_by_fifo, tb_view_open(r->b, TB_VIEW_COST, 0))
MISUSE(view_first_none, tb_view_first(NULL, 0))
MISUSE(view_first_no_such, tb_view_first(r->b, TB_VIEW_KEYS))
MISUSE(view_first_groups, tb_view_first(r->b, TB_VIEW_GROUPS))
MISUSE(view_next_no_such, tb_view_next(r->b, 77, 1))
MISUSE(view_previous_no_such, tb_view_previous(r->b, 77, 1))
MISUSE(view_alike, tb_view_alike(NULL, 1))
MISUSE(views_close, tb_views_close(NULL))
MISUSE(keys_first, tb_keys_first(NULL))
MISUSE(keys_next, tb_keys_next(NULL, 1))
MISUSE(key_first, tb_key_first(NULL, 1))
MISUSE(key_next, tb_key_next(NULL, 1))
MISUSE(groups_first, tb_groups_first(NULL))
MISUSE(groups_next, tb_groups_next(NULL, 1))
MISUSE(group_first, tb_group_first(NULL, 1))
MISUSE(group_next, tb_group_next(NULL, 1))
MISUSE(group_full, tb_group_full(NULL, 1))
MISUSE(group_due, tb_group_due(NULL, 1))
MISUSE(key_alone_none, tb_key_alone(NULL, 1, 1, 1))
MISUSE(key_alone_nobody, tb_key_alone(r->b, 0, 1, 1))
MISUSE(key_alone_too_large, tb_key_alone(r->b, 1u << TB_SLOT_BITS, 1, 1))
MISUSE(call_ended, tb_call_ended(NULL, 1, 1))
MISUSE(excuse_none, tb_calls_excuse(NULL, 1))
MISUSE(excuse_nothing, tb_calls_excuse(r->b, 0))
MISUSE(never_full, tb_config_never_full(NULL))
MISUSE(stats_none, tb_stats_read(NULL, &numbers, 1))
MISUSE(stats_nowhere, tb_stats_read(r->b, NULL, 1))
MISUSE(at_most_none, tb_stats_at_most(NULL, TB_OF_WAIT, 1))
MISUSE(at_most_no_such, tb_stats_at_most(r->b, TB_OF_BATCH_COST + 1, 1))
MISUSE(sum_no_such, tb_stats_sum(r->b, 77))
MISUSE(verify, tb_verify(NULL))
MISUSE(memory, tb_memory(NULL))

MISUSE(start_before_time, tb_start(tb_new(&config), -1))
MISUSE(start_after_time, tb_start(tb_new(&config), INT64_C(1) << 61))
MISUSE(later_than_time, tb_poll(r->b, NULL, 0, INT64_C(1) << 61))

static void submitted_before_time(void)
{
    tb_submission early = {.cost = 1, .submitted_us = -1};
    tb_submit(r->b, &early, r->now_us);
}

/* A policy chooses from a queue of two; the first of these. */
static tb_id choosing(void)
{
    tb_config scripted = config;
    scripted.policy = TB_POLICY_SCRIPT;
    tb_set(r->b, &scripted, r->now_us);
    tb_id first = tb_submit(r->b, &record, r->now_us);
    tb_submit(r->b, &record, r->now_us);
    if (tb_choose(r->b, &queue, r->now_us) != TB_OK || queue.size != 2 || tb_choose_add(r->b, 1) != TB_ADD_IN) _exit(3);
    return first;
}

static tb_batcher *with_a_script(void)
{
    config.policy = TB_POLICY_SCRIPT;
    tb_set(r->b, &config, r->now_us);
    return r->b;
}

MISUSE(view_open_no_such, tb_view_open(with_a_script(), TB_VIEW_GROUPS + 1, 0))
MISUSE(view_open_aging, tb_view_open(with_a_script(), TB_VIEW_PRIORITY, -1))
MISUSE(choose_while_choosing, (choosing(), tb_choose(r->b, &queue, r->now_us)))
MISUSE(submit_while_choosing, (choosing(), tb_submit(r->b, &record, r->now_us)))
MISUSE(submit_plain_while_choosing, (choosing(), tb_submit_plain(r->b, 1, r->now_us)))
MISUSE(cancel_while_choosing, tb_cancel(r->b, choosing(), r->now_us))
MISUSE(set_while_choosing, (choosing(), tb_set(r->b, &config, r->now_us)))
MISUSE(close_while_choosing, (choosing(), tb_views_close(r->b)))
MISUSE(form_while_choosing, (choosing(), tb_stop(r->b, -1, r->now_us), tb_form_default(r->b, r->now_us)))

#define IS(name)    \
    {               \
        #name, name \
    }

static const misuse MISUSES[] = {
    IS(state), IS(start), IS(stop), IS(flush), IS(set_none), IS(set_nothing), IS(get_none), IS(get_nowhere),
    IS(new_nothing), IS(init), IS(config_set), IS(config_unset), IS(config_check), IS(submit_none),
    IS(submit_plain_none),
    IS(submit_nothing), IS(check_none), IS(check_nothing), IS(has_room), IS(record_state), IS(record_deadline),
    IS(cancel), IS(refuse), IS(waiting), IS(poll_none), IS(poll_nowhere), IS(next), IS(form), IS(form_default),
    IS(read_none), IS(read_nowhere), IS(settle_none), IS(settle_77), IS(settle_minus_1), IS(finish_none),
    IS(finish_77), IS(finish_minus_1), IS(retry), IS(half_none), IS(half_nothing), IS(half_nowhere), IS(ask),
    IS(ask_again),
    IS(choose_none), IS(choose_nowhere), IS(choose_add), IS(choose_limit), IS(choose_read),
    IS(choose_read_nowhere), IS(choose_budget), IS(choose_end), IS(choose_reset), IS(choose_abandon),
    IS(look_none), IS(look_nowhere), IS(look_cost), IS(view_open), IS(view_open_no_such), IS(view_open_aging),
    IS(view_open_by_fifo),
    IS(view_first_none), IS(view_first_no_such), IS(view_first_groups), IS(groups_first), IS(groups_next),
    IS(group_first),
    IS(group_next), IS(group_full), IS(group_due), IS(key_alone_none), IS(key_alone_nobody),
    IS(key_alone_too_large), IS(call_ended), IS(never_full), IS(excuse_none), IS(excuse_nothing),
    IS(view_next_no_such), IS(view_previous_no_such), IS(view_alike), IS(views_close),
    IS(keys_first), IS(keys_next), IS(key_first), IS(key_next), IS(stats_none), IS(stats_nowhere),
    IS(at_most_none), IS(at_most_no_such), IS(sum_no_such), IS(verify), IS(memory), IS(start_before_time),
    IS(start_after_time), IS(later_than_time), IS(submitted_before_time), IS(choose_while_choosing),
    IS(submit_plain_while_choosing),
    IS(submit_while_choosing), IS(cancel_while_choosing), IS(set_while_choosing), IS(close_while_choosing),
    IS(form_while_choosing),
};

/* How a child that commits this ends: its status, as wait() tells it. */
static int end_of_child(void (*commit)(void))
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL); /* cmocka has handlers of its own */
        signal(SIGSEGV, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) _exit(2);
        alarm(10); /* one that hangs ends, too */
        commit();
        _exit(0);
    }
    assert_true(waitpid(child, &status, 0) == child);
    return status;
}

static void misuse_aborts(void **state_)
{
    (void)state_;
    config = small_config();
    r = rig_start(&config);
    for (size_t i = 0; i < sizeof MISUSES / sizeof *MISUSES; i++) {
        int status = end_of_child(MISUSES[i].commit);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
            fail_msg("misuse %s does not abort: status %d", MISUSES[i].call, status);
    }
    rig_end(r);
}

static void use(void)
{
    tb_batch read;
    assert_int_equal(tb_batch_read(r->b, 1, &read, NULL, NULL, 0), TB_ENOENT);
    assert_int_equal(tb_poll(r->b, NULL, 0, r->now_us), 0);
    tb_free(NULL);
}

static void what_is_allowed_does_not(void **state_)
{
    (void)state_;
    config = small_config();
    r = rig_start(&config);
    assert_int_equal(end_of_child(use), 0);
    rig_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("misuse: null pointers, outcomes, views, histograms and times that are none, and a queue that changes "
             "while a policy chooses, abort",
             misuse_aborts),
        TEST("misuse: an id that is none, no room for events, freeing nothing are not misuse",
             what_is_allowed_does_not),
    };
    return cmocka_run_group_tests_name("misuse", tests, NULL, NULL);
}
