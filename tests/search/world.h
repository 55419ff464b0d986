/* world.h - a state of the core that can be put aside and gone back to.
 *
 * The exhaustive search takes the core's own state (core.h) by copying the struct and what it points to, and beside
 * it that of the plain model of tests/src/core, which says what the core must do. Nothing of it is copied that
 * decides nothing: no histogram, no slot that was never used.
 *
 * Two states are one if nothing can tell them apart from here on: records are known by their places in the line, in
 * the queue and in batches, not by slots and ids; times count from now, and no further than any timeout reaches.
 */
#ifndef TB_SEARCH_WORLD_H
#define TB_SEARCH_WORLD_H

#include "core.h"
#include "drive.h"

/* Once WORLD_CALLS calls are abandoned no poll may abandon one more. */
enum { WORLD_RECORDS = 4, WORLD_BATCHES = 3, WORLD_CALLS = 2, WORLD_KINDS = 4, WORLD_SETTINGS = 2 };

/* A configuration: what there is to submit, and settings among which `set` goes round. Times are in steps. */
typedef struct {
    const char *name;
    tb_submission kinds[WORLD_KINDS];
    uint32_t kind_count;
    tb_config settings[WORLD_SETTINGS];
    uint32_t setting_count;
    uint32_t records;  /* that live at once, at most */
    uint32_t lone_key; /* its records run alone at times; 0: none */
    int has_flush, has_stop, has_settle;
} plan;

typedef struct {
    drive d;
    const plan *plan;
    uint32_t setting;
    uint32_t last_generation[WORLD_RECORDS]; /* by slot: no id twice */
} world;

/* A batcher, started, that has grown all the memory that the plan needs. */
void world_begin(world *w, const plan *p);
void world_end(world *w);

enum { WORLD_BYTES_MAX = 8192 };

/* The number of bytes written to `out`, at most WORLD_BYTES_MAX. */
size_t world_save(const world *w, char *out);
void world_restore(world *w, const char *saved);

/* What tells states apart; the number of bytes. */
size_t world_form(const world *w, char *out);

/* --- steps.c: what can be done to it ------------------------------------------ */

enum { STEPS_MAX = 96, STEP_TEXT = 96 };

/* All that can be done now, as numbers. */
uint32_t steps_of(const world *w, uint16_t *out);
/* Do it, and check what it did. A fault aborts, as in drive.h. */
void step_do(world *w, uint16_t step);
/* "submit 1, which may wait" */
void step_name(const world *w, uint16_t step, char *out);
/* What holds in every state. */
void step_check(world *w);
/* Whatever happened: stopped and turned, all that is left settles. The world is not the same afterwards. */
void step_drain(world *w);

#endif
