/* test_engine.h - what the tests of the engine share: a script from a text, a loop that
 * runs until what is expected has come, and callbacks that note what they were told.
 */
#ifndef TEST_ENGINE_H
#define TEST_ENGINE_H

#include "tokenbatcher_engine.h"

#include <ev.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { HANGS_AFTER_S = 120, NOTES = 64, TEXT = 512 };

#define ECHO "inference_fn = function(r) local out = {} " \
             "for i = 1, #r do out[i] = r[i] end return out end,"

/* What callbacks have told, in order. */
struct note {
    int64_t id;
    char data[TEXT], code[TEXT], message[TEXT], traceback[4 * TEXT];
    size_t size;
};
struct notes {
    struct note list[NOTES];
    int results, stops;
    int stopped_after; /* results, when the first stop was told */
    bool owns;         /* the engine is freed by the callback of the stop */
};

static inline void copy_text(char *to, size_t size, const char *text)
{
    snprintf(to, size, "%s", text ? text : "");
}

static inline void on_result(tb_engine *engine, const tb_engine_result *result, void *user)
{
    struct notes *notes = user;
    (void)engine;
    assert_true(notes->results < NOTES);
    struct note *note = &notes->list[notes->results++];
    note->id = result->id;
    note->size = result->size;
    assert_true((result->data != NULL) != (result->code != NULL));
    if (result->data) {
        assert_true(result->size < TEXT);
        memcpy(note->data, result->data, result->size + 1);
    }
    copy_text(note->code, TEXT, result->code);
    copy_text(note->message, TEXT, result->message);
    copy_text(note->traceback, sizeof note->traceback, result->traceback);
}

static inline void on_stopped(tb_engine *engine, void *user)
{
    struct notes *notes = user;
    if (notes->stops++ == 0) notes->stopped_after = notes->results;
    if (notes->owns) tb_engine_free(engine);
}

/* --- scripts ------------------------------------------------------------- */

/* The path of a new file that returns a table with `fields`; unlink() it. */
static inline char *script_file(const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/tb_engine_XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "w");
    fputs(text, file);
    fclose(file);
    return path;
}

static inline int try_engine(tb_engine **engine, struct ev_loop *loop, const char *text, char *err)
{
    char *path = script_file(text);
    int error = tb_engine_new(engine, loop, path, err, TEXT);
    unlink(path);
    return error;
}

/* An engine on `loop` whose script is `return { fields }`. */
static inline tb_engine *engine_on(struct ev_loop *loop, const char *fields)
{
    char text[8192], err[TEXT];
    tb_engine *engine;
    snprintf(text, sizeof text, "local tb = require 'tokenbatcher'\nreturn { %s }\n", fields);
    if (try_engine(&engine, loop, text, err) != TB_OK) fail_msg("%s", err);
    return engine;
}

/* --- running ------------------------------------------------------------- */

static inline void run_until(struct ev_loop *loop, const int *count, int expected)
{
    while (*count < expected) ev_run(loop, EVRUN_ONCE);
    assert_int_equal(*count, expected);
}

static inline int64_t submit(tb_engine *engine, const char *text, const tb_submit_options *options,
                             struct notes *notes)
{
    return tb_engine_submit(engine, text, strlen(text), options, on_result, notes);
}

static inline int64_t must_submit(tb_engine *engine, const char *text, struct notes *notes)
{
    int64_t id = submit(engine, text, NULL, notes);
    if (id <= 0) fail_msg("%s", tb_engine_message(engine));
    return id;
}

static inline void assert_contains(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("'%s' is not in: %s", part, text);
}

static inline double unanswered(tb_engine *engine)
{
    tb_engine_numbers numbers;
    assert_int_equal(tb_engine_stats(engine, &numbers, sizeof numbers), TB_OK);
    return numbers.unanswered;
}

/* A loop and room for notes; each test frees its engines. */
struct rig {
    struct ev_loop *loop;
    struct notes notes;
};

static inline int set_up(void **state)
{
    struct rig *rig = calloc(1, sizeof *rig);
    if (!rig) return -1;
    rig->loop = ev_loop_new(EVFLAG_AUTO);
    *state = rig;
    return rig->loop ? 0 : -1;
}

static inline int tear_down(void **state)
{
    struct rig *rig = *state;
    ev_loop_destroy(rig->loop);
    free(rig);
    return 0;
}

#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

#endif
