/* protect.c - calls into Lua that may raise, from where nothing may: the engine's functions and
 * the loop's callbacks. What raised becomes the engine's message.
 */
#include "engine.h"

#include <assert.h>
#include <lauxlib.h>
#include <stdio.h>

struct call {
    tb_engine *engine;
    tb__body *run;
    void *data;
};

static int enter(lua_State *L)
{
    struct call *call = lua_touserdata(L, 1);
    assert(call->engine->in_lua);
    lua_settop(L, 0);
    if (!call->engine->enter_ref) { /* the first call of this state */
        lua_pushcfunction(L, enter);
        call->engine->enter_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    call->run(call->engine, L, call->data);
    return 0;
}

void tb__keep_message(tb_engine *engine, const char *text)
{
    snprintf(engine->message, sizeof engine->message, "%s", text ? text : "");
}

static bool succeeded(tb_engine *engine, int status)
{
    engine->in_lua = false;
    if (status == 0) return true;
    tb__keep_message(engine, lua_isstring(engine->L, -1) ? lua_tostring(engine->L, -1) : "Lua failed");
    lua_pop(engine->L, 1);
    return false;
}

bool tb__protect_first(tb_engine *engine, tb__body *run, void *data)
{
    assert(engine->L);
    assert(!engine->in_lua && !engine->enter_ref);
    struct call call = {engine, run, data};
    engine->in_lua = true;
    return succeeded(engine, lua_cpcall(engine->L, enter, &call));
}

bool tb__protect(tb_engine *engine, tb__body *run, void *data)
{
    assert(engine->L);
    assert(!engine->in_lua); /* whoever may be called from beneath the script has looked */
    struct call call = {engine, run, data};
    engine->in_lua = true;
    lua_rawgeti(engine->L, LUA_REGISTRYINDEX, engine->enter_ref);
    lua_pushlightuserdata(engine->L, &call);
    return succeeded(engine, lua_pcall(engine->L, 1, 0, 0));
}
