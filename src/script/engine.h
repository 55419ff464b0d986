/* engine.h - the inside of the engine for C programs.
 *
 * THE ROOM. src/script is where C holds a lua_State: states with our modules inside, worker
 * threads that run a script's inference function (threads.h), and the engine that runs a
 * script on a C program's loop. It knows LuaJIT, libev's loop of the program, src/base and
 * the public headers; neither the inside of the core nor the driver's. src/host knows it by
 * state.h, Lua by threads.h, C programs by tokenbatcher_engine.h.
 *
 * Order, a file knows those before it: state worker jobs threads watchers callbacks protect bridge engine
 *
 *     state.c      a Lua state with our modules
 *     worker.c     such a state in a thread, and one job after the other
 *     jobs.c       lines of those jobs
 *     threads.c    the pool of those threads
 *     watchers.c   the engine's two watchers on the program's loop
 *     callbacks.c  who is to be called back, by id; records of other threads
 *     protect.c    calls into Lua that may raise
 *     bridge.c     every call into Lua, one function each
 *     engine.c     its life, its turn: the public functions of the loop's thread
 *
 * The Lua half is lua/tokenbatcher/script/engine.lua: a batcher driven by step(), whose
 * descriptor one watcher watches. The other is woken by threads that post, and by calls whose callback
 * must come later.
 *
 * A record's id is generation * 2^24 + slot. Its callback waits in the slot until it has
 * been called; so the two halves agree on what is unanswered, and what Lua cannot answer any
 * more (memory ran out) is answered by tb_engine_free().
 *
 * THE SPECIAL PROBLEM OF FREE INSIDE A CALLBACK. `depth` counts the frames of ours that are
 * above a callback or a Lua call; tb_engine_free() below one only sets `is_dying`, and the
 * outermost frame destroys the engine when it leaves.
 */
#ifndef TB_SCRIPT_ENGINE_H
#define TB_SCRIPT_ENGINE_H

#include "tokenbatcher_engine.h"

#include "../base/slots.h"

#include <ev.h>
#include <lua.h>
#include <pthread.h>
#include <stdbool.h>

enum { TB__MESSAGE_SIZE = 1024, TB__ADDRESS_SIZE = 128 };

struct tb__callback {
    struct tb__slot taking; /* first: see base/slots.h */
    tb_engine_callback *callback;
    void *user;
};

/* A record of another thread; its key and group, if any, and its bytes follow. */
struct tb__posted {
    struct tb__posted *next;
    int64_t id, submitted_us;
    tb_submit_options options;
    size_t size;
    char *bytes;
};

/* All of it belongs to whoever holds the lock. */
struct tb__callbacks {
    pthread_mutex_t lock;
    struct tb__slots waiting; /* for their answers: struct tb__callback */
    struct tb__posted *first, *last;
    uint32_t posted;  /* in the list */
    uint32_t in_line; /* posts that Lua has put into its line, as of its last turn */
    bool is_closed;   /* tb_engine_stop() */
};

struct tb__stop {
    struct tb__stop *next;
    tb_engine_stopped *callback;
    void *user;
};

struct tb_engine {
    struct ev_loop *loop;
    ev_io io;
    ev_async async;
    bool is_watching;
    void (*turn)(tb_engine *); /* engine.c's, for the watchers */

    lua_State *L;
    bool in_lua;
    int enter_ref, refs[16]; /* in Lua's registry; by enum tb__ref */
    int fd;

    struct tb__callbacks callbacks;
    struct tb__posted *lost; /* posts that Lua had no memory for */
    struct tb__stop *stops, **stops_end;
    bool is_stopped, is_dying;
    int depth;

    tb_engine_log *log;
    void *log_user;
    char message[TB__MESSAGE_SIZE], address[TB__ADDRESS_SIZE];
};

/* --- callbacks.c -------------------------------------------------------- */

bool tb__callbacks_open(struct tb__callbacks *callbacks);
void tb__callbacks_close(struct tb__callbacks *callbacks);

/* A slot for a record: its id, TB_ENOTRUNNING or TB_ENOMEM. */
int64_t tb__callback_add(struct tb__callbacks *callbacks, tb_engine_callback *callback, void *user);

/* Take it out: false if there is none. */
bool tb__callback_take(struct tb__callbacks *callbacks, int64_t id, struct tb__callback *out);

/* Any record that is unanswered, or 0. */
int64_t tb__callback_any(struct tb__callbacks *callbacks);

/* What a program gave (of its size, or NULL), as this library has it. What is wrong in itself
 * is refused: TB_OK, TB_EOPTION, TB_ECOST, TB_ETIMEOUT, TB_ERECORD. */
int tb__options_read(const tb_submit_options *given, tb_submit_options *out);

/* Everything posted so far, oldest first; the caller frees each. */
struct tb__posted *tb__posts_take(struct tb__callbacks *callbacks);

void tb__callbacks_shut(struct tb__callbacks *callbacks);
void tb__callbacks_set_line(struct tb__callbacks *callbacks, uint32_t in_line);
void tb__callbacks_count(struct tb__callbacks *callbacks, double *posted, double *unanswered);

/* --- protect.c ---------------------------------------------------------- */

/* What runs protected: the stack is empty, and what it learns it leaves in `data`. */
typedef void tb__body(tb_engine *engine, lua_State *L, void *data);

/* False: it raised, and engine->message says what. The first is the first call of all. */
bool tb__protect_first(tb_engine *engine, tb__body *run, void *data);
bool tb__protect(tb_engine *engine, tb__body *run, void *data);

void tb__keep_message(tb_engine *engine, const char *text);

/* --- bridge.c ----------------------------------------------------------- */

/* Options by name, of the script or of the batcher. */
struct tb__settings {
    const tb_engine_option *options;
    size_t count;
};

/* A state, and engine.lua's engine in it. TB_OK; TB_ENOMEM, TB_EOPTION, TB_ENGINE_ESCRIPT:
 * engine->message says what. */
int tb__bridge_open(tb_engine *engine, const char *script, struct tb__settings settings);
void tb__bridge_close(tb_engine *engine);

struct tb__input {
    int64_t id, submitted_us;
    const char *bytes;
    size_t size;
    const tb_submit_options *options; /* as tb__options_read() has filled them */
};

/* TB_OK; or why not, and engine->message has the sentence. A record of another thread
 * (submitted_us > 0) that the script or the batcher refuses is TB_OK, too: its answer says
 * so. */
int tb__bridge_submit(tb_engine *engine, const struct tb__input *record);

/* One turn of the loop; the number of answers to take. */
uint32_t tb__bridge_turn(tb_engine *engine);

/* Up to `max` answers: their number. Then answer `i`, from 0, valid until the next take. */
uint32_t tb__bridge_take(tb_engine *engine, uint32_t max);
void tb__bridge_answer(tb_engine *engine, uint32_t i, tb_engine_result *out);

bool tb__bridge_cancel(tb_engine *engine, int64_t id);
int tb__bridge_stop(tb_engine *engine, double timeout_s);
void tb__bridge_abandon(tb_engine *engine);
int tb__bridge_set(tb_engine *engine, struct tb__settings settings);
int tb__bridge_listen(tb_engine *engine, const char *address); /* TB_OK: engine->address is it */
int tb__bridge_stats(tb_engine *engine, tb_engine_numbers *out);

/* --- watchers.c --------------------------------------------------------- */

/* engine->turn() is called when there is work. */
void tb__watch_start(tb_engine *engine);
void tb__watch_stop(tb_engine *engine);

/* Have engine->turn() called soon; from any thread. */
void tb__watch_poke(tb_engine *engine);

#endif
