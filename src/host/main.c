/* main.c - the command-line host: opens LuaJIT with our modules and cjson built in,
 * and hands over to lua/tokenbatcher/cli. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXIT_USAGE = 2 };

struct tb_host_module {
    const char *name, *chunk;
    const unsigned char *text;
    size_t size;
};
extern const struct tb_host_module tb_host_modules[];

int luaopen_cjson(lua_State *L);

/* A module's loader: compiles its embedded text on first use. Upvalue: its index. */
static int load_module(lua_State *L)
{
    const struct tb_host_module *m = &tb_host_modules[lua_tointeger(L, lua_upvalueindex(1))];
    if (luaL_loadbuffer(L, (const char *)m->text, m->size, m->chunk)) return lua_error(L);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

static void preload_modules(lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    for (int i = 0; tb_host_modules[i].name; i++) {
        lua_pushinteger(L, i);
        lua_pushcclosure(L, load_module, 1);
        lua_setfield(L, -2, tb_host_modules[i].name);
    }
    lua_pushcfunction(L, luaopen_cjson);
    lua_setfield(L, -2, "cjson");
    lua_pop(L, 1);
    lua_getfield(L, -1, "loaded");
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "tokenbatcher.linked");
    lua_pop(L, 2);
}

static int add_traceback(lua_State *L)
{
    if (!lua_isstring(L, 1)) return 1;
    luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
}

static int run(lua_State *L)
{
    int argc = (int)lua_tointeger(L, 1);
    char **argv = lua_touserdata(L, 2);
    luaL_openlibs(L);
    preload_modules(L);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tokenbatcher.cli");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "main");
    lua_createtable(L, argc, 0);
    for (int i = 1; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_call(L, 1, 1);
    return 1;
}

int main(int argc, char **argv)
{
    lua_State *L = luaL_newstate();
    if (!L) {
        fputs("tokenbatcher: out of memory\n", stderr);
        return EXIT_USAGE;
    }
    lua_pushcfunction(L, add_traceback);
    lua_pushcfunction(L, run);
    lua_pushinteger(L, argc);
    lua_pushlightuserdata(L, argv);
    int status = EXIT_USAGE;
    if (lua_pcall(L, 2, 1, 1)) {
        const char *text = lua_tostring(L, -1);
        fprintf(stderr, "tokenbatcher: %s\n", text ? text : "(an error that is not a string)");
    } else {
        status = (int)lua_tointeger(L, -1);
    }
    lua_close(L);
    return status;
}
