/* test_redis.h - what the tests of the connection to Redis share: a connection, and a server that the test
 * plays itself, step by step, in the same thread: what is sent to a unix socket waits there.
 */
#ifndef TEST_REDIS_H
#define TEST_REDIS_H

#include "tokenbatcher_redis.h"

#include <arpa/inet.h>
#include <assert.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { HANGS_AFTER_MS = 20000, US_PER_S = 1000000, BUFFER = 65536 };

struct rig {
    tb_redis *redis;
    int listener, server;
    char path[108], folder[64];
};

static inline int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * US_PER_S + now.tv_nsec / 1000;
}

static inline int set_up(void **state)
{
    struct rig *rig = calloc(1, sizeof *rig);
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strcpy(rig->folder, "/tmp/tb-redis-XXXXXX");
    if (!mkdtemp(rig->folder)) {
        return -1;
    }
    snprintf(rig->path, sizeof rig->path, "%s/socket", rig->folder);
    memcpy(at.sun_path, rig->path, strlen(rig->path) + 1);
    rig->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    rig->server = -1;
    bind(rig->listener, (struct sockaddr *)&at, sizeof at);
    listen(rig->listener, 8);
    rig->redis = tb_redis_new();
    *state = rig;
    return rig->redis ? 0 : -1;
}

static inline int tear_down(void **state)
{
    struct rig *rig = *state;
    tb_redis_free(rig->redis);
    close(rig->listener);
    if (rig->server >= 0) {
        close(rig->server);
    }
    unlink(rig->path);
    rmdir(rig->folder);
    free(rig);
    return 0;
}

static inline tb_redis_address address_of(const struct rig *rig)
{
    return (tb_redis_address){.unix_socket = rig->path, .connect_timeout_us = 5 * US_PER_S, .silence_us = 5 * US_PER_S};
}

/* Turns until there are replies, or it is in this state. */
static inline uint32_t wait_for(struct rig *rig, int wanted_state)
{
    for (int i = 0; i < HANGS_AFTER_MS; i++) {
        uint32_t n = tb_redis_turn(rig->redis);
        if (n > 0 || tb_redis_state(rig->redis) == wanted_state) {
            return n;
        }
        struct pollfd wait = {tb_redis_fd(rig->redis), POLLIN, 0};
        int64_t next_us = tb_redis_next(rig->redis);
        poll(&wait, 1, next_us == 0 ? 0 : 1);
    }
    fail_msg("it hangs");
    return 0;
}

static inline void open_it(struct rig *rig)
{
    tb_redis_address address = address_of(rig);
    assert_int_equal(tb_redis_open(rig->redis, &address), 0);
    rig->server = accept(rig->listener, NULL, NULL);
    wait_for(rig, TB_REDIS_OPEN);
    assert_int_equal(tb_redis_state(rig->redis), TB_REDIS_OPEN);
}

static inline void ask(struct rig *rig, const char *word)
{
    assert_int_equal(tb_redis_begin(rig->redis, 1), 0);
    tb_redis_word(rig->redis, word, strlen(word));
}

static inline void serve(const struct rig *rig, const char *bytes, size_t size)
{
    assert_int_equal(send(rig->server, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
}

static inline void serve_text(const struct rig *rig, const char *text)
{
    serve(rig, text, strlen(text));
}

static inline void assert_text(const tb_redis_node *node, uint32_t kind, const char *text)
{
    assert_int_equal(node->kind, kind);
    assert_int_equal(node->size, strlen(text));
    assert_memory_equal(node->text, text, node->size);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
