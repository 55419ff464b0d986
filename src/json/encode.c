/* encode.c - Lua values to JSON text: what base/json does where this library is not, to the
 * byte (but where two shortest texts of a number are equally near it).
 *
 * A table is a list if its keys are 1 to n; an empty one if it is marked so. An object's keys
 * are in the order of its mark, which names none twice, followed by those that it does not name,
 * sorted: numbers, then strings. */
#include "codec.h"

#include <stdio.h>
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { LUAJIT_CDATA = 10, STACK_A_LEVEL = 10 };

/* What follows returns false with a message on top of the stack. */

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
        tb__append_char(c, i == 1 ? '[' : ',');
        if (!append_value(L, c, depth + 1)) {
            return false;
        }
        lua_pop(L, 1);
    }
    tb__append_char(c, ']');
    return true;
}

/* --- objects */

/* The value is on top; it is popped. */
static bool append_member(lua_State *L, tb__codec *c, const char *key, size_t size, bool is_first, int depth)
{
    tb__append_char(c, is_first ? '{' : ',');
    if (!tb__append_string(c, key, size)) {
        return false;
    }
    tb__append_char(c, ':');
    if (!append_value(L, c, depth + 1)) {
        return false;
    }
    lua_pop(L, 1);
    return true;
}

/* The keys of the order on top of the stack, as far as the table below has them. */
static bool append_in_order(lua_State *L, tb__codec *c, size_t *members, int depth)
{
    assert(lua_istable(L, -1));
    assert(lua_istable(L, -2));
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
    assert(c->key_count <= c->key_capacity);
    if (c->key_count == c->key_capacity) {
        size_t capacity = c->key_capacity * 2 + 64;
        tb__key *keys = realloc(c->keys, capacity * sizeof *keys);
        if (!keys) {
            return luaL_error(L, "not enough memory");
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
        lua_pushfstring(L, "a table with a %s as a key has no JSON form", luaL_typename(L, -1));
        return false;
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
static bool push_number_key(lua_State *L, double number, char text[static 32])
{
    char before[32];
    memcpy(before, text, sizeof before);
    snprintf(text, 32, "%.14g", number);
    lua_pushstring(L, text);
    lua_pushvalue(L, -1);
    lua_rawget(L, -4);
    bool is_twice = !lua_isnil(L, -1) || strcmp(before, text) == 0;
    lua_pop(L, 1);
    if (is_twice) {
        lua_pushfstring(L, "a table with the keys %s and \"%s\" has no JSON form", text, text);
    }
    return !is_twice;
}

/* The rest, sorted. On the stack: the table, its order or nil. */
static bool append_sorted(lua_State *L, tb__codec *c, size_t *members, int depth)
{
    assert(lua_istable(L, -2));
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
        assert(i < c->key_capacity);
        tb__key key = c->keys[i];
        if (key.text) {
            lua_pushlstring(L, key.text, key.size);
            lua_pushvalue(L, -1);
        } else {
            if (!push_number_key(L, key.number, number)) {
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
    assert(depth > 0);
    if (depth > TB__JSON_DEPTH || !lua_checkstack(L, STACK_A_LEVEL)) {
        lua_pushliteral(L, "a value nested too deeply, or containing itself, has no JSON form");
        return false;
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
        tb__append(c, is_array ? "[]" : "{}", 2);
    } else {
        tb__append_char(c, '}');
    }
    return true;
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
    if (!text) {
        lua_pushliteral(L, "a cdata has no JSON form");
        return false;
    }
    tb__append(c, text, size);
    lua_pop(L, 1);
    return true;
}

/* Those that are one word; false for any other. */
static bool append_word(lua_State *L, tb__codec *c)
{
    int type = lua_type(L, -1);
    if (type == LUA_TBOOLEAN) {
        const char *word = lua_toboolean(L, -1) ? "true" : "false";
        tb__append(c, word, strlen(word));
    } else if (type == LUA_TNIL || (type == LUA_TLIGHTUSERDATA && !lua_touserdata(L, -1))) {
        tb__append(c, "null", 4);
    } else {
        return false;
    }
    return true;
}

/* The value on top of the stack, which stays. */
static bool append_value(lua_State *L, tb__codec *c, int depth)
{
    size_t size;
    const char *text;
    switch (lua_type(L, -1)) {
    case LUA_TSTRING: text = lua_tolstring(L, -1, &size); return tb__append_string(c, text, size);
    case LUA_TNUMBER: return tb__append_number(c, lua_tonumber(L, -1));
    case LUA_TTABLE: return append_table(L, c, depth);
    case LUAJIT_CDATA: return append_cdata(L, c);
    default: break;
    }
    if (append_word(L, c)) {
        return true;
    }
    lua_pushfstring(L, "a %s has no JSON form", luaL_typename(L, -1));
    return false;
}

int tb__json_encode(lua_State *L)
{
    tb__codec *c = lua_touserdata(L, lua_upvalueindex(TB__UP_CODEC));
    lua_settop(L, 1);
    assert(c);
    c->L = L;
    c->text.size = c->key_count = 0;
    if (!lua_checkstack(L, STACK_A_LEVEL) || !append_value(L, c, 1)) {
        lua_pushnil(L);
        lua_insert(L, -2);
        return 2;
    }
    assert(c->text.size > 0);
    lua_pushlstring(L, c->text.bytes, c->text.size);
    return 1;
}
