/* drive.h - random operations on a batcher and a model at once.
 *
 * Where the randomness comes from is the caller's business: a generator with a
 * seed (test_model.c) or the bytes of a fuzzer (fuzz_core.c). After each
 * operation the two must agree; if not, the last operations are printed and the
 * program aborts.
 */
#ifndef TB_TEST_DRIVE_H
#define TB_TEST_DRIVE_H

#include "model.h"

enum { DRIVE_DEAD = 32, DRIVE_LOG = 40, DRIVE_LINE = 160, DRIVE_KINDS = 8, DRIVE_ERRORS = 14 };

/* How often what happened, to see that a run has been everywhere. */
typedef struct drive_seen {
    double events[DRIVE_KINDS];              /* by enum tb_event_kind */
    double reasons[TB_REASONS];              /* by enum tb_reason */
    double submit_errors[DRIVE_ERRORS];      /* by -error */
    double plain_answers[DRIVE_ERRORS];      /* by -error; of tb_submit_plain() */
    double check_errors[DRIVE_ERRORS];       /* by -error */
    double cancelled[TB_RECORD_RUNNING + 1]; /* by enum tb_record_state */
    double held, ended, lone, groups, own; /* of R5, R7, F1, F3 */
    double cuts, dissolved, oversize, late_turns, needless_turns, drained_by_abandoning;
} drive_seen;

typedef struct drive {
    tb_batcher *b;
    model m;
    int64_t now_us;
    uint32_t (*draw)(void *source, uint32_t below); /* 0 .. below - 1 */
    void *source;
    const char *label; /* printed on failure: how to run this again */
    uint32_t patience; /* of 4 submissions, so many may wait */
    uint32_t groups;   /* that submissions are drawn from; 1: none */
    int has_own;       /* records have lingers of their own */
    tb_id dead[DRIVE_DEAD];
    uint32_t dead_count;
    int polled_all; /* the last tb_poll() had less than its maximum */
    char log[DRIVE_LOG][DRIVE_LINE];
    uint32_t log_count;
    drive_seen seen;
} drive;

/* Small settings, so that every bound is met often. */
void drive_draw_config(drive *d, tb_config *config);

/* Set draw, source, label and patience before. */
void drive_begin(drive *d, const tb_config *config);
void drive_step(drive *d);
void drive_end(drive *d);

/* Shared by drive.c and drive_check.c. */
uint32_t drive_draw(drive *d, uint32_t below);
void drive_note(drive *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void drive_fail(drive *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
void drive_compare(drive *d);
void drive_check_batch(drive *d, tb_id batch, uint32_t size, uint32_t reason);
int drive_poll(drive *d);
int drive_form(drive *d);
void drive_turn(drive *d);

#define DRIVE_CHECK(d, condition, ...)                  \
    do {                                                \
        if (!(condition)) drive_fail((d), __VA_ARGS__); \
    } while (0)

#endif
