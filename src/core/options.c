/* options.c - the one table of options. */
#include "core.h"

#include <string.h>

/* Where the core keeps an option: an offset into tb_config, or nowhere. */
#define AT(field) offsetof(tb_config, field)
#define NOWHERE SIZE_MAX
#define NO_LIMIT ((double)TB_NO_LIMIT)
#define YEAR_S (365.0 * 24 * 3600)

typedef struct {
    tb_option shown;
    size_t at;
} option;

#define COUNT(name, fallback, min, max, unit, text) \
    {{#name, NULL, NULL, unit, text, fallback, min, max, TB_KIND_COUNT, 1}, AT(name)}
#define CHOICE(name, choices, last, at, text) \
    {{#name, NULL, choices, "", text, 0, 0, last, TB_KIND_CHOICE, 1}, at}
#define PLAIN(name, token, unit, text, kind) \
    {{#name, token, NULL, unit, text, 0, 0, 0, kind, 0}, NOWHERE}

static const option OPTIONS[] = {
    PLAIN(inference_fn, NULL, "",
          "The function that runs over each batch: inference_fn(records, info) returns a list of "
          "results, one for each record, in order.",
          TB_KIND_FUNCTION),
    PLAIN(process_fn, NULL, "", "Another name for inference_fn, as in DynamicBatcher.",
          TB_KIND_FUNCTION),
    PLAIN(cost_estimator, "token_estimator", "",
          "Gives the cost of a record that was submitted without one.", TB_KIND_FUNCTION),
    {{"target_batch_cost", "target_batch_tokens", NULL, "tokens",
      "The budget: no batch costs more, except a single record that alone does.", 32000, 1, 1e15,
      TB_KIND_COST, 1},
     AT(target_batch_cost)},
    {{"default_cost", "default_token_estimate", NULL, "tokens",
      "The cost of a record when nothing else gives one.", 1, 0, TB_COST_MAX, TB_KIND_NUMBER, 1},
     NOWHERE},
    COUNT(max_batch_size, 256, 1, 1e6, "records", "The most records in one batch."),
    COUNT(min_batch_size, 1, 1, 1e6, "records",
          "Below it, a policy that dispatches early waits; full, due and draining overrule it."),
    {{"batch_timeout_s", NULL, NULL, "s",
      "A batch that is not full goes when its oldest record has waited so long.", 0.05, 0, YEAR_S,
      TB_KIND_SECONDS, 1},
     AT(batch_timeout_us)},
    COUNT(max_queue_size, 5000, 1, 1e7, "records",
          "The most records queued (not yet in a batch); beyond it on_full decides."),
    COUNT(prefetch_batches, 2, 0, 1024, "batches",
          "Full batches cut ahead while every processing slot is busy."),
    COUNT(max_concurrent_batches, 1, 1, TB_MAX_BATCHES, "batches",
          "Processing slots: batches that run at once."),
    {{"policy", NULL, "fifo|eager|script", "",
      "Who goes when: the name of a policy that ships, a file, a table, or a function that makes one.", 0, 0, 2,
      TB_KIND_POLICY, 1},
     AT(policy)},
    CHOICE(cost_model, "sum|padded", 1, AT(cost_model),
           "What a batch costs: the sum of its records, or records x the largest."),
    CHOICE(on_full, "wait|reject", 1, AT(on_full),
           "When the queue is full, submit waits in line or returns queue_full."),
    CHOICE(on_oversize, "alone|reject", 1, AT(on_oversize),
           "A record above the budget runs alone, or submit returns oversize."),
    CHOICE(on_error, "fail|bisect", 1, NOWHERE,
           "When inference fails, fail the batch, or halve and retry it until the culprit is alone."),
    {{"max_queue_cost", NULL, NULL, "tokens",
      "The most cost queued; an empty queue takes any record.", 0, 1, 1e15, TB_KIND_COST, 0},
     AT(max_queue_cost)},
    {{"inference_timeout_s", NULL, NULL, "s",
      "A call of inference_fn that takes longer fails its batch and frees the slot.", 0, 1e-6,
      YEAR_S, TB_KIND_SECONDS, 0},
     AT(inference_timeout_us)},
    {{"max_abandoned_calls", NULL, NULL, "calls",
      "While so many calls go on after their timeout, a slot whose call timed out stays taken; 0: always.",
      NO_LIMIT, 0, 1e6, TB_KIND_COUNT, 0},
     AT(max_abandoned_calls)},
    {{"abandon_s", NULL, NULL, "s",
      "A slot that a call keeps taken after its timeout is free again after so long.", 60, 0, YEAR_S,
      TB_KIND_SECONDS, 1},
     AT(abandon_us)},
    {{"suspect_s", NULL, NULL, "s",
      "How long the records of a key that made a batch fail run in batches of one; 0: never.", 10, 0,
      YEAR_S, TB_KIND_SECONDS, 1},
     NOWHERE},
    {{"max_wait_s", NULL, NULL, "s",
      "Records that have waited so long make the queue due and go first.", 0, 1e-6, YEAR_S,
      TB_KIND_SECONDS, 0},
     AT(max_wait_us)},
    PLAIN(join, NULL, "",
          "join(record) returns a string, or nil: records with equal strings, in flight at once, are one.",
          TB_KIND_FUNCTION),
    PLAIN(slo, NULL, "s",
          "Within how long of its submission an answer to a record is of use; policies read it, nothing fails for it.",
          TB_KIND_SLO),
    PLAIN(record, NULL, "",
          "Writes arrivals and batches to this file (%p in it: the process id), for simulate and fit.",
          TB_KIND_STRING),
    PLAIN(record_keys, NULL, "", "Recordings hold keys and groups as they are, not as salted hashes.",
          TB_KIND_BOOLEAN),
    PLAIN(log, NULL, "", "Receives warnings as log(level, text); by default they go to stderr.",
          TB_KIND_FUNCTION),
    PLAIN(name, NULL, "", "Names the batcher in errors and logs.", TB_KIND_STRING),
};

enum { OPTION_COUNT = sizeof OPTIONS / sizeof *OPTIONS };

uint32_t tb_option_count(void)
{
    return OPTION_COUNT;
}

const tb_option *tb_option_at(uint32_t i)
{
    return i < OPTION_COUNT ? &OPTIONS[i].shown : NULL;
}

static bool is_whole(double value)
{
    return value == (double)(uint64_t)value;
}

static bool is_allowed(const tb_option *o, double value)
{
    if (o->kind >= TB_KIND_FUNCTION) return false;
    if (!(value >= o->min && value <= o->max)) return false;
    return o->kind == TB_KIND_SECONDS || o->kind == TB_KIND_NUMBER || is_whole(value);
}

static void store(tb_config *config, const option *o, double value)
{
    assert(config != NULL);
    if (o->at == NOWHERE) return;
    char *field = (char *)config + o->at;
    bool is_cost = o->shown.kind == TB_KIND_COST, is_time = o->shown.kind == TB_KIND_SECONDS;
    int64_t us = is_time ? (int64_t)(value * 1e6 + 0.5) : 0;
    int32_t count = is_cost || is_time ? 0 : (int32_t)value;
    switch (o->shown.kind) {
    case TB_KIND_SECONDS: memcpy(field, &us, sizeof us); break;
    case TB_KIND_COST: memcpy(field, &value, sizeof value); break;
    default: memcpy(field, &count, sizeof count); break;
    }
}

int tb_config_set(tb_config *config, uint32_t i, double value)
{
    assert(config != NULL);
    if (i >= OPTION_COUNT || !is_allowed(&OPTIONS[i].shown, value)) return TB_EOPTION;
    store(config, &OPTIONS[i], value);
    return TB_OK;
}

int tb_config_unset(tb_config *config, uint32_t i)
{
    assert(config != NULL);
    if (i >= OPTION_COUNT || OPTIONS[i].shown.has_default) return TB_EOPTION;
    store(config, &OPTIONS[i], OPTIONS[i].shown.fallback);
    return TB_OK;
}

void tb_config_init(tb_config *config)
{
    assert(config != NULL);
    memset(config, 0, sizeof *config);
    for (uint32_t i = 0; i < OPTION_COUNT; i++) store(config, &OPTIONS[i], OPTIONS[i].shown.fallback);
}

/* The stored value in the option's own unit. */
static double load(const tb_config *config, const option *o)
{
    assert(o->at != NOWHERE);
    const char *field = (const char *)config + o->at;
    int64_t us = 0;
    int32_t count = 0;
    double value = 0;
    switch (o->shown.kind) {
    case TB_KIND_SECONDS: memcpy(&us, field, sizeof us); return (double)us / 1e6;
    case TB_KIND_COST: memcpy(&value, field, sizeof value); return value;
    default: memcpy(&count, field, sizeof count); return count;
    }
}

uint32_t tb_config_never_full(const tb_config *config)
{
    assert(config != NULL);
    bool by_size = config->max_queue_size < config->max_batch_size;
    bool by_cost = config->max_queue_cost != 0 && config->max_queue_cost < config->target_batch_cost;
    return (by_size ? TB_BOUND_SIZE : 0u) | (by_cost ? TB_BOUND_COST : 0u);
}

int tb_config_check(const tb_config *config)
{
    assert(config != NULL);
    for (uint32_t i = 0; i < OPTION_COUNT; i++) {
        const option *o = &OPTIONS[i];
        if (o->at == NOWHERE) continue;
        double value = load(config, o);
        bool none = !o->shown.has_default && value == o->shown.fallback;
        if (!none && !is_allowed(&o->shown, value)) return TB_EOPTION;
    }
    return config->min_batch_size > config->max_batch_size ? TB_EMINMAX : TB_OK;
}
