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
 * last: int64 microseconds on a monotonic clock whose origin the caller picks,
 * 0 to 2^61. A `now_us` below an earlier one counts as the earlier one. One question,
 * tb_next(), replaces all timers. Durations are microseconds, too; those above 2^60 count as 2^60.
 *
 * THE SPECIAL PROBLEM OF WHO RUNS THE LOOP. A pump does, and a turn of it is:
 *
 *     while (tb_poll(b, events, max, now) == max) ...   settle what the events name
 *     while ((batch = tb_form(b, now)) != 0) ...        read it, start inference
 *     repeat both until neither reports anything, then sleep until tb_next(b)
 *
 * Pulling is doing: a record expires, a waiting record enters, a batch times
 * out in the very call of tb_poll() that reports it, so no event queue exists
 * that could fill up. Every function may be called at any point of a turn, but
 * between tb_choose() and its end, where only what that section names may be.
 *
 * IDS. A record and a batch are named by a tb_id: an exact integer below 2^53
 * in a double, so that it survives a Lua number. Of a record's the low 24 bits are
 * the slot, the rest a generation. No id is ever used twice; a stale one, or any
 * other number, is TB_ENOENT and never misuse. Zero is no id. Functions that return
 * a tb_id return an error as a negative.
 *
 * ERRORS come in three kinds.
 *   - Refusals (queue full, bad cost, not running) are return codes and normal
 *     traffic. On a refusal nothing has changed but the clock and, where said, a
 *     counter.
 *   - Misuse aborts, by assert(): a null pointer where none is allowed, an outcome, a
 *     view or a histogram that is none, a time that is none, a queue that changes while a
 *     policy chooses. Built with NDEBUG, misuse is undefined.
 *   - A bug of the core shows in tb_verify(), or aborts likewise.
 *
 * THREADS. A batcher belongs to one thread at a time. Separate batchers share
 * nothing: there are no globals.
 *
 * OWNERSHIP. Everything is owned by the batcher and freed by tb_free(). No function
 * keeps a pointer that it is given beyond the call, and none hands out a pointer into a
 * batcher: what is asked for is copied into the caller's memory. Strings are static.
 *
 * MEMORY. Slots for records grow by an eighth in tb_submit() and are reused: in steady
 * state no call allocates. A queued record takes 64 to 72 bytes, with a deadline or a
 * linger of its own 80 to 90; from the first record that has a group on all take 4 more.
 * Memory that has grown is kept until tb_free(). Only functions that name TB_ENOMEM,
 * tb_new(), and tb_poll() when a call of inference is abandoned, allocate.
 *
 * COST. Where nothing is said a call is O(1). "Queued" records are those not in a
 * batch and not cut ahead; n is their number.
 *
 * THE SHORTEST PUMP, for one slot and inference that answers at once:
 *
 *     tb_config config;
 *     tb_config_init(&config);
 *     tb_batcher *b = tb_new(&config);
 *     tb_start(b, now());
 *     tb_submission record = {.cost = 12};
 *     tb_id id = tb_submit(b, &record, now());            negative: refused
 *     ... at tb_next(b), and after every call that changes something:
 *     while (tb_poll(b, events, 64, now()) == 64) ...
 *     while ((batch = tb_form(b, now())) != 0) {
 *         tb_batch_read(b, batch, &what, ids, costs, 256);
 *         ... run it, hand out the answers by id ...
 *         tb_batch_finish(b, batch, TB_COMPLETED, now());
 *     }
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

/* The version of the project, MAJOR.MINOR.PATCH. */
#define TB_VERSION "0.1.0"
#define TB_VERSION_MAJOR 0
#define TB_VERSION_MINOR 1
#define TB_VERSION_PATCH 0

/* TB_ABI changes with every incompatible change of a header. A record's id is
 * generation x 2^TB_SLOT_BITS + slot; so many records can live at once, and so many keys.
 * TB_MAX_BATCHES is the upper bound of max_concurrent_batches. */
enum { TB_ABI = 3, TB_SLOT_BITS = 24, TB_MAX_BATCHES = 1024 };

/* A batcher; its inside is the core's. */
typedef struct tb_batcher tb_batcher;

/* A record or a batch; see IDS. */
typedef double tb_id;

/* Refusals, and what each says:
 *
 *   TB_OK           no error
 *   TB_ENOMEM       memory ran out, or 2^24 records live; the call may be tried again
 *   TB_EOPTION      no such option, or its value is outside its bounds
 *   TB_EMINMAX      min_batch_size is above max_batch_size
 *   TB_ECOST        a cost is not a finite number from 0 to 1e12
 *   TB_ETIMEOUT     a time is not above 0
 *   TB_EFULL        the queue is full, or others wait in line; room will come
 *   TB_EOVERSIZE    the record alone exceeds the budget, and on_oversize is reject
 *   TB_ENOTRUNNING  the batcher was not started, is stopping, or has stopped
 *   TB_ERUNNING     it was started already
 *   TB_ENOENT       no such record, batch or position (any more)
 *   TB_ESTATE       the record is not running
 *   TB_ERECORD      a priority that is no number, or a key or group of 2^24 or more
 *   TB_ETOOLARGE    more records, or more cost, than an empty queue holds: never
 */
enum tb_error {
    TB_OK = 0,
    TB_ENOMEM = -1,
    TB_EOPTION = -2,
    TB_EMINMAX = -3,
    TB_ECOST = -4,
    TB_ETIMEOUT = -5,
    TB_EFULL = -6,
    TB_EOVERSIZE = -7,
    TB_ENOTRUNNING = -8,
    TB_ERUNNING = -9,
    TB_ENOENT = -10,
    TB_ESTATE = -11,
    TB_ERECORD = -12,
    TB_ETOOLARGE = -13
};

/* Short name ("queue_full") of an error: the codes of Lua's errors. "unknown" for a number
 * that is none. Static memory; from any thread. */
const char *tb_error_name(int error);

/* The sentence that says what was wrong ("the queue is full"). Likewise. */
const char *tb_error_text(int error);

/* TB_ABI of the library, to be compared with that of the header by whoever loads it. */
int tb_abi(void);

/* --- Options ------------------------------------------------------------
 *
 * One table holds every option: name, bounds, default, unit and sentence.
 * Validation, --help and the guide's table come from it.
 */

/* What values an option takes.
 *
 *   TB_KIND_COUNT     a whole number
 *   TB_KIND_COST      a whole number of tokens (or whatever a cost counts)
 *   TB_KIND_SECONDS   a number of seconds, kept in microseconds
 *   TB_KIND_NUMBER    any finite number within the bounds
 *   TB_KIND_CHOICE    one of `choices`; its value is the index, from 0
 *   TB_KIND_POLICY    a policy; the core keeps which of `choices` it is
 *   TB_KIND_FUNCTION  a function (the core never sees it)
 *   TB_KIND_BOOLEAN   true or false (the core never sees it)
 *   TB_KIND_STRING    a string (the core never sees it)
 *   TB_KIND_SLO       a number of seconds, an expression of them, or a function (the core never sees it)
 */
enum tb_option_kind {
    TB_KIND_COUNT,
    TB_KIND_COST,
    TB_KIND_SECONDS,
    TB_KIND_NUMBER,
    TB_KIND_CHOICE,
    TB_KIND_POLICY,
    TB_KIND_FUNCTION,
    TB_KIND_BOOLEAN,
    TB_KIND_STRING,
    TB_KIND_SLO
};

/* Who decides: fifo, eager (a batch goes as soon as a slot is idle and min_batch_size is
 * met), or a script, which the pump asks (see Scripted policies). */
enum tb_policy { TB_POLICY_FIFO, TB_POLICY_EAGER, TB_POLICY_SCRIPT };

/* What a batch costs: the sum of its records' costs, or their number x the largest. */
enum tb_cost_model { TB_COST_SUM, TB_COST_PADDED };

/* What a pump does with a record that finds the queue full: it passes TB_MAY_WAIT, or not. */
enum tb_on_full { TB_FULL_WAIT, TB_FULL_REJECT };

/* A record above the budget runs in a batch of its own, or is refused (TB_EOVERSIZE). */
enum tb_on_oversize { TB_OVERSIZE_ALONE, TB_OVERSIZE_REJECT };

/* One option. `name` is what everybody calls it ("target_batch_cost"), `token_name` what
 * TokenBatcher prefers ("target_batch_tokens"), or NULL. `choices` are the words of a choice
 * ("wait|reject"), or NULL. `unit` is "tokens", "s", "records", "batches" or "". `text` is
 * one sentence. `fallback` is the default, and means nothing if !has_default: then the
 * default is "none". `min` and `max` are inclusive. `kind` is an enum tb_option_kind. */
struct tb_option {
    const char *name, *token_name, *choices, *unit, *text;
    double fallback, min, max;
    uint32_t kind, has_default;
};
typedef struct tb_option tb_option;

/* How many options there are. */
uint32_t tb_option_count(void);

/* Option i, 0 <= i < tb_option_count(); NULL for another i. Static memory. */
const tb_option *tb_option_at(uint32_t i);

/* max_abandoned_calls: none, that is no limit. */
enum { TB_NO_LIMIT = -1 };

/* Settings of a batcher. Fill with tb_config_init(), change with tb_config_set() (or
 * directly, in the units named here), check with tb_config_check(). A plain value: the
 * caller's to copy.
 *
 *   batch_timeout_us        a batch that is not full goes when its oldest record has waited
 *                           so long; 0: at once
 *   inference_timeout_us    a call that takes longer fails its batch; 0: none
 *   abandon_us              see max_abandoned_calls
 *   max_wait_us             records that have waited so long make the queue due and go
 *                           first; 0: none
 *   target_batch_cost       the budget, 1 to 1e15
 *   max_queue_cost          the most cost queued; 0: none
 *   max_batch_size          the most records of a batch, 1 to 1e6
 *   min_batch_size          1 to max_batch_size; only ever delays
 *   max_queue_size          the most records queued, 1 to 1e7
 *   prefetch_batches        full batches cut ahead while all slots are busy, 0 to 1024
 *   max_concurrent_batches  processing slots, 1 to TB_MAX_BATCHES
 *   max_abandoned_calls     while so many calls go on after their timeout, the slot of a batch
 *                           that times out stays taken, until a call ends or abandon_us
 *                           have passed; 0 to 1e6, 0: always; TB_NO_LIMIT: never
 *   policy, cost_model      enum tb_policy, enum tb_cost_model
 *   on_full                 enum tb_on_full; only kept: see TB_MAY_WAIT
 *   on_oversize             enum tb_on_oversize
 */
struct tb_config {
    int64_t batch_timeout_us, inference_timeout_us, abandon_us, max_wait_us;
    double target_batch_cost, max_queue_cost;
    uint32_t max_batch_size, min_batch_size, max_queue_size, prefetch_batches, max_concurrent_batches;
    int32_t max_abandoned_calls;
    uint32_t policy, cost_model, on_full, on_oversize;
};
typedef struct tb_config tb_config;

/* All defaults into *config. */
void tb_config_init(tb_config *config);

/* Set option i of the table (its index) from a number: a count, a cost, seconds,
 * or the index of a choice. An option that the core does not keep (a function, a
 * string, default_cost, on_error) is only checked.
 * TB_EOPTION: no such option, not a number, a fraction where a whole number
 * is due, outside the bounds; `config` is unchanged then. */
int tb_config_set(tb_config *config, uint32_t i, double value);

/* Back to "none", for an option without a default. TB_EOPTION: it has one, or there is no
 * option i. */
int tb_config_unset(tb_config *config, uint32_t i);

/* Bounds of the queue that are smaller than a batch: max_queue_size < max_batch_size, and
 * max_queue_cost < target_batch_cost. */
enum tb_bound { TB_BOUND_SIZE = 1, TB_BOUND_COST = 2 };

/* Which bounds of the queue keep a batch from ever being full: bits of enum tb_bound, 0: none.
 * No error: a queue that can take no more goes as if it were full (F2); but whoever set such
 * bounds may not have meant it. */
uint32_t tb_config_never_full(const tb_config *config);

/* Every bound, and what holds between options. TB_EOPTION: a field is outside its bounds.
 * TB_EMINMAX: min_batch_size is above max_batch_size. */
int tb_config_check(const tb_config *config);

/* --- Life ---------------------------------------------------------------
 *
 *     tb_new() -> stopped -> tb_start() -> running -> tb_stop() -> draining -> stopped
 *
 * A stopped batcher holds no record, keeps its settings and its statistics, and may be
 * started again.
 */

/* A stopped batcher with these settings, the caller's to tb_free(). NULL: `config` fails
 * tb_config_check(), or there is no memory. */
tb_batcher *tb_new(const tb_config *config);

/* Frees all, in any state, without an event; NULL is fine. Ids of it mean nothing
 * afterwards. */
void tb_free(tb_batcher *b);

enum tb_state { TB_STOPPED, TB_RUNNING, TB_DRAINING };

/* enum tb_state. TB_STOPPED after tb_stop() only once tb_poll() has reported
 * TB_EVENT_DRAINED. */
int tb_state(const tb_batcher *b);

/* stopped -> running. The clock may start anew here: `now_us` may be below earlier ones.
 * TB_ERUNNING: it is running or draining. */
int tb_start(tb_batcher *b, int64_t now_us);

/* tb_stop() without an end. */
enum { TB_NO_TIMEOUT = -1 };

/* running -> draining: refuses new records, makes all queued ones due, lets
 * waiting ones in as room appears. When nothing is left tb_poll() reports
 * TB_EVENT_DRAINED and the state is stopped. With `timeout_us` >= 0 what is left
 * after it fails (TB_EVENT_STOPPED, _REFUSED, _BATCH_STOPPED). Called again, the
 * earlier end counts. When stopped: nothing happens. */
void tb_stop(tb_batcher *b, int64_t timeout_us, int64_t now_us);

/* Everything queued or cut now is due at once; what waits in line is not. */
void tb_flush(tb_batcher *b, int64_t now_us);

/* New settings, all or nothing; running batches keep theirs, records keep their places, cuts
 * are made anew (the queue may exceed its bounds then until it drains). A higher
 * max_abandoned_calls frees slots at once, a lower one takes none. With another policy than
 * a script all views are closed.
 * TB_EOPTION, TB_EMINMAX: see tb_config_check(). TB_ENOMEM: no memory for more slots, cuts,
 * or the account of groups that a script needs. Nothing has changed then. O(records cut). */
int tb_set(tb_batcher *b, const tb_config *config, int64_t now_us);

/* The present settings into *config. */
void tb_get(const tb_batcher *b, tb_config *config);

/* --- Records ------------------------------------------------------------
 *
 *     (in line ->) queued (-> cut) -> running -> gone
 *
 * A record that is queued or cut or waits in line may also expire or be cancelled. */

/* TB_MAY_WAIT: if the queue is full, take a place in the line instead of TB_EFULL.
 * TB_MORE: the next record belongs to the same call of a producer; the records of a call
 * count as one in `waiting_submits`. */
enum tb_submit_flags { TB_MAY_WAIT = 1, TB_MORE = 2 };

/* In tb_submission.batch_timeout_us: the record makes the queue due at once. */
enum { TB_AT_ONCE = -1 };

#ifndef TB_CDEF
/* The largest cost of a record. (Lua knows it as the bound of the option default_cost.) */
#define TB_COST_MAX 1e12
#endif

/* One record. A field that is 0 is as if it were not there, so that a caller sets what it
 * knows of.
 *
 *   cost          finite, 0 to TB_COST_MAX; rounded up to a whole number
 *   priority      higher first; for policies that look at it
 *   timeout_us    0: no deadline; else it expires, if it has not been dispatched, at the call
 *                 of its producer + this. Half of it makes the queue due.
 *   submitted_us  when the producer called; 0, or later than now: now. Never counts as
 *                 earlier than the record ahead of it. Negative is misuse.
 *   key           a small number that the caller gave to who submits, 0 to 2^24 - 1; 0: nobody.
 *                 With a view by key memory grows with the largest in use.
 *   flags         enum tb_submit_flags
 *   batch_timeout_us  its own linger: it makes the queue due so long after the call of its
 *                 producer, whatever the settings say, and fails nothing. 0: that of the
 *                 settings; or TB_AT_ONCE
 *   group         a small number that the caller gave to what may share a call, 0 to 2^24 - 1;
 *                 0: none, which is a group, too. Records of two groups never share a batch.
 *                 Memory grows with the largest in use, under a script.
 */
struct tb_submission {
    double cost, priority;
    int64_t timeout_us, submitted_us;
    uint32_t key, flags;
    int64_t batch_timeout_us;
    uint32_t group;
};
typedef struct tb_submission tb_submission;

/* Hand in one record; the struct is read and not kept. Returns its id: queued, or
 * (TB_MAY_WAIT) waiting in a line that is served strictly first come, first served;
 * tb_record_state() tells. Refusals, the first that applies, and their causes:
 *
 *   TB_ENOTRUNNING  the state is not running
 *   TB_ECOST        cost
 *   TB_ETIMEOUT     timeout_us is negative, or batch_timeout_us below TB_AT_ONCE
 *   TB_ERECORD      priority is not a number, or key or group is 2^24 or more
 *   TB_EOVERSIZE    cost is above target_batch_cost, and on_oversize is reject
 *   TB_EFULL        max_queue_size records are queued; or cost would go above
 *                   max_queue_cost and the queue is not empty; or others wait in line
 *   TB_ENOMEM       no memory, or 2^24 records live
 *
 * TB_EFULL and TB_EOVERSIZE count as rejected. After TB_EFULL the queue is full as batches go
 * (F2) until the next one went: take a turn. O(1); O(log n) with a deadline, a linger of its
 * own, or a view. */
tb_id tb_submit(tb_batcher *b, const tb_submission *record, int64_t now_us);

/* tb_submit() of {.cost = cost} alone, quicker. It counts nothing: after a refusal,
 * which is one of TB_ENOTRUNNING, TB_ECOST, TB_EOVERSIZE, TB_EFULL and TB_ENOMEM, in that order, only the clock
 * has changed, and the record may be handed to tb_submit(), which counts it, or lets it wait. O(1), or O(log n)
 * with a view. */
tb_id tb_submit_plain(tb_batcher *b, double cost, int64_t now_us);

/* Would these `n` costs all be accepted, one after the other, without suspending
 * anybody? First every cost (TB_ECOST, TB_EOVERSIZE), then, without TB_MAY_WAIT in `flags`,
 * the room: that of an empty queue (TB_ETOOLARGE: it is no use to ask again; one record
 * alone always fits), then that there is (TB_EFULL). TB_OK, TB_ENOTRUNNING or one of those;
 * then *culprit, if not NULL, is the index at fault: the first cost that is bad or finds no
 * room. `costs` may be NULL if n is 0. Changes nothing, but counts a refusal of all `n`
 * (but TB_ECOST), and TB_EFULL makes the queue full (see tb_submit()). O(n). */
int tb_submit_check(tb_batcher *b, const double *costs, uint32_t n, uint32_t flags,
                    uint32_t *culprit);

/* Would a record of this cost be queued now? 1 or 0; 0 also while others wait, when the
 * batcher is not running, and for a cost that is refused. */
int tb_has_room(const tb_batcher *b, double cost);

/* TB_RECORD_NONE: it is settled, cancelled, expired, or never was. WAITING: in line for room.
 * QUEUED: in the queue. CUT: in a full batch that was cut ahead. RUNNING: in a batch. */
enum tb_record_state {
    TB_RECORD_NONE,
    TB_RECORD_WAITING,
    TB_RECORD_QUEUED,
    TB_RECORD_CUT,
    TB_RECORD_RUNNING
};

/* enum tb_record_state, for any number. */
int tb_record_state(const tb_batcher *b, tb_id record);

/* A record's deadline, in any of its states; TB_NEVER_US: it has none. TB_ENOENT: it is
 * gone. */
int64_t tb_record_deadline(const tb_batcher *b, tb_id record);

/* Cancel a record in any state: it is gone and counts as cancelled; its batch
 * mates, if any, stay. TB_ENOENT: it is gone already. No event follows. O(log n). */
int tb_cancel(tb_batcher *b, tb_id record, int64_t now_us);

/* From now on, or no longer, records of this key run in batches of one: fifo ends a batch
 * before them, tb_choose_add() takes no second record beside them. Their batches count as
 * oversize only if they are. `key` is 1 to 2^24 - 1: a record without a key is never marked;
 * other keys are misuse. `on` is 0 or not. Nothing happens if it is so already; otherwise
 * cuts are made anew, and a turn is due. Holds until it is called again, over restarts.
 * TB_ENOMEM: nothing has changed. O(1), O(n) with the view by group. A bit a key. */
int tb_key_alone(tb_batcher *b, uint32_t key, int on, int64_t now_us);

/* Count records as rejected that the pump refused for a reason of its own. */
void tb_refuse(tb_batcher *b, uint32_t records);

/* Records waiting in line for room. */
uint32_t tb_waiting(const tb_batcher *b);

/* --- Events -------------------------------------------------------------
 *
 *   TB_EVENT_BATCH_TIMED_OUT  id: a batch; its records that still ran have failed
 *   TB_EVENT_EXPIRED          id: a record that passed its deadline undispatched
 *   TB_EVENT_STOPPED          id: a queued record that failed when stop ran out of time
 *   TB_EVENT_REFUSED          id: a waiting record turned away for the same reason
 *   TB_EVENT_BATCH_STOPPED    id: a batch abandoned by stop; its records have failed
 *   TB_EVENT_ADMITTED         id: a waiting record that is queued now
 *   TB_EVENT_DRAINED          id: 0; the batcher is stopped
 *
 * The call of inference of a batch that timed out or was stopped may go on; it is abandoned:
 * see tb_call_ended().
 *
 * The id of a batch or record that an event ends is stale when the event is read: who needs
 * what it named keeps that beside the id. */
enum tb_event_kind {
    TB_EVENT_BATCH_TIMED_OUT = 1,
    TB_EVENT_EXPIRED,
    TB_EVENT_STOPPED,
    TB_EVENT_REFUSED,
    TB_EVENT_BATCH_STOPPED,
    TB_EVENT_ADMITTED,
    TB_EVENT_DRAINED
};

/* `kind` is an enum tb_event_kind, `reserved` is 0. */
struct tb_event {
    tb_id id;
    uint32_t kind, reserved;
};
typedef struct tb_event tb_event;

/* Do and report what is due at `now_us`: batches timed out, then expiries, then
 * the end of stop, then admissions. Slots held by abandoned calls for abandon_us are free,
 * without an event. If the line's first finds no room while every slot
 * is busy, full batches are cut ahead here, as tb_form() would, before it is left
 * waiting: cutting makes room. Records that expire in one late call are not in the order
 * of their deadlines. Fills up to `max` events of the caller's array (NULL if max is 0) and
 * returns their number; call again while it returns `max`. O(log n) an event, plus
 * O(max_concurrent_batches) for one of a batch. */
uint32_t tb_poll(tb_batcher *b, tb_event *events, uint32_t max, int64_t now_us);

/* A time that never comes. */
enum { TB_NEVER_US = -1 };

/* Asked after a complete turn: the earliest time at which tb_poll() or tb_form() may
 * have something to do if nobody submits, is refused for room, cancels, settles, sets, marks a
 * key or ends a call before, or TB_NEVER_US. It is above the `now` of that turn; it may be too early (a needless
 * turn), never too late. O(max_concurrent_batches) while batches have a timeout. */
int64_t tb_next(const tb_batcher *b);

/* --- Batches -------------------------------------------------------------- */

/* Why a batch went.
 *
 *   TB_REASON_FULL     no further record would have fitted, or the queue can take no more
 *   TB_REASON_TIMEOUT  the queue was due
 *   TB_REASON_IDLE     a slot was idle (eager)
 *   TB_REASON_DRAIN    the batcher was stopping
 *   TB_REASON_POLICY   a scripted policy chose
 */
enum tb_reason {
    TB_REASON_FULL,
    TB_REASON_TIMEOUT,
    TB_REASON_IDLE,
    TB_REASON_DRAIN,
    TB_REASON_POLICY,
    TB_REASONS
};

/* "full", "timeout", "idle", "drain", "policy"; "unknown" for a number that is none. Static
 * memory. */
const char *tb_reason_name(int reason);

/* A batch is full when it has max_batch_size records, when the next queued record would not
 * fit, is of another group or must run alone, or when nothing of cost 1 would fit. A queue
 * that can take no more is full, too, while a slot is idle: it holds max_queue_size records,
 * or its bounds keep someone out (the first in line finds no room, or a record was refused
 * for room since the last dispatch).
 *
 * If a processing slot is idle and the policy says so, move the next batch's
 * records from the queue to running and return the batch; 0 if nothing goes now.
 * While all slots are busy it cuts full batches off the head of the queue
 * (prefetch_batches). Also 0 while tb_poll() has not been called for what deadlines or
 * the end of stop ask for at `now_us`; and always 0 under a scripted policy. Never
 * fails. O(records that go, are cut, or came since the last call). */
tb_id tb_form(tb_batcher *b, int64_t now_us);

/* What a batch is.
 *
 *   cost         by the cost model that held when it was formed
 *   sum          of the records' costs
 *   largest      of the records' costs
 *   padded       their number x the largest, whatever the cost model
 *   started_us   when it was formed
 *   deadline_us  the earliest deadline of its records, or TB_NEVER_US
 *   size         its records
 *   reason       enum tb_reason
 *   group        that of its records
 */
struct tb_batch {
    double cost, sum, largest, padded;
    int64_t started_us, deadline_us;
    uint32_t size, reason, group;
};
typedef struct tb_batch tb_batch;

/* Describe a batch: cost, sum, largest, padded and deadline as it was formed, size as it runs now. And
 * copy the ids and costs of its running records, in order, into arrays of the caller's
 * of at least `capacity` (either may be NULL); never more than `capacity`.
 * TB_ENOENT: it is over. O(records copied). */
int tb_batch_read(const tb_batcher *b, tb_id batch, tb_batch *out, tb_id *ids,
                  double *costs, uint32_t capacity);

/* How a record ends that ran. */
enum tb_outcome { TB_COMPLETED, TB_FAILED, TB_EXPIRED };

/* One running record has its answer, and is gone; the batch keeps its slot, even when no
 * record of it is left. Another `outcome` than those of enum tb_outcome is misuse.
 * TB_ENOENT: the record is gone. TB_ESTATE: it is not running. */
int tb_settle(tb_batcher *b, tb_id record, int outcome, int64_t now_us);

/* Inference is over: the records of the batch that still run are settled so, and
 * the slot is free. TB_ENOENT: the batch is over already (finished, timed out, stopped):
 * its late answer is to be ignored. O(records that still run). */
int tb_batch_finish(tb_batcher *b, tb_id batch, int outcome, int64_t now_us);

/* A further call of inference begins in the same slot: inference_timeout_s (that of when
 * the batch was formed) runs anew. TB_ENOENT: the batch is over. */
int tb_batch_retry(tb_batcher *b, tb_id batch, int64_t now_us);

/* tb_batch_retry() for `n` of its running records, each named once; `ids` may be NULL if n is
 * 0. *out describes them: size, cost (by the cost model of the batch), sum, largest, padded,
 * earliest deadline; started_us, reason and group are the batch's.
 * TB_ENOENT: the batch is over, or one of the ids is not of a record that runs in it; then
 * nothing has changed, *out included. O(n). */
int tb_batch_half(tb_batcher *b, tb_id batch, const tb_id *ids, uint32_t n, tb_batch *out,
                  int64_t now_us);

/* The program could not look for `us` microseconds (> 0): its loop was blocked, or the process
 * stopped. That time does not count against the calls that run: their timeouts come later by
 * it. To be said before the tb_poll() that follows. O(max_concurrent_batches). */
void tb_calls_excuse(tb_batcher *b, int64_t us);

/* An abandoned call has ended: one of a batch that TB_EVENT_BATCH_TIMED_OUT or
 * TB_EVENT_BATCH_STOPPED named. Say so once for each, also after tb_stop(). If its slot is
 * held it is free now; if not, one that is held may be (max_abandoned_calls).
 * While draining slots stay held as ever, but nobody waits for them when no record is
 * left; a start finds all slots free, and calls of before still count.
 * TB_ENOENT: no such call goes on, or it is one of those of which none is kept: the core
 * remembers the last 4,096; older ones, and those for which there is no memory, count as
 * ended. O(abandoned calls). */
int tb_call_ended(tb_batcher *b, tb_id batch, int64_t now_us);

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
 * tb_choose() to its end (tb_choose_end, tb_choose_abandon); of all other functions only
 * those that take a const batcher may be called meanwhile: another choice, and what changes the
 * queue or its views, aborts. Positions come from policies: one that is none is answered, never misuse.
 */

/* 1 if the policy is to be asked now: a slot is idle, something is queued that is enough
 * (min_batch_size, or full, or due), and records arrived, a slot came free, the queue
 * became due, the time of tb_ask_again() has come, or stop began since it was last
 * asked. Asking clears that. 0 otherwise, and under another policy than a script. */
int tb_ask(tb_batcher *b, int64_t now_us);

/* Ask again at this time, if nothing happens before. The last call counts. */
void tb_ask_again(tb_batcher *b, int64_t at_us);

/* What fifo would do now, whatever the policy: a full batch, or a due one; 0: neither, or no
 * slot is idle. */
tb_id tb_form_default(tb_batcher *b, int64_t now_us);

/* The queue as a decision finds it: cost and number of what is queued, idle processing
 * slots; the others are 0 or 1. is_full: some group fills a batch (all that is queued of it
 * does not fit one, or fills it exactly; a record that must run alone fills one), or
 * is_bounded: the queue can take no more (see tb_form()). */
struct tb_queue {
    double total_cost;
    uint32_t size, idle_slots;
    uint32_t is_full, is_due, is_draining, is_bounded;
};
typedef struct tb_queue tb_queue;

/* Begin a choice, and describe the queue in *out. TB_ENOMEM (first use, or the queue has
 * grown): no choice has begun. O(1) when records have left at the head of the queue only;
 * otherwise O(records behind the first that left elsewhere). 12 bytes a slot. */
int tb_choose(tb_batcher *b, tb_queue *out, int64_t now_us);

/* What tb_choose_add() answers, 1 or why not.
 *
 *   TB_ADD_BUDGET  it does not fit the budget, the limit or max_batch_size
 *   TB_ADD_IN      it is in; already there: nothing changes
 *   TB_ADD_GROUP   it is of another group than those that are in
 *   TB_ADD_ALONE   it, or the one that is in, runs alone
 */
enum tb_add { TB_ADD_BUDGET, TB_ADD_IN, TB_ADD_GROUP, TB_ADD_ALONE };

/* Name a record: enum tb_add, or TB_ENOENT: no such position. The first call puts in, ahead of
 * it and oldest first, the records that have waited max_wait_s and may share the batch of the
 * oldest; if tb_choose_limit() leaves the first of them no room, no record is in. */
int tb_choose_add(tb_batcher *b, double position);

/* Lower the budget for this choice; from the next tb_choose_add() on, nothing makes the
 * batch cost more, a single record above target_batch_cost included. A limit that is
 * higher than an earlier one, or no number, changes nothing. */
void tb_choose_limit(tb_batcher *b, double tokens);

/* cost, sum, largest, padded and size of what is chosen so far; the other fields are 0. */
void tb_choose_read(const tb_batcher *b, tb_batch *out);

/* The budget of this choice: target_batch_cost, or a lower limit. */
double tb_choose_budget(const tb_batcher *b);

/* The chosen records run, in the order named: the batch. 0: none was. The choice is over.
 * O(records chosen), x O(log n) with views. */
tb_id tb_choose_end(tb_batcher *b);

/* Begin again: nobody is named, and tb_choose_limit() was not called. */
void tb_choose_reset(tb_batcher *b);

/* The choice is over, and nothing was chosen. */
void tb_choose_abandon(tb_batcher *b);

/* A queued record: its id, cost, priority, microseconds since the call of its producer, deadline
 * (or TB_NEVER_US), key and group. Doubles, which Lua reads without allocating. */
struct tb_look_at {
    tb_id id;
    double cost, priority, age_us, deadline_us, key, group;
};
typedef struct tb_look_at tb_look_at;

/* The record at a position. TB_ENOENT: there is none; *out is unchanged. */
int tb_look(const tb_batcher *b, double position, tb_look_at *out);

/* Its cost alone. TB_ENOENT: there is none (a cost is never negative). */
double tb_look_cost(const tb_batcher *b, double position);

/* The queue in other orders, ties by arrival:
 *
 *   TB_VIEW_COST      smallest first
 *   TB_VIEW_DEADLINE  earliest first, records without one last
 *   TB_VIEW_PRIORITY  by priority + age / aging, highest first; aging 0: age does not count
 *   TB_VIEW_KEYS      by key
 *   TB_VIEW_GROUPS    by group
 */
enum tb_view_kind { TB_VIEW_COST, TB_VIEW_DEADLINE, TB_VIEW_PRIORITY, TB_VIEW_KEYS, TB_VIEW_GROUPS };

/* Keep a view from now on, until tb_views_close(), or tb_set() to a policy of the core's own. The
 * policy is TB_POLICY_SCRIPT (otherwise misuse). `view` is an enum tb_view_kind and `aging_us` >= 0
 * (it matters to TB_VIEW_PRIORITY only); others are misuse. May be called within a choice.
 * TB_ENOMEM: the view is not open. First use, or another aging: O(n log n); afterwards O(1), and
 * every record that comes or goes costs O(log n). 16 bytes a slot, 8 for keys or groups. The core
 * itself keeps the view by group while a script decides over records that have groups. */
int tb_view_open(tb_batcher *b, uint32_t view, int64_t aging_us);

/* Forget all views, and their memory. Not within a choice. */
void tb_views_close(tb_batcher *b);

/* The first position in the order of a view; 0: the queue is empty, or the view is not
 * open. TB_VIEW_KEYS and _GROUPS are misuse, here and in the next two. */
uint32_t tb_view_first(const tb_batcher *b, uint32_t view);

/* The position after `position`; what follows 0 is the first. 0: the end. O(1) on average. */
uint32_t tb_view_next(const tb_batcher *b, uint32_t view, uint32_t position);

/* The position before `position`. 0: it is the first, or there is no such position. */
uint32_t tb_view_previous(const tb_batcher *b, uint32_t view, uint32_t position);

/* With the view by cost: the first to arrive of those that cost as much as this one. 0: the
 * view is not open, or there is no such position. O(log n). */
uint32_t tb_view_alike(const tb_batcher *b, uint32_t position);

/* Keys that have queued records, in the order in which they got their first one.
 * TB_NEVER_US: there is none, or the view by key is not open. */
double tb_keys_first(const tb_batcher *b);

/* The key after `key`. TB_NEVER_US: the end. */
double tb_keys_next(const tb_batcher *b, uint32_t key);

/* The position of a key's oldest queued record. 0: it has none. */
uint32_t tb_key_first(const tb_batcher *b, uint32_t key);

/* The position of the next record, by arrival, of the key of the one at `position`. 0: the
 * end. */
uint32_t tb_key_next(const tb_batcher *b, uint32_t position);

/* The same four for groups; group 0 is that of the records without one. */
double tb_groups_first(const tb_batcher *b);
double tb_groups_next(const tb_batcher *b, uint32_t group);
uint32_t tb_group_first(const tb_batcher *b, uint32_t group);
uint32_t tb_group_next(const tb_batcher *b, uint32_t position);

/* With the view by group: does this group fill a batch (see struct tb_queue)? 1 or 0. O(1),
 * O(max_batch_size) at times with the padded cost model. */
int tb_group_full(tb_batcher *b, uint32_t group);

/* With the view by group: would the queue be due if it held this group alone? 1 or 0. O(1), but
 * for records at its head with a linger of their own. */
int tb_group_due(tb_batcher *b, uint32_t group);

/* --- Statistics ----------------------------------------------------------- */

/* A distribution; percentiles within 3 %, mean and max exact. All 0 while count is 0. */
struct tb_summary {
    double count, mean, p50, p90, p99, max;
};
typedef struct tb_summary tb_summary;

/* Counters are whole numbers; they and the times add up over restarts. At every
 * moment total_submitted = queue_size + prefetched_records + running_records +
 * total_completed + total_failed + total_cancelled + total_expired.
 *
 *   total_submitted      records accepted: queued at once, or let in from the line
 *   total_completed ...  how those ended
 *   total_rejected       refusals: TB_EFULL, TB_EOVERSIZE, TB_ETOOLARGE, TB_EVENT_REFUSED,
 *                        tb_refuse()
 *   total_oversize       batches of a single record above the budget
 *   total_batches ...    batches formed, their records, their cost
 *   queue_size ...       what is queued: records, cost; calls that wait in line
 *   prefetched_batches ...  what is cut ahead, what runs
 *   busy_us, idle_us     slot-microseconds while not stopped; a slot held by an abandoned call
 *                        is busy
 *   oldest_queued_us     since the call of the producer of the oldest record that is not
 *                        dispatched, in line included; 0: none
 *   oldest_running_us    since the oldest batch that runs was formed; 0: none
 *   abandoned_calls      that go on after their batch has timed out or was stopped
 *   padded_cost ...      over all batches, number x largest and sum; their ratio is
 *                        padding_ratio
 *   dispatched           batches by enum tb_reason
 *   wait_us              from the call of the producer to dispatch
 *   service_us           of batches, from dispatch to their end
 *   latency_us           of completed records, from the call of the producer to their end
 *   batch_size ...       records, and cost, of a batch
 */
struct tb_stats {
    double total_submitted, total_completed, total_failed, total_cancelled, total_expired;
    double total_rejected, total_oversize;
    double total_batches, total_batch_records, total_batch_cost;
    double queue_size, queue_cost, waiting_submits;
    double prefetched_batches, prefetched_records, running_batches, running_records;
    double busy_us, idle_us;
    double padded_cost, sum_cost;
    double dispatched[TB_REASONS];
    tb_summary wait_us, service_us, latency_us, batch_size, batch_cost;
    double oldest_queued_us, oldest_running_us, abandoned_calls;
};
typedef struct tb_stats tb_stats;

/* All of it as of `now_us`. In any state. O(max_concurrent_batches), and some microseconds: percentiles are
 * looked up in five histograms. */
void tb_stats_read(tb_batcher *b, tb_stats *out, int64_t now_us);

/* The distributions of struct tb_stats. */
enum tb_histogram_kind { TB_OF_WAIT, TB_OF_SERVICE, TB_OF_LATENCY, TB_OF_BATCH_SIZE, TB_OF_BATCH_COST };

/* How many values were at most `value` (microseconds, records or tokens; never fewer, but
 * those up to 3 % above may count, too): the buckets of a metrics page. `histogram` is an
 * enum tb_histogram_kind, or it is misuse. */
double tb_stats_at_most(const tb_batcher *b, uint32_t histogram, double value);

/* The exact sum of all values. Likewise. */
double tb_stats_sum(const tb_batcher *b, uint32_t histogram);

/* Checks every invariant of the state, the conservation identity included.
 * NULL if all hold, else a sentence (static) naming the broken one: a bug of ours.
 * O(slots), for tests. Not within a choice. */
const char *tb_verify(const tb_batcher *b);

/* Bytes allocated by this batcher, itself included. */
size_t tb_memory(const tb_batcher *b);

#ifndef TB_CDEF
#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
#endif
