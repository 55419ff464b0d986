/* client.h - the inside of a connection to Redis.
 *
 * THE ROOM. src/redis is a connection to Redis for one event loop: a descriptor, a turn, and
 * replies in arrays. It knows libhiredis (its reader alone), epoll, POSIX threads and src/base;
 * of the rest of ours it knows nothing, and it is a library of its own: whoever does without it
 * needs no libhiredis. The Lua half (backend/redis) and C programs know it by
 * tokenbatcher_redis.h.
 *
 * Order, a file knows those before it: bytes replies lookup socket client
 *
 *     bytes.c    a buffer that grows
 *     replies.c  hiredis's reader: from bytes to nodes
 *     lookup.c   a name becomes addresses, in a thread of its own
 *     socket.c   connecting, writing, reading; what closes a connection
 *     client.c   life, commands, replies, turn
 *
 * THE SPECIAL PROBLEM OF NODES THAT MOVE. While replies come in, the arrays of nodes and texts
 * grow. So a node holds where its text begins, not its address, until its reply is taken.
 */
#ifndef TB_REDIS_CLIENT_H
#define TB_REDIS_CLIENT_H

#include "tokenbatcher_redis.h"

#include <hiredis/read.h>
#include <stdbool.h>
#include <sys/socket.h>

/* --- bytes.c ------------------------------------------------------------------- */

/* The bytes from `done` to `size` are in use. */
struct tb__redis_bytes {
    char *data;
    size_t done, size, room;
};

bool tb__redis_append(struct tb__redis_bytes *bytes, const void *data, size_t size);
void tb__redis_drop(struct tb__redis_bytes *bytes, size_t count); /* the first ones */
void tb__redis_empty(struct tb__redis_bytes *bytes);
void tb__redis_free_bytes(struct tb__redis_bytes *bytes);

/* --- replies.c ----------------------------------------------------------------- */

struct tb__redis_replies {
    redisReader *reader;
    struct tb__redis_bytes nodes; /* of tb_redis_node */
    struct tb__redis_bytes texts;
    struct tb__redis_bytes ends;  /* of size_t: how many nodes there are where each whole reply ends */
    size_t taken;                 /* nodes of replies that were taken */
    size_t fed;                   /* bytes of the reply that has come in part */
};

bool tb__redis_replies_open(struct tb__redis_replies *replies);
void tb__redis_replies_close(struct tb__redis_replies *replies);
/* Forget replies that were taken: all are. */
void tb__redis_replies_renew(struct tb__redis_replies *replies);
/* NULL, or what is wrong. */
const char *tb__redis_replies_feed(struct tb__redis_replies *replies, const char *data, size_t size);
uint32_t tb__redis_replies_left(const struct tb__redis_replies *replies);
const tb_redis_node *tb__redis_replies_take(struct tb__redis_replies *replies, uint32_t *count);

/* --- lookup.c ------------------------------------------------------------------ */

enum { TB__REDIS_ADDRESSES = 8 };

struct tb__redis_address {
    struct sockaddr_storage at;
    socklen_t size;
};

struct tb__redis_lookup;

/* NULL: no memory, no descriptor or no thread. */
struct tb__redis_lookup *tb__redis_lookup_new(const char *host, int32_t port);
int tb__redis_lookup_fd(const struct tb__redis_lookup *lookup); /* readable when it has ended */
/* After that: how many addresses; 0: *error says why. */
uint32_t tb__redis_lookup_take(struct tb__redis_lookup *lookup, struct tb__redis_address *out, const char **error);
void tb__redis_lookup_leave(struct tb__redis_lookup *lookup); /* in any state */
/* A number of IPv4 or IPv6: 1; a name: 0. */
uint32_t tb__redis_address_of(const char *host, int32_t port, struct tb__redis_address *out);

/* --- the connection -------------------------------------------------------------- */

struct tb_redis {
    int state; /* of enum tb_redis_state_name */
    int epoll_fd;
    int socket;       /* -1: none */
    uint32_t watched; /* for which events */
    struct tb__redis_lookup *lookup;
    struct tb__redis_address addresses[TB__REDIS_ADDRESSES];
    uint32_t address_count, address_next;
    int64_t silence_us;
    int64_t late_us; /* when it must be open, or must have said something; -1: never */
    struct tb__redis_bytes out;
    struct tb__redis_replies in;
    uint32_t words_left; /* of the command that is being written */
    uint32_t owed;
    bool is_out_of_memory;
    char error[160];
};

/* --- socket.c ---------------------------------------------------------------------- */

void tb__redis_connect(tb_redis *redis);  /* to the next of its addresses */
void tb__redis_resolved(tb_redis *redis); /* if the look-up has ended */
void tb__redis_connected(tb_redis *redis);
void tb__redis_write(tb_redis *redis);
void tb__redis_read(tb_redis *redis);
void tb__redis_watch(tb_redis *redis);
/* Close by itself, for this reason (`detail` may be NULL); replies that have come stay. */
void tb__redis_fail(tb_redis *redis, const char *what, const char *detail);
void tb__redis_shut(tb_redis *redis);

#endif
