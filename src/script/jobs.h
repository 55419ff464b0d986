/* jobs.h - lines of jobs for worker threads: bytes that wait for a worker, or answers that wait
 * to be taken. Whoever holds the pool's lock may touch them.
 */
#ifndef TB_SCRIPT_JOBS_H
#define TB_SCRIPT_JOBS_H

#include "worker.h"

#include <stdint.h>

struct tb__job {
    struct tb__job *next;
    double id;
    struct tb__outcome outcome;
    bool is_given_up; /* it is done, and has no answer */
    size_t size;
    char bytes[];
};

struct tb__jobs {
    struct tb__job *first, *last;
    uint32_t count;
};

void tb__jobs_append(struct tb__jobs *jobs, struct tb__job *job);

/* The first, there being one. */
struct tb__job *tb__jobs_take(struct tb__jobs *jobs);

void tb__job_drop(struct tb__job *job);
void tb__jobs_drop_all(struct tb__jobs *jobs);

/* Drop the job of this number. False: it is not here. */
bool tb__jobs_drop_one(struct tb__jobs *jobs, double id);

#endif
