/* jobs.c - see jobs.h. */
#include "jobs.h"

#include <assert.h>
#include <stdlib.h>

void tb__jobs_append(struct tb__jobs *jobs, struct tb__job *job)
{
    job->next = NULL;
    if (jobs->last) {
        jobs->last->next = job;
    } else {
        jobs->first = job;
    }
    jobs->last = job;
    jobs->count++;
}

struct tb__job *tb__jobs_take(struct tb__jobs *jobs)
{
    struct tb__job *job = jobs->first;
    assert(job && jobs->count > 0);
    jobs->first = job->next;
    if (!jobs->first) jobs->last = NULL;
    jobs->count--;
    return job;
}

void tb__job_drop(struct tb__job *job)
{
    free(job->outcome.bytes);
    free(job);
}

void tb__jobs_drop_all(struct tb__jobs *jobs)
{
    while (jobs->first) tb__job_drop(tb__jobs_take(jobs));
}

bool tb__jobs_drop_one(struct tb__jobs *jobs, double id)
{
    struct tb__jobs others = {0};
    bool found = false;
    while (jobs->first) {
        struct tb__job *job = tb__jobs_take(jobs);
        if (job->id == id) {
            tb__job_drop(job);
            found = true;
        } else {
            tb__jobs_append(&others, job);
        }
    }
    *jobs = others;
    return found;
}
