/* threads.h - worker threads, each with a Lua state of its own that runs a script's
 * inference function. The Lua half is lua/tokenbatcher/backend/threads.lua in the loop's
 * thread and lua/tokenbatcher/script/worker.lua in each worker; what travels between them is bytes.
 *
 * A job is bytes that wait for a worker; its answer is bytes that wait to be taken. A
 * descriptor is readable when there are answers: nobody polls. Like the public headers this
 * is a source of the ffi.cdef: leaf calls, no function pointers.
 *
 * A worker whose job is given up (tb_threads_abandon) cannot be stopped. It is counted,
 * another takes its place at once, and when it ends its answer is dropped, which is told
 * (is_given_up). It is never joined: neither a rest nor the end of the process waits for it.
 *
 * A pool has at most TB_THREADS_SPARE threads more than its `count`, those given up included.
 * With all of the spare ones gone, a worker that is given up keeps its place, and where none
 * is left that is not, jobs are refused and those that wait fail, until one of them ends.
 *
 * All calls are the owner's, from one thread.
 */
#ifndef TB_SCRIPT_THREADS_H
#define TB_SCRIPT_THREADS_H

#ifndef TB_CDEF
#include <stddef.h>
#include <stdint.h>
#pragma GCC visibility push(default)
#endif

enum { TB_SCRIPT_ABI = 2, TB_THREADS_MAX = 256, TB_THREADS_JOBS = 16384, TB_THREADS_SPARE = 16 };

/* Why a job was not taken. FULL: TB_THREADS_JOBS are waiting, or no memory, or none of the
 * threads could be started. HANG: every thread there may be runs a job that was given up. */
enum tb_threads_refusal { TB_THREADS_FULL = -1, TB_THREADS_HANG = -2 };

int tb_script_abi(void);

typedef struct tb_threads tb_threads;

/* `count` (1 .. TB_THREADS_MAX) workers, started with the first job; each hands `setup` to
 * worker.lua when it gets one. Above 0, `memory_bytes` is the most that a worker's Lua state
 * may hold. NULL: no memory or no descriptors. */
tb_threads *tb_threads_new(const char *setup, size_t size, uint32_t count, double memory_bytes);

/* End the workers and join those that run no job (the others are abandoned; jobs that wait
 * are dropped, answers may be taken). The next job starts new ones. */
void tb_threads_rest(tb_threads *threads);

/* End the workers, joining none, and free: for a finalizer. */
void tb_threads_free(tb_threads *threads);

/* Readable when there are answers, or something was given up; tb_threads_take() ends that.
 * Open until tb_threads_free(). */
int tb_threads_fd(const tb_threads *threads);

/* Copies the bytes. The job's number, from 1, or one of enum tb_threads_refusal. */
double tb_threads_submit(tb_threads *threads, const char *bytes, size_t size);

/* Give a job up, wherever it is: its answer will never be taken. 1 if a worker has been
 * abandoned for it, whose end will be told; else 0. */
int tb_threads_abandon(tb_threads *threads, double job);

struct tb_answer {
    double job;
    char *bytes;    /* the caller's, for tb_threads_release() */
    size_t size;
    uint32_t is_ok; /* 0: the worker failed, and bytes are a sentence */
    uint32_t is_given_up; /* 1: a worker that was abandoned has ended; there are no bytes */
};
typedef struct tb_answer tb_answer;

/* Take up to `max` answers, in the order they came. Call again while it returns `max`. */
uint32_t tb_threads_take(tb_threads *threads, tb_answer *out, uint32_t max);
void tb_threads_release(char *bytes);

struct tb_threads_numbers {
    double threads;   /* that can take jobs */
    double busy;      /* of those, have one */
    double waiting;   /* jobs that no worker has begun */
    double abandoned; /* workers, ever */
    double hanging;   /* of those, still run */
};
typedef struct tb_threads_numbers tb_threads_numbers;

void tb_threads_read(tb_threads *threads, tb_threads_numbers *out);

#ifndef TB_CDEF
#pragma GCC visibility pop
#endif
#endif
