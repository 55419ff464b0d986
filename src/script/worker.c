/* worker.c - see worker.h. lua/tokenbatcher/script/worker.lua judges what the script does; what is
 * left for here is a state that cannot be made, and memory that runs out outside of the
 * script. After that the state is closed, and the next job begins with a new one. */
#include "worker.h"

#include "state.h"

#include <assert.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

static const char RUN[] = "tokenbatcher.worker.run"; /* in the registry */

/* A Lua allocator with a limit. */
static void *allocate(void *data, void *block, size_t old_size, size_t size)
{
    struct tb__worker_state *state = data;
    if (!block) old_size = 0;
    if (size == 0) {
        assert(old_size <= state->used);
        free(block);
        state->used -= old_size;
        return NULL;
    }
    assert(state->used <= state->limit);
    if (size > old_size && size - old_size > state->limit - state->used) return NULL;
    void *grown = realloc(block, size);
    if (grown) state->used += size - old_size;
    return grown;
}

struct job {
    struct tb__worker_state *state;
    const char *bytes;
    size_t size;
    struct tb__outcome *out;
};

/* A new state: worker.lua's function for jobs goes into the registry. */
static int open_state(lua_State *L)
{
    const struct job *job = lua_touserdata(L, 1);
    tb__state_open(L);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tokenbatcher.script.worker");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "new");
    lua_pushlstring(L, job->state->setup, job->state->setup_size);
    lua_pushboolean(L, job->state->limit > 0);
    lua_call(L, 2, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, RUN);
    return 0;
}

static void keep(struct tb__outcome *out, const char *bytes, size_t size, bool is_ok)
{
    assert(!out->bytes);
    out->bytes = malloc(size ? size : 1);
    if (!out->bytes) return;
    memcpy(out->bytes, bytes, size);
    out->size = size;
    out->is_ok = is_ok;
}

static int run_job(lua_State *L)
{
    const struct job *job = lua_touserdata(L, 1);
    lua_getfield(L, LUA_REGISTRYINDEX, RUN);
    lua_pushlstring(L, job->bytes, job->size);
    lua_call(L, 1, 1);
    size_t size;
    const char *bytes = lua_tolstring(L, -1, &size);
    keep(job->out, bytes ? bytes : "", size, bytes != NULL);
    return 0;
}

/* The error on top of the stack; the state that raised it is not used again. */
static void keep_error(struct tb__worker_state *state, struct tb__outcome *out)
{
    size_t size = 0;
    const char *text = lua_type(state->L, -1) == LUA_TSTRING ? lua_tolstring(state->L, -1, &size) : NULL;
    if (!text) {
        text = "an error that is not a string";
        size = strlen(text);
    }
    keep(out, text, size, false);
    tb__worker_end(state);
}

void tb__worker_run(struct tb__worker_state *state, const char *bytes, size_t size,
                    struct tb__outcome *out)
{
    assert(bytes || size == 0);
    struct job job = {state, bytes, size, out};
    *out = (struct tb__outcome){0};
    if (!state->L) {
        state->used = 0;
        state->L = state->limit ? lua_newstate(allocate, state) : luaL_newstate();
        if (!state->L) {
            static const char text[] = "a worker thread cannot make a Lua state (out of memory?)";
            keep(out, text, sizeof text - 1, false);
            return;
        }
        if (lua_cpcall(state->L, open_state, &job)) {
            keep_error(state, out);
            return;
        }
    }
    if (lua_cpcall(state->L, run_job, &job)) keep_error(state, out);
}

void tb__worker_end(struct tb__worker_state *state)
{
    if (state->L) lua_close(state->L);
    state->L = NULL;
}
