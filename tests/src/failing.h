/* failing.h - calls that fail at will.
 *
 * Build with -Wl,--wrap=FUNCTION for each (tests.mk has the lists), and from objects, for only calls in what is linked
 * can fail. From the `fail_at`-th call on all of them fail, until `fail_at` is NEVER again. A test tells its story with
 * 1, then with 2, and so on until a telling needs no more.
 */
#ifndef TB_TEST_FAILING_H
#define TB_TEST_FAILING_H

#include <stdint.h>
#include <stdlib.h>

enum { NEVER = 0 };

static uint64_t asked;   /* calls since the story began */
static uint64_t fail_at; /* this one and all after it fail; NEVER: none */
static uint64_t failed;  /* how many did */

static int fails(void)
{
    asked++;
    if (fail_at == NEVER || asked < fail_at) return 0;
    failed++;
    return 1;
}

/* FAILING(what it returns, name, what it returns when it fails, (parameters), (arguments)) */
#define FAILING(type, name, failure, parameters, arguments) \
    type __real_##name parameters;                          \
    type __wrap_##name parameters;                          \
    type __wrap_##name parameters                           \
    {                                                       \
        return fails() ? (failure) : __real_##name arguments; \
    }

FAILING(void *, malloc, NULL, (size_t size), (size))
FAILING(void *, calloc, NULL, (size_t n, size_t size), (n, size))
FAILING(void *, realloc, NULL, (void *old, size_t size), (old, size))

#endif
