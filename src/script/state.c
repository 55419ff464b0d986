/* state.c - see state.h.
 *
 * A state's modules use the core through LuaJIT's ffi, which needs a library to look in.
 * The right one is the one that this code itself calls: dladdr() of one of its constants
 * names it, and a second dlopen() of that name finds it loaded. The program itself has no
 * such name; its symbols are global.
 */
#include "state.h"

#include "tokenbatcher_ev.h"

#include <dlfcn.h>
#include <lauxlib.h>
#include <lualib.h>

const char *tb_cdef(void);

/* A module's loader: compiles its embedded text on first use. Upvalue: its index. */
static int load_module(lua_State *L)
{
    const struct tb__module *m = &tb__modules[lua_tointeger(L, lua_upvalueindex(1))];
    if (luaL_loadbuffer(L, (const char *)m->text, m->size, m->chunk)) {
        return lua_error(L);
    }
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

static const char *library_of_the_core(void)
{
    Dl_info info;
    if (!dladdr(tb_cdef(), &info) || !info.dli_fname) {
        return NULL;
    }
    void *library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (!library) {
        return NULL;
    }
    dlclose(library);
    return info.dli_fname;
}

/* The executable has modules in C linked in. */
static void preload_linked(lua_State *L, const char *opener, const char *name)
{
    void *symbol = dlsym(RTLD_DEFAULT, opener);
    lua_CFunction open;
    if (symbol) {
        *(void **)&open = symbol;
        lua_pushcfunction(L, open);
        lua_setfield(L, -2, name);
    }
}

static void name_the_core(lua_State *L)
{
    const char *library = library_of_the_core();
    if (library) {
        lua_pushstring(L, library);
        lua_setfield(L, -2, "tokenbatcher.library");
    } else {
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, "tokenbatcher.linked");
    }
}

void tb__state_open(lua_State *L)
{
    luaL_openlibs(L);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    for (int i = 0; tb__modules[i].name; i++) {
        lua_pushinteger(L, i);
        lua_pushcclosure(L, load_module, 1);
        lua_setfield(L, -2, tb__modules[i].name);
    }
    preload_linked(L, "luaopen_cjson", "cjson");
    preload_linked(L, "luaopen_tokenbatcher_json", "tokenbatcher.json");
    lua_pop(L, 1);
    lua_getfield(L, -1, "loaded");
    name_the_core(L);
    lua_pop(L, 2);
}
