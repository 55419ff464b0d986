/* threads.c - see threads.h.
 *
 * One lock guards everything. A job is in one of three places: waiting, in its worker, done.
 * The pool lives until its owner has left and its last thread has ended, whichever is later:
 * `references` counts them. So a worker that was abandoned may end at any time.
 */
#include "threads.h"

#include "jobs.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static const char HANGING[] = "all threads hang in calls that were given up";

struct worker {
    tb_threads *pool;
    pthread_t thread;
    struct tb__job *job;
    bool is_abandoned; /* it has left its place, and frees itself when it ends */
    bool is_given_up;  /* its job is, but nobody may take its place */
};

struct tb_threads {
    pthread_mutex_t lock;
    pthread_cond_t wanted; /* a job waits, or it is closing */
    struct worker **workers; /* NULL where a thread could not be started */
    uint32_t count;
    struct tb__jobs waiting, done;
    bool is_closing;
    uint32_t references;
    int fd;
    double last_id, abandoned;
    size_t memory_limit, setup_size;
    char setup[];
};

int tb_script_abi(void)
{
    return TB_SCRIPT_ABI;
}

/* --- threads ---------------------------------------------------------------- */

/* The counter cannot be full, so a write cannot fail. */
static void raise_fd(const tb_threads *pool)
{
    uint64_t one = 1;
    ssize_t written = write(pool->fd, &one, sizeof one);
    (void)written;
}

static void destroy(tb_threads *pool)
{
    assert(pool->references == 0);
    tb__jobs_drop_all(&pool->waiting);
    tb__jobs_drop_all(&pool->done);
    if (pool->fd >= 0) close(pool->fd);
    pthread_cond_destroy(&pool->wanted);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}

/* With the lock, which is given back. */
static void leave(tb_threads *pool)
{
    assert(pool->references > 0);
    bool is_last = --pool->references == 0;
    pthread_mutex_unlock(&pool->lock);
    if (is_last) destroy(pool);
}

/* With the lock. The next job, or NULL: this worker is to end. */
static struct tb__job *await_job(struct worker *worker)
{
    tb_threads *pool = worker->pool;
    while (!pool->waiting.first && !pool->is_closing) {
        pthread_cond_wait(&pool->wanted, &pool->lock);
    }
    return pool->is_closing ? NULL : tb__jobs_take(&pool->waiting);
}

/* Nobody wants it; but that the call has ended is told. */
static void forget_answer(struct tb__job *job)
{
    free(job->outcome.bytes);
    job->outcome = (struct tb__outcome){0};
    job->is_given_up = true;
}

static void *work(void *data)
{
    struct worker *worker = data;
    tb_threads *pool = worker->pool;
    struct tb__worker_state state = {.limit = pool->memory_limit, .setup = pool->setup,
                                     .setup_size = pool->setup_size};
    pthread_mutex_lock(&pool->lock);
    while (!worker->is_abandoned && (worker->job = await_job(worker)) != NULL) {
        struct tb__job *job = worker->job;
        pthread_mutex_unlock(&pool->lock);
        tb__worker_run(&state, job->bytes, job->size, &job->outcome);
        pthread_mutex_lock(&pool->lock);
        assert(worker->job == job);
        worker->job = NULL;
        if (worker->is_abandoned || worker->is_given_up) {
            worker->is_given_up = false;
            forget_answer(job);
        }
        tb__jobs_append(&pool->done, job);
        raise_fd(pool);
    }
    bool is_abandoned = worker->is_abandoned;
    pthread_mutex_unlock(&pool->lock);
    tb__worker_end(&state);
    pthread_mutex_lock(&pool->lock);
    if (is_abandoned) free(worker);
    leave(pool);
    return NULL;
}

/* With the lock. Signals are for the threads of the program. NULL: it cannot be started. */
static struct worker *start(tb_threads *pool)
{
    struct worker *worker = calloc(1, sizeof *worker);
    if (!worker) return NULL;
    worker->pool = pool;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&worker->thread, NULL, work, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        free(worker);
        return NULL;
    }
    pool->references++;
    return worker;
}

/* With the lock. It frees itself when it ends. */
static void let_go(struct worker *worker)
{
    assert(!worker->is_abandoned);
    worker->is_abandoned = true;
    pthread_detach(worker->thread);
}

/* With the lock: those that have not ended, whoever has given them up. */
static uint32_t alive(const tb_threads *pool)
{
    assert(pool->references > 0); /* the owner's */
    return pool->references - 1;
}

static bool may_start(const tb_threads *pool)
{
    return alive(pool) < pool->count + TB_THREADS_SPARE;
}

/* With the lock: as many as there should be. The number of those that do not hang. */
static uint32_t start_missing(tb_threads *pool)
{
    uint32_t able = 0;
    for (uint32_t i = 0; i < pool->count; i++) {
        struct worker **place = &pool->workers[i];
        if (*place && (*place)->is_given_up && may_start(pool)) {
            let_go(*place);
            *place = NULL;
        }
        if (!*place && may_start(pool)) *place = start(pool);
        if (*place && !(*place)->is_given_up) able++;
    }
    assert(alive(pool) <= pool->count + TB_THREADS_SPARE);
    return able;
}

/* --- the owner's calls ------------------------------------------------------ */

static tb_threads *allocate(const char *setup, size_t size, uint32_t count)
{
    tb_threads *pool = calloc(1, sizeof *pool + size);
    if (!pool) return NULL;
    pool->workers = calloc(count, sizeof(struct worker *));
    pool->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wanted, NULL);
    memcpy(pool->setup, setup, size);
    pool->setup_size = size;
    pool->count = count;
    if (!pool->workers || pool->fd < 0) {
        destroy(pool);
        return NULL;
    }
    pool->references = 1;
    return pool;
}

tb_threads *tb_threads_new(const char *setup, size_t size, uint32_t count, double memory_bytes)
{
    assert(setup || size == 0);
    if (count < 1 || count > TB_THREADS_MAX) return NULL;
    tb_threads *pool = allocate(setup, size, count);
    if (!pool) return NULL;
    pool->memory_limit = memory_bytes > 0 ? (size_t)memory_bytes : 0;
    return pool;
}

/* With the lock: workers that end by themselves and whom nobody joins. */
static void let_go_of(tb_threads *pool, bool idle_ones)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        struct worker *worker = pool->workers[i];
        if (!worker || (!worker->job && !idle_ones)) continue;
        if (worker->job && !worker->is_given_up) pool->abandoned++;
        let_go(worker);
        pool->workers[i] = NULL;
    }
}

static void begin_closing(tb_threads *pool)
{
    pool->is_closing = true;
    pthread_cond_broadcast(&pool->wanted);
}

void tb_threads_rest(tb_threads *pool)
{
    assert(pool);
    pthread_mutex_lock(&pool->lock);
    begin_closing(pool);
    let_go_of(pool, false);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->count; i++) {
        if (!pool->workers[i]) continue;
        pthread_join(pool->workers[i]->thread, NULL);
        free(pool->workers[i]);
        pool->workers[i] = NULL;
    }
    pthread_mutex_lock(&pool->lock);
    tb__jobs_drop_all(&pool->waiting);
    pool->is_closing = false;
    pthread_mutex_unlock(&pool->lock);
}

void tb_threads_free(tb_threads *pool)
{
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    begin_closing(pool);
    let_go_of(pool, true);
    leave(pool);
}

int tb_threads_fd(const tb_threads *pool)
{
    assert(pool);
    return pool->fd;
}

/* With the lock: 0, or why no job is taken. */
static double refusal(tb_threads *pool)
{
    if (pool->waiting.count == TB_THREADS_JOBS) return TB_THREADS_FULL;
    if (start_missing(pool) > 0) return 0;
    return may_start(pool) ? TB_THREADS_FULL : TB_THREADS_HANG;
}

double tb_threads_submit(tb_threads *pool, const char *bytes, size_t size)
{
    assert(pool);
    assert(bytes || size == 0);
    struct tb__job *job = malloc(sizeof *job + size);
    if (!job) return TB_THREADS_FULL;
    *job = (struct tb__job){.size = size};
    memcpy(job->bytes, bytes, size);
    pthread_mutex_lock(&pool->lock);
    double refused = refusal(pool);
    if (refused < 0) {
        pthread_mutex_unlock(&pool->lock);
        free(job);
        return refused;
    }
    double id = job->id = ++pool->last_id;
    tb__jobs_append(&pool->waiting, job);
    pthread_cond_signal(&pool->wanted);
    pthread_mutex_unlock(&pool->lock);
    return id;
}

/* With the lock: nobody is left who could begin what waits. */
static void fail_waiting(tb_threads *pool)
{
    while (pool->waiting.first) {
        struct tb__job *job = tb__jobs_take(&pool->waiting);
        job->outcome = (struct tb__outcome){.bytes = strdup(HANGING)};
        job->outcome.size = job->outcome.bytes ? sizeof HANGING - 1 : 0;
        tb__jobs_append(&pool->done, job);
    }
}

static bool all_hang(const tb_threads *pool)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        if (pool->workers[i] && !pool->workers[i]->is_given_up) return false;
    }
    return true;
}

/* With the lock. Does a worker of ours have this job? It is replaced, then, if it may be. */
static bool abandon_worker(tb_threads *pool, double id)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        struct worker *worker = pool->workers[i];
        if (!worker || !worker->job || worker->job->id != id) continue;
        pool->abandoned++;
        if (may_start(pool)) {
            let_go(worker);
            pool->workers[i] = start(pool);
        } else {
            worker->is_given_up = true;
        }
        if (all_hang(pool)) fail_waiting(pool);
        return true;
    }
    return false;
}

int tb_threads_abandon(tb_threads *pool, double id)
{
    assert(pool);
    pthread_mutex_lock(&pool->lock);
    bool is_running = !tb__jobs_drop_one(&pool->waiting, id) && abandon_worker(pool, id);
    if (!is_running) tb__jobs_drop_one(&pool->done, id);
    raise_fd(pool);
    pthread_mutex_unlock(&pool->lock);
    return is_running;
}

uint32_t tb_threads_take(tb_threads *pool, tb_answer *out, uint32_t max)
{
    assert(pool);
    assert(out || max == 0);
    uint64_t count;
    ssize_t got = read(pool->fd, &count, sizeof count);
    (void)got; /* nothing to read: there may be answers all the same */
    uint32_t n = 0;
    pthread_mutex_lock(&pool->lock);
    for (; n < max && pool->done.first; n++) {
        struct tb__job *job = tb__jobs_take(&pool->done);
        out[n] = (tb_answer){job->id, job->outcome.bytes, job->outcome.size, job->outcome.is_ok, job->is_given_up};
        free(job);
    }
    pthread_mutex_unlock(&pool->lock);
    return n;
}

void tb_threads_release(char *bytes)
{
    free(bytes);
}

void tb_threads_read(tb_threads *pool, tb_threads_numbers *out)
{
    assert(pool && out);
    *out = (tb_threads_numbers){0};
    pthread_mutex_lock(&pool->lock);
    for (uint32_t i = 0; i < pool->count; i++) {
        if (!pool->workers[i] || pool->workers[i]->is_given_up) continue;
        out->threads++;
        if (pool->workers[i]->job) out->busy++;
    }
    out->hanging = alive(pool) - out->threads;
    out->waiting = pool->waiting.count;
    out->abandoned = pool->abandoned;
    pthread_mutex_unlock(&pool->lock);
}
