/* client.c - a connection's life, its commands, its replies and its turn: the public calls.
 */
#include "client.h"

#include "../base/clock.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <unistd.h>

enum { HIGHEST_PORT = 65535 };

int tb_redis_abi(void)
{
    return TB_REDIS_ABI;
}

/* --- life -------------------------------------------------------------------------- */

tb_redis *tb_redis_new(void)
{
    tb_redis *redis = calloc(1, sizeof *redis);
    if (!redis) {
        return NULL;
    }
    redis->socket = -1;
    redis->late_us = -1;
    redis->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (redis->epoll_fd >= 0 && tb__redis_replies_open(&redis->in)) {
        return redis;
    }
    tb_redis_free(redis);
    return NULL;
}

/* Also of one that tb_redis_new() made half. */
void tb_redis_free(tb_redis *redis)
{
    if (!redis) {
        return;
    }
    tb__redis_shut(redis);
    tb__redis_replies_close(&redis->in);
    tb__redis_free_bytes(&redis->out);
    if (redis->epoll_fd >= 0) {
        close(redis->epoll_fd);
    }
    free(redis);
}

int tb_redis_fd(const tb_redis *redis)
{
    assert(redis);
    return redis->epoll_fd;
}

int64_t tb_redis_next(const tb_redis *redis)
{
    assert(redis);
    bool may_write = redis->state == TB_REDIS_OPEN && !(redis->watched & EPOLLOUT);
    bool has_work = tb__redis_replies_left(&redis->in) > 0 || redis->is_out_of_memory ||
                    (may_write && redis->out.size > redis->out.done);
    return has_work ? 0 : redis->late_us;
}

int tb_redis_state(const tb_redis *redis)
{
    assert(redis);
    return redis->state;
}

const char *tb_redis_error(const tb_redis *redis)
{
    assert(redis);
    return redis->error;
}

uint32_t tb_redis_owed(const tb_redis *redis)
{
    assert(redis);
    return redis->owed;
}

/* --- opening ------------------------------------------------------------------------- */

static int unix_address(const char *path, struct tb__redis_address *out)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    size_t size = strlen(path);
    if (size == 0 || size >= sizeof at.sun_path) {
        return TB_REDIS_EADDRESS;
    }
    memcpy(at.sun_path, path, size + 1);
    memcpy(&out->at, &at, sizeof at);
    out->size = sizeof at;
    return 0;
}

/* Addresses at once, or a look-up. */
static int find_addresses(tb_redis *redis, const tb_redis_address *address)
{
    redis->address_count = 1;
    if (address->unix_socket) {
        return unix_address(address->unix_socket, redis->addresses);
    }
    if (!address->host || !address->host[0] || address->port < 1 || address->port > HIGHEST_PORT) {
        return TB_REDIS_EADDRESS;
    }
    redis->address_count = tb__redis_address_of(address->host, address->port, redis->addresses);
    if (redis->address_count > 0) {
        return 0;
    }
    redis->lookup = tb__redis_lookup_new(address->host, address->port);
    return redis->lookup ? 0 : TB_REDIS_EMEMORY;
}

int tb_redis_open(tb_redis *redis, const tb_redis_address *address)
{
    assert(redis && address);
    assert(address->connect_timeout_us > 0 && address->silence_us > 0);
    if (redis->state != TB_REDIS_CLOSED) {
        return TB_REDIS_ESTATE;
    }
    int refusal = find_addresses(redis, address);
    if (refusal) {
        return refusal;
    }
    tb__redis_replies_close(&redis->in); /* half a reply of the connection before */
    if (!tb__redis_replies_open(&redis->in)) {
        tb__redis_shut(redis);
        return TB_REDIS_EMEMORY;
    }
    redis->error[0] = '\0';
    redis->address_next = 0;
    redis->silence_us = address->silence_us;
    redis->late_us = tb__clock_us() + address->connect_timeout_us;
    if (redis->lookup) {
        redis->state = TB_REDIS_RESOLVING;
        tb__redis_watch(redis);
    } else {
        tb__redis_connect(redis);
    }
    return 0;
}

void tb_redis_close(tb_redis *redis)
{
    assert(redis);
    tb__redis_shut(redis);
    tb__redis_replies_close(&redis->in);
    if (!tb__redis_replies_open(&redis->in)) {
        redis->is_out_of_memory = true;
    }
}

/* --- commands -------------------------------------------------------------------------- */

static void put(tb_redis *redis, const void *data, size_t size)
{
    if (!redis->is_out_of_memory && !tb__redis_append(&redis->out, data, size)) {
        redis->is_out_of_memory = true;
    }
}

/* A letter, a number, a line's end. */
static void put_header(tb_redis *redis, char letter, size_t number)
{
    char text[24], *at = text + sizeof text;
    *--at = '\n';
    *--at = '\r';
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    *--at = letter;
    put(redis, at, (size_t)(text + sizeof text - at));
}

int tb_redis_begin(tb_redis *redis, uint32_t words)
{
    assert(redis && words > 0);
    assert(redis->words_left == 0);
    if (redis->state == TB_REDIS_CLOSED) {
        return TB_REDIS_ESTATE;
    }
    if (redis->out.size - redis->out.done > TB_REDIS_WAITING_BYTES) {
        return TB_REDIS_EFULL;
    }
    if (redis->owed == 0 && redis->state == TB_REDIS_OPEN) {
        redis->late_us = tb__clock_us() + redis->silence_us;
    }
    redis->words_left = words;
    redis->owed++;
    put_header(redis, '*', words);
    return 0;
}

void tb_redis_word(tb_redis *redis, const char *text, size_t size)
{
    assert(redis && redis->words_left > 0);
    assert(text || size == 0);
    redis->words_left--;
    put_header(redis, '$', size);
    put(redis, text, size);
    put(redis, "\r\n", 2);
}

/* --- the turn ----------------------------------------------------------------------------- */

static void judge(tb_redis *redis)
{
    if (redis->late_us < 0 || redis->late_us > tb__clock_us()) {
        return;
    }
    if (redis->state == TB_REDIS_OPEN) {
        char silence[48];
        snprintf(silence, sizeof silence, "no answer for %.1f s", (double)redis->silence_us / TB__US_PER_S);
        tb__redis_fail(redis, silence, NULL);
    } else {
        tb__redis_fail(redis, "not connected within the time for it", NULL);
    }
}

static void move(tb_redis *redis)
{
    if (redis->state == TB_REDIS_RESOLVING) {
        tb__redis_resolved(redis);
    }
    if (redis->state == TB_REDIS_CONNECTING) {
        tb__redis_connected(redis);
    }
    if (redis->state == TB_REDIS_OPEN) {
        tb__redis_write(redis);
    }
    if (redis->state == TB_REDIS_OPEN) {
        tb__redis_read(redis);
    }
}

uint32_t tb_redis_turn(tb_redis *redis)
{
    assert(redis);
    assert(redis->words_left == 0);
    if (redis->state == TB_REDIS_CLOSED || tb__redis_replies_left(&redis->in) > 0) {
        return tb__redis_replies_left(&redis->in);
    }
    if (redis->is_out_of_memory) {
        tb__redis_fail(redis, "out of memory", NULL);
        return 0;
    }
    tb__redis_replies_renew(&redis->in);
    move(redis);
    if (redis->state != TB_REDIS_CLOSED) {
        judge(redis);
    }
    if (redis->state != TB_REDIS_CLOSED) {
        tb__redis_watch(redis);
    }
    return tb__redis_replies_left(&redis->in);
}

const tb_redis_node *tb_redis_reply(tb_redis *redis, uint32_t *count)
{
    assert(redis && count);
    return tb__redis_replies_take(&redis->in, count);
}

void tb_redis_excuse(tb_redis *redis, int64_t us)
{
    assert(redis && us >= 0);
    if (redis->late_us >= 0) {
        redis->late_us += us;
    }
}
