/* rig.h - a batcher in virtual time, for tests that read as stories.
 *
 * The test is the pump: turn() does what a pump does and keeps what it learned.
 * The clock starts at 10,000 s: zero would hide a time that was never set.
 */
#ifndef TB_TEST_RIG_H
#define TB_TEST_RIG_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tokenbatcher.h"

enum { RIG_EVENTS = 4096, RIG_BATCHES = 256, RIG_RECORDS = 4096 };

typedef struct rig {
    tb_batcher *b;
    int64_t now_us;
    tb_event events[RIG_EVENTS]; /* of the last turn */
    uint32_t event_count;
    tb_id batches[RIG_BATCHES]; /* dispatched in the last turn */
    uint32_t batch_count;
} rig;

/* Defaults, but a budget of 100, batches of 4, no prefetching, lingering 1,000 us. */
tb_config small_config(void);

/* New and started, at 10,000 s. There is one rig; a test that fails leaves it to the next. */
rig *rig_start(const tb_config *config);
void rig_end(rig *r);

tb_id submit(rig *r, tb_submission record);
tb_id submit_cost(rig *r, double cost);
tb_id submit_waiting(rig *r, double cost); /* TB_MAY_WAIT */
tb_id submit_timeout(rig *r, double cost, int64_t timeout_us);
/* A batch of one record that runs from now on: the slot is taken. One turn. */
tb_id occupy(rig *r);
void submit_many(rig *r, uint32_t n, double cost);

/* One complete turn; how many batches went. Checks what holds after every turn. */
uint32_t turn(rig *r);
uint32_t turn_at(rig *r, int64_t now_us);
/* Turns until tb_next() has nothing up to this time. */
uint32_t turns_until(rig *r, int64_t now_us);

uint32_t event_count(const rig *r, uint32_t kind);
tb_stats stats(rig *r);
tb_batch batch_of(rig *r, tb_id batch);
void finish(rig *r, tb_id batch);
void set(rig *r, const tb_config *config);

/* The batch holds exactly these records, in this order. Ends with 0. */
void assert_batch(rig *r, tb_id batch, ...);
/* The last turn dispatched this many batches, the first for this reason. */
void assert_went(const rig *r, uint32_t batches, uint32_t reason);
void assert_state(rig *r, tb_id record, int state);
void assert_event(const rig *r, uint32_t index, uint32_t kind, tb_id id);

#define TEST(sentence, function)             \
    {                                        \
        sentence, function, NULL, NULL, NULL \
    }

#endif
