/* check.h - an invariant that does not hold is a sentence. For verify*.c only. */
#ifndef TB_CHECK_H
#define TB_CHECK_H

#include "core.h"

#define CHECK(condition, sentence) \
    do { \
        if (!(condition)) return sentence; \
    } while (0)

#endif
