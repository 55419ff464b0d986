/* tokenbatcher_redis.h - a connection to Redis for one event loop, with hiredis as its codec.
 *
 * hiredis reads the protocol; the socket, what waits to be written and what has come are kept
 * here. Nobody is called back: commands are written, the loop waits, whole replies are taken as
 * arrays, in the order of their commands. A pump on it is:
 *
 *     tb_redis_open(redis, &address)           once, and again whenever it has closed
 *     tb_redis_begin(redis, 2), tb_redis_word(redis, "GET", 3), tb_redis_word(redis, "key", 3)
 *     wait until tb_redis_fd() is readable or tb_redis_next() has come
 *     tb_redis_turn(redis)
 *     tb_redis_reply(redis, &count)            until it is NULL
 *     tb_redis_state(redis)                    TB_REDIS_CLOSED: see tb_redis_error()
 *
 * STATES. Closed, resolving (the name is looked up), connecting, open. Commands may be written
 * in any state but closed; they go out when the connection is open. A connection that closes,
 * whatever the reason, forgets commands that were not answered: whether Redis has run them
 * nobody knows. It is opened again by its owner, who decides when.
 *
 * The descriptor is an epoll set, the same from tb_redis_new() to tb_redis_free(), so that a loop
 * need not learn of new sockets. `make` builds a library of its own from this, which needs
 * libhiredis and no other part of ours.
 *
 * It speaks RESP2 in clear text, over TCP or a unix socket. Greetings (AUTH, SELECT) are commands
 * like any other: write them first.
 *
 * THREADS. A connection belongs to one thread: every call is from it, and none from a signal
 * handler. Connections share nothing. No function blocks: a name is looked up by a thread that
 * ends with the look-up; a number or a unix socket's path takes none.
 *
 * TIME. CLOCK_MONOTONIC in microseconds, read here.
 *
 * THE SPECIAL PROBLEM OF SILENCE. A Redis that is stopped, or a cable that is cut, says nothing:
 * no error comes, for minutes. So a connection that owes replies and has heard nothing for
 * silence_us closes. What has arrived is read before it is judged, and time in which the
 * caller's process could not look does not count (tb_redis_excuse).
 *
 * ERRORS. Refusals are negative numbers of enum tb_redis_refusal, and nothing has changed. What
 * goes wrong with the connection closes it, with a sentence in tb_redis_error(). What Redis
 * answers, errors included, is a reply. Misuse (a null pointer, words that were not announced)
 * asserts.
 *
 * MEMORY. Grows with what waits to be written (TB_REDIS_WAITING_BYTES at most) and with a turn's
 * replies (TB_REDIS_REPLY_BYTES at most for those that are not taken); buffers above 1 MiB are
 * given back when they are empty.
 */
#ifndef TOKENBATCHER_REDIS_H
#define TOKENBATCHER_REDIS_H

#ifndef TB_CDEF
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)
#endif

/* The most bytes of commands that wait to be written, before tb_redis_begin() refuses. */
enum { TB_REDIS_WAITING_BYTES = 268435456 };

/* The most bytes of replies, those not taken and the one that has come in part: above it the
 * connection closes. */
enum { TB_REDIS_REPLY_BYTES = 1073741824 };

enum tb_redis_state_name { TB_REDIS_CLOSED = 0, TB_REDIS_RESOLVING, TB_REDIS_CONNECTING, TB_REDIS_OPEN };

/* ESTATE: it is closed, or (tb_redis_open) it is not.
 * EADDRESS: neither a host with a port from 1 to 65535, nor a path of at most 107 bytes.
 * EFULL: TB_REDIS_WAITING_BYTES wait to be written.
 * EMEMORY: no memory, no descriptor or no thread. */
enum tb_redis_refusal {
    TB_REDIS_ESTATE = -1, TB_REDIS_EADDRESS = -2, TB_REDIS_EFULL = -3, TB_REDIS_EMEMORY = -4
};

/* Where to. Copied by tb_redis_open().
 *
 * unix_socket: a path; NULL: `host` (a name, or a number of IPv4 or IPv6) and `port`.
 * connect_timeout_us: > 0, from tb_redis_open() until the connection is open.
 * silence_us: > 0: see above. A command that blocks in Redis should block for less. */
struct tb_redis_address {
    const char *unix_socket;
    const char *host;
    int32_t port;
    int64_t connect_timeout_us;
    int64_t silence_us;
};
typedef struct tb_redis_address tb_redis_address;

/* NIL: also an array that is nil. STATUS: "OK" and the like. */
enum tb_redis_kind {
    TB_REDIS_NIL = 0, TB_REDIS_INTEGER, TB_REDIS_STRING, TB_REDIS_STATUS, TB_REDIS_ERROR, TB_REDIS_ARRAY
};

/* A part of a reply. An array is followed by its elements, each with its own.
 *
 * kind: of enum tb_redis_kind.
 * size: of a string, status or error its bytes; of an array how many elements it has.
 * number: of an integer; beyond 2^53 it is not exact.
 * text: of a string, status or error: any bytes, no NUL follows; else NULL. */
struct tb_redis_node {
    uint32_t kind;
    uint32_t size;
    double number;
    const char *text;
};
typedef struct tb_redis_node tb_redis_node;

typedef struct tb_redis tb_redis;

/* To be compared with the header's own, for libraries of another version. */
enum { TB_REDIS_ABI = 1 };
int tb_redis_abi(void);

/* A closed connection, the caller's until tb_redis_free(). NULL: no memory or no descriptors. */
tb_redis *tb_redis_new(void);

/* Closes and frees. NULL is fine. Does not wait for a look-up. */
void tb_redis_free(tb_redis *redis);

/* Readable while tb_redis_turn() has something to do; not to be read. */
int tb_redis_fd(const tb_redis *redis);

/* When tb_redis_turn() is needed next, whether or not the descriptor is readable: microseconds of
 * CLOCK_MONOTONIC; 0: at once, -1: never. Ask before each wait. O(1). */
int64_t tb_redis_next(const tb_redis *redis);

/* Begin to connect. 0, or ESTATE, EADDRESS, EMEMORY. */
int tb_redis_open(tb_redis *redis, const tb_redis_address *address);

/* Close: what was written and not answered is forgotten, replies not taken, too. The pointers of
 * replies die. Nothing happens to one that is closed. */
void tb_redis_close(tb_redis *redis);

/* Of enum tb_redis_state_name. */
int tb_redis_state(const tb_redis *redis);

/* Why it closed by itself; "" otherwise. At most 159 bytes, valid until it is opened again. Quotes
 * neither commands nor replies. */
const char *tb_redis_error(const tb_redis *redis);

/* Begin a command of `words` words (>= 1), the first its name: so many tb_redis_word() follow at
 * once. 0, or ESTATE, EFULL. */
int tb_redis_begin(tb_redis *redis, uint32_t words);

/* The next word: any bytes, copied. Where memory runs out the connection closes in the next turn;
 * the words that follow are ignored. Cost: a copy. */
void tb_redis_word(tb_redis *redis, const char *text, size_t size);

/* How many commands have no reply yet (taken or not). */
uint32_t tb_redis_owed(const tb_redis *redis);

/* Writes what waits, reads what has come, as far as it goes without blocking; closes what is late,
 * silent or broken. Returns how many whole replies there are to take: what has come whole before a
 * connection broke can still be taken. Pointers of replies taken before die. While replies are not
 * taken nothing is read. */
uint32_t tb_redis_turn(tb_redis *redis);

/* Take the next whole reply: its parts in order, the reply itself the first of *count (>= 1). NULL:
 * there is none. Valid until the next tb_redis_turn(), tb_redis_close() or tb_redis_free(). */
const tb_redis_node *tb_redis_reply(tb_redis *redis, uint32_t *count);

/* Nobody could look for `us` microseconds (>= 0): that does not count as silence, nor against the
 * time to connect. To be called before the tb_redis_turn() that would judge. */
void tb_redis_excuse(tb_redis *redis, int64_t us);

#ifndef TB_CDEF
#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
#endif
