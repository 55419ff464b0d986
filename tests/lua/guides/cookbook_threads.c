/* A program around the cookbook's producer in another thread. */
#include <tokenbatcher_engine.h>

#include <ev.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

static int answered;

static void on_stopped(tb_engine *engine, void *user)
{
    (void)user;
    tb_engine_free(engine);
}

static void on_result(tb_engine *engine, const tb_engine_result *result, void *user)
{
    (void)user;
    if (result->data && ++answered == 1000) tb_engine_stop(engine, 5, on_stopped, NULL);
}
/* here */

int main(void)
{
    struct ev_loop *loop = ev_default_loop(0);
    tb_engine *engine;
    char err[512];
    pthread_t thread;
    FILE *script = fopen("script.lua", "w");
    if (!script) return 1;
    fputs("return { inference_fn = function(records) return records end, max_queue_size = 10 }", script);
    fclose(script);
    if (tb_engine_new(&engine, loop, "script.lua", err, sizeof err) != TB_OK) return 1;
    if (pthread_create(&thread, NULL, producer, engine) != 0) return 1;
    ev_run(loop, 0);
    pthread_join(thread, NULL);
    return answered != 1000;
}
