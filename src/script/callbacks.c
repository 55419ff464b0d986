/* records.c - see engine.h. The lock is held for a few assignments, and never across a
 * call into Lua, a callback or the wake-up of the loop. */
#include "engine.h"

#include "tokenbatcher_ev.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS_MAX = 1 << TB_SLOT_BITS, SLOTS_FIRST = 64 };

static const double COST_MAX = 1e12;

bool tb__records_open(struct tb__records *records)
{
    return pthread_mutex_init(&records->lock, NULL) == 0;
}

void tb__records_close(struct tb__records *records)
{
    pthread_mutex_destroy(&records->lock);
    free(records->slots);
}

int tb__options_check(const tb_submit_options *options)
{
    if (!options) return TB_OK;
    if (!(options->estimated_tokens >= 0 && options->estimated_tokens <= COST_MAX)) return TB_ECOST;
    if (!(options->timeout_s >= 0)) return TB_ETIMEOUT;
    return options->priority == options->priority ? TB_OK : TB_ERECORD;
}

static bool grow(struct tb__records *records)
{
    if (records->capacity == SLOTS_MAX) return false;
    uint32_t capacity = records->capacity ? records->capacity * 2 : SLOTS_FIRST;
    struct tb__slot *slots = realloc(records->slots, capacity * sizeof *slots);
    if (!slots) return false;
    memset(slots + records->capacity, 0, (capacity - records->capacity) * sizeof *slots);
    records->slots = slots;
    records->capacity = capacity;
    return true;
}

/* Under the lock. */
static int64_t add(struct tb__records *records, tb_engine_callback *callback, void *user)
{
    if (records->is_closed) return TB_ENOTRUNNING;
    uint32_t at;
    if (records->free_first) {
        at = records->free_first - 1;
        records->free_first = records->slots[at].next_free;
    } else {
        if (records->used == records->capacity && !grow(records)) return TB_ENOMEM;
        at = records->used++;
    }
    struct tb__slot *slot = &records->slots[at];
    /* 2^29 - 1 of them, then from 1 again: ids stay exact in a Lua number */
    slot->generation = slot->generation % ((1u << 29) - 1) + 1;
    slot->callback = callback;
    slot->user = user;
    slot->is_used = true;
    records->unanswered++;
    return (int64_t)slot->generation << TB_SLOT_BITS | at;
}

int64_t tb__record_add(struct tb__records *records, tb_engine_callback *callback, void *user)
{
    pthread_mutex_lock(&records->lock);
    int64_t id = add(records, callback, user);
    pthread_mutex_unlock(&records->lock);
    return id;
}

/* Under the lock. */
static struct tb__slot *find(struct tb__records *records, int64_t id)
{
    uint32_t at = (uint32_t)(id & (SLOTS_MAX - 1));
    if (id <= 0 || at >= records->used) return NULL;
    struct tb__slot *slot = &records->slots[at];
    return slot->is_used && slot->generation == (uint64_t)id >> TB_SLOT_BITS ? slot : NULL;
}

bool tb__record_take(struct tb__records *records, int64_t id, struct tb__slot *out)
{
    pthread_mutex_lock(&records->lock);
    struct tb__slot *slot = find(records, id);
    if (slot) {
        *out = *slot;
        slot->is_used = false;
        slot->next_free = records->free_first;
        records->free_first = (uint32_t)(slot - records->slots) + 1;
        records->unanswered--;
    }
    pthread_mutex_unlock(&records->lock);
    return slot != NULL;
}

int64_t tb__record_any(struct tb__records *records)
{
    int64_t id = 0;
    pthread_mutex_lock(&records->lock);
    for (uint32_t i = 0; i < records->used && id == 0; i++) {
        const struct tb__slot *slot = &records->slots[i];
        if (slot->is_used) id = (int64_t)slot->generation << TB_SLOT_BITS | i;
    }
    pthread_mutex_unlock(&records->lock);
    return id;
}

/* --- posts -------------------------------------------------------------- */

static struct tb__posted *new_post(const void *bytes, size_t size, const tb_submit_options *options)
{
    size_t key_size = options && options->key ? strlen(options->key) + 1 : 0;
    struct tb__posted *post = malloc(sizeof *post + key_size + size);
    if (!post) return NULL;
    char *room = (char *)(post + 1);
    *post = (struct tb__posted){.submitted_us = tb_ev_now(), .size = size, .bytes = room + key_size};
    if (options) post->options = *options;
    if (key_size) {
        memcpy(room, options->key, key_size);
        post->options.key = room;
    }
    if (size) memcpy(post->bytes, bytes, size);
    return post;
}

/* Under the lock. */
static int64_t append(struct tb__records *records, struct tb__posted *post,
                      tb_engine_callback *callback, void *user)
{
    if (records->posted + records->in_line >= TB_ENGINE_INBOX && !records->is_closed) return TB_EFULL;
    int64_t id = add(records, callback, user);
    if (id < 0) return id;
    post->id = id;
    if (records->last) {
        records->last->next = post;
    } else {
        records->first = post;
    }
    records->last = post;
    records->posted++;
    return id;
}

int64_t tb_engine_submit_threadsafe(tb_engine *engine, const void *bytes, size_t size,
                                    const tb_submit_options *options,
                                    tb_engine_callback *callback, void *user)
{
    int error = tb__options_check(options);
    if (error) return error;
    struct tb__posted *post = new_post(bytes, size, options);
    if (!post) return TB_ENOMEM;
    pthread_mutex_lock(&engine->records.lock);
    int64_t id = append(&engine->records, post, callback, user);
    pthread_mutex_unlock(&engine->records.lock);
    if (id < 0) {
        free(post);
        return id;
    }
    tb__watch_poke(engine);
    return id;
}

struct tb__posted *tb__posts_take(struct tb__records *records)
{
    pthread_mutex_lock(&records->lock);
    struct tb__posted *first = records->first;
    records->first = records->last = NULL;
    records->in_line += records->posted; /* until Lua's next turn counts them */
    records->posted = 0;
    pthread_mutex_unlock(&records->lock);
    return first;
}

void tb__records_shut(struct tb__records *records)
{
    pthread_mutex_lock(&records->lock);
    records->is_closed = true;
    pthread_mutex_unlock(&records->lock);
}

void tb__records_set_line(struct tb__records *records, uint32_t in_line)
{
    pthread_mutex_lock(&records->lock);
    records->in_line = in_line;
    pthread_mutex_unlock(&records->lock);
}

void tb__records_count(struct tb__records *records, double *posted, double *unanswered)
{
    pthread_mutex_lock(&records->lock);
    *posted = records->posted;
    *unanswered = records->unanswered;
    pthread_mutex_unlock(&records->lock);
}
