/* callbacks.c - who is to be called back, by id; and records of other threads on their way
 * to the loop's. See engine.h. The lock is held for a few assignments, and never across a
 * call into Lua, a callback or the wake-up of the loop. */
#include "engine.h"

#include "../base/clock.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

bool tb__callbacks_open(struct tb__callbacks *callbacks)
{
    tb__slots_open(&callbacks->waiting, sizeof(struct tb__callback), TB_SLOT_BITS);
    return pthread_mutex_init(&callbacks->lock, NULL) == 0;
}

void tb__callbacks_close(struct tb__callbacks *callbacks)
{
    pthread_mutex_destroy(&callbacks->lock);
    assert(!callbacks->first);
    tb__slots_close(&callbacks->waiting);
}

/* Of the struct when it got its size; later fields follow these. */
enum { FIRST_SIZE = offsetof(tb_submit_options, batch_timeout_s) + sizeof(double) };

static bool is_zero(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i]) return false;
    }
    return true;
}

int tb__options_read(const tb_submit_options *given, tb_submit_options *out)
{
    *out = (tb_submit_options){.size = sizeof *out};
    if (!given) return TB_OK;
    size_t size = given->size ? given->size : FIRST_SIZE;
    if (size < FIRST_SIZE) return TB_EOPTION;
    if (size > sizeof *out) {
        if (!is_zero((const char *)given + sizeof *out, size - sizeof *out)) return TB_EOPTION;
        size = sizeof *out;
    }
    memcpy(out, given, size);
    out->size = sizeof *out;
    if (!(out->estimated_tokens >= 0 && out->estimated_tokens <= TB_COST_MAX)) return TB_ECOST;
    if (!(out->timeout_s >= 0 && out->batch_timeout_s >= 0)) return TB_ETIMEOUT;
    return out->priority == out->priority ? TB_OK : TB_ERECORD;
}

/* Under the lock. */
static int64_t add(struct tb__callbacks *callbacks, tb_engine_callback *callback, void *user)
{
    if (callbacks->is_closed) return TB_ENOTRUNNING;
    struct tb__callback *slot = tb__slots_take(&callbacks->waiting);
    if (!slot) return TB_ENOMEM;
    slot->callback = callback;
    slot->user = user;
    return tb__slots_id(&callbacks->waiting, slot);
}

int64_t tb__callback_add(struct tb__callbacks *callbacks, tb_engine_callback *callback, void *user)
{
    pthread_mutex_lock(&callbacks->lock);
    int64_t id = add(callbacks, callback, user);
    pthread_mutex_unlock(&callbacks->lock);
    return id;
}

bool tb__callback_take(struct tb__callbacks *callbacks, int64_t id, struct tb__callback *out)
{
    assert(out);
    pthread_mutex_lock(&callbacks->lock);
    struct tb__callback *slot = tb__slots_find(&callbacks->waiting, id);
    if (slot) {
        *out = *slot;
        tb__slots_give(&callbacks->waiting, slot);
    }
    pthread_mutex_unlock(&callbacks->lock);
    return slot != NULL;
}

int64_t tb__callback_any(struct tb__callbacks *callbacks)
{
    pthread_mutex_lock(&callbacks->lock);
    const struct tb__callback *slot = tb__slots_next(&callbacks->waiting, 0);
    int64_t id = slot ? tb__slots_id(&callbacks->waiting, slot) : 0;
    pthread_mutex_unlock(&callbacks->lock);
    return id;
}

/* --- posts -------------------------------------------------------------- */

static size_t text_size(const char *text)
{
    return text ? strlen(text) + 1 : 0;
}

static struct tb__posted *new_post(const void *bytes, size_t size, const tb_submit_options *options)
{
    size_t key_size = text_size(options->key), group_size = text_size(options->group);
    struct tb__posted *post = malloc(sizeof *post + key_size + group_size + size);
    if (!post) return NULL;
    char *room = (char *)(post + 1);
    *post = (struct tb__posted){.submitted_us = tb__clock_us(), .size = size, .options = *options};
    post->bytes = room + key_size + group_size;
    if (key_size) post->options.key = memcpy(room, options->key, key_size);
    if (group_size) post->options.group = memcpy(room + key_size, options->group, group_size);
    if (size) memcpy(post->bytes, bytes, size);
    return post;
}

/* Under the lock. */
static int64_t append(struct tb__callbacks *callbacks, struct tb__posted *post,
                      tb_engine_callback *callback, void *user)
{
    if (callbacks->posted + callbacks->in_line >= TB_ENGINE_INBOX && !callbacks->is_closed) return TB_EFULL;
    assert(!post->next);
    assert((callbacks->first == NULL) == (callbacks->posted == 0));
    int64_t id = add(callbacks, callback, user);
    if (id < 0) return id;
    post->id = id;
    if (callbacks->last) {
        callbacks->last->next = post;
    } else {
        callbacks->first = post;
    }
    callbacks->last = post;
    callbacks->posted++;
    return id;
}

int64_t tb_engine_submit_threadsafe(tb_engine *engine, const void *bytes, size_t size,
                                    const tb_submit_options *options,
                                    tb_engine_callback *callback, void *user)
{
    assert(engine);
    assert(bytes || size == 0);
    tb_submit_options known;
    int error = tb__options_read(options, &known);
    if (error) return error;
    struct tb__posted *post = new_post(bytes, size, &known);
    if (!post) return TB_ENOMEM;
    pthread_mutex_lock(&engine->callbacks.lock);
    int64_t id = append(&engine->callbacks, post, callback, user);
    pthread_mutex_unlock(&engine->callbacks.lock);
    if (id < 0) {
        free(post);
        return id;
    }
    tb__watch_poke(engine);
    return id;
}

struct tb__posted *tb__posts_take(struct tb__callbacks *callbacks)
{
    pthread_mutex_lock(&callbacks->lock);
    struct tb__posted *first = callbacks->first;
    assert((first == NULL) == (callbacks->posted == 0));
    callbacks->first = callbacks->last = NULL;
    callbacks->in_line += callbacks->posted; /* until Lua's next turn counts them */
    callbacks->posted = 0;
    pthread_mutex_unlock(&callbacks->lock);
    return first;
}

void tb__callbacks_shut(struct tb__callbacks *callbacks)
{
    pthread_mutex_lock(&callbacks->lock);
    callbacks->is_closed = true;
    pthread_mutex_unlock(&callbacks->lock);
}

void tb__callbacks_set_line(struct tb__callbacks *callbacks, uint32_t in_line)
{
    pthread_mutex_lock(&callbacks->lock);
    callbacks->in_line = in_line;
    pthread_mutex_unlock(&callbacks->lock);
}

void tb__callbacks_count(struct tb__callbacks *callbacks, double *posted, double *unanswered)
{
    pthread_mutex_lock(&callbacks->lock);
    *posted = callbacks->posted;
    *unanswered = callbacks->waiting.taken;
    pthread_mutex_unlock(&callbacks->lock);
}
