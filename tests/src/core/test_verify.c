/* test_verify.c - tb_verify() names each invariant that does not hold: those of the core's own lists and counters.
 *
 * `cutting` cuts ahead, holds a slot and has a line; `gathering` has an open batch that is the whole queue.
 */
#include "broken.h"

static tb_batcher *cutting, *gathering;

/* One slot held by a call that goes on, one that runs; two cuts; a queue that is full; a line. */
static void begin_cutting(void)
{
    tb_config config = small_config();
    config.prefetch_batches = 2;
    config.max_concurrent_batches = 2;
    config.inference_timeout_us = 1000000;
    config.max_abandoned_calls = 0;
    config.max_queue_size = 6;
    tb_batcher *b = cutting = tb_new(&config);
    assert_non_null(b);
    assert_int_equal(tb_start(b, T0 - 1000000), TB_OK);
    for (int i = 0; i < 4; i++) assert_true(tb_submit_plain(b, 1, T0 - 1000000) > 0);
    assert_true(tb_form(b, T0 - 1000000) > 0);
    drain_events(b, T0); /* it has timed out */
    for (int i = 0; i < 4; i++) hand_in(b, (tb_submission){.cost = 3});
    assert_true(tb_form(b, T0) > 0);
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 4; k++) hand_in(b, (tb_submission){.cost = 1 + k});
        assert_true(tb_form(b, T0) == 0);
    }
    hand_in(b, (tb_submission){.batch_timeout_us = 5000});
    hand_in(b, (tb_submission){.cost = 2, .timeout_us = 4000});
    hand_in(b, (tb_submission){.timeout_us = 10000});
    hand_in(b, (tb_submission){.batch_timeout_us = TB_AT_ONCE});
    hand_in(b, (tb_submission){.cost = 5});
    tb_id last = hand_in(b, (tb_submission){.cost = 2});
    tb_id line[4];
    for (int i = 0; i < 4; i++)
        line[i] = hand_in(b, (tb_submission){.flags = i == 1 ? TB_MAY_WAIT | TB_MORE : TB_MAY_WAIT});
    assert_int_equal(tb_cancel(b, line[3], T0), TB_OK);
    assert_int_equal(tb_record_state(b, last), TB_RECORD_QUEUED);
    assert_null(tb_verify(b));
    assert_true(b->cuts == 2 && b->held_batches == 1 && b->running_batches == 1 && b->waiting.size == 3);
}

/* A batch runs, and three records wait for more. */
static void begin_gathering(void)
{
    tb_config config = small_config();
    tb_batcher *b = gathering = tb_new(&config);
    assert_non_null(b);
    assert_int_equal(tb_start(b, T0), TB_OK);
    for (int i = 0; i < 4; i++) hand_in(b, (tb_submission){0});
    assert_true(tb_form(b, T0) > 0);
    for (int i = 0; i < 3; i++) hand_in(b, (tb_submission){.cost = 1 + i * i});
    assert_true(tb_form(b, T0) == 0);
    assert_null(tb_verify(b));
    assert_true(b->open.load.size == 3 && b->open.next == TB_NIL);
}

static void group_of_the_second(tb_batcher *b)
{
    b->group = calloc(b->slots, sizeof *b->group);
    assert_non_null(b->group);
    b->groups = b->slots;
    b->has_marks = true;
    b->group[FIRST(b->pending).next] = 1;
}

/* One that lingers by its own time, and has no deadline. */
static void mark_overdue(tb_batcher *b)
{
    uint32_t at = b->pending.first;
    while (!b->slot[at].own || b->slot[at].overdue || b->slot[at].state != TB_RECORD_QUEUED) at = b->slot[at].next;
    b->slot[at].overdue = 1;
    b->overdue++;
}

static int begin(void **state)
{
    (void)state;
    begin_cutting();
    begin_gathering();
    return 0;
}

static int end(void **state)
{
    (void)state;
    tb_free(cutting);
    tb_free(gathering);
    return 0;
}

static void slots(void **state)
{
    (void)state;
    BREAK(cutting, "a free slot holds no record", b->slot[b->free_slot].state = TB_RECORD_RUNNING);
    BREAK(cutting, "the free list ends", b->slot[b->free_slot].next = b->free_slot);
    BREAK(cutting, "every live record is on one list", FIRST(b->pending).state = TB_RECORD_NONE);
    BREAK(cutting, "every live record is on one list", b->running_records--);
    BREAK(gathering, "no slot is both live and free", uint32_t at = b->slots_used; b->slot[at].next = b->free_slot;
          b->free_slot = at; b->slot[at].state = TB_RECORD_NONE);
}

/* Each way in which a list may be wrong, at the line; that the others are looked at. */
static void links(void **state)
{
    static const char LINE[] = "the links of the line hold";
    (void)state;
    BREAK(cutting, LINE, FIRST(b->waiting).next = b->slots_used);
    BREAK(cutting, LINE, SECOND(b->waiting).prev = b->waiting.last);
    BREAK(cutting, LINE, b->waiting.size -= 2; b->pending.size += 2);
    BREAK(cutting, LINE, b->waiting.size++; b->pending.size--);
    BREAK(cutting, LINE, b->waiting.last = b->waiting.first);
    BREAK(cutting, "the links of the queue hold", LAST(b->pending).prev = b->pending.first);
    BREAK(cutting, "the links of a batch hold", LAST(b->batch[1].records).prev = TB_NIL);
}

static void the_line(void **state)
{
    (void)state;
    BREAK(cutting, "who stands in line waits", FIRST(b->waiting).state = TB_RECORD_QUEUED);
    BREAK(cutting, "waiting_submits counts the calls in line", FIRST(b->waiting).more = 1);
    BREAK(cutting, "waiting_submits counts the calls in line", b->waiting_calls++);
}

static void the_queue(void **state)
{
    (void)state;
    BREAK(cutting, "arrival order holds", SECOND(b->pending).seq = FIRST(b->pending).seq);
    BREAK(cutting, "the head of the queue is the oldest", FIRST(b->pending).submitted_us++);
    BREAK(cutting, "cuts are at the head of the queue", LAST(b->pending).state = TB_RECORD_CUT);
    BREAK(cutting, "a pending record is queued or cut", LAST(b->pending).state = TB_RECORD_WAITING);
    BREAK(cutting, "queue_size and prefetched_records hold", b->queued++);
    BREAK(cutting, "queue_size and prefetched_records hold", b->cut_records--);
    BREAK(cutting, "queue_cost is the sum of the queued costs", b->queued_cost++);
    BREAK(cutting, "the overdue records are counted", b->overdue++);
    BREAK(cutting, "the records with a linger of their own are counted", b->own--);
    BREAK(cutting, "the oldest record without a linger of its own is known", b->plain = b->pending.first);
}

static void cuts(void **state)
{
    (void)state;
    BREAK(cutting, "no more cuts than prefetch_batches", b->config.prefetch_batches = 1);
    BREAK(cutting, "no cut is empty", b->cuts = 0);
    BREAK(cutting, "cuts follow one another", b->cut[1].first = b->pending.first);
    BREAK(cutting, "a cut keeps to the budget", SECOND(b->pending).cost = 1000);
    BREAK(cutting, "a cut keeps to one group, or one record", group_of_the_second(b));
    BREAK(cutting, "a cut's load holds", b->cut[0].load.sum++);
    BREAK(cutting, "a cut's load holds", b->cut[1].load.largest++);
    BREAK(cutting, "a cut is full", b->config.max_batch_size = 5);
    /* these are not stated while cuts are stale: they are made anew */
    tb_batcher *b = copy_batcher(cutting);
    b->cuts_stale = true;
    b->cut[0].load.sum++;
    b->open.load.sum++;
    assert_null(tb_verify(b));
    tb_free(b);
}

static void the_open_batch(void **state)
{
    (void)state;
    static const char LOAD[] = "the open batch's load holds";
    BREAK(gathering, LOAD, b->open.load.size--);
    BREAK(gathering, LOAD, b->open.load.sum--);
    BREAK(gathering, LOAD, b->open.load.largest++);
    BREAK(gathering, "the open batch ends in the queue", b->open.next = b->batch[0].records.first);
    BREAK(gathering, "the open batch keeps to the budget", b->budget = 2);
    BREAK(gathering, "the open batch keeps to one group, or one record", group_of_the_second(b));
    BREAK(gathering, "an open batch that is full is full", b->open.full = true);
}

static void the_heap(void **state)
{
    (void)state;
    BREAK(cutting, "a record knows its place in the heap", b->slot[b->heap.entry[1].slot].heap_at = 0);
    BREAK(cutting, "the heap is a heap", b->heap.entry[1].at_us = b->heap.entry[0].at_us - 1);
    BREAK(cutting, "what is overdue waits for its deadline only", mark_overdue(b));
    BREAK(cutting, "a record's next time is not past its deadline",
          b->heap.entry[b->heap.size - 1].at_us = TB_TIME_MAX + 1);
    BREAK(cutting, "every undispatched record with a deadline or a linger is in the heap", b->heap.size--);
    BREAK(cutting, "every undispatched record with a deadline or a linger is in the heap",
          FIRST(b->pending).deadline_us = TB_TIME_MAX - 1);
}

static void batches(void **state)
{
    (void)state;
    static const char COUNTED[] = "the running batches and records are counted";
    BREAK(cutting, "a batch's records run in it", FIRST(b->batch[1].records).state = TB_RECORD_CUT);
    BREAK(cutting, "a batch's records run in it", FIRST(b->batch[1].records).batch = 0);
    BREAK(cutting, COUNTED, b->running_batches++);
    BREAK(cutting, COUNTED, b->running_records++; uint32_t lost = b->free_slot; b->free_slot = b->slot[lost].next;
          b->slot[lost].state = TB_RECORD_RUNNING);
    BREAK(cutting, COUNTED, b->timed_batches--);
    BREAK(cutting, COUNTED, b->batch[1].timeout_us = 0);
    BREAK(cutting, COUNTED, b->batch[0].in_use = true; b->batch[0].records = (tb_list){TB_NIL, TB_NIL, 0});
}

static void counts(void **state)
{
    (void)state;
    BREAK(cutting, "submitted = queued + cut + running + completed + failed + cancelled + expired", b->submitted++);
    BREAK(cutting, "nothing is left in a stopped batcher", b->state = TB_STOPPED);
}

static void calls(void **state)
{
    (void)state;
    static const char HELD[] = "a held slot is that of the batch whose call goes on";
    BREAK(cutting, "no more abandoned calls than are kept", b->calls = TB_CALLS_MAX + 1);
    BREAK(cutting, HELD, b->batch[0].is_held = false);
    BREAK(cutting, HELD, b->batch[0].in_use = true; b->running_batches++; b->batch[0].timeout_us = 0;
          b->batch[0].records = (tb_list){TB_NIL, TB_NIL, 0});
    BREAK(cutting, HELD, b->batch[0].generation++);
    BREAK(cutting, "the held slots are counted", b->held_batches--);
    BREAK(cutting, "the held slots are counted", b->call[0].is_held = false; b->held_batches = 0);
    BREAK(cutting, "without a limit no slot is held", b->config.max_abandoned_calls = TB_NO_LIMIT);
    BREAK(cutting, "a slot is held only while as many calls as may go on without one do",
          b->config.max_abandoned_calls = 1);
}

static void marks(void **state)
{
    (void)state;
    BREAK(cutting, "the keys whose records run alone are counted", b->lone_keys++);
    BREAK(gathering, "marks are looked at if there are any", b->has_marks = true);
    BREAK(gathering, "a record without a key is never marked", b->lone = calloc(8, 1); b->lone_capacity = 64;
          b->lone[0] = 1; b->lone_keys = 1; b->has_marks = true; b->slot[b->pending.first].key = 1;
          b->slot[b->slot[b->pending.first].next].key = 1; b->slot[b->pending.last].key = 1);
}

static void nothing_is_left_out(void **state)
{
    (void)state;
    every_sentence_was_said("src/core/verify.c", 45);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("verify: slots", slots),
        TEST("verify: links", links),
        TEST("verify: the line", the_line),
        TEST("verify: the queue", the_queue),
        TEST("verify: cuts", cuts),
        TEST("verify: the open batch", the_open_batch),
        TEST("verify: the heap", the_heap),
        TEST("verify: batches", batches),
        TEST("verify: counts", counts),
        TEST("verify: calls", calls),
        TEST("verify: marks", marks),
        TEST("verify: every sentence of verify.c was heard", nothing_is_left_out),
    };
    return cmocka_run_group_tests_name("verify", tests, begin, end);
}
