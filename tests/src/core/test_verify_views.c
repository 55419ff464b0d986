/* test_verify_views.c - tb_verify() names each invariant that does not hold: those of the queue's other orders.
 *
 * `scripted` has every view, groups, keys, one of them lone, holes in the order, a batch that runs.
 */
#include "broken.h"

static tb_batcher *scripted;

static void begin_scripted(void)
{
    tb_config config = small_config();
    config.policy = TB_POLICY_SCRIPT;
    tb_batcher *b = scripted = tb_new(&config);
    tb_queue queue;
    tb_id ids[12];
    assert_non_null(b);
    assert_int_equal(tb_start(b, T0), TB_OK);
    assert_int_equal(tb_key_alone(b, 3, 1, T0), TB_OK);
    for (uint32_t i = 0; i < 12; i++) {
        ids[i] = hand_in(b, (tb_submission){.cost = 10 - i % 5, .priority = i % 3, .key = i % 4, .group = 1 + i % 3});
        if (i == 0) assert_int_equal(tb_choose(b, &queue, T0), TB_OK);
        if (i > 0) continue;
        for (uint32_t view = TB_VIEW_COST; view <= TB_VIEW_GROUPS; view++)
            assert_int_equal(tb_view_open(b, view, view == TB_VIEW_PRIORITY ? 1000 : 0), TB_OK);
        assert_int_equal(tb_choose_add(b, 1), TB_ADD_IN);
        assert_true(tb_choose_end(b) > 0);
    }
    hand_in(b, (tb_submission){.key = 1, .group = 1, .batch_timeout_us = TB_AT_ONCE});
    assert_int_equal(tb_cancel(b, ids[5], T0), TB_OK);
    assert_int_equal(tb_cancel(b, ids[7], T0), TB_OK);
    assert_null(tb_verify(b));
    assert_true(b->choice.holes == 2 && b->running_batches == 1 && b->lone_keys == 1);
}

static int begin(void **state)
{
    (void)state;
    begin_scripted();
    return 0;
}

static int end(void **state)
{
    (void)state;
    tb_free(scripted);
    return 0;
}

#define NODES b->view[TB_VIEW_COST].node
#define ROOT b->view[TB_VIEW_COST].root

static uint32_t leaf(const tb_batcher *b)
{
    uint32_t at = tb__tree_first(&b->view[TB_VIEW_COST]);
    while (NODES[at].left != TB_NIL || NODES[at].right != TB_NIL) at = tb__tree_next(&b->view[TB_VIEW_COST], at);
    return at;
}

static void lose(tb_batcher *b, uint32_t at)
{
    tb_view_node *parent = &NODES[NODES[at].parent];
    if (parent->left == at) parent->left = TB_NIL;
    else parent->right = TB_NIL;
}

/* After the last comes one that was there. */
static void go_on_with(tb_batcher *b, uint32_t again)
{
    uint32_t at = ROOT;
    while (NODES[at].right != TB_NIL) at = NODES[at].right;
    NODES[at].right = again;
}

static void trees(void **state)
{
    (void)state;
    BREAK(scripted, "a view holds queued records", ROOT = b->batch[0].records.first;
          NODES[ROOT] = (tb_view_node){TB_NIL, TB_NIL, TB_NIL, 0});
    BREAK(scripted, "a treap is a heap", NODES[leaf(b)].weight = UINT32_MAX);
    BREAK(scripted, "a view is in its order", FIRST(b->pending).priority = -1000);
    BREAK(scripted, "a view is the same backwards", NODES[ROOT].parent = leaf(b));
    BREAK(scripted, "a view holds no record twice", go_on_with(b, leaf(b)));
    BREAK(scripted, "a view holds every queued record", lose(b, leaf(b)));
}

/* The first two records of a lane that has some change places. */
static void swap_first(tb_lanes *l, tb_lane *lane)
{
    uint32_t x = lane->first, y = l->link[x].next, z = l->link[y].next;
    lane->first = y;
    l->link[y] = (tb_lane_link){TB_NIL, x};
    l->link[x] = (tb_lane_link){y, z};
    assert_true(z != TB_NIL);
    l->link[z].previous = x;
}

static void drop_last(tb_lanes *l, tb_lane *lane)
{
    lane->last = l->link[lane->last].previous;
    l->link[lane->last].next = TB_NIL;
}

#define LANE b->by_key.lane[b->by_key.first]

static void lanes(void **state)
{
    static const char OWN[] = "a lane's records are queued and its own";
    (void)state;
    BREAK(scripted, "a number in the list has a record", LANE.first = TB_NIL);
    BREAK(scripted, OWN, b->slot[LANE.first].key = 77);
    BREAK(scripted, OWN, b->group[b->by_group.lane[b->by_group.first].first] = 77; b->open.next = b->pending.first;
          b->open.load = (tb_load){0}; b->open.full = false);
    BREAK(scripted, OWN, b->by_key.lane[0].first = b->batch[0].records.first);
    BREAK(scripted, OWN, b->by_key.lane[b->by_key.last].next = b->by_key.last);
    BREAK(scripted, "the links of a lane's records hold",
          b->by_key.link[b->by_key.link[LANE.first].next].previous = TB_NIL);
    BREAK(scripted, "a lane's records are in the order of arrival", swap_first(&b->by_key, &b->by_key.lane[1]));
    BREAK(scripted, "a lane knows its last record", LANE.last = LANE.first);
    BREAK(scripted, "the links of the lanes hold", b->by_key.lane[LANE.next].previous = TB_NIL);
    BREAK(scripted, "the list of lanes ends with the last", b->by_key.last = b->by_key.first);
    BREAK(scripted, "the lanes hold every queued record", drop_last(&b->by_key, &LANE));
}

static void accounts(void **state)
{
    static const char FLAGS[] = "a group's flags are counted", COUNTED[] = "the groups that fill a batch are counted";
    static const char LARGEST[] = "a group's largest is known, or bounded";
    (void)state;
    BREAK(scripted, "a group's account adds up", b->account[1].load.size++);
    BREAK(scripted, "a group's account adds up", b->account[1].load.sum++);
    BREAK(scripted, LARGEST, b->account[1].load.largest--; b->account[1].is_inexact = true);
    BREAK(scripted, LARGEST, b->account[1].load.largest++; b->account[1].is_inexact = false);
    BREAK(scripted, FLAGS, b->account[1].alone++);
    BREAK(scripted, FLAGS, b->account[2].overdue++);
    BREAK(scripted, FLAGS, b->account[2].own++);
    BREAK(scripted, "it is known whether a group fills a batch", b->account[9].fill = TB_FILL_YES);
    BREAK(scripted, COUNTED, b->groups_full++);
    BREAK(scripted, COUNTED, b->groups_unknown++);
    BREAK(scripted, "with groups a script's queue has their account", b->views_in_use &= ~(1u << TB_VIEW_GROUPS));
}

static void the_order(void **state)
{
    (void)state;
    BREAK(scripted, "the head is no hole", b->choice.index[b->choice.head] = TB_NIL);
    BREAK(scripted, "no hole is before the first one", b->choice.hole++);
    BREAK(scripted, "positions are in the order of arrival", b->choice.position[b->pending.first]++);
    BREAK(scripted, "positions are in the order of arrival", b->choice.index[b->choice.head] = b->pending.last);
    BREAK(scripted, "every queued record has a position", b->choice.used--);
    BREAK(scripted, "the holes are counted", b->choice.holes++);
    BREAK(scripted, "the holes are counted", tb__order_compact(&b->choice); b->choice.hole--);
}

static void nothing_is_left_out(void **state)
{
    (void)state;
    every_sentence_was_said("src/core/verify_views.c", 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST("verify: trees", trees),
        TEST("verify: lanes", lanes),
        TEST("verify: accounts of groups", accounts),
        TEST("verify: the order", the_order),
        TEST("verify: every sentence of verify_views.c was heard", nothing_is_left_out),
    };
    return cmocka_run_group_tests_name("verify_views", tests, begin, end);
}
