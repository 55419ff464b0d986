/* verify_views.c - the invariants of the queue's other orders, as sentences. */
#include "check.h"

static const char *verify_tree(const tb_batcher *b, uint32_t view)
{
    const tb_view *v = &b->view[view];
    uint32_t n = 0, previous = TB_NIL;
    for (uint32_t at = tb__tree_first(v); at != TB_NIL; at = tb__tree_next(v, at)) {
        uint32_t parent = v->node[at].parent;
        CHECK(++n <= b->queued, "a view holds no record twice");
        CHECK(b->slot[at].state == TB_RECORD_QUEUED, "a view holds queued records");
        CHECK(parent == TB_NIL || v->node[parent].weight >= v->node[at].weight, "a treap is a heap");
        CHECK(previous == TB_NIL || tb__view_before(b, view, previous, at), "a view is in its order");
        CHECK(tb__tree_previous(v, at) == previous, "a view is the same backwards");
        previous = at;
    }
    CHECK(n == b->queued, "a view holds every queued record");
    return NULL;
}

/* n counts the records of all lanes. */
static const char *verify_lane(const tb_batcher *b, const tb_lanes *l, uint32_t number, uint32_t *n)
{
    uint32_t previous = TB_NIL;
    CHECK(l->lane[number].first != TB_NIL, "a number in the list has a record");
    for (uint32_t at = l->lane[number].first; at != TB_NIL; at = l->link[at].next) {
        uint32_t own = l == &b->by_key ? b->slot[at].key : tb__group_of(b, at);
        CHECK(own == number && b->slot[at].state == TB_RECORD_QUEUED && (*n)++ < b->queued,
              "a lane's records are queued and its own");
        CHECK(l->link[at].previous == previous, "the links of a lane's records hold");
        CHECK(previous == TB_NIL || b->slot[previous].seq < b->slot[at].seq,
              "a lane's records are in the order of arrival");
        previous = at;
    }
    CHECK(l->lane[number].last == previous, "a lane knows its last record");
    return NULL;
}

static const char *verify_lanes(const tb_batcher *b, const tb_lanes *l)
{
    uint32_t n = 0, previous = TB_NIL;
    for (uint32_t number = l->first; number != TB_NIL; number = l->lane[number].next) {
        const char *broken = verify_lane(b, l, number, &n);
        if (broken) return broken;
        CHECK(l->lane[number].previous == previous, "the links of the lanes hold");
        previous = number;
    }
    CHECK(l->last == previous, "the list of lanes ends with the last");
    CHECK(n == b->queued, "the lanes hold every queued record");
    return NULL;
}

/* Does what is queued of a group fill a batch? By adding up all of it. */
static const char *verify_account(const tb_batcher *b, uint32_t group)
{
    const tb_group *g = &b->account[group];
    tb_load load = {0};
    uint32_t alone = 0, overdue = 0, own = 0;
    for (uint32_t at = b->by_group.lane[group].first; at != TB_NIL; at = b->by_group.link[at].next) {
        tb__load_add(&load, b->slot[at].cost, 0);
        alone += tb__is_lone(b, b->slot[at].key);
        overdue += b->slot[at].overdue;
        own += b->slot[at].own;
    }
    CHECK(g->load.size == load.size && g->load.sum == load.sum, "a group's account adds up");
    CHECK(g->load.largest >= load.largest && (g->is_inexact || g->load.largest == load.largest),
          "a group's largest is known, or bounded");
    CHECK(g->alone == alone && g->overdue == overdue && g->own == own, "a group's flags are counted");
    bool fills = alone > 0 || tb__is_full(b, &load);
    CHECK(g->fill == TB_FILL_UNKNOWN || (g->fill == TB_FILL_YES) == fills, "it is known whether a group fills a batch");
    return NULL;
}

static const char *verify_groups(const tb_batcher *b)
{
    const char *broken = verify_lanes(b, &b->by_group);
    uint32_t full = 0, unknown = 0;
    for (uint32_t i = 0; i < b->by_group.lanes && !broken; i++) {
        broken = verify_account(b, i);
        full += b->account[i].fill == TB_FILL_YES;
        unknown += b->account[i].fill == TB_FILL_UNKNOWN;
    }
    if (broken) return broken;
    CHECK(full == b->groups_full && unknown == b->groups_unknown, "the groups that fill a batch are counted");
    return NULL;
}

static const char *verify_order(const tb_batcher *b)
{
    const tb_choice *c = &b->choice;
    uint32_t at = b->pending.first, holes = 0;
    CHECK(c->head == c->used || c->index[c->head] != TB_NIL, "the head is no hole");
    for (uint32_t i = c->head; i < c->used; i++) {
        CHECK(c->index[i] != TB_NIL || i >= c->hole, "no hole is before the first one");
        if (c->index[i] == TB_NIL) {
            holes++;
            continue;
        }
        CHECK(at == c->index[i] && c->position[at] == i + 1, "positions are in the order of arrival");
        at = b->slot[at].next;
    }
    CHECK(at == TB_NIL, "every queued record has a position");
    CHECK(holes == c->holes && (holes > 0 || c->hole == c->used), "the holes are counted");
    return NULL;
}

const char *tb__verify_views(const tb_batcher *b)
{
    const char *broken = NULL;
    for (uint32_t i = 0; i < TB_VIEW_KEYS && !broken; i++)
        if (tb__is_open(b, i)) broken = verify_tree(b, i);
    if (!broken && tb__is_open(b, TB_VIEW_KEYS)) broken = verify_lanes(b, &b->by_key);
    if (!broken && tb__is_open(b, TB_VIEW_GROUPS)) broken = verify_groups(b);
    if (!broken && tb__is_open(b, TB_VIEW_ORDER)) broken = verify_order(b);
    CHECK(!b->group || b->config.policy != TB_POLICY_SCRIPT || b->queued == 0 ||
              tb__is_open(b, TB_VIEW_GROUPS),
          "with groups a script's queue has their account");
    return broken;
}
