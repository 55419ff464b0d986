/* lua_fuzz.h - bytes are a text for a function of Lua: what the fuzzers of JSON and of vectors share.
 *
 * With libFuzzer:   clang -fsanitize=fuzzer,address,undefined ...
 * Without:          cc -DTB_FUZZ_MAIN ... ; PROGRAM FILE...  (replays each file)
 *
 * Whoever includes it has defined CHECK: Lua that returns the function, which raises where something is wrong. With
 * LUA_LINES, lines of Lua that follow each other are features to libFuzzer, as edges of C are; Lua is interpreted
 * then. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int luaopen_tokenbatcher_json(lua_State *L);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifdef LUA_LINES
enum { LINES = 1 << 14 };
static uint8_t lines[LINES] __attribute__((section("__libfuzzer_extra_counters"), used));

static void on_line(lua_State *L, lua_Debug *at)
{
    static uint32_t before;
    lua_getinfo(L, "S", at);
    uint32_t here = (uint32_t)at->currentline * 2654435761u;
    for (const char *c = at->short_src; *c; c++) here = here * 31 + (unsigned char)*c;
    lines[(here ^ before >> 1) % LINES]++;
    before = here;
}
#endif

static lua_State *new_state(void)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, luaopen_tokenbatcher_json);
    lua_setfield(L, -2, "tokenbatcher.json");
    lua_settop(L, 0);
    if (luaL_dostring(L, CHECK)) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
        abort();
    }
#ifdef LUA_LINES
    if (luaL_dostring(L, "jit.off() jit.flush()")) abort();
    lua_sethook(L, on_line, LUA_MASKLINE, 0);
#endif
    return L;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lua_State *L;
    if (!L) L = new_state();
    lua_pushvalue(L, 1);
    lua_pushlstring(L, (const char *)data, size);
    if (lua_pcall(L, 1, 0, 0)) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
        abort();
    }
    return 0;
}

#include "replay.h"
