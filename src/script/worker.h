/* worker.h - what threads.c asks of worker.c: one Lua state, one job after the other. */
#ifndef TB_SCRIPT_WORKER_H
#define TB_SCRIPT_WORKER_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

struct tb__worker_state {
    lua_State *L; /* NULL until the first job, and after memory ran out */
    size_t limit, used; /* bytes; limit 0: none */
    const char *setup;
    size_t setup_size;
};

/* What became of a job: bytes from malloc(), or NULL for want of memory. */
struct tb__outcome {
    char *bytes;
    size_t size;
    bool is_ok;
};

void tb__worker_run(struct tb__worker_state *state, const char *bytes, size_t size,
                    struct tb__outcome *out);
void tb__worker_end(struct tb__worker_state *state);

#endif
