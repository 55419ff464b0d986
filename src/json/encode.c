/* encode.c - Lua values to JSON text: what base/json does where this library is not, to the
 * byte (but where two shortest texts of a number are equally near it).
 *
 * A table is a list if its keys are 1 to n; an empty one if it is marked so. An object's keys
 * are in the order of its mark, which names none twice, followed by those that it does not name,
 * sorted: numbers, then strings. */
#include "codec.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LUAJIT_CDATA = 10, STACK_A_LEVEL = 10 };

static bool complain(tb__codec *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(c->problem, sizeof c->problem, format, args);
    va_end(args);
    return false;
}

static bool append(tb__codec *c, const char *bytes, size_t size)
{
    if (!tb__reserve(&c->text, size)) {
        return complain(c, "not enough memory");
    }
    memcpy(c->text.bytes + c->text.size, bytes, size);
    c->text.size += size;
    return true;
}

static bool append_char(tb__codec *c, char byte)
{
    return append(c, &byte, 1);
}

/* --- strings */

/* Set in each byte of `eight` that is below 0x20, a quote or a backslash (and, after such a
 * byte, perhaps in others). */
static uint64_t specials(uint64_t eight)
{
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    uint64_t quote = eight ^ (ones * '"'), slash = eight ^ (ones * '\\');
    return (((eight - ones * 0x20) & ~eight) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash)) & highs;
}

static size_t plain_length(const char *text, size_t size)
{
    size_t at = 0;
    for (uint64_t eight; at + sizeof eight <= size; at += sizeof eight) {
        memcpy(&eight, text + at, sizeof eight);
        if (specials(eight)) {
            break;
        }
    }
    while (at < size && (unsigned char)text[at] >= 0x20 && text[at] != '"' && text[at] != '\\') {
        at++;
    }
    return at;
}

static size_t escape(unsigned char byte, char out[8])
{
    static const char NAMES[] = "\bb\ff\nn\rr\tt\"\"\\\\";
    out[0] = '\\';
    for (const char *name = NAMES; *name; name += 2) {
        if ((unsigned char)name[0] == byte) {
            out[1] = name[1];
            return 2;
        }
    }
    return (size_t)snprintf(out, 8, "\\u%04x", byte);
}

static bool append_string(tb__codec *c, const char *text, size_t size)
{
    size_t wrong = tb__utf8_error(text, size);
    if (wrong) {
        return complain(c, "a string that is not UTF-8 (byte %zu) has no JSON form", wrong);
    }
    if (!append_char(c, '"')) {
        return false;
    }
    for (size_t at = 0; at < size;) {
        size_t plain = plain_length(text + at, size - at);
        if (!append(c, text + at, plain)) {
            return false;
        }
        at += plain;
        if (at < size) {
            char escaped[8];
            size_t length = escape((unsigned char)text[at++], escaped);
            if (!append(c, escaped, length)) {
                return false;
            }
        }
    }
    return append_char(c, '"');
}

static bool append_number(tb__codec *c, double value)
{
    if (isnan(value) || isinf(value)) {
        return complain(c, "the number %s has no JSON form", isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
    }
    if (!tb__reserve(&c->text, TB__NUMBER_SIZE)) {
        return complain(c, "not enough memory");
    }
    c->text.size += tb__number_text(value, c->text.bytes + c->text.size);
    return true;
}

/* --- lists */

/* Are the keys 1 to n? An array part comes in order; else they are counted. */
static bool is_list(lua_State *L, int n)
{
    int count = 0;
    bool in_order = true;
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        count++;
        lua_pop(L, 1);
        in_order = in_order && lua_type(L, -1) == LUA_TNUMBER && lua_tonumber(L, -1) == count;
    }
    if (in_order || count != n) {
        return count == n;
    }
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        bool is_there = !lua_isnil(L, -1);
        lua_pop(L, 1);
        if (!is_there) {
            return false;
        }
    }
    return true;
}

static bool append_value(lua_State *L, tb__codec *c, int depth);

static bool append_list(lua_State *L, tb__codec *c, int n, int depth)
{
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        if (!append_char(c, i == 1 ? '[' : ',') || !append_value(L, c, depth + 1)) {
            return false;
        }
        lua_pop(L, 1);
    }
    return append_char(c, ']');
}

/* --- objects */

/* The value is on top; it is popped. */
static bool append_member(lua_State *L, tb__codec *c, const char *key, size_t size, bool is_first, int depth)
{
    bool ok = append_char(c, is_first ? '{' : ',') && append_string(c, key, size) && append_char(c, ':') &&
              append_value(L, c, depth + 1);
    lua_pop(L, 1);
    return ok;
}

/* The keys of the order on top of the stack, as far as the table below has them. */
static bool append_in_order(lua_State *L, tb__codec *c, size_t *members, int depth)
{
    int n = (int)lua_objlen(L, -1);
    for (int i = 1; i <= n; i++) {
        size_t size;
        lua_rawgeti(L, -1, i);
        if (lua_type(L, -1) != LUA_TSTRING) { /* somebody has meddled with it */
            lua_pop(L, 1);
            continue;
        }
        const char *key = lua_tolstring(L, -1, &size);
        lua_pushvalue(L, -1);
        lua_rawget(L, -4);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 2);
            continue;
        }
        if (!append_member(L, c, key, size, (*members)++ == 0, depth)) {
            return false;
        }
        lua_pop(L, 1);
    }
    return true;
}

static int compare_keys(const void *left, const void *right)
{
    const tb__key *a = left, *b = right;
    if (!a->text || !b->text) {
        return !a->text && !b->text ? (a->number > b->number) - (a->number < b->number) : a->text ? 1 : -1;
    }
    int order = memcmp(a->text, b->text, a->size < b->size ? a->size : b->size);
    return order ? order : (a->size > b->size) - (a->size < b->size);
}

static bool push_key(lua_State *L, tb__codec *c)
{
    if (c->key_count == c->key_capacity) {
        size_t capacity = c->key_capacity * 2 + 64;
        tb__key *keys = realloc(c->keys, capacity * sizeof *keys);
        if (!keys) {
            return complain(c, "not enough memory");
        }
        c->keys = keys;
        c->key_capacity = capacity;
    }
    tb__key *key = &c->keys[c->key_count];
    *key = (tb__key){0};
    if (lua_type(L, -1) == LUA_TSTRING) {
        key->text = lua_tolstring(L, -1, &key->size);
    } else if (lua_type(L, -1) == LUA_TNUMBER) {
        key->number = lua_tonumber(L, -1);
    } else {
        return complain(c, "a table with a %s as a key has no JSON form", luaL_typename(L, -1));
    }
    c->key_count++;
    return true;
}

/* Push the set of an order's names (the order is on top), or nil where there is no order. */
static void push_set(lua_State *L)
{
    if (!lua_istable(L, -1)) {
        lua_pushnil(L);
        return;
    }
    int n = (int)lua_objlen(L, -1);
    lua_createtable(L, 0, n);
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -2, i);
        if (lua_type(L, -1) == LUA_TSTRING) {
            lua_pushboolean(L, 1);
            lua_rawset(L, -3);
        } else {
            lua_pop(L, 1);
        }
    }
}

/* The keys that the set on top of the stack does not have, of the table below the order. */
static bool collect_keys(lua_State *L, tb__codec *c)
{
    lua_pushnil(L);
    while (lua_next(L, -4)) {
        lua_pop(L, 1);
        bool is_known = false;
        if (lua_istable(L, -2)) {
            lua_pushvalue(L, -1);
            lua_rawget(L, -3);
            is_known = !lua_isnil(L, -1);
            lua_pop(L, 1);
        }
        if (!is_known && !push_key(L, c)) {
            return false;
        }
    }
    return true;
}

/* A number as a key, as Lua's tostring has it. False: another key has the same text. On the
 * stack: the table, its order. */
static bool push_number_key(lua_State *L, tb__codec *c, double number, char text[static 32])
{
    char before[32];
    memcpy(before, text, sizeof before);
    snprintf(text, 32, "%.14g", number);
    lua_pushstring(L, text);
    lua_pushvalue(L, -1);
    lua_rawget(L, -4);
    bool is_twice = !lua_isnil(L, -1) || strcmp(before, text) == 0;
    lua_pop(L, 1);
    return !is_twice || complain(c, "a table with the keys %s and \"%s\" has no JSON form", text, text);
}

/* The rest, sorted. On the stack: the table, its order or nil. */
static bool append_sorted(lua_State *L, tb__codec *c, size_t *members, int depth)
{
    size_t first = c->key_count;
    char number[32] = "";
    push_set(L);
    if (!collect_keys(L, c)) {
        return false;
    }
    lua_pop(L, 1);
    if (c->key_count > first) {
        qsort(c->keys + first, c->key_count - first, sizeof *c->keys, compare_keys);
    }
    for (size_t i = first; i < c->key_count; i++) {
        tb__key key = c->keys[i];
        if (key.text) {
            lua_pushlstring(L, key.text, key.size);
            lua_pushvalue(L, -1);
        } else {
            if (!push_number_key(L, c, key.number, number)) {
                return false;
            }
            lua_pushnumber(L, key.number);
        }
        lua_rawget(L, -4);
        size_t size;
        const char *text = lua_tolstring(L, -2, &size);
        if (!append_member(L, c, text, size, (*members)++ == 0, depth)) {
            return false;
        }
        lua_pop(L, 1);
    }
    c->key_count = first;
    return true;
}

static size_t count_members(lua_State *L, int table)
{
    size_t count = 0;
    lua_pushnil(L);
    while (lua_next(L, table)) {
        lua_pop(L, 1);
        count++;
    }
    return count;
}

/* The order of the table on top, or nil, is pushed. Returns: is it marked as a list? */
static bool push_order(lua_State *L)
{
    if (!lua_getmetatable(L, -1)) {
        lua_pushnil(L);
        return false;
    }
    lua_pushvalue(L, lua_upvalueindex(TB__UP_TYPE));
    lua_rawget(L, -2);
    bool is_array = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "array") == 0;
    lua_pop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(TB__UP_ORDER));
    lua_rawget(L, -2);
    lua_remove(L, -2);
    return is_array;
}

static bool append_table(lua_State *L, tb__codec *c, int depth)
{
    if (depth > TB__JSON_DEPTH || !lua_checkstack(L, STACK_A_LEVEL)) {
        return complain(c, "a value nested too deeply, or containing itself, has no JSON form");
    }
    int n = (int)lua_objlen(L, -1);
    if (n > 0 && is_list(L, n)) {
        return append_list(L, c, n, depth);
    }
    size_t members = 0;
    bool is_array = push_order(L);
    if (lua_istable(L, -1) && !append_in_order(L, c, &members, depth)) {
        return false;
    }
    if (members < count_members(L, lua_gettop(L) - 1) && !append_sorted(L, c, &members, depth)) {
        return false;
    }
    lua_pop(L, 1);
    if (members == 0) {
        return append(c, is_array ? "[]" : "{}", 2);
    }
    return append_char(c, '}');
}

/* --- values */

/* Of LuaJIT's own kinds: integers, exact ones and those of 64 bits. */
static bool append_cdata(lua_State *L, tb__codec *c)
{
    size_t size;
    lua_pushvalue(L, lua_upvalueindex(TB__UP_EXACT_TEXT));
    lua_pushvalue(L, -2);
    lua_call(L, 1, 1);
    const char *text = lua_tolstring(L, -1, &size);
    bool ok = text ? append(c, text, size) : complain(c, "a cdata has no JSON form");
    lua_pop(L, 1);
    return ok;
}

/* The value on top of the stack, which stays. */
static bool append_value(lua_State *L, tb__codec *c, int depth)
{
    size_t size;
    switch (lua_type(L, -1)) {
    case LUA_TNUMBER: return append_number(c, lua_tonumber(L, -1));
    case LUA_TSTRING: {
        const char *text = lua_tolstring(L, -1, &size);
        return append_string(c, text, size);
    }
    case LUA_TTABLE: return append_table(L, c, depth);
    case LUA_TBOOLEAN: return lua_toboolean(L, -1) ? append(c, "true", 4) : append(c, "false", 5);
    case LUA_TNIL: return append(c, "null", 4);
    case LUAJIT_CDATA: return append_cdata(L, c);
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, -1)) {
            return append(c, "null", 4);
        }
        break;
    default: break;
    }
    return complain(c, "a %s has no JSON form", luaL_typename(L, -1));
}

int tb__json_encode(lua_State *L)
{
    tb__codec *c = lua_touserdata(L, lua_upvalueindex(TB__UP_CODEC));
    lua_settop(L, 1);
    c->text.size = c->key_count = 0;
    if (!lua_checkstack(L, STACK_A_LEVEL) || !append_value(L, c, 1)) {
        lua_settop(L, 0);
        lua_pushnil(L);
        lua_pushstring(L, c->problem);
        return 2;
    }
    lua_pushlstring(L, c->text.bytes, c->text.size);
    return 1;
}
