/* fuzz_json.c - bytes are a text for base/json.
 *
 * With libFuzzer:   clang -fsanitize=fuzzer,address,undefined ...
 * Without:          cc -DTB_FUZZ_MAIN ... ; fuzz_json FILE...  (replays each file)
 *
 * What is taken is written on one line, the same by both encoders, and comes back as it was;
 * what is refused is refused with a byte; UTF-8 is what base/utf8 says it is.
 */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int luaopen_tokenbatcher_json(lua_State *L);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char CHECK[] =
    "package.path = 'lua/?.lua;' .. package.path\n"
    "local json, utf8 = require 'tokenbatcher.base.json', require 'tokenbatcher.base.utf8'\n"
    "return function(text)\n"
    "  local value, message = json.decode(text)\n"
    "  local wrong = utf8.first_error(text, 1)\n"
    "  assert(wrong == utf8.first_error(text), 'UTF-8')\n"
    "  if message then\n"
    "    local at = tonumber(message:match '%(byte (%d+)%)$')\n"
    "    assert(at and at >= 1 and at <= #text + 2, message)\n"
    "    assert(not wrong or at == wrong, message)\n"
    "    return\n"
    "  end\n"
    "  assert(not wrong, 'taken, and no UTF-8')\n"
    "  local line = assert(json.encode(value))\n"
    "  assert(not line:find '[%z\\1-\\31]', 'a control character was written')\n"
    "  local again = assert(json.encode(json.decode(line)))\n"
    "  assert(again == line, again)\n"
    "  local in_lua = json.encode_in_lua(value)\n"
    "  assert(in_lua == line or json.encode(json.decode(in_lua)) == line, in_lua)\n"
    "end\n";

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

#ifdef TB_FUZZ_MAIN
static void replay(const char *path)
{
    static uint8_t data[1 << 16];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    size_t size = fread(data, 1, sizeof data, file);
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) replay(argv[i]);
    printf("%d inputs replayed\n", argc - 1);
    return 0;
}
#endif
