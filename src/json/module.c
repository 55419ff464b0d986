/* module.c - the codec as a Lua module: a function that makes its two functions. */
#include "codec.h"

#include <stdlib.h>
#include <string.h>

__attribute__((visibility("default"))) int luaopen_tokenbatcher_json(lua_State *L);

static int release(lua_State *L)
{
    tb__codec *c = lua_touserdata(L, 1);
    free(c->text.bytes);
    free(c->keys);
    memset(c, 0, sizeof *c);
    return 0;
}

static void push_codec(lua_State *L)
{
    tb__codec *c = lua_newuserdata(L, sizeof *c);
    memset(c, 0, sizeof *c);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, release);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
}

/* A function with all upvalues, which are the topmost values and stay. */
static void push_function(lua_State *L, lua_CFunction function)
{
    for (int i = 0; i < TB__UP_COUNT; i++) {
        lua_pushvalue(L, -TB__UP_COUNT);
    }
    lua_pushcclosure(L, function, TB__UP_COUNT);
}

/* (list_mark, new_exact, exact_text): decode, encode. list_mark is the metatable of lists;
 * new_exact(digits) makes an integer above 2^53, exact_text(cdata) its digits or nil. */
static int module_new(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    push_codec(L);
    lua_pushvalue(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, 3);
    lua_pushliteral(L, "__jsontype");
    lua_pushliteral(L, "__jsonorder");
    push_function(L, tb__json_decode);
    lua_insert(L, -1 - TB__UP_COUNT);
    push_function(L, tb__json_encode);
    lua_pushvalue(L, -2 - TB__UP_COUNT);
    lua_insert(L, -2);
    return 2;
}

/* The first byte of a text that is not UTF-8, or nil. */
static int module_utf8_error(lua_State *L)
{
    size_t size;
    const char *text = luaL_checklstring(L, 1, &size);
    size_t wrong = tb__utf8_error(text, size);
    if (!wrong) {
        return 0;
    }
    lua_pushnumber(L, (lua_Number)wrong);
    return 1;
}

int luaopen_tokenbatcher_json(lua_State *L)
{
    lua_createtable(L, 0, 4);
    lua_pushcfunction(L, module_new);
    lua_setfield(L, -2, "new");
    lua_pushcfunction(L, module_utf8_error);
    lua_setfield(L, -2, "utf8_error");
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    lua_pushnumber(L, 1);
    lua_setfield(L, -2, "version");
    return 1;
}
