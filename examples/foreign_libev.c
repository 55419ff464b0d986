/* A program that has a libev loop and a Lua state of its own, and lets a Lua program's
 * batchers live on that loop: fd() is watched, step() is called, next_deadline() says when
 * something is due. (For a script alone, examples/embed.c is shorter.)
 *
 *     cc examples/foreign_libev.c $(pkg-config --cflags --libs luajit) -lev -o foreign_libev
 *     LUA_PATH="lua/?.lua;lua/?/init.lua;;" ./foreign_libev
 */
#include <ev.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>

/* Submits on each tick, from outside of coroutines; is_done() once it has stopped. */
static const char PROGRAM[] =
    "local tb = require 'tokenbatcher'\n"
    "local batcher = tb.TokenBatcher { batch_timeout_s = 0.01, inference_fn = function(records)\n"
    "  tb.sleep(0.005)\n"
    "  local results = {}\n"
    "  for i, record in ipairs(records) do results[i] = record .. ' in a batch of ' .. #records end\n"
    "  return results\n"
    "end }\n"
    "tb.spawn(function() batcher:start() end)\n"
    "tb.step()\n"
    "local done = false\n"
    "return { fd = tb.fd(), step = tb.step, is_done = function() return done end,\n"
    "  ms_left = function() local at = tb.next_deadline() return at and (at - tb.now()) * 1000 or -1 end,\n"
    "  tick = function(n)\n"
    "    local future = assert(batcher:try_submit('tick ' .. n))\n"
    "    tb.spawn(function() print((future:await())) end)\n"
    "  end,\n"
    "  stop = function() tb.spawn(function() batcher:stop() done = true end) end }\n";

static lua_State *L;
static ev_io io;
static ev_timer timer;
static int ticks;

/* Call a function of the program's table (at index 1), which gives one value. */
static double call(const char *name, double argument)
{
    lua_getfield(L, 1, name);
    lua_pushnumber(L, argument);
    if (lua_pcall(L, 1, 1, 0)) {
        fprintf(stderr, "%s: %s\n", name, lua_tostring(L, -1));
        exit(1);
    }
    double value = lua_isboolean(L, -1) ? lua_toboolean(L, -1) : lua_tonumber(L, -1);
    lua_pop(L, 1);
    return value;
}

static void on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
    (void)revents;
    call("step", 0);
    if (call("is_done", 0)) {
        printf("done, and nothing is due: %s\n", call("ms_left", 0) < 0 ? "yes" : "no");
        ev_io_stop(loop, w); /* the last watcher: ev_run() returns */
    }
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int revents)
{
    (void)revents;
    if (++ticks <= 5) {
        call("tick", ticks);
        return;
    }
    ev_timer_stop(loop, w);
    call("stop", 0);
}

int main(void)
{
    struct ev_loop *loop = ev_default_loop(0);
    L = luaL_newstate();
    if (!L) return 1;
    luaL_openlibs(L);
    if (luaL_dostring(L, PROGRAM)) {
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
        return 1;
    }
    lua_getfield(L, 1, "fd");
    ev_io_init(&io, on_readable, (int)lua_tointeger(L, -1), EV_READ);
    lua_pop(L, 1);
    ev_timer_init(&timer, on_timer, 0.001, 0.002);
    ev_io_start(loop, &io);
    ev_timer_start(loop, &timer);
    ev_run(loop, 0);
    lua_close(L);
    return 0;
}
