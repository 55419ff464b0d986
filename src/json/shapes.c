/* shapes.c - the order in which an object's keys came.
 *
 * Lines of one file have the same few objects, so their orders are shared: a hash from (shape,
 * key) to the shape with that key after it makes the order of an object cost one look-up a
 * key. Keys are compared by address: Lua has each string once, and the shapes' table keeps
 * those in use alive. What does not fit has an order of its own; a cache that is nearly full
 * of keys that may never come again is emptied before the next text. */
#include "codec.h"

#include <assert.h>
#include <string.h>

static uint32_t slot_of(uint16_t from, const char *key)
{
    uint64_t mixed = ((uint64_t)(uintptr_t)key ^ ((uint64_t)from << 40)) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(mixed >> 52) % TB__SHAPE_SLOTS;
}

static tb__step *find_step(tb__codec *c, uint16_t from, const char *key)
{
    assert(c->step_count < TB__SHAPE_SLOTS); /* or the search would not end */
    uint32_t slot = slot_of(from, key);
    while (c->steps[slot].key && !(c->steps[slot].key == key && c->steps[slot].from == from)) {
        slot = (slot + 1) % TB__SHAPE_SLOTS;
    }
    return &c->steps[slot];
}

void tb__shapes_trim(lua_State *L, tb__codec *c)
{
    if (c->shape_count > 0 && c->shape_count < TB__SHAPES * 3 / 4 && c->step_count < TB__SHAPE_SLOTS / 2) {
        return;
    }
    memset(c->steps, 0, sizeof c->steps);
    c->shapes[0] = (tb__shape){0};
    c->shape_count = 1;
    c->step_count = 0;
    lua_pushnil(L);
    while (lua_next(L, lua_upvalueindex(TB__UP_SHAPES))) {
        lua_pop(L, 1);
        lua_pushvalue(L, -1);
        lua_pushnil(L);
        lua_rawset(L, lua_upvalueindex(TB__UP_SHAPES));
    }
}

static bool has_key(const tb__codec *c, uint16_t shape, const char *key)
{
    for (; shape != 0; shape = c->shapes[shape].parent) {
        assert(shape < c->shape_count);
        assert(c->shapes[shape].parent < shape);
        if (c->shapes[shape].key == key) {
            return true;
        }
    }
    return false;
}

/* A key that comes again takes no second place. */
static uint16_t learn(lua_State *L, tb__codec *c, uint16_t from, const char *key, tb__step *step)
{
    assert(!step->key);
    bool again = has_key(c, from, key);
    if (c->step_count >= TB__SHAPE_SLOTS * 3 / 4) {
        return again ? from : TB__SHAPE_OWN;
    }
    uint16_t to = from;
    if (!again) {
        if (c->shape_count == TB__SHAPES || c->shapes[from].size == TB__SHAPE_KEYS) {
            return TB__SHAPE_OWN;
        }
        lua_pushvalue(L, -1); /* kept alive: shapes[key] = true */
        lua_pushboolean(L, 1);
        lua_rawset(L, lua_upvalueindex(TB__UP_SHAPES));
        to = (uint16_t)c->shape_count++;
        c->shapes[to] = (tb__shape){
            .key = key, .key_size = lua_objlen(L, -1), .parent = from, .size = (uint16_t)(c->shapes[from].size + 1)};
    }
    *step = (tb__step){.key = key, .from = from, .to = to};
    c->step_count++;
    return to;
}

uint16_t tb__shape_next(lua_State *L, tb__codec *c, uint16_t from)
{
    assert(from < c->shape_count);
    const char *key = lua_tostring(L, -1);
    assert(key);
    tb__step *step = find_step(c, from, key);
    return step->key ? step->to : learn(L, c, from, key, step);
}

/* Push {__jsontype = "object", __jsonorder = {keys of the shape}}. */
void tb__own_mark(lua_State *L, const tb__codec *c, uint16_t shape)
{
    assert(shape != TB__SHAPE_OWN);
    lua_createtable(L, 0, 2);
    lua_pushvalue(L, lua_upvalueindex(TB__UP_TYPE));
    lua_pushliteral(L, "object");
    lua_rawset(L, -3);
    lua_pushvalue(L, lua_upvalueindex(TB__UP_ORDER));
    lua_createtable(L, c->shapes[shape].size, 0);
    for (uint16_t at = shape; at != 0; at = c->shapes[at].parent) {
        lua_pushlstring(L, c->shapes[at].key, c->shapes[at].key_size);
        lua_rawseti(L, -2, c->shapes[at].size);
    }
    lua_rawset(L, -3);
}

void tb__shape_mark(lua_State *L, tb__codec *c, uint16_t shape)
{
    assert(shape < c->shape_count);
    lua_rawgeti(L, lua_upvalueindex(TB__UP_SHAPES), shape + 1);
    if (c->shapes[shape].has_mark) {
        return;
    }
    lua_pop(L, 1);
    tb__own_mark(L, c, shape);
    lua_pushvalue(L, -1);
    lua_rawseti(L, lua_upvalueindex(TB__UP_SHAPES), shape + 1);
    c->shapes[shape].has_mark = true;
}
