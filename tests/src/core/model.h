/* model.h - the rules of the core once more, in the plainest words.
 *
 * Records lie in one array in order of arrival; everything is found by looking
 * at all of them. A random test does the same to a batcher and to a model and
 * compares. What the contract leaves open (which of two records that are both past
 * their deadline is reported first) the model does not decide: it is told what the
 * core did and says whether that was right.
 */
#ifndef TB_TEST_MODEL_H
#define TB_TEST_MODEL_H

#include "tokenbatcher.h"

enum { MODEL_RECORDS = 512, MODEL_BATCHES = 16, MODEL_KEYS = 4, MODEL_CALLS = 64 };

typedef struct model_record {
    tb_id id;
    tb_id batch; /* while it runs */
    double cost;
    int64_t submitted_us, timeout_us, deadline_us;
    int64_t linger_us; /* of its own; 0: none */
    int state;         /* enum tb_record_state */
    uint32_t flags, key, group;
    int flushed;
} model_record;

typedef struct model_batch {
    tb_id id;
    int64_t started_us, inference_timeout_us, times_out_us;
    uint32_t cost_model;
} model_batch;

/* R5: a call that goes on after its batch. */
typedef struct model_call {
    tb_id id;
    int64_t until_us;
    int is_held;
} model_call;

/* What is exact in a histogram. */
typedef struct model_tally {
    double count, sum, max;
} model_tally;

typedef struct model {
    tb_config config;
    int state; /* enum tb_state */
    int64_t now_us, stop_us, last_submitted_us;
    model_record records[MODEL_RECORDS]; /* running, cut, queued, waiting: always so */
    uint32_t record_count;
    model_batch batches[MODEL_BATCHES];
    uint32_t batch_count, cut_batches;
    model_call calls[MODEL_CALLS]; /* in the order in which they were abandoned */
    uint32_t call_count;
    int lone[MODEL_KEYS]; /* R7, by key */
    int was_refused;      /* F2: someone, for room, since the last dispatch */
    int cuts_stale; /* a record behind or in the cuts is gone: form will cut anew */
    tb_stats stats; /* the counters; model_stats() adds what is derived */
    model_tally wait, service, latency, batch_size, batch_cost;
} model;

void model_init(model *m, const tb_config *config);
void model_clock(model *m, int64_t now_us);

int model_start(model *m, int64_t now_us);
void model_stop(model *m, int64_t timeout_us, int64_t now_us);
void model_flush(model *m, int64_t now_us);
void model_set(model *m, const tb_config *config, int64_t now_us);

/* Each returns what the core must have answered. `id` is the core's. */
int model_submit(model *m, const tb_submission *s, tb_id id, int64_t now_us);
/* Of cost alone; a refusal counts nothing. */
int model_submit_plain(model *m, double cost, tb_id id, int64_t now_us);
int model_submit_check(model *m, const double *costs, uint32_t n, uint32_t flags,
                       uint32_t *culprit);
int model_cancel(model *m, tb_id id, int64_t now_us);
int model_settle(model *m, tb_id id, int outcome, int64_t now_us);
int model_finish(model *m, tb_id batch, int outcome, int64_t now_us);
int model_retry(model *m, tb_id batch, int64_t now_us);
int model_half(model *m, tb_id batch, const tb_id *ids, uint32_t n, tb_batch *out, int64_t now_us);
int model_call_ended(model *m, tb_id batch, int64_t now_us);
void model_excuse(model *m, int64_t us);
void model_key_alone(model *m, uint32_t key, int on, int64_t now_us);
/* The call of a batch that has just ended goes on. */
void model_abandon(model *m, tb_id batch, int may_hold);
/* How many may go on without a slot has changed, or how many do. */
void model_review_calls(model *m);
/* tb_poll() begins: slots held for long enough are free. */
void model_release(model *m);

/* Do what the core reported. NULL, or what is wrong with it. */
const char *model_event(model *m, const tb_event *event, int64_t now_us);

/* That batch goes. *out is what tb_batch_read() must tell. */
void model_dispatch(model *m, uint32_t size, uint32_t reason, tb_id id, tb_batch *out);
/* tb_form() had nothing to send. */
void model_cut(model *m);
/* tb_poll() cuts, too, if the first in line has no room: cutting makes some. */
void model_make_room(model *m);
/* Cut records become queued ones. */
void model_dissolve(model *m);

/* --- Questions: model_look.c -------------------------------------------- */

/* Kind of event that tb_poll() must report next; 0 if none. */
uint32_t model_pending(const model *m);
/* Size of the batch that must go now, and why; 0 if none does. */
uint32_t model_decide(const model *m, uint32_t *reason);
/* F4: how many records the cuts should hold, and in how many batches. */
uint32_t model_plan_cuts(const model *m, uint32_t *batches);
/* The earliest time at which there is something to do; TB_NEVER_US if never. */
int64_t model_next(const model *m);
void model_stats(const model *m, tb_stats *out);

/* Sums and minima that stop at "never". */
static const int64_t model_forever = INT64_MAX;
int64_t model_later(int64_t from_us, int64_t by_us);
int64_t model_earlier(int64_t a_us, int64_t b_us);

int model_in_line(const model_record *r);
uint32_t model_count_state(const model *m, int state);
double model_queue_cost(const model *m);
/* Indices; the count if there is none. */
uint32_t model_first_in(const model *m, int state);
uint32_t model_first_unsent(const model *m);
uint32_t model_find_record(const model *m, tb_id id);
uint32_t model_find_batch(const model *m, tb_id id);
uint32_t model_held(const model *m);
int64_t model_lingers_until(const model *m, const model_record *r);
int model_has_room(const model *m, double size, double sum, double cost);
double model_batch_cost(const model *m, double size, double sum, double largest);
int64_t model_next_deadline(const model *m);
int64_t model_next_batch_timeout(const model *m);

#endif
