/* watchers.c - the engine's watchers on the program's loop: its descriptor, and a wake-up.
 *
 * libev's set-up macros copy the callback through a pointer to another watcher type. That
 * is libev's own design and safe by its use of memmove(), but a compiler may warn about it.
 */
#include "engine.h"

#include <assert.h>

#pragma GCC diagnostic ignored "-Wstrict-aliasing"

static void on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
    (void)loop;
    (void)revents;
    tb_engine *engine = w->data;
    assert(engine->is_watching);
    engine->turn(engine);
}

static void on_poke(struct ev_loop *loop, ev_async *w, int revents)
{
    (void)loop;
    (void)revents;
    tb_engine *engine = w->data;
    assert(engine->is_watching);
    engine->turn(engine);
}

void tb__watch_start(tb_engine *engine)
{
    assert(engine->turn && engine->loop);
    assert(engine->fd >= 0);
    if (engine->is_watching) {
        return;
    }
    ev_io_init(&engine->io, on_readable, engine->fd, EV_READ);
    ev_async_init(&engine->async, on_poke);
    engine->io.data = engine->async.data = engine;
    ev_io_start(engine->loop, &engine->io);
    ev_async_start(engine->loop, &engine->async);
    engine->is_watching = true;
}

void tb__watch_stop(tb_engine *engine)
{
    if (!engine->is_watching) {
        return;
    }
    ev_io_stop(engine->loop, &engine->io);
    ev_async_stop(engine->loop, &engine->async);
    engine->is_watching = false;
}

void tb__watch_poke(tb_engine *engine)
{
    assert(engine->loop);
    ev_async_send(engine->loop, &engine->async);
}
