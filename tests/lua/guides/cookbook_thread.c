/* A program around the cookbook's thread that an engine lives in. */
#include <tokenbatcher_engine.h>

#include <ev.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>

static int answered;

static void on_stopped(tb_engine *of, void *user)
{
    (void)user;
    tb_engine_free(of);
}

static void on_result(tb_engine *of, const tb_engine_result *result, void *user)
{
    (void)user;
    if (result->data && ++answered == 3) tb_engine_stop(of, 5, on_stopped, NULL);
}
/* here */

int main(void)
{
    pthread_t thread;
    sem_t is_ready;
    FILE *script = fopen("script.lua", "w");
    if (!script) return 1;
    fputs("return { inference_fn = function(records) return records end, batch_timeout_s = 0.02 }", script);
    fclose(script);
    sem_init(&is_ready, 0, 0);
    if (pthread_create(&thread, NULL, batching, &is_ready) != 0) return 1;
    sem_wait(&is_ready);
    for (int i = 0; i < 3; i++) {
        if (tb_engine_submit_threadsafe(engine, "x", 1, NULL, on_result, NULL) < 0) return 1;
    }
    pthread_join(thread, NULL);
    return answered != 3;
}
