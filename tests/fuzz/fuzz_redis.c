/* fuzz_redis.c - what Redis, or whoever plays it, may send: any bytes, in any pieces. The same bytes in one piece and
 * in pieces give the same replies, and each reply is a whole tree.
 *
 * With TB_FUZZ_MAIN: replays the files named on the command line.
 */
#include "../../src/redis/client.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_NODES = 1 << 16 };

/* Where the part at `at` ends: it and all in it lie before `count`. */
static size_t walk(const tb_redis_node *nodes, size_t count, size_t at)
{
    assert(at < count);
    const tb_redis_node *node = &nodes[at++];
    assert(node->kind <= TB_REDIS_ARRAY);
    if (node->kind != TB_REDIS_ARRAY) {
        assert(node->kind < TB_REDIS_STRING || node->text);
        return at;
    }
    for (uint32_t i = 0; i < node->size; i++) {
        at = walk(nodes, count, at);
    }
    return at;
}

/* A number that stands for all that was read: kinds, sizes, bytes. */
static uint64_t take_all(struct tb__redis_replies *replies, uint64_t sum)
{
    uint32_t count;
    const tb_redis_node *nodes;
    while ((nodes = tb__redis_replies_take(replies, &count))) {
        assert(count <= MOST_NODES && walk(nodes, count, 0) == count);
        for (uint32_t i = 0; i < count; i++) {
            sum = sum * 31 + nodes[i].kind * 7 + nodes[i].size;
            for (uint32_t k = 0; nodes[i].text && k < nodes[i].size; k++) {
                sum = sum * 31 + (unsigned char)nodes[i].text[k];
            }
            double number = nodes[i].number;
            uint64_t bits;
            memcpy(&bits, &number, sizeof bits);
            sum = sum * 31 + bits;
        }
    }
    return sum;
}

/* piece 0: all at once. */
static uint64_t read_in(const char *data, size_t size, size_t piece, bool *is_good)
{
    struct tb__redis_replies replies;
    uint64_t sum = 0;
    bool has_opened = tb__redis_replies_open(&replies);
    assert(has_opened);
    (void)has_opened;
    *is_good = true;
    for (size_t at = 0; at < size && *is_good;) {
        size_t n = piece && piece < size - at ? piece : size - at;
        tb__redis_replies_renew(&replies);
        *is_good = tb__redis_replies_feed(&replies, data + at, n) == NULL;
        sum = take_all(&replies, sum);
        at += n;
    }
    tb__redis_replies_close(&replies);
    return sum;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    bool whole_is_good, parts_are_good;
    uint64_t whole = read_in((const char *)data + 1, size - 1, 0, &whole_is_good);
    uint64_t parts = read_in((const char *)data + 1, size - 1, 1 + data[0] % 64, &parts_are_good);
    assert(whole_is_good == parts_are_good);
    assert(whole == parts);
    return 0;
}

#include "replay.h"
