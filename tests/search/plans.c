/* plans.c - the small configurations that are searched. A step of time is a microsecond. */
#include "plans.h"

#include <string.h>

/* A budget of 4, batches of 3, a queue of 3, two slots, lingering 2 steps. */
static tb_config small(void)
{
    tb_config c;
    tb_config_init(&c);
    c.target_batch_cost = 4;
    c.max_batch_size = 3;
    c.max_queue_size = 3;
    c.max_concurrent_batches = 2;
    c.prefetch_batches = 0;
    c.batch_timeout_us = 2;
    return c;
}

static plan *next(plan *out, uint32_t *n, const char *name)
{
    plan *p = &out[(*n)++];
    memset(p, 0, sizeof *p);
    p->name = name;
    p->settings[0] = p->settings[1] = small();
    p->setting_count = 1;
    p->records = WORLD_RECORDS;
    p->kinds[0].cost = 1;
    p->kind_count = 1;
    return p;
}

static void add_kind(plan *p, tb_submission record)
{
    p->kinds[p->kind_count++] = record;
}

static void plan_groups(plan *p)
{
    add_kind(p, (tb_submission){.cost = 2, .group = 1});
    add_kind(p, (tb_submission){.cost = 2, .group = 2});
    p->settings[0].max_concurrent_batches = 1;
    p->settings[0].prefetch_batches = 1;
    p->has_settle = 1;
}

static void plan_deadlines(plan *p)
{
    add_kind(p, (tb_submission){.cost = 2, .timeout_us = 4});
    add_kind(p, (tb_submission){.cost = 1, .batch_timeout_us = 1});
    p->settings[0].max_concurrent_batches = 1;
    p->settings[0].batch_timeout_us = 3;
}

static void plan_line(plan *p)
{
    add_kind(p, (tb_submission){.cost = 3, .timeout_us = 3});
    p->settings[0].max_queue_size = 2;
    p->settings[0].max_queue_cost = 4;
    p->settings[0].prefetch_batches = 1;
    p->has_stop = 1;
}

static void plan_oversize(plan *p)
{
    add_kind(p, (tb_submission){.cost = 6});
    p->setting_count = 2;
    p->settings[1].on_oversize = TB_OVERSIZE_REJECT;
    p->settings[1].cost_model = TB_COST_PADDED;
    p->settings[1].max_concurrent_batches = 1;
    p->has_flush = p->has_stop = 1;
}

static void plan_cuts(plan *p)
{
    add_kind(p, (tb_submission){.cost = 3});
    p->settings[0].max_concurrent_batches = 1;
    p->settings[0].prefetch_batches = 2;
    p->settings[0].max_batch_size = 2;
    p->setting_count = 2;
    p->settings[1].max_batch_size = 1;
    p->settings[1].prefetch_batches = 1;
    p->settings[1].max_concurrent_batches = 1;
    p->has_settle = p->has_stop = 1;
}

static void plan_eager(plan *p)
{
    add_kind(p, (tb_submission){.cost = 2, .timeout_us = 4});
    p->settings[0].policy = TB_POLICY_EAGER;
    p->settings[0].min_batch_size = 2;
    p->settings[0].max_wait_us = 1;
    p->has_flush = p->has_stop = 1;
}

static void plan_alone(plan *p)
{
    add_kind(p, (tb_submission){.cost = 1, .key = 1});
    add_kind(p, (tb_submission){.cost = 1, .key = 2, .batch_timeout_us = TB_AT_ONCE});
    p->lone_key = 1;
    p->settings[0].prefetch_batches = 1;
    p->settings[0].max_concurrent_batches = 1;
    p->has_settle = 1;
}

static void plan_timeouts(plan *p)
{
    p->settings[0].inference_timeout_us = 2;
    p->settings[0].max_abandoned_calls = 0;
    p->settings[0].abandon_us = 2;
    p->settings[0].max_batch_size = 2;
    p->setting_count = 2;
    p->settings[1] = p->settings[0];
    p->settings[1].max_abandoned_calls = 1;
    p->settings[1].max_concurrent_batches = 1;
    p->has_settle = p->has_stop = 1;
}

uint32_t plans(plan *out)
{
    static const struct {
        const char *name;
        void (*fill)(plan *);
    } ALL[PLANS] = {
        {"groups", plan_groups}, {"deadlines and lingers", plan_deadlines}, {"the line", plan_line},
        {"oversize, padded, set", plan_oversize}, {"cuts, set", plan_cuts}, {"eager, max_wait", plan_eager},
        {"records alone", plan_alone}, {"timeouts, abandoned calls, set", plan_timeouts},
    };
    uint32_t n = 0;
    while (n < PLANS) {
        uint32_t i = n;
        ALL[i].fill(next(out, &n, ALL[i].name));
    }
    return n;
}
