/* tokenbatcher_engine.h - a script embedded in a C program.
 *
 * An engine loads a script (what `tokenbatcher run` loads: a Lua file that returns the
 * options of a batcher) and runs it on the program's own libev loop:
 *
 *     tb_engine_new(&engine, loop, "script.lua", err, sizeof err)
 *     tb_engine_submit(engine, bytes, size, NULL, on_result, user)      as often as you like
 *     ev_run(loop, 0)                                    on_result is called, once a record
 *     tb_engine_stop(engine, -1, on_stopped, user)       drains; on_stopped ends it all
 *     tb_engine_free(engine)
 *
 * RECORDS AND RESULTS. A record is bytes; the script sees them as a Lua string, or what
 * its `decode` makes of that. A result is bytes: what inference_fn gave if that is a
 * string, or what the script's `encode(record, result)` makes of it. A script's own
 * options have their defaults, or the values that tb_engine_new_with() is given.
 *
 * THREADS. The thread that runs the loop is the engine's thread. Everything here is
 * called from it, except tb_engine_submit_threadsafe(), and every callback runs on it,
 * out of ev_run() or (see there) tb_engine_free(). Several engines may share a loop or
 * have a loop each; they share nothing else.
 *
 * CALLBACKS. Exactly one for each record accepted: with its result, or with an error. A
 * callback may call anything here, tb_engine_free() included. It never runs inside
 * tb_engine_submit(), tb_engine_cancel() or tb_engine_stop().
 *
 * THE SPECIAL PROBLEM OF THE LOOP'S LIFE. The engine never calls ev_run(). Its watchers
 * keep ev_run() going until the engine has stopped (not merely until it is idle).
 *
 * THE SPECIAL PROBLEM OF SCRIPTS THAT CALL BACK. A script may call the program's C
 * functions through LuaJIT's ffi. Those must not call the engine (except
 * tb_engine_submit_threadsafe() and tb_engine_free(), which waits until the script has
 * returned): TB_ENGINE_EBUSY.
 *
 * ERRORS. What is wrong with one call is its return code, and nothing has changed then;
 * tb_engine_message() has the sentence. What becomes of a record later is in its result.
 * Misuse (a null engine, bytes of NULL with a size) asserts.
 *
 * COST. A record costs a copy of its bytes into Lua, two calls into Lua and the way through
 * the batcher (`make bench` says how long); from another thread one more copy and a lock.
 * An engine has a Lua state of its own, with the modules that it uses compiled into it.
 *
 * The engine never exits, prints or installs a signal handler. Warnings go to
 * tb_engine_set_log(), or nowhere. What a script itself prints goes where print() goes.
 *
 * Link with what `pkg-config --libs tokenbatcher-engine` says: the library takes LuaJIT's
 * symbols from the program.
 */
#ifndef TOKENBATCHER_ENGINE_H
#define TOKENBATCHER_ENGINE_H

#include "tokenbatcher.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct ev_loop;
typedef struct tb_engine tb_engine;

/* Refusals beside those of enum tb_error. tb_engine_message() has the sentence.
 * ESCRIPT: the script cannot be loaded or started, or it misbehaved.
 * EINPUT: the script's decode would not have these bytes, or its submit_options was wrong of them.
 * EBUSY: called from beneath the script itself, see above.
 * ELISTEN: it cannot listen there. */
enum tb_engine_error {
    TB_ENGINE_ESCRIPT = -101, TB_ENGINE_EINPUT = -102, TB_ENGINE_EBUSY = -103, TB_ENGINE_ELISTEN = -104
};

/* Load `script`, start its batcher, and be ready for records on `loop` (libev's, which
 * must outlive the engine; any thread's, and that thread is the engine's from now on).
 * TB_OK and the engine in *out, the caller's until tb_engine_free(); or *out is NULL and
 * `err` (of err_size bytes, may be NULL) holds a sentence, with file and line where the
 * script is at fault: TB_ENGINE_ESCRIPT, TB_ENOMEM. Loading runs the script, which takes as
 * long as it takes. */
int tb_engine_new(tb_engine **out, struct ev_loop *loop, const char *script, char *err,
                  size_t err_size);

/* An option by its name, and its value as a text, as the command line takes both: "8000",
 * "0.05", "true", "length_bucketed", "fair:quantum=500"; "none" where that is a default.
 * Copied by whoever takes it. */
struct tb_engine_option {
    const char *name;
    const char *value;
};
typedef struct tb_engine_option tb_engine_option;

/* The same with values for the script's own options, those of a script that returns
 * {options = {name = {help, default}}, setup = function(opt) ... end}: `count` of them, in
 * any order; `options` may be NULL if it is 0. A value is read by the type of its default.
 * Errors as above, and TB_EOPTION: the script has no option of that name, or the value is not
 * of its type. `err` names both. */
int tb_engine_new_with(tb_engine **out, struct ev_loop *loop, const char *script,
                       const tb_engine_option *options, size_t count, char *err,
                       size_t err_size);

/* Change options of the batcher (those of the guide's table that are no functions; each
 * has a name there, "batch_timeout_s" say) while it runs or when it has stopped: all or
 * none. Records that are queued obey the new values, running batches keep theirs. From the
 * engine's thread, not from beneath the script. `err` (of err_size bytes, may be NULL) and
 * tb_engine_message() have the sentence of a failure.
 * TB_OK; TB_EOPTION: no such option, or a value out of its bounds, or two that do not go
 * together; TB_ENGINE_ESCRIPT: Lua failed (memory);
 * TB_ENGINE_EBUSY. Nothing has changed then. */
int tb_engine_set(tb_engine *engine, const tb_engine_option *options, size_t count, char *err,
                  size_t err_size);

/* What became of a record. All of it is valid during the callback only.
 *
 * id: what submit returned.
 * data, size: the result in bytes; a NUL follows that does not count. NULL: it failed.
 * code: NULL; or why it failed: inference_failed, inference_timeout, deadline, cancelled,
 *     stopped; bad_output (encode raised, or gave no string); and, of records from other
 *     threads, why they were refused: queue_full, oversize, bad_cost, bad_input.
 * message: a sentence for people, or NULL.
 * traceback: of the script, or NULL. */
struct tb_engine_result {
    int64_t id;
    const char *data;
    size_t size;
    const char *code, *message, *traceback;
};
typedef struct tb_engine_result tb_engine_result;

/* Runs on the engine's thread, out of ev_run() or tb_engine_free(). It may call everything
 * here, but must not run the loop itself, nor leave by longjmp(). `user` is what submit was
 * given; what it points to is the caller's and must live until now. */
typedef void tb_engine_callback(tb_engine *engine, const tb_engine_result *result, void *user);

/* What else is known of a record. All zero but the size: nothing is given.
 *
 * size: sizeof(tb_submit_options) as the program was compiled, so that the struct can grow:
 *     a newer library takes what it lacks for not given, an older one refuses (TB_EOPTION)
 *     what it does not know, unless that is zero. 0 counts as the size that it has here.
 * key: who it is of, for policies that share between keys and for finding who is to blame for
 *     a failed batch; or NULL. Copied.
 * group: what may share a call (a model, an adapter): records of different groups never share
 *     a batch; or NULL. Copied.
 * estimated_tokens: the record's cost, 0 .. 1e12; 0: the script's estimator says.
 * priority: any number; higher first, for policies that look at it.
 * timeout_s: > 0: seconds; not handed to inference_fn by then, the record fails (deadline).
 * batch_timeout_s: > 0: how many seconds at most this record waits for a batch to fill, in
 *     the place of the batcher's batch_timeout_s; it fails nothing. 0: the batcher's. */
struct tb_submit_options {
    size_t size;
    const char *key;
    const char *group;
    double estimated_tokens;
    double priority;
    double timeout_s;
    double batch_timeout_s;
};
typedef struct tb_submit_options tb_submit_options;

/* Hand in a record; the bytes are copied. `options` and `callback` may be NULL. From the
 * engine's thread. Returns its id (> 0, exact in a double, never used twice), and the
 * callback will be called, once; or an error, nothing has changed, and no callback follows:
 * TB_EFULL (the queue is full, or records of other threads wait in line), TB_EOVERSIZE (it
 * alone exceeds the budget, and the script says reject), TB_ECOST, TB_ETIMEOUT, TB_ERECORD (a
 * value of `options` is outside its bounds), TB_EOPTION (it has what this library does not
 * know), TB_ENOTRUNNING (after tb_engine_stop()),
 * TB_ENOMEM, TB_ENGINE_EINPUT, TB_ENGINE_ESCRIPT (the script, or Lua for
 * want of memory, failed), TB_ENGINE_EBUSY. */
int64_t tb_engine_submit(tb_engine *engine, const void *bytes, size_t size,
                         const tb_submit_options *options, tb_engine_callback *callback,
                         void *user);

/* The most records of other threads that are not queued yet. */
enum { TB_ENGINE_INBOX = 65536 };

/* The same from any thread; the callback still runs on the engine's. The record's wait and
 * its timeout count from this call. Records of one thread keep their order. When the
 * queue is full they wait in line (a script with on_full = "reject": they fail, with
 * queue_full). Takes a lock for a few assignments, and wakes the loop.
 * TB_EFULL: TB_ENGINE_INBOX of them wait already: slow down. Others: TB_ECOST, TB_ETIMEOUT,
 * TB_ERECORD, TB_EOPTION, TB_ENOTRUNNING, TB_ENOMEM; tb_engine_message() knows nothing of them.
 * Must not race tb_engine_free(). */
int64_t tb_engine_submit_threadsafe(tb_engine *engine, const void *bytes, size_t size,
                                    const tb_submit_options *options,
                                    tb_engine_callback *callback, void *user);

/* Cancel a record, queued or running: its callback follows, with the code `cancelled`, out
 * of ev_run(). What a running one's inference gives is dropped; its batch mates stay.
 * TB_OK; TB_ENOENT: it is settled, or there is none; TB_ENGINE_EBUSY. */
int tb_engine_cancel(tb_engine *engine, int64_t id);

/* Told once for each tb_engine_stop(); may call everything here, tb_engine_free() included. */
typedef void tb_engine_stopped(tb_engine *engine, void *user);

/* Graceful: refuse new records from now on, dispatch what is queued, wait for the
 * answers, then call `callback` (may be NULL) once, after all records' callbacks. With
 * timeout_s >= 0 what is left after that many seconds fails (`stopped`); below 0 there is
 * no end. Returns at once, the callback comes out of ev_run().
 * May be called again (the earlier end counts), also when stopped; each call has its
 * callback. Once stopped, the engine's watchers keep no loop going. TB_OK; TB_ETIMEOUT: not a
 * number; TB_ENOMEM, TB_ENOTRUNNING (it is being freed), TB_ENGINE_EBUSY. */
int tb_engine_stop(tb_engine *engine, double timeout_s, tb_engine_stopped *callback, void *user);

/* Free the engine, stopped or not; NULL is fine. Records that have no answer yet get
 * their callback here, with the code `stopped`; then callbacks of tb_engine_stop() that
 * have not been called. From inside a callback, all this happens when that callback has
 * returned. No thread may submit any more. The engine's worker threads (see the backend
 * `threads`) are joined, those abandoned excepted. The loop is the program's and stays. */
void tb_engine_free(tb_engine *engine);

/* The sentence of the last error that a call on the engine's thread returned; "" if there
 * was none. At most 1,023 bytes. Valid until the next call. */
const char *tb_engine_message(const tb_engine *engine);

/* `level` is "warn" or "error", `text` a sentence, both valid during the call only. It runs
 * on the engine's thread, beneath any call here, and must not call the engine. */
typedef void tb_engine_log(void *user, const char *level, const char *text);

/* Whom to tell of warnings ("warn") and errors that concern no single record ("error").
 * NULL: nobody, the default. A script's own option `log` is asked first for its batcher's
 * warnings. */
void tb_engine_set_log(tb_engine *engine, tb_engine_log *callback, void *user);

/* What the engine counts.
 *
 * batcher: see tokenbatcher.h; times in microseconds.
 * policy_errors: decisions of a scripted policy that raised.
 * policy_overruled: those that added nothing while the queue was due.
 * inbox: records of other threads that the loop has not seen yet.
 * unanswered: records accepted whose callback has not been called. */
struct tb_engine_numbers {
    tb_stats batcher;
    double policy_errors, policy_overruled;
    double inbox, unanswered;
};
typedef struct tb_engine_numbers tb_engine_numbers;

/* A snapshot, into the caller's *out. `size` is sizeof(tb_engine_numbers) as the program was
 * compiled: a newer library fills no more than that. From the engine's thread; some
 * microseconds. TB_OK, TB_ENGINE_EBUSY, TB_ENGINE_ESCRIPT; then *out is unchanged. */
int tb_engine_stats(tb_engine *engine, tb_engine_numbers *out, size_t size);

/* Let people and programs look at the engine over HTTP, on its loop: a page at /, /metrics for
 * Prometheus, /health, /ready, /stats.json and /events; nothing can be changed. `address` is
 * "127.0.0.1:9464", "[::1]:0" (0: any free port) or "unix:PATH" (of mode 0600); one that other
 * machines reach is refused. Until the engine has stopped, or is freed; once an engine. Readers
 * keep ev_run() going no longer than the engine does. Needs libtokenbatcher_listen.so beside the
 * library, and libmicrohttpd, which are loaded by this call. From the engine's thread, not from
 * beneath the script. `err` (of err_size bytes, may be NULL) and tb_engine_message() have the
 * sentence of a failure.
 * TB_OK; TB_EOPTION: no such address, one that other machines reach, or a library is missing;
 * TB_ENGINE_ELISTEN: somebody listens there, the system forbids it, or the engine listens already;
 * TB_ENGINE_ESCRIPT: Lua failed (memory); TB_ENGINE_EBUSY. */
int tb_engine_listen(tb_engine *engine, const char *address, char *err, size_t err_size);

/* Where it listens, with the port that it got; "" before it does. At most 127 bytes, until
 * tb_engine_free(). */
const char *tb_engine_address(const tb_engine *engine);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
