/* tokenbatcher.h - the contract of the core.
 *
 * The core turns records into batches within a token budget. It does no I/O,
 * reads no clock, starts no thread and calls nobody back. It knows four nouns:
 *
 *   records    what producers submit; each costs tokens
 *   batches    records, in order, within a budget
 *   deadlines  when something must happen
 *   events     the core telling its pump what happened
 *
 * THE SPECIAL PROBLEM OF TIME. Every call that depends on time takes `now_us`
 * last: int64 microseconds on a monotonic clock whose origin the caller picks.
 * A `now_us` below an earlier one counts as the earlier one. One question,
 * tb_next(), replaces all timers.
 *
 * THE SPECIAL PROBLEM OF WHO RUNS THE LOOP. A pump does, and a turn of it is:
 *
 *     while (tb_poll(b, events, max, now) == max) ...   settle what the events name
 *     while ((batch = tb_form(b, now)) != 0) ...        read it, start inference
 *     repeat both until neither reports anything, then sleep until tb_next(b)
 *
 * Pulling is doing: a record expires, a waiting record enters, a batch times
 * out in the very call of tb_poll() that reports it, so no event queue exists
 * that could fill up.
 *
 * IDS. A record and a batch are named by a tb_id: an exact integer below 2^53
 * in a double, so that it survives a Lua number. Of a record's the low 24 bits are
 * the slot, the rest a generation. No id is ever used twice; a stale one is TB_ENOENT.
 * Zero is no id. Functions that return a tb_id return an error as a negative.
 *
 * ERRORS come in three kinds. Refusals (queue full, bad cost, not running) are
 * return codes and normal traffic; on a refusal nothing has changed but the
 * counter of refusals. Misuse (a null pointer) asserts. A bug of the core shows
 * in tb_verify().
 *
 * THREADS. A batcher belongs to one thread at a time. Separate batchers share
 * nothing.
 *
 * MEMORY. Everything is owned by the batcher and freed by tb_free(). Slots for
 * records grow by a fifth in tb_submit() and are reused: in steady state no call
 * allocates. A queued record takes 64 to 77 bytes, with a deadline 80 to 96.
 *
 * This header is also the source of the LuaJIT ffi.cdef (TB_CDEF is defined
 * while it is generated), so it holds no function-pointer types.
 */
#ifndef TOKENBATCHER_H
#define TOKENBATCHER_H

#ifndef TB_CDEF
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)
#endif

enum {
    TB_ABI = 1,               /* changes with every incompatible change of a header */
    TB_SLOT_BITS = 24,        /* a record's id = generation * 2^24 + slot */
    TB_MAX_BATCHES = 1024     /* upper bound of max_concurrent_batches */
};

typedef struct tb_batcher tb_batcher;
typedef double tb_id;

/* Refusals. tb_error_name() and tb_error_text() list them. */
enum tb_error {
    TB_OK = 0,
    TB_ENOMEM = -1,      /* memory ran out; nothing has changed */
    TB_EOPTION = -2,     /* an option's value is outside its bounds, or no such option */
    TB_EMINMAX = -3,     /* min_batch_size is above max_batch_size */
    TB_ECOST = -4,       /* a cost is not a finite number from 0 to 1e12 */
    TB_ETIMEOUT = -5,    /* a time is not above 0 */
    TB_EFULL = -6,       /* the queue is full, or others already wait in line */
    TB_EOVERSIZE = -7,   /* the record alone exceeds the budget, and on_oversize is reject */
    TB_ENOTRUNNING = -8, /* not started, stopping or stopped */
    TB_ERUNNING = -9,    /* started already */
    TB_ENOENT = -10,     /* no such record or batch (any more) */
    TB_ESTATE = -11,     /* the record is not running */
    TB_ERECORD = -12     /* a priority that is no number, or a key of 2^24 or more */
};

/* Short name ("queue_full") and sentence of an error; "unknown" for others. */
const char *tb_error_name(int error);
const char *tb_error_text(int error);

/* TB_ABI of the library, for the handshake of whoever loads it. */
int tb_abi(void);

/* --- Options ------------------------------------------------------------
 *
 * One table holds every option: name, bounds, default, unit and sentence.
 * Validation, --help and the README's table come from it.
 */

enum tb_option_kind {
    TB_KIND_COUNT,    /* a whole number */
    TB_KIND_COST,     /* a whole number of tokens (or whatever a cost counts) */
    TB_KIND_SECONDS,  /* a number of seconds, kept in microseconds */
    TB_KIND_NUMBER,   /* any finite number within the bounds */
    TB_KIND_CHOICE,   /* one of `choices`; its value is the index, from 0 */
    TB_KIND_POLICY,   /* a policy; the core keeps which of `choices` it is */
    TB_KIND_FUNCTION, /* a function (the core never sees it) */
    TB_KIND_STRING    /* a string (the core never sees it) */
};

enum tb_policy { TB_POLICY_FIFO, TB_POLICY_EAGER, TB_POLICY_SCRIPT };
enum tb_cost_model { TB_COST_SUM, TB_COST_PADDED };
enum tb_on_full { TB_FULL_WAIT, TB_FULL_REJECT };
enum tb_on_oversize { TB_OVERSIZE_ALONE, TB_OVERSIZE_REJECT };

struct tb_option {
    const char *name;       /* "target_batch_cost" */
    const char *token_name; /* "target_batch_tokens", or NULL: the name TokenBatcher prefers */
    const char *choices;    /* "wait|reject", or NULL */
    const char *unit;       /* "tokens", "s", "records", "" */
    const char *text;       /* one sentence */
    double fallback;        /* the default; meaningless if !has_default */
    double min, max;        /* inclusive bounds */
    uint32_t kind;          /* enum tb_option_kind */
    uint32_t has_default;   /* 0: the default is "none" */
};
typedef struct tb_option tb_option;

/* Number of options, and option i (0 <= i < count; NULL outside). Static memory. */
uint32_t tb_option_count(void);
const tb_option *tb_option_at(uint32_t i);

/* Settings of a batcher. Fill with tb_config_init(), change with tb_config_set()
 * (or directly, in the units named here), check with tb_config_check(). */
struct tb_config {
    int64_t batch_timeout_us;     /* 0: due at once */
    int64_t inference_timeout_us; /* 0: none */
    int64_t max_wait_us;          /* 0: none */
    double target_batch_cost;     /* 1 .. 1e15 */
    double max_queue_cost;        /* 0: none */
    uint32_t max_batch_size;      /* 1 .. 1e6 */
    uint32_t min_batch_size;      /* 1 .. max_batch_size */
    uint32_t max_queue_size;      /* 1 .. 1e7 */
    uint32_t prefetch_batches;    /* 0 .. 1024 */
    uint32_t max_concurrent_batches; /* 1 .. TB_MAX_BATCHES */
    uint32_t policy;              /* enum tb_policy */
    uint32_t cost_model;          /* enum tb_cost_model */
    uint32_t on_full;             /* enum tb_on_full: what the pump asks for; see TB_MAY_WAIT */
    uint32_t on_oversize;         /* enum tb_on_oversize */
};
typedef struct tb_config tb_config;

/* All defaults. */
void tb_config_init(tb_config *config);

/* Set option i of the table (its index) from a number: a count, a cost, seconds,
 * or the index of a choice. An option that the core does not keep (a function, a
 * string, default_cost, on_error) is only checked.
 * TB_EOPTION: no such option, not a number, a fraction where a whole number
 * is due, outside the bounds; `config` is unchanged then. */
int tb_config_set(tb_config *config, uint32_t i, double value);

/* Back to "none", for an option without a default. TB_EOPTION if it has one. */
int tb_config_unset(tb_config *config, uint32_t i);

/* Every bound, and what holds between options. TB_EOPTION or TB_EMINMAX. */
int tb_config_check(const tb_config *config);

/* --- Life -------------------------------------------------------------- */

/* A stopped batcher, or NULL: `config` fails tb_config_check(), or no memory. */
tb_batcher *tb_new(const tb_config *config);

/* Frees all; NULL is fine. Whoever holds ids of it must forget them. */
void tb_free(tb_batcher *b);

enum tb_state { TB_STOPPED, TB_RUNNING, TB_DRAINING };
int tb_state(const tb_batcher *b);

/* stopped -> running. TB_ERUNNING otherwise. The clock may start anew here. */
int tb_start(tb_batcher *b, int64_t now_us);

enum { TB_NO_TIMEOUT = -1 };

/* running -> draining: refuses new records, makes all queued ones due, lets
 * waiting ones in as room appears. When nothing is left tb_poll() reports
 * TB_EVENT_DRAINED and the state is stopped. With `timeout_us` >= 0 what is left
 * after it fails (TB_EVENT_STOPPED, _REFUSED, _BATCH_STOPPED). Called again, the
 * earlier end counts. When stopped: nothing happens. */
void tb_stop(tb_batcher *b, int64_t timeout_us, int64_t now_us);

/* Everything queued now is due at once. */
void tb_flush(tb_batcher *b, int64_t now_us);

/* New settings, all or nothing: TB_EOPTION, TB_EMINMAX, TB_ENOMEM and nothing
 * has changed. Running batches keep theirs. Cuts are made anew. */
int tb_set(tb_batcher *b, const tb_config *config, int64_t now_us);
void tb_get(const tb_batcher *b, tb_config *config);

/* --- Records ----------------------------------------------------------- */

enum tb_submit_flags {
    TB_MAY_WAIT = 1, /* if full, take a place in the line instead of TB_EFULL */
    TB_MORE = 2      /* the next record belongs to the same call (counts as one waiting_submits) */
};

struct tb_submission {
    double cost;          /* finite, 0 .. 1e12; rounded up to a whole number */
    double priority;      /* higher first; for policies that look at it */
    int64_t timeout_us;   /* 0: no deadline; else deadline = submitted + timeout */
    int64_t submitted_us; /* when the producer called, <= now; 0: now. Never counts as
                             earlier than the record ahead of it. */
    uint32_t key;         /* a small number the caller gave to a key (memory grows with the
                             largest in use); 0: none */
    uint32_t flags;       /* enum tb_submit_flags */
};
typedef struct tb_submission tb_submission;

/* Hand in one record. Returns its id: queued, or (TB_MAY_WAIT) waiting in a line
 * that is served strictly first come, first served; tb_record_state() tells.
 * TB_ENOTRUNNING, TB_ECOST, TB_ETIMEOUT, TB_ERECORD, TB_EOVERSIZE, TB_EFULL, TB_ENOMEM.
 * Of these EFULL and EOVERSIZE count as rejected. O(1); O(log n) with a deadline. */
tb_id tb_submit(tb_batcher *b, const tb_submission *record, int64_t now_us);

/* Would these `n` costs all be accepted, one after the other, without suspending
 * anybody? First every cost (TB_ECOST, TB_EOVERSIZE), then the room (TB_EFULL; not
 * with TB_MAY_WAIT in `flags`). TB_OK, TB_ENOTRUNNING or one of those; then *culprit,
 * if not NULL, is the index at fault. Changes nothing, but counts a refusal of all
 * `n` (TB_EFULL, TB_EOVERSIZE). O(n). */
int tb_submit_check(tb_batcher *b, const double *costs, uint32_t n, uint32_t flags,
                    uint32_t *culprit);

/* Would a record of this cost be queued now? 1 or 0; 0 also while others wait. */
int tb_has_room(const tb_batcher *b, double cost);

enum tb_record_state {
    TB_RECORD_NONE, /* settled long ago, or never was */
    TB_RECORD_WAITING,
    TB_RECORD_QUEUED,
    TB_RECORD_CUT,
    TB_RECORD_RUNNING
};
int tb_record_state(const tb_batcher *b, tb_id record);

/* A record's deadline; TB_NEVER_US: none; TB_ENOENT. */
int64_t tb_record_deadline(const tb_batcher *b, tb_id record);

/* Cancel a record in any state: it is gone and counts as cancelled; its batch
 * mates, if any, stay. TB_ENOENT if it is gone already. */
int tb_cancel(tb_batcher *b, tb_id record, int64_t now_us);

/* Count records that the pump refused for a reason of its own. */
void tb_refuse(tb_batcher *b, uint32_t records);

/* Records waiting in line for room. */
uint32_t tb_waiting(const tb_batcher *b);

/* --- Events ------------------------------------------------------------ */

enum tb_event_kind {
    TB_EVENT_BATCH_TIMED_OUT = 1, /* id: a batch; its records that still ran have failed */
    TB_EVENT_EXPIRED,             /* id: a record that passed its deadline undispatched */
    TB_EVENT_STOPPED,             /* id: a queued record that failed when stop ran out of time */
    TB_EVENT_REFUSED,             /* id: a waiting record turned away for the same reason */
    TB_EVENT_BATCH_STOPPED,       /* id: a batch abandoned by stop; its records have failed */
    TB_EVENT_ADMITTED,            /* id: a waiting record that is queued now */
    TB_EVENT_DRAINED              /* id: 0; the batcher is stopped */
};

struct tb_event {
    tb_id id;
    uint32_t kind; /* enum tb_event_kind */
    uint32_t reserved;
};
typedef struct tb_event tb_event;

/* Do and report what is due at `now_us`: batches timed out, then expiries, then
 * the end of stop, then admissions. If the line's first finds no room while every slot
 * is busy, full batches are cut ahead here, as tb_form() would, before it is left
 * waiting: cutting makes room. Records that expire in one late call are not in the order
 * of their deadlines. Fills up to `max` events and returns their
 * number; call again while it returns `max`. */
uint32_t tb_poll(tb_batcher *b, tb_event *events, uint32_t max, int64_t now_us);

enum { TB_NEVER_US = -1 };

/* Asked after a complete turn: the earliest time at which tb_poll() or tb_form() may
 * have something to do if nobody submits, cancels, settles or sets before, or
 * TB_NEVER_US. It is above the `now` of that turn; it may be too early (a needless
 * turn), never too late. */
int64_t tb_next(const tb_batcher *b);

/* --- Batches ----------------------------------------------------------- */

enum tb_reason {
    TB_REASON_FULL,    /* no further record would have fitted */
    TB_REASON_TIMEOUT, /* the queue was due */
    TB_REASON_IDLE,    /* a slot was idle (eager) */
    TB_REASON_DRAIN,   /* the batcher was stopping */
    TB_REASON_POLICY,  /* a scripted policy chose */
    TB_REASONS
};
/* "full", "timeout", "idle", "drain", "policy". */
const char *tb_reason_name(int reason);

/* If a processing slot is idle and the policy says so, move the next batch's
 * records from the queue to running and return the batch; 0 if nothing goes now.
 * While all slots are busy it cuts full batches off the head of the queue
 * (prefetch_batches). Also 0 while tb_poll() has not been called for what deadlines or
 * the end of stop ask for at `now_us`. */
tb_id tb_form(tb_batcher *b, int64_t now_us);

struct tb_batch {
    double cost;         /* by the cost model */
    double sum;          /* of the records' costs */
    double largest;      /* of the records' costs */
    int64_t started_us;
    int64_t deadline_us; /* earliest deadline of its records, or TB_NEVER_US */
    uint32_t size;       /* records that run now */
    uint32_t reason;     /* enum tb_reason */
};
typedef struct tb_batch tb_batch;

/* Describe a batch, and copy the ids and costs of its running records, in order,
 * into arrays of at least `capacity` (either may be NULL). TB_ENOENT. */
int tb_batch_read(const tb_batcher *b, tb_id batch, tb_batch *out, tb_id *ids,
                  double *costs, uint32_t capacity);

enum tb_outcome { TB_COMPLETED, TB_FAILED, TB_EXPIRED };

/* One running record has its answer; the batch keeps its slot.
 * TB_ENOENT, TB_ESTATE (not running). */
int tb_settle(tb_batcher *b, tb_id record, int outcome, int64_t now_us);

/* Inference is over: the records of the batch that still run are settled so, and
 * the slot is free. TB_ENOENT if the batch is over already (timed out, stopped). */
int tb_batch_finish(tb_batcher *b, tb_id batch, int outcome, int64_t now_us);

/* A further call of inference begins in the same slot: inference_timeout_s runs
 * anew. TB_ENOENT. */
int tb_batch_retry(tb_batcher *b, tb_id batch, int64_t now_us);

/* A further call of inference begins in the same slot, for these `n` records of the batch:
 * inference_timeout_s runs anew. *out describes them: size, cost (by the cost model of the
 * batch), sum, largest, earliest deadline. TB_ENOENT: the batch is over, or one of the ids
 * is not of a record that runs in it; nothing has changed. */
int tb_batch_half(tb_batcher *b, tb_id batch, const tb_id *ids, uint32_t n, tb_batch *out,
                  int64_t now_us);

/* --- Scripted policies ---------------------------------------------------
 *
 * With TB_POLICY_SCRIPT tb_form() forms nothing. Instead the pump asks, after tb_poll():
 *
 *     while (tb_ask(b, now)) {
 *         tb_choose(b, &queue, now);       the queued records are 1 .. queue.size now
 *         ... the policy looks and names: tb_choose_add(b, position)
 *         batch = tb_choose_end(b);        0: it named nobody
 *         if (!batch) break;
 *     }
 *
 * and, when the policy failed or said nothing while the queue is due,
 * tb_choose_abandon() and tb_form_default(). Positions and views are valid from
 * tb_choose() to its end; nothing else may be called on the batcher meanwhile.
 */

/* 1 if the policy is to be asked now: a slot is idle, something is queued that is enough
 * (min_batch_size, or full, or due), and records arrived, a slot came free, the queue
 * became due, the time of tb_ask_again() has come, or stop began since it was last
 * asked. Asking clears that. */
int tb_ask(tb_batcher *b, int64_t now_us);

/* Ask again at this time, if nothing happens before. */
void tb_ask_again(tb_batcher *b, int64_t at_us);

/* What fifo would do now, whatever the policy: a full batch, or a due one; 0: neither. */
tb_id tb_form_default(tb_batcher *b, int64_t now_us);

struct tb_queue {
    double total_cost;
    uint32_t size, idle_slots;
    uint32_t is_full, is_due, is_draining; /* 0 or 1; full: a fifo prefix fills a batch */
};
typedef struct tb_queue tb_queue;

/* Begin a choice. TB_ENOMEM (first use, or the queue has grown). O(1) when records have left at
 * the head of the queue only; otherwise O(records behind the first that left elsewhere). */
int tb_choose(tb_batcher *b, tb_queue *out, int64_t now_us);

/* Name a record. 1: it is in (already there: nothing changes); 0: it does not fit;
 * TB_ENOENT: no such position. The first call puts in, ahead of it and oldest first, the
 * records that have waited max_wait_s; if tb_choose_limit() leaves the first of them no room,
 * no record is in. */
int tb_choose_add(tb_batcher *b, double position);

/* Lower the budget for this choice; from the next tb_choose_add() on, nothing makes the
 * batch cost more, a single record above target_batch_cost included. */
void tb_choose_limit(tb_batcher *b, double tokens);

/* cost, sum, largest and size of what is chosen so far; and the budget. */
void tb_choose_read(const tb_batcher *b, tb_batch *out);
double tb_choose_budget(const tb_batcher *b);

/* The chosen records run, in the order named. 0: none was. */
tb_id tb_choose_end(tb_batcher *b);

/* Begin again: nobody is named, and tb_choose_limit() was not called. */
void tb_choose_reset(tb_batcher *b);

/* Nothing was chosen. */
void tb_choose_abandon(tb_batcher *b);

struct tb_look_at {
    tb_id id;
    double cost, priority;
    double age_us;
    double deadline_us; /* or TB_NEVER_US */
    double key;
};
typedef struct tb_look_at tb_look_at;

/* One queued record. TB_ENOENT. */
int tb_look(const tb_batcher *b, double position, tb_look_at *out);
double tb_look_cost(const tb_batcher *b, double position);

enum tb_view_kind { TB_VIEW_COST, TB_VIEW_DEADLINE, TB_VIEW_PRIORITY, TB_VIEW_KEYS };

/* Keep a view from now on: records by cost (smallest first), by deadline (earliest first,
 * none last), by priority + age / aging (highest first; aging 0: age does not count), or
 * by key. Ties by arrival. First use: O(n log n), TB_ENOMEM; afterwards O(1), and every
 * record that comes or goes costs O(log n). 16 bytes a slot. */
int tb_view_open(tb_batcher *b, uint32_t view, int64_t aging_us);

/* Forget all views. */
void tb_views_close(tb_batcher *b);

/* Positions in the order of a view that is open (not TB_VIEW_KEYS); 0: the end. What
 * follows 0 is the first. */
uint32_t tb_view_first(const tb_batcher *b, uint32_t view);
uint32_t tb_view_next(const tb_batcher *b, uint32_t view, uint32_t position);
uint32_t tb_view_previous(const tb_batcher *b, uint32_t view, uint32_t position);

/* With the view by cost: the first to arrive of those that cost as much as this one. */
uint32_t tb_view_alike(const tb_batcher *b, uint32_t position);

/* Keys that have queued records, in the order in which they got their first one
 * (TB_NEVER_US: the end), and the positions of a key's records by arrival (0: the end). */
double tb_keys_first(const tb_batcher *b);
double tb_keys_next(const tb_batcher *b, uint32_t key);
uint32_t tb_key_first(const tb_batcher *b, uint32_t key);
uint32_t tb_key_next(const tb_batcher *b, uint32_t position);

/* --- Statistics -------------------------------------------------------- */

/* Percentiles within 3 %; all 0 while count is 0. */
struct tb_summary {
    double count, mean, p50, p90, p99, max;
};
typedef struct tb_summary tb_summary;

/* Counters are whole numbers; they and the times add up over restarts. At every
 * moment total_submitted = queue_size + prefetched_records + running_records +
 * total_completed + total_failed + total_cancelled + total_expired. */
struct tb_stats {
    double total_submitted, total_completed, total_failed, total_cancelled, total_expired;
    double total_rejected, total_oversize;
    double total_batches, total_batch_records, total_batch_cost;
    double queue_size, queue_cost, waiting_submits;
    double prefetched_batches, prefetched_records, running_batches, running_records;
    double busy_us, idle_us;       /* slot-microseconds */
    double padded_cost, sum_cost;  /* over all batches; their ratio is padding_ratio */
    double dispatched[5];          /* by enum tb_reason */
    tb_summary wait_us, service_us, latency_us, batch_size, batch_cost;
};
typedef struct tb_stats tb_stats;

void tb_stats_read(tb_batcher *b, tb_stats *out, int64_t now_us);

enum tb_histogram_kind { TB_OF_WAIT, TB_OF_SERVICE, TB_OF_LATENCY, TB_OF_BATCH_SIZE, TB_OF_BATCH_COST };

/* How many values were at most `value` (microseconds, records or tokens; never fewer, but
 * those up to 3 % above may count, too); and the exact sum of all. For the histograms of a
 * metrics page. */
double tb_stats_at_most(const tb_batcher *b, uint32_t histogram, double value);
double tb_stats_sum(const tb_batcher *b, uint32_t histogram);

/* Checks every invariant of the state, the conservation identity included.
 * NULL if all hold, else a sentence naming the broken one. O(records). */
const char *tb_verify(const tb_batcher *b);

/* Bytes allocated by this batcher. */
size_t tb_memory(const tb_batcher *b);

#ifndef TB_CDEF
#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
#endif
