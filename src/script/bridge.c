/* bridge.c - every call from the engine into Lua. The other side is
 * lua/tokenbatcher/script/engine.lua.
 *
 * Whatever may raise (pushing a string does, when memory runs out) happens in a body that
 * tb__protect() runs under lua_pcall(). What a body learns it leaves in C structs.
 */
#include "engine.h"

#include "state.h"

#include <assert.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

enum tb__ref {
    REF_SELF,
    REF_SUBMIT,
    REF_SUBMIT_PLAIN,
    REF_TURN,
    REF_TAKE,
    REF_CANCEL,
    REF_STOP,
    REF_ABANDON,
    REF_STATS,
    REF_SET,
    REF_LISTEN,
    REF_IDS,
    REF_TEXTS,
    REF_CODES,
    REF_MESSAGES,
    REF_TRACEBACKS,
    REFS
};
static const char *const names[REFS] = {
    [REF_SUBMIT] = "submit",       [REF_SUBMIT_PLAIN] = "submit_plain",
    [REF_TURN] = "turn",           [REF_TAKE] = "take",
    [REF_CANCEL] = "cancel",       [REF_STOP] = "stop",         [REF_ABANDON] = "abandon",
    [REF_STATS] = "stats",         [REF_SET] = "set",           [REF_LISTEN] = "listen",
    [REF_IDS] = "ids",
    [REF_TEXTS] = "texts",         [REF_CODES] = "codes",       [REF_MESSAGES] = "messages",
    [REF_TRACEBACKS] = "tracebacks",
};
_Static_assert(REFS <= sizeof(((tb_engine *)0)->refs) / sizeof(int), "room for every ref");

static void push_ref(tb_engine *engine, lua_State *L, int ref)
{
    assert(engine->refs[ref] > 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, engine->refs[ref]);
}

static void push_method(tb_engine *engine, lua_State *L, int ref)
{
    push_ref(engine, L, ref);
    push_ref(engine, L, REF_SELF);
}

/* --- opening ------------------------------------------------------------ */

/* log(level, text); upvalue: the engine. */
static int log_from_lua(lua_State *L)
{
    tb_engine *engine = lua_touserdata(L, lua_upvalueindex(1));
    const char *level = lua_tostring(L, 1), *text = lua_tostring(L, 2);
    if (engine->log && level && text) engine->log(engine->log_user, level, text);
    return 0;
}

static void keep_refs(tb_engine *engine, lua_State *L, int self)
{
    lua_pushvalue(L, self);
    engine->refs[REF_SELF] = luaL_ref(L, LUA_REGISTRYINDEX);
    for (int ref = REF_SELF + 1; ref < REFS; ref++) {
        lua_getfield(L, self, names[ref]);
        engine->refs[ref] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_getfield(L, self, "fd");
    engine->fd = (int)lua_tointeger(L, -1);
}

static void call_new(lua_State *L)
{
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tokenbatcher.script.engine");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "new");
    lua_remove(L, -2);
}

/* A list of name, value, name, value ... */
static void push_settings(lua_State *L, const struct tb__settings *settings)
{
    lua_createtable(L, 2 * (int)settings->count, 0);
    for (size_t i = 0; i < settings->count; i++) {
        assert(settings->options[i].name && settings->options[i].value);
        lua_pushstring(L, settings->options[i].name);
        lua_rawseti(L, -2, 2 * (int)i + 1);
        lua_pushstring(L, settings->options[i].value);
        lua_rawseti(L, -2, 2 * (int)i + 2);
    }
}

/* An error on top of the stack as text. May run a __tostring. */
static const char *error_text(lua_State *L)
{
    if (lua_isstring(L, -1)) return lua_tostring(L, -1);
    if (luaL_callmeta(L, -1, "__tostring") && lua_isstring(L, -1)) return lua_tostring(L, -1);
    return "(an error that is not a string)";
}

struct opening {
    const char *script;
    struct tb__settings settings;
    int error;
};

static void open_body(tb_engine *engine, lua_State *L, void *data)
{
    struct opening *opening = data;
    tb__state_open(L);
    call_new(L);
    lua_pushstring(L, opening->script);
    push_settings(L, &opening->settings);
    lua_pushlightuserdata(L, engine);
    lua_pushcclosure(L, log_from_lua, 1);
    if (lua_pcall(L, 3, 3, 0)) {
        tb__keep_message(engine, error_text(L));
    } else if (lua_istable(L, -3)) {
        keep_refs(engine, L, lua_gettop(L) - 2);
        opening->error = TB_OK;
    } else {
        tb__keep_message(engine, lua_tostring(L, -2));
        if (lua_isnumber(L, -1)) opening->error = (int)lua_tointeger(L, -1);
    }
}

int tb__bridge_open(tb_engine *engine, const char *script, struct tb__settings settings)
{
    assert(!engine->L);
    assert(script);
    engine->L = luaL_newstate();
    if (!engine->L) {
        tb__keep_message(engine, "out of memory: no Lua state");
        return TB_ENOMEM;
    }
    struct opening opening = {script, settings, TB_ENGINE_ESCRIPT};
    return tb__protect_first(engine, open_body, &opening) ? opening.error : TB_ENGINE_ESCRIPT;
}

void tb__bridge_close(tb_engine *engine)
{
    assert(!engine->in_lua);
    if (engine->L) lua_close(engine->L);
    engine->L = NULL;
}

/* --- submitting --------------------------------------------------------- */

struct submitting {
    const struct tb__input *record;
    int error;
};

static void push_number_or_nil(lua_State *L, double value)
{
    if (value != 0) {
        lua_pushnumber(L, value);
    } else {
        lua_pushnil(L);
    }
}

static void push_options(lua_State *L, const tb_submit_options *options)
{
    push_number_or_nil(L, options->estimated_tokens);
    push_number_or_nil(L, options->priority);
    push_number_or_nil(L, options->timeout_s);
    push_number_or_nil(L, options->batch_timeout_s);
    lua_pushstring(L, options->key); /* NULL: nil */
    lua_pushstring(L, options->group);
}

/* Its cost is all that is said of it. */
static bool is_plain(const struct tb__input *record)
{
    const tb_submit_options *o = record->options;
    return o->estimated_tokens != 0 && o->priority == 0 && o->timeout_s == 0 && o->batch_timeout_s == 0 &&
           !o->key && !o->group;
}

static void push_record(tb_engine *engine, lua_State *L, int method, const struct tb__input *record)
{
    push_method(engine, L, method);
    lua_pushnumber(L, (double)record->id);
    lua_pushlstring(L, record->size ? record->bytes : "", record->size);
    lua_pushnumber(L, (double)record->submitted_us);
}

static void submit_body(tb_engine *engine, lua_State *L, void *data)
{
    struct submitting *s = data;
    if (is_plain(s->record)) {
        push_record(engine, L, REF_SUBMIT_PLAIN, s->record);
        lua_pushnumber(L, s->record->options->estimated_tokens);
        lua_call(L, 5, 2);
    } else {
        push_record(engine, L, REF_SUBMIT, s->record);
        push_options(L, s->record->options);
        lua_call(L, 10, 2);
    }
    s->error = (int)lua_tonumber(L, 1);
    if (s->error != TB_OK) tb__keep_message(engine, lua_tostring(L, 2));
}

int tb__bridge_submit(tb_engine *engine, const struct tb__input *record)
{
    assert(record->id > 0);
    assert(record->bytes || record->size == 0);
    assert(record->options->size == sizeof(tb_submit_options));
    struct submitting s = {record, TB_ENGINE_ESCRIPT};
    tb__protect(engine, submit_body, &s);
    return s.error;
}

/* --- turns and answers -------------------------------------------------- */

struct turning {
    uint32_t answers, in_line;
};

static void turn_body(tb_engine *engine, lua_State *L, void *data)
{
    struct turning *t = data;
    push_method(engine, L, REF_TURN);
    lua_call(L, 1, 4);
    t->answers = (uint32_t)lua_tonumber(L, 1);
    t->in_line = (uint32_t)lua_tonumber(L, 2);
    engine->is_stopped = lua_toboolean(L, 3);
    const char *text = lua_tostring(L, 4);
    if (text && engine->log) engine->log(engine->log_user, "error", text);
}

uint32_t tb__bridge_turn(tb_engine *engine)
{
    struct turning t = {0, 0};
    if (!tb__protect(engine, turn_body, &t) && engine->log) {
        engine->log(engine->log_user, "error", engine->message);
    }
    tb__callbacks_set_line(&engine->callbacks, t.in_line);
    return t.answers;
}

static void take_body(tb_engine *engine, lua_State *L, void *data)
{
    uint32_t *n = data;
    push_method(engine, L, REF_TAKE);
    lua_pushnumber(L, *n);
    *n = 0;
    lua_call(L, 2, 1);
    *n = (uint32_t)lua_tonumber(L, 1);
}

uint32_t tb__bridge_take(tb_engine *engine, uint32_t max)
{
    assert(max > 0);
    uint32_t n = max;
    if (!tb__protect(engine, take_body, &n) && engine->log) {
        engine->log(engine->log_user, "error", engine->message);
    }
    assert(n <= max);
    return n;
}

/* The lists hold strings, numbers and false; nothing here allocates or raises. What is
 * read stays in its list until the next take. */
static const char *text_at(tb_engine *engine, int ref, uint32_t i, size_t *size)
{
    lua_State *L = engine->L;
    push_ref(engine, L, ref);
    lua_rawgeti(L, -1, (int)i + 1);
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, size) : NULL;
    lua_pop(L, 2);
    return text;
}

void tb__bridge_answer(tb_engine *engine, uint32_t i, tb_engine_result *out)
{
    lua_State *L = engine->L;
    *out = (tb_engine_result){0};
    push_ref(engine, L, REF_IDS);
    lua_rawgeti(L, -1, (int)i + 1);
    out->id = (int64_t)lua_tonumber(L, -1);
    assert(out->id > 0);
    lua_pop(L, 2);
    out->data = text_at(engine, REF_TEXTS, i, &out->size);
    if (out->data) return;
    out->code = text_at(engine, REF_CODES, i, NULL);
    out->message = text_at(engine, REF_MESSAGES, i, NULL);
    out->traceback = text_at(engine, REF_TRACEBACKS, i, NULL);
    assert(out->code); /* data, or why there is none */
}

/* --- the rest ----------------------------------------------------------- */

struct cancelling {
    int64_t id;
    bool is_done;
};

static void cancel_body(tb_engine *engine, lua_State *L, void *data)
{
    struct cancelling *c = data;
    push_method(engine, L, REF_CANCEL);
    lua_pushnumber(L, (double)c->id);
    lua_call(L, 2, 1);
    c->is_done = lua_toboolean(L, 1);
}

bool tb__bridge_cancel(tb_engine *engine, int64_t id)
{
    struct cancelling c = {id, false};
    tb__protect(engine, cancel_body, &c);
    return c.is_done;
}

static void stop_body(tb_engine *engine, lua_State *L, void *data)
{
    push_method(engine, L, REF_STOP);
    lua_pushnumber(L, *(double *)data);
    lua_call(L, 2, 0);
}

int tb__bridge_stop(tb_engine *engine, double timeout_s)
{
    return tb__protect(engine, stop_body, &timeout_s) ? TB_OK : TB_ENGINE_ESCRIPT;
}

static void abandon_body(tb_engine *engine, lua_State *L, void *data)
{
    (void)data;
    push_method(engine, L, REF_ABANDON);
    lua_call(L, 1, 0);
}

void tb__bridge_abandon(tb_engine *engine)
{
    tb__protect(engine, abandon_body, NULL);
}

/* `address` is NULL: settings; otherwise where to listen. */
struct setting {
    struct tb__settings settings;
    const char *address;
    int error;
};

static void set_body(tb_engine *engine, lua_State *L, void *data)
{
    struct setting *s = data;
    push_method(engine, L, s->address ? REF_LISTEN : REF_SET);
    if (s->address) lua_pushstring(L, s->address);
    else push_settings(L, &s->settings);
    lua_call(L, 2, 2);
    s->error = (int)lua_tonumber(L, 1);
    if (s->error != TB_OK) tb__keep_message(engine, lua_tostring(L, 2));
    else if (s->address) snprintf(engine->address, sizeof engine->address, "%s", lua_tostring(L, 2));
}

int tb__bridge_set(tb_engine *engine, struct tb__settings settings)
{
    struct setting s = {settings, NULL, TB_ENGINE_ESCRIPT};
    tb__protect(engine, set_body, &s);
    return s.error;
}

int tb__bridge_listen(tb_engine *engine, const char *address)
{
    struct setting s = {{NULL, 0}, address, TB_ENGINE_ESCRIPT};
    tb__protect(engine, set_body, &s);
    return s.error;
}

static void stats_body(tb_engine *engine, lua_State *L, void *data)
{
    tb_engine_numbers *numbers = data;
    push_method(engine, L, REF_STATS);
    lua_pushlightuserdata(L, &numbers->batcher);
    lua_call(L, 2, 2);
    numbers->policy_errors = lua_tonumber(L, 1);
    numbers->policy_overruled = lua_tonumber(L, 2);
}

int tb__bridge_stats(tb_engine *engine, tb_engine_numbers *out)
{
    return tb__protect(engine, stats_body, out) ? TB_OK : TB_ENGINE_ESCRIPT;
}
