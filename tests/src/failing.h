/* failing.h - calls that fail at will.
 *
 * Build with -Wl,--wrap=FUNCTION for each (tests.mk has the lists), and from objects, for only calls in what is linked
 * can fail. From the `fail_at`-th call on all of them fail, until `fail_at` is NEVER again. A test tells its story with
 * 1, then with 2, and so on until a telling needs no more.
 */
#ifndef TB_TEST_FAILING_H
#define TB_TEST_FAILING_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum { NEVER = 0 };

static _Atomic uint64_t asked;   /* calls since the story began, of all threads */
static _Atomic uint64_t fail_at; /* this one and all after it fail; NEVER: none */
static _Atomic uint64_t failed;  /* how many did */

static int fails(void)
{
    uint64_t number = ++asked;
    if (fail_at == NEVER || number < fail_at) return 0;
    failed++;
    errno = ENOMEM;
    return 1;
}

/* Whatever failed works again. Had anything failed? */
static inline int recovers(void)
{
    int had = failed > 0;
    fail_at = NEVER;
    return had;
}

/* Tells the story until nothing in it fails; how many calls have failed, one after the other. */
static inline uint64_t tell_until_nothing_fails(void (*story)(void))
{
    for (uint64_t k = 1;; k++) {
        asked = failed = 0;
        fail_at = k;
        story();
        fail_at = NEVER;
        if (failed == 0) return k - 1;
    }
}

/* FAILING(what it returns, name, what it returns when it fails, (parameters), (arguments)) */
#define FAILING(type, name, failure, parameters, arguments) FAILING_IF(1, type, name, failure, parameters, arguments)

/* Only where `condition`, of the parameters, holds. */
#define FAILING_IF(condition, type, name, failure, parameters, arguments)   \
    type __real_##name parameters;                                          \
    type __wrap_##name parameters;                                          \
    type __wrap_##name parameters                                           \
    {                                                                       \
        return (condition) && fails() ? (failure) : __real_##name arguments; \
    }

FAILING(void *, malloc, NULL, (size_t size), (size))
FAILING(void *, calloc, NULL, (size_t n, size_t size), (n, size))
FAILING(void *, realloc, NULL, (void *old, size_t size), (old, size))

#endif
