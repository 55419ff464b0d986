/* engine.c - see engine.h and the public header. */
#include "engine.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWERS_AT_ONCE = 256 };

static const char FREED[] = "the engine is freed";
static const char BENEATH[] = "the engine was called from beneath its own script";

/* --- calling back ------------------------------------------------------- */

static void call_back(tb_engine *engine, const tb_engine_result *result)
{
    struct tb__callback slot;
    if (tb__callback_take(&engine->callbacks, result->id, &slot) && slot.callback) {
        slot.callback(engine, result, slot.user);
    }
}

static void call_back_with(tb_engine *engine, int64_t id, const char *code, const char *message)
{
    tb_engine_result result = {.id = id, .code = code, .message = message};
    call_back(engine, &result);
}

/* What a callback submits or cancels does not touch the answers taken here. */
static void deliver(tb_engine *engine)
{
    uint32_t n;
    while ((n = tb__bridge_take(engine, ANSWERS_AT_ONCE)) > 0) {
        for (uint32_t i = 0; i < n; i++) {
            tb_engine_result result;
            tb__bridge_answer(engine, i, &result);
            call_back(engine, &result);
            assert(engine->depth > 0); /* or a callback has freed us beneath ourselves */
        }
    }
    while (engine->lost) {
        struct tb__posted *post = engine->lost;
        engine->lost = post->next;
        call_back_with(engine, post->id, "inference_failed", "Lua failed to take the record in");
        free(post);
    }
}

/* Posts become records of the script's. Calls nobody back. */
static void hand_in_posts(tb_engine *engine)
{
    struct tb__posted *next;
    for (struct tb__posted *post = tb__posts_take(&engine->callbacks); post; post = next) {
        next = post->next;
        struct tb__input record = {post->id, post->submitted_us, post->bytes, post->size,
                                        &post->options};
        if (tb__bridge_submit(engine, &record) == TB_OK) {
            free(post);
        } else {
            post->next = engine->lost;
            engine->lost = post;
        }
    }
}

static void refuse_posts(tb_engine *engine)
{
    struct tb__posted *next;
    for (struct tb__posted *post = tb__posts_take(&engine->callbacks); post; post = next) {
        next = post->next;
        call_back_with(engine, post->id, "stopped", FREED);
        free(post);
    }
}

static void call_stopped(tb_engine *engine)
{
    struct tb__stop *stop = engine->stops;
    while (stop) {
        engine->stops = stop->next;
        if (!stop->next) engine->stops_end = &engine->stops;
        if (stop->callback) stop->callback(engine, stop->user);
        free(stop);
        stop = engine->stops;
    }
}

/* --- life --------------------------------------------------------------- */

static void release(tb_engine *engine)
{
    tb__bridge_close(engine);
    tb__callbacks_close(&engine->callbacks);
    free(engine);
}

static void destroy(tb_engine *engine)
{
    assert(engine->is_dying);
    assert(engine->depth == 0 && !engine->in_lua);
    engine->depth++;
    tb__watch_stop(engine);
    refuse_posts(engine);
    tb__bridge_abandon(engine);
    deliver(engine);
    int64_t id;
    while ((id = tb__callback_any(&engine->callbacks)) != 0) {
        call_back_with(engine, id, "stopped", FREED);
    }
    call_stopped(engine);
    assert(engine->depth == 1);
    assert(!engine->lost && !engine->stops);
    release(engine);
}

static void leave(tb_engine *engine)
{
    assert(engine->depth > 0);
    if (--engine->depth == 0 && engine->is_dying) destroy(engine);
}

/* A callback that runs the loop finds us at rest. */
static void turn(tb_engine *engine)
{
    if (engine->depth > 0) return;
    engine->depth++;
    hand_in_posts(engine);
    if (tb__bridge_turn(engine) > 0 || engine->lost) deliver(engine);
    if (engine->is_stopped && !engine->is_dying) {
        call_stopped(engine);
        if (!engine->is_dying) tb__watch_stop(engine);
    }
    leave(engine);
}

/* For a caller who may want no sentence. */
static void tell(char *err, size_t err_size, const char *text)
{
    if (err) snprintf(err, err_size, "%s", text);
}

int tb_engine_new(tb_engine **out, struct ev_loop *loop, const char *script, char *err,
                  size_t err_size)
{
    return tb_engine_new_with(out, loop, script, NULL, 0, err, err_size);
}

int tb_engine_new_with(tb_engine **out, struct ev_loop *loop, const char *script,
                       const tb_engine_option *options, size_t count, char *err, size_t err_size)
{
    assert(out);
    assert(loop);
    assert(script);
    assert(options || count == 0);
    *out = NULL;
    tell(err, err_size, "");
    tb_engine *engine = calloc(1, sizeof *engine);
    if (!engine || !tb__callbacks_open(&engine->callbacks)) {
        free(engine);
        tell(err, err_size, "out of memory");
        return TB_ENOMEM;
    }
    engine->loop = loop;
    engine->turn = turn;
    engine->stops_end = &engine->stops;
    int error = tb__bridge_open(engine, script, (struct tb__settings){options, count});
    if (error) {
        tell(err, err_size, engine->message);
        release(engine);
        return error;
    }
    tb__watch_start(engine);
    *out = engine;
    return TB_OK;
}

void tb_engine_free(tb_engine *engine)
{
    if (!engine) return;
    assert(engine->depth > 0 || !engine->is_dying); /* twice is misuse, but within a callback */
    tb__callbacks_shut(&engine->callbacks);
    engine->is_dying = true;
    if (engine->depth == 0) destroy(engine);
}

/* --- the public calls --------------------------------------------------- */

static int fail(tb_engine *engine, int error, const char *text)
{
    snprintf(engine->message, sizeof engine->message, "%s", text);
    return error;
}

static int busy(tb_engine *engine)
{
    assert(engine->depth > 0); /* a frame of ours is above the script */
    return fail(engine, TB_ENGINE_EBUSY, BENEATH);
}

int64_t tb_engine_submit(tb_engine *engine, const void *bytes, size_t size,
                         const tb_submit_options *options, tb_engine_callback *callback,
                         void *user)
{
    assert(engine);
    assert(bytes || size == 0);
    if (engine->in_lua) return busy(engine);
    tb_submit_options known;
    int error = tb__options_read(options, &known);
    if (error) return fail(engine, error, tb_error_text(error));
    int64_t id = tb__callback_add(&engine->callbacks, callback, user);
    if (id < 0) return fail(engine, (int)id, tb_error_text((int)id));
    engine->depth++;
    struct tb__input record = {id, 0, bytes, size, &known};
    error = tb__bridge_submit(engine, &record);
    struct tb__callback unused;
    if (error) tb__callback_take(&engine->callbacks, id, &unused);
    leave(engine);
    return error ? error : id;
}

int tb_engine_cancel(tb_engine *engine, int64_t id)
{
    assert(engine);
    if (engine->in_lua) return busy(engine);
    engine->depth++;
    hand_in_posts(engine);
    bool is_done = tb__bridge_cancel(engine, id);
    if (!is_done) fail(engine, TB_ENOENT, tb_error_text(TB_ENOENT));
    if (engine->lost) tb__watch_poke(engine);
    leave(engine);
    return is_done ? TB_OK : TB_ENOENT;
}

/* What was posted before still counts. The turn that ends it may be over already. */
static int begin_stop(tb_engine *engine, double timeout_s)
{
    tb__callbacks_shut(&engine->callbacks);
    hand_in_posts(engine);
    int error = tb__bridge_stop(engine, timeout_s);
    if (!error && !engine->is_dying) {
        tb__watch_start(engine);
        tb__watch_poke(engine);
    }
    return error;
}

int tb_engine_stop(tb_engine *engine, double timeout_s, tb_engine_stopped *callback, void *user)
{
    assert(engine);
    if (engine->in_lua) return busy(engine);
    if (engine->is_dying) return fail(engine, TB_ENOTRUNNING, FREED);
    if (isnan(timeout_s)) return fail(engine, TB_ETIMEOUT, "timeout_s is not a number");
    struct tb__stop *stop = malloc(sizeof *stop);
    if (!stop) return fail(engine, TB_ENOMEM, tb_error_text(TB_ENOMEM));
    *stop = (struct tb__stop){NULL, callback, user};
    engine->depth++;
    int error = begin_stop(engine, timeout_s);
    if (error) {
        free(stop);
    } else {
        *engine->stops_end = stop;
        engine->stops_end = &stop->next;
    }
    leave(engine);
    return error;
}

int tb_engine_set(tb_engine *engine, const tb_engine_option *options, size_t count, char *err,
                  size_t err_size)
{
    assert(engine);
    assert(options || count == 0);
    if (engine->in_lua) {
        tell(err, err_size, BENEATH);
        return busy(engine);
    }
    engine->depth++;
    int error = tb__bridge_set(engine, (struct tb__settings){options, count});
    tell(err, err_size, error ? engine->message : "");
    leave(engine);
    return error;
}

int tb_engine_listen(tb_engine *engine, const char *address, char *err, size_t err_size)
{
    assert(engine);
    assert(address);
    if (engine->in_lua) {
        tell(err, err_size, BENEATH);
        return busy(engine);
    }
    engine->depth++;
    int error = tb__bridge_listen(engine, address);
    tell(err, err_size, error ? engine->message : "");
    leave(engine);
    return error;
}

const char *tb_engine_address(const tb_engine *engine)
{
    assert(engine);
    return engine->address;
}

int tb_engine_stats(tb_engine *engine, tb_engine_numbers *out, size_t size)
{
    assert(engine);
    assert(out || size == 0);
    if (engine->in_lua) return busy(engine);
    tb_engine_numbers numbers = {0};
    engine->depth++;
    int error = tb__bridge_stats(engine, &numbers);
    tb__callbacks_count(&engine->callbacks, &numbers.inbox, &numbers.unanswered);
    if (!error) memcpy(out, &numbers, size < sizeof numbers ? size : sizeof numbers);
    leave(engine);
    return error;
}

const char *tb_engine_message(const tb_engine *engine)
{
    assert(engine);
    return engine->message;
}

void tb_engine_set_log(tb_engine *engine, tb_engine_log *callback, void *user)
{
    assert(engine);
    engine->log = callback;
    engine->log_user = user;
}
