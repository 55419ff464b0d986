/* scripted.h - what the tests of scripted decisions share: a batcher with a budget of 100,
 * batches of 20, started at 10,000 s. */
#ifndef SCRIPTED_H
#define SCRIPTED_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tokenbatcher.h"

enum { MOST = 400 };

static inline tb_batcher *scripted(uint32_t slots, int64_t max_wait_us)
{
    tb_config config;
    tb_config_init(&config);
    config.policy = TB_POLICY_SCRIPT;
    config.target_batch_cost = 100;
    config.max_batch_size = 20;
    config.max_queue_size = MOST;
    config.max_concurrent_batches = slots;
    config.max_wait_us = max_wait_us;
    tb_batcher *b = tb_new(&config);
    assert_non_null(b);
    assert_int_equal(tb_start(b, 10000000000), TB_OK);
    return b;
}

static inline tb_id submit(tb_batcher *b, double cost, int64_t now)
{
    tb_submission s = {.cost = cost};
    tb_id id = tb_submit(b, &s, now);
    assert_true(id > 0);
    return id;
}

static inline void sound(const tb_batcher *b)
{
    const char *broken = tb_verify(b);
    if (broken) fail_msg("%s", broken);
}

#define TEST(name, function) {name, function, NULL, NULL, NULL}

#endif
