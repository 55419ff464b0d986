/* state.h - Lua states with our modules inside, for the executable, engines and workers. */
#ifndef TB_SCRIPT_STATE_H
#define TB_SCRIPT_STATE_H

#include <lua.h>
#include <stddef.h>

/* Every Lua module of ours as text, made by src/host/embed.lua; the last has no name. */
struct tb__module {
    const char *name, *chunk;
    const unsigned char *text;
    size_t size;
};
extern const struct tb__module tb__modules[];

/* Lua's libraries, our modules (compiled on first use), and where the core is found: in
 * the program itself, or in the shared library that this process has loaded. May raise. */
void tb__state_open(lua_State *L);

#endif
