/* core.h - the inside of the core: one struct, four nouns, lists of slots.
 *
 * THE ROOM. src/core decides what a batch is and when it goes. It knows memory functions and
 * assert(), and nothing else: no I/O, no clock (`now` is an argument), no libev, no Lua, no
 * globals, nobody to call back. Everybody knows it by tokenbatcher.h, nobody this file,
 * but two tests that look inside (tests/search, test_core_inside.c).
 *
 * A record lives in a slot and is on exactly one list:
 *
 *     free -> waiting (the line) -> pending (the queue) -> a batch -> free
 *
 * The pending list is in arrival order. Its head may be cut into full batches
 * (struct tb_cut: a first record and a count); cutting moves no record, it only
 * marks the records as CUT. Behind the cuts lies the queue proper, and the greedy
 * prefix of it that fits the budget is the open batch (struct tb_open), kept up to
 * date as records come and go, so that deciding costs O(1) per record:
 *
 *     [ cut | cut | open batch ... next | rest of the queue ]
 *
 * Records with a deadline or a linger of their own are also in a heap (heap.c), keyed by the
 * next time that matters to them: first half of their timeout or their linger (then they
 * make the queue due), then the deadline itself.
 *
 * What may share a batch is a mark (hot.h): a record's group, and whether its key is one
 * whose records run alone. A load has the mark of its members.
 *
 * Order, a file knows those before it: error options slots stats heap order lanes linger view pending
 * batch calls form choose look queue batcher verify_views verify
 *
 *     error.c     names and sentences of refusals       options.c  the one table of options
 *     slots.c     allocation of slots, ids, list links  stats.c    counters, histograms, slot-time
 *     heap.c      the heap of times
 *     order.c     positions, for scripted policies
 *     lanes.c     queued records by key and by group, marks
 *     linger.c    who has a linger of its own           view.c     the queue in other orders
 *     pending.c   the pending list: enter, leave, the open batch, cuts
 *     batch.c     running records: start, settle, finish, retry
 *     calls.c     calls that go on after their batch has ended
 *     form.c      due, full, the built-in policies
 *     choose.c    a scripted policy's decision          look.c     what it may look at
 *     queue.c     submission, the line, expiry
 *     batcher.c   life: new, start, stop, set, cancel, poll, next
 *     verify_views.c, verify.c  every invariant, as sentences
 *     hot.h       what every record passes through, small enough to be inlined
 */
#ifndef TB_CORE_H
#define TB_CORE_H

#include "tokenbatcher.h"

#include <assert.h>
#include <stdbool.h>

#define TB_ID_LIMIT 9007199254740992.0 /* 2^53 */
#define TB_SLOTS_MAX (1u << TB_SLOT_BITS)
#define TB_NIL UINT32_MAX
#define TB_TIME_MAX (INT64_MAX / 4)
#define TB_GENERATIONS (1u << 29)

enum { TB_HISTOGRAM_BITS = 5, TB_HISTOGRAM_BUCKETS = 60 << TB_HISTOGRAM_BITS };

/* Log-linear: 32 buckets per power of two, so a bucket is at most 1/32 wide and its
 * middle at most 1.6 % off. Values are whole numbers >= 0. */
typedef struct {
    uint64_t count;
    double sum;
    uint64_t max;
    uint64_t bucket[TB_HISTOGRAM_BUCKETS];
} tb_histogram;

typedef struct {
    uint64_t cost;
    double priority;
    int64_t submitted_us;
    int64_t deadline_us; /* TB_TIME_MAX: none */
    uint64_t seq;        /* arrival in the queue; ties and flush */
    uint32_t prev, next; /* on the record's list */
    uint32_t generation;
    uint32_t key;
    uint32_t heap_at;    /* position in the heap, or TB_NIL */
    uint16_t batch;      /* slot of its batch while running */
    uint8_t state;       /* enum tb_record_state */
    uint8_t overdue : 1; /* it makes the queue due: half of its timeout, or its linger, has passed */
    uint8_t more : 1;    /* TB_MORE */
    uint8_t own : 1;     /* it has a linger of its own, not the option's */
} tb_slot;

_Static_assert(sizeof(tb_slot) == 64, "a slot is as large as a cache line");
_Static_assert(TB_MAX_BATCHES <= UINT16_MAX, "a slot can name its batch");

typedef struct {
    uint32_t first, last, size;
} tb_list;

typedef struct {
    int64_t at_us;
    uint32_t slot;
} tb_heap_entry;

typedef struct {
    tb_heap_entry *entry;
    uint32_t size, capacity;
} tb_heap;

/* In a mark: the record runs in a batch of one. */
#define TB_ALONE (UINT32_C(1) << 31)

/* n, sum, largest and the mark of all decide what fits, here and in a batch. */
typedef struct {
    uint64_t sum, largest;
    uint32_t size, mark;
} tb_load;

typedef struct {
    tb_load load;
    uint32_t next; /* first queued record not in it, or TB_NIL */
    bool full;
} tb_open;

typedef struct {
    tb_load load;
    uint32_t first, last;
} tb_cut;

typedef struct {
    tb_list records;
    tb_load load;        /* at dispatch */
    uint64_t cost;       /* at dispatch, by the cost model of then */
    int64_t started_us;
    int64_t timeout_us;  /* inference_timeout_us of then; 0: none */
    int64_t expires_us;  /* of the present call, or TB_TIME_MAX */
    int64_t deadline_us;
    uint64_t generation;
    uint32_t reason;
    bool is_padded;      /* the cost model of then */
    bool in_use;
    bool is_held;        /* not in use, but taken by a call that goes on after its timeout */
} tb_running;

/* A call that goes on after its batch has ended (calls.c). */
typedef struct {
    tb_id batch;
    int64_t until_us; /* its slot is free then, if it is held */
    bool is_held;
} tb_call;

enum { TB_CALLS_MAX = 4096 };

/* Marks, in tb_choice.position, a record that the decision in progress has chosen. */
#define TB_CHOSEN (UINT32_C(1) << 31)

/* The queue in another order: a treap whose nodes are the slots (view.c). */
typedef struct {
    uint32_t left, right, parent, weight;
} tb_view_node;

typedef struct {
    tb_view_node *node;
    uint32_t root, capacity, seed;
} tb_view;

/* Two more that follow what comes to the queue and goes: by arrival, which is what positions are,
 * from the first decision on; and lingers of records' own, from the first one on. */
enum { TB_VIEW_ORDER = TB_VIEW_GROUPS + 1, TB_VIEW_LINGER };

/* Queued records by a number that they have, and the numbers that have any (lanes.c). */
typedef struct {
    uint32_t previous, next;
} tb_lane_link;

typedef struct {
    uint32_t first, last, previous, next;
} tb_lane;

typedef struct {
    tb_lane_link *link; /* by slot */
    tb_lane *lane;      /* by number */
    uint32_t links, lanes, first, last;
} tb_lanes;

/* Does all that is queued of a group fill a batch? */
enum { TB_FILL_NO, TB_FILL_YES, TB_FILL_UNKNOWN };

/* The account of a group, while there is a view of groups. */
typedef struct {
    tb_load load;           /* of all its queued records; largest is a bound unless is_exact */
    uint32_t alone;         /* of these: run alone, */
    uint32_t overdue, own;  /* make the queue due, have a linger of their own */
    uint8_t fill;           /* TB_FILL_... */
    bool is_inexact;
} tb_group;

/* The queue in arrival order as an array: from `head` on, with holes where records have gone
 * since the last decision; and the decision in progress (choose.c). */
typedef struct {
    uint32_t *index;    /* head + position - 1 -> slot, or TB_NIL; 2 x capacity */
    uint32_t *position; /* slot -> place in index + 1; with TB_CHOSEN while it is a member */
    uint32_t *member;   /* slots, in the order added */
    uint32_t head, used, capacity; /* of index: first in use, past the last; in slots */
    uint32_t hole, holes; /* the first hole past the head, or used; how many */
    uint32_t size;      /* positions of the decision in progress */
    tb_load load;
    uint64_t limit;     /* UINT64_MAX: none */
    bool aged_done;     /* the records that waited max_wait_s are in */
    bool is_closed;     /* the first of those does not fit: nobody overtakes it */
} tb_choice;

struct tb_batcher {
    tb_config config;
    uint64_t budget;          /* config.target_batch_cost */
    uint64_t max_queued_cost; /* config.max_queue_cost, or all there is */
    int state;
    int64_t now_us;
    int64_t stop_at_us;  /* TB_TIME_MAX: stop waits as long as it takes */
    uint64_t next_seq;
    uint64_t flushed_seq; /* records with a lower seq are due */

    tb_slot *slot;
    uint32_t slots, slots_used; /* allocated; ever used */
    uint32_t free_slot;         /* list through next */
    tb_heap heap;

    tb_list waiting, pending;
    uint32_t waiting_calls;
    uint32_t queued, overdue; /* queued records; those of them that make the queue due */
    uint64_t queued_cost;
    bool was_refused;         /* a record, for room, since the last dispatch */
    tb_open open;

    bool has_marks;           /* groups or lone keys are in use */
    uint32_t *group;          /* by slot; NULL until the first record that has one */
    uint32_t groups;          /* its capacity */
    uint8_t *lone;            /* a bit by key: its records run alone */
    uint32_t lone_capacity, lone_keys; /* in keys; how many are set */
    uint32_t own;   /* queued records with a linger of their own */
    uint32_t plain; /* with TB_VIEW_LINGER: the first queued one that has none, or TB_NIL */

    tb_cut *cut; /* ring of config.prefetch_batches */
    uint32_t cuts, cut_first, cut_capacity;
    uint32_t cut_records;
    bool cuts_stale;

    tb_view view[TB_VIEW_KEYS];
    tb_lanes by_key, by_group;
    tb_group *account;     /* of groups, like by_group.lane */
    uint32_t groups_full, groups_unknown;
    uint32_t views_in_use; /* bit by enum tb_view_kind, and the two more */
    int64_t aging_us;      /* of the priority view; 0: age does not count */
    tb_choice choice;
    bool news;             /* something the policy has not been asked about */
    bool asked_due;        /* it was asked since the queue became due */
    int64_t ask_at_us;     /* when it wants to be asked again */

    tb_running *batch;
    uint32_t batches; /* allocated */
    uint32_t running_batches, running_records, timed_batches;
    uint32_t held_batches; /* slots */

    tb_call *call; /* that go on after their batch, in the order in which those ended */
    uint32_t calls, calls_capacity;

    uint64_t submitted, completed, failed, cancelled, expired, rejected, oversize;
    uint64_t dispatched[TB_REASONS];
    uint64_t batches_total, batch_records_total;
    double cost_total, padded_total, sum_total;
    double busy_us, idle_us;
    int64_t accounted_us;
    tb_histogram wait_us, service_us, latency_us, batch_size, batch_cost;
};

/* slots.c */
uint32_t tb__grown(uint32_t capacity, uint32_t first);
uint32_t tb__slot_first_use(tb_batcher *b);
bool tb__slots_reserve(tb_batcher *b);
uint32_t tb__slot_find(const tb_batcher *b, tb_id id);
void tb__list_remove(tb_batcher *b, tb_list *list, uint32_t at);
bool tb__split_id(tb_id id, uint32_t *slot, uint32_t *generation);

/* stats.c */
void tb__account(tb_batcher *b);

/* heap.c */
bool tb__heap_reserve(tb_heap *heap);
void tb__heap_push(tb_batcher *b, uint32_t slot, int64_t at_us);
void tb__heap_remove(tb_batcher *b, uint32_t slot);
void tb__heap_move_top(tb_batcher *b, int64_t at_us);

/* order.c */
bool tb__order_reserve(tb_batcher *b);
bool tb__order_open(tb_batcher *b);
void tb__order_add(tb_batcher *b, uint32_t at);
void tb__order_remove(tb_batcher *b, uint32_t at);
void tb__order_compact(tb_choice *c);

/* lanes.c */
bool tb__grow(void **array, size_t count, size_t size);
bool tb__lanes_reserve(tb_batcher *b, tb_lanes *l, uint32_t number);
void tb__lane_add(tb_lanes *l, uint32_t number, uint32_t at);
void tb__lane_remove(tb_lanes *l, uint32_t number, uint32_t at);
bool tb__marks_reserve(tb_batcher *b, uint32_t group);
bool tb__lone_reserve(tb_batcher *b, uint32_t key);
bool tb__groups_reserve(tb_batcher *b, uint32_t group);
void tb__group_add(tb_batcher *b, uint32_t at);
void tb__group_remove(tb_batcher *b, uint32_t at);
void tb__group_overdue(tb_batcher *b, uint32_t at);
void tb__group_lone(tb_batcher *b, uint32_t at, bool is_lone);
void tb__groups_judge(tb_batcher *b);
bool tb__group_fills(tb_batcher *b, uint32_t group);
bool tb__groups_fill(tb_batcher *b);

/* linger.c */
void tb__own_begin(tb_batcher *b);
void tb__plain_enter(tb_batcher *b, uint32_t at);
void tb__plain_leave(tb_batcher *b, uint32_t at);
void tb__plain_find(tb_batcher *b);

/* view.c */
bool tb__views_reserve(tb_batcher *b, uint32_t key, uint32_t group);
bool tb__view_reserve(tb_batcher *b, uint32_t view);
bool tb__view_open(tb_batcher *b, uint32_t view, int64_t aging_us);
void tb__views_add(tb_batcher *b, uint32_t at);
void tb__views_remove(tb_batcher *b, uint32_t at);
void tb__views_close(tb_batcher *b, bool keep_groups);
size_t tb__views_memory(const tb_batcher *b);
bool tb__view_before(const tb_batcher *b, uint32_t view, uint32_t x, uint32_t y);
uint32_t tb__tree_first(const tb_view *v);
uint32_t tb__tree_next(const tb_view *v, uint32_t at);
uint32_t tb__tree_previous(const tb_view *v, uint32_t at);
uint32_t tb__tree_alike(const tb_batcher *b, uint32_t at);

/* pending.c */
bool tb__is_bounded(const tb_batcher *b);
void tb__room_refused(tb_batcher *b);
uint32_t tb__first_queued(const tb_batcher *b);
uint32_t tb__first_plain(const tb_batcher *b);
void tb__marks_changed(tb_batcher *b);
void tb__open_reset(tb_batcher *b);
void tb__open_extend(tb_batcher *b);
tb_list tb__open_take(tb_batcher *b, tb_load *load);
void tb__pending_remove(tb_batcher *b, uint32_t at);
void tb__cuts_add(tb_batcher *b);
tb_list tb__cuts_take(tb_batcher *b, tb_load *load);
void tb__cuts_dissolve(tb_batcher *b);

/* batch.c */
bool tb__batches_reserve(tb_batcher *b, uint32_t count);
tb_id tb__batch_start(tb_batcher *b, tb_list records, const tb_load *load, int reason);
void tb__batch_leave(tb_batcher *b, uint32_t at);
void tb__batch_end(tb_batcher *b, uint32_t at, int outcome);
tb_running *tb__batch_find(const tb_batcher *b, tb_id batch, uint32_t *at);
tb_id tb__batch_id(const tb_batcher *b, uint32_t at);

/* calls.c */
void tb__call_abandoned(tb_batcher *b, uint32_t at, bool may_hold);
void tb__calls_release(tb_batcher *b);
void tb__calls_release_all(tb_batcher *b);
void tb__calls_review(tb_batcher *b);
int64_t tb__calls_next_us(const tb_batcher *b);

/* form.c */
bool tb__is_due(const tb_batcher *b);
int64_t tb__due_us(const tb_batcher *b);
int64_t tb__due_from_us(const tb_batcher *b, uint32_t head, uint32_t plain, uint32_t overdue);
bool tb__is_polled(const tb_batcher *b);
void tb__seal_ahead(tb_batcher *b);

/* choose.c */
bool tb__queue_is_full(tb_batcher *b);
int64_t tb__ask_us(const tb_batcher *b);

/* queue.c */
void tb__queue_forget(tb_batcher *b, uint32_t at);
bool tb__pop_expired(tb_batcher *b, tb_id *id);
bool tb__admit_next(tb_batcher *b, tb_id *id);

/* verify_views.c */
const char *tb__verify_views(const tb_batcher *b);

#include "hot.h"

#endif
