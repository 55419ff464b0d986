/* hot.h - what every record passes through, inline. Included by core.h only. */
#ifndef TB_HOT_H
#define TB_HOT_H

/* On the way of every submission: in one piece, or a sixth of it is calls and what they keep. */
#ifndef TB_ON_THE_WAY
#define TB_ON_THE_WAY static inline __attribute__((always_inline))
#endif

/* What seldom holds there: its code stands aside. */
#define TB_SELDOM(condition) __builtin_expect(!!(condition), 0)

static inline void tb__advance(tb_batcher *b, int64_t now_us)
{
    if (now_us <= b->now_us) return;
    assert(now_us < TB_TIME_MAX);
    b->now_us = now_us;
}

/* Signed on the way: the conversion is one instruction then. Values are below 2^63. */
static inline double tb__double(uint64_t value)
{
    return (double)(int64_t)value;
}

/* --- ids and slots ------------------------------------------------------ */

static inline tb_id tb__make_id(uint32_t slot, uint32_t generation)
{
    return tb__double(((uint64_t)generation << TB_SLOT_BITS) | slot);
}

static inline tb_id tb__slot_id(const tb_batcher *b, uint32_t at)
{
    return tb__make_id(at, b->slot[at].generation);
}

/* A slot that has been used before; there is one. */
static inline uint32_t tb__slot_take_again(tb_batcher *b)
{
    uint32_t at = b->free_slot;
    assert(at != TB_NIL);
    b->free_slot = b->slot[at].next;
    b->slot[at].generation++;
    return at;
}

static inline uint32_t tb__slot_take(tb_batcher *b)
{
    return b->free_slot == TB_NIL ? tb__slot_first_use(b) : tb__slot_take_again(b);
}

/* A slot that has used up its generations goes back to no list: no id twice. */
static inline void tb__slot_give(tb_batcher *b, uint32_t at)
{
    tb_slot *slot = &b->slot[at];
    slot->state = TB_RECORD_NONE;
    if (slot->generation >= TB_GENERATIONS - 1) return;
    slot->next = b->free_slot;
    b->free_slot = at;
}

TB_ON_THE_WAY void tb__list_append(tb_batcher *b, tb_list *list, uint32_t at)
{
    tb_slot *slot = &b->slot[at];
    list->size++; /* not beside `last`: compilers make one store of two words of that */
    slot->prev = list->last;
    slot->next = TB_NIL;
    if (list->last == TB_NIL) list->first = at;
    else b->slot[list->last].next = at;
    list->last = at;
}

/* --- loads: what a batch costs and what still fits ----------------------- */

/* At most 10^6 records of 10^12 each. */
static inline uint64_t tb__load_padded(const tb_load *load)
{
    return load->size * load->largest;
}

static inline uint64_t tb__load_cost(const tb_batcher *b, const tb_load *load)
{
    return b->config.cost_model == TB_COST_PADDED ? tb__load_padded(load) : load->sum;
}

static inline void tb__load_add(tb_load *load, uint64_t cost, uint32_t mark)
{
    load->size++;
    load->sum += cost;
    load->mark = mark;
    if (cost > load->largest) load->largest = cost;
}

/* An empty batch takes any record: the one exception to the budget. */
TB_ON_THE_WAY bool tb__fits(const tb_batcher *b, const tb_load *load, uint64_t cost)
{
    if (load->size == 0) return true;
    if (load->size >= b->config.max_batch_size) return false;
    if (b->config.cost_model == TB_COST_SUM) return load->sum + cost <= b->budget;
    uint64_t largest = cost > load->largest ? cost : load->largest;
    return (load->size + 1) * largest <= b->budget;
}

/* No record of cost 1 would fit any more. */
TB_ON_THE_WAY bool tb__is_full(const tb_batcher *b, const tb_load *load)
{
    if (load->size == 0) return false;
    if (load->size >= b->config.max_batch_size || load->mark & TB_ALONE) return true;
    if (b->config.cost_model == TB_COST_SUM) return load->sum >= b->budget;
    return (load->size + 1) * (load->largest ? load->largest : 1) > b->budget;
}

/* --- room -------------------------------------------------------------------- */

/* Would a queue of so many records and so much cost take one more? An empty one takes any. */
static inline bool tb__room_for(const tb_batcher *b, uint32_t queued, uint64_t queued_cost, uint64_t cost)
{
    assert(queued > 0 || queued_cost == 0);
    if (TB_SELDOM(queued >= b->config.max_queue_size)) return false;
    return !TB_SELDOM(queued_cost + cost > b->max_queued_cost) || queued == 0;
}

static inline bool tb__has_room(const tb_batcher *b, uint64_t cost)
{
    return tb__room_for(b, b->queued, b->queued_cost, cost);
}

/* --- marks: what may share a batch ------------------------------------------ */

static inline uint32_t tb__group_of(const tb_batcher *b, uint32_t at)
{
    return b->group ? b->group[at] : 0;
}

static inline bool tb__is_lone(const tb_batcher *b, uint32_t key)
{
    return key < b->lone_capacity && (b->lone[key / 8] >> key % 8 & 1);
}

static inline uint32_t tb__mark(const tb_batcher *b, uint32_t at)
{
    if (!b->has_marks) return 0;
    return tb__group_of(b, at) | (tb__is_lone(b, b->slot[at].key) ? TB_ALONE : 0);
}

/* May a record of this mark join those of the load, whatever it costs? */
static inline bool tb__may_share(const tb_load *load, uint32_t mark)
{
    return load->size == 0 || (load->mark == mark && !(mark & TB_ALONE));
}

/* --- slots of processing, accounts of the queue ---------------------------- */

static inline bool tb__has_idle_slot(const tb_batcher *b)
{
    return b->running_batches + b->held_batches < b->config.max_concurrent_batches;
}

static inline bool tb__is_open(const tb_batcher *b, uint32_t view)
{
    return b->views_in_use & (1u << view);
}

/* The queue's accounts take in a record that nothing follows. */
TB_ON_THE_WAY void tb__queue_count(tb_batcher *b, tb_slot *slot)
{
    assert(slot->state != TB_RECORD_QUEUED);
    slot->state = TB_RECORD_QUEUED;
    b->queued++;
    b->queued_cost += slot->cost;
}

/* The record joins the queue proper (at its end, or because its cut dissolved). */
static inline void tb__queue_enter(tb_batcher *b, uint32_t at)
{
    tb__queue_count(b, &b->slot[at]);
    b->overdue += b->slot[at].overdue;
    if (b->views_in_use) tb__views_add(b, at);
}

/* A queued record is queued no more: it is cut, runs, or goes. Its links are the caller's. */
static inline void tb__queue_leave(tb_batcher *b, uint32_t at)
{
    const tb_slot *slot = &b->slot[at];
    assert(slot->state == TB_RECORD_QUEUED);
    b->queued--;
    b->queued_cost -= slot->cost;
    b->overdue -= slot->overdue;
    if (b->views_in_use) tb__views_remove(b, at);
}

/* All records of a load are queued no more. False: something follows each of them, and each is to leave. */
static inline bool tb__queue_leave_at_once(tb_batcher *b, const tb_load *load)
{
    if (b->views_in_use || b->overdue) return false;
    assert(b->queued >= load->size && b->queued_cost >= load->sum);
    b->queued -= load->size;
    b->queued_cost -= load->sum;
    return true;
}

/* A record has joined the end of the queue. If all before it are in the open batch, so
 * may this one be; otherwise tb__open_extend() will come to it. */
TB_ON_THE_WAY void tb__open_append(tb_batcher *b, uint32_t at, uint32_t mark)
{
    tb_open *open = &b->open;
    if (open->next != TB_NIL) return;
    uint64_t cost = b->slot[at].cost;
    if (open->full || (b->has_marks && !tb__may_share(&open->load, mark)) || !tb__fits(b, &open->load, cost)) {
        open->full = true;
        open->next = at;
        return;
    }
    tb__load_add(&open->load, cost, mark);
    open->full = tb__is_full(b, &open->load);
}

/* The same, where it is no more than two sums: nobody has a mark, and the record fits. False: it is not. */
TB_ON_THE_WAY bool tb__open_count(tb_batcher *b, uint64_t cost)
{
    tb_open *open = &b->open;
    if (TB_SELDOM(open->next != TB_NIL)) return true;
    uint64_t sum = open->load.sum + cost;
    if (TB_SELDOM(open->full || b->config.cost_model != TB_COST_SUM || sum > b->budget)) return false;
    assert(open->load.size < b->config.max_batch_size && open->load.mark == 0);
    tb__load_add(&open->load, cost, 0);
    open->full = open->load.size == b->config.max_batch_size || sum == b->budget;
    return true;
}

/* A record is queued: it joins the end. */
static inline void tb__pending_add(tb_batcher *b, uint32_t at)
{
    tb__list_append(b, &b->pending, at);
    tb__queue_enter(b, at);
    tb__open_append(b, at, tb__mark(b, at));
}

/* --- histograms ----------------------------------------------------------- */

static inline uint32_t tb__bucket_of(uint64_t value)
{
    if (value < (1u << TB_HISTOGRAM_BITS)) return (uint32_t)value;
    uint32_t octave = 63 - (uint32_t)__builtin_clzll(value) - TB_HISTOGRAM_BITS;
    uint32_t bucket = (octave << TB_HISTOGRAM_BITS) + (uint32_t)(value >> octave);
    return bucket < TB_HISTOGRAM_BUCKETS ? bucket : TB_HISTOGRAM_BUCKETS - 1;
}

/* Many values for one histogram. Neighbours are often equal (records of one turn): a run of them
 * is counted at its end, and a loop over records does not wait for memory. (make bench compiles
 * the core a second time with TB_WITHOUT_HISTOGRAMS, to show what they cost.) */
typedef struct {
    uint64_t value, run; /* the last one, so many times */
    uint64_t count, sum, max;
} tb_tally;

static inline void tb__tally_run(tb_histogram *h, tb_tally *t)
{
#ifndef TB_WITHOUT_HISTOGRAMS
    h->bucket[tb__bucket_of(t->value)] += t->run;
    t->count += t->run;
    t->sum += t->run * t->value;
    if (t->run && t->value > t->max) t->max = t->value;
#else
    (void)h, (void)t;
#endif
}

static inline void tb__tally(tb_histogram *h, tb_tally *t, uint64_t value)
{
    if (value != t->value) {
        tb__tally_run(h, t);
        t->value = value;
        t->run = 0;
    }
    t->run++;
}

static inline void tb__tally_end(tb_histogram *h, tb_tally *t)
{
    tb__tally_run(h, t);
    h->count += t->count;
    h->sum += (double)t->sum;
    if (t->max > h->max) h->max = t->max;
}

static inline void tb__histogram_add(tb_histogram *h, uint64_t value)
{
    tb_tally t = {0};
    tb__tally(h, &t, value);
    tb__tally_end(h, &t);
}

#endif
