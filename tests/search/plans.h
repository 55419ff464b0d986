/* plans.h - see plans.c. */
#ifndef TB_SEARCH_PLANS_H
#define TB_SEARCH_PLANS_H

#include "world.h"

enum { PLANS = 8 };

/* All of them into `out`; their number. */
uint32_t plans(plan *out);

#endif
