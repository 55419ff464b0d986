/* replies.c - from bytes to nodes: hiredis's reader, with makers of objects that append to arrays
 * in place of those that allocate each.
 *
 * A maker is called where a part begins, arrays before their elements: the nodes lie in the order
 * in which they come. What a maker returns is only looked at for NULL, which ends the reading.
 */
#include "client.h"

#include <assert.h>
#include <hiredis/hiredis.h>
#include <stdint.h>
#include <string.h>

enum { READER_KEEPS = 1048576 };

#if HIREDIS_MAJOR > 0 /* Debian 13 */
typedef size_t array_size;
#else
typedef int array_size;
#endif

static char made[1]; /* any address but NULL */

static bool has_text(const tb_redis_node *node)
{
    return node->kind >= TB_REDIS_STRING && node->kind <= TB_REDIS_ERROR;
}

static void *add(const redisReadTask *task, tb_redis_node node)
{
    struct tb__redis_replies *replies = task->privdata;
    return tb__redis_append(&replies->nodes, &node, sizeof node) ? made : NULL;
}

static uint32_t kind_of(int type)
{
    return type == REDIS_REPLY_STRING ? TB_REDIS_STRING : type == REDIS_REPLY_ERROR ? TB_REDIS_ERROR : TB_REDIS_STATUS;
}

static void *add_text(const redisReadTask *task, char *text, size_t size)
{
    struct tb__redis_replies *replies = task->privdata;
    /* where it begins, see client.h */
    tb_redis_node node = {
        .kind = kind_of(task->type), .size = (uint32_t)size, .number = (double)replies->texts.size};
    if (size > UINT32_MAX || !tb__redis_append(&replies->texts, text, size)) {
        return NULL;
    }
    return add(task, node);
}

/* Redis says how many there are before they come: nothing is set aside for them. */
static void *add_array(const redisReadTask *task, array_size elements)
{
    int64_t size = (int64_t)elements;
    if (size < 0 || size > INT32_MAX) return NULL;
    return add(task, (tb_redis_node){.kind = TB_REDIS_ARRAY, .size = (uint32_t)size});
}

static void *add_integer(const redisReadTask *task, long long value)
{
    return add(task, (tb_redis_node){.kind = TB_REDIS_INTEGER, .number = (double)value});
}

static void *add_nil(const redisReadTask *task)
{
    return add(task, (tb_redis_node){.kind = TB_REDIS_NIL});
}

static void keep(void *object)
{
    (void)object; /* it is in the arrays */
}

bool tb__redis_replies_open(struct tb__redis_replies *replies)
{
    static redisReplyObjectFunctions makers = {
        .createString = add_text, .createArray = add_array, .createInteger = add_integer, .createNil = add_nil,
        .freeObject = keep};
    *replies = (struct tb__redis_replies){.reader = redisReaderCreateWithFunctions(&makers)};
    if (!replies->reader) {
        return false;
    }
    replies->reader->privdata = replies;
    replies->reader->maxbuf = READER_KEEPS;
    return true;
}

void tb__redis_replies_close(struct tb__redis_replies *replies)
{
    if (replies->reader) {
        redisReaderFree(replies->reader);
    }
    tb__redis_free_bytes(&replies->nodes);
    tb__redis_free_bytes(&replies->texts);
    tb__redis_free_bytes(&replies->ends);
    *replies = (struct tb__redis_replies){0};
}

static size_t node_count(const struct tb__redis_replies *replies)
{
    return replies->nodes.size / sizeof(tb_redis_node);
}

static tb_redis_node *nodes_of(struct tb__redis_replies *replies)
{
    return (tb_redis_node *)(void *)replies->nodes.data;
}

/* The reply that has come in part, if there is one, moves to the front. */
void tb__redis_replies_renew(struct tb__redis_replies *replies)
{
    assert(tb__redis_replies_left(replies) == 0);
    if (replies->taken == 0) {
        return;
    }
    size_t left = node_count(replies) - replies->taken;
    if (left == 0) {
        tb__redis_empty(&replies->nodes);
        tb__redis_empty(&replies->texts);
    } else {
        tb_redis_node *nodes = nodes_of(replies);
        size_t gone = replies->texts.size;
        memmove(nodes, nodes + replies->taken, left * sizeof *nodes);
        for (size_t i = left; i-- > 0;) {
            gone = has_text(&nodes[i]) ? (size_t)nodes[i].number : gone;
        }
        for (size_t i = 0; i < left; i++) {
            nodes[i].number -= has_text(&nodes[i]) ? (double)gone : 0;
        }
        if (gone > 0) {
            memmove(replies->texts.data, replies->texts.data + gone, replies->texts.size - gone);
            replies->texts.size -= gone;
        }
        replies->nodes.size = left * sizeof *nodes;
    }
    tb__redis_empty(&replies->ends);
    replies->taken = 0;
}

static const char *wrong(const struct tb__redis_replies *replies)
{
    return replies->reader->err == REDIS_ERR_OOM ? "out of memory" : "what came is not Redis's protocol (RESP2)";
}

const char *tb__redis_replies_feed(struct tb__redis_replies *replies, const char *data, size_t size)
{
    replies->fed += size;
    if (replies->fed > TB_REDIS_REPLY_BYTES) {
        return "a reply is larger than 1 GiB";
    }
    if (redisReaderFeed(replies->reader, data, size) != REDIS_OK) {
        return wrong(replies);
    }
    while (true) {
        void *whole = NULL;
        if (redisReaderGetReply(replies->reader, &whole) != REDIS_OK) {
            return wrong(replies);
        }
        if (!whole) {
            return NULL;
        }
        size_t end = node_count(replies);
        if (!tb__redis_append(&replies->ends, &end, sizeof end)) {
            return "out of memory";
        }
        replies->fed = 0;
    }
}

uint32_t tb__redis_replies_left(const struct tb__redis_replies *replies)
{
    return (uint32_t)((replies->ends.size - replies->ends.done) / sizeof(size_t));
}

const tb_redis_node *tb__redis_replies_take(struct tb__redis_replies *replies, uint32_t *count)
{
    size_t end, from = replies->taken;
    if (tb__redis_replies_left(replies) == 0) {
        return NULL;
    }
    memcpy(&end, replies->ends.data + replies->ends.done, sizeof end);
    replies->ends.done += sizeof end;
    tb_redis_node *nodes = nodes_of(replies);
    assert(from < end && end <= node_count(replies));
    for (size_t i = from; i < end; i++) {
        if (has_text(&nodes[i])) {
            nodes[i].text = nodes[i].size ? replies->texts.data + (size_t)nodes[i].number : "";
            nodes[i].number = 0;
        }
    }
    replies->taken = end;
    *count = (uint32_t)(end - from);
    return nodes + from;
}
