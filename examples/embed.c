/* A C program with a libev loop of its own runs a script: records go in from the loop's
 * thread and from another one, every result comes back in a callback on the loop's thread.
 *
 *     cc examples/embed.c $(pkg-config --cflags --libs tokenbatcher-engine) -o embed
 *     ./embed examples/embed.lua
 */
#include <tokenbatcher_engine.h>

#include <ev.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { LINES = 4 };

static const char *const lines[LINES] = {"to be", "or not to be", "that is the question", "whether"};
static int unanswered = 2 * LINES;

static void on_stopped(tb_engine *engine, void *user)
{
    (void)user;
    printf("stopped\n");
    tb_engine_free(engine); /* nothing of it is on the loop any more: ev_run() returns */
}

static void on_result(tb_engine *engine, const tb_engine_result *result, void *user)
{
    const char *from = user;
    if (result->data) {
        printf("from the %s: %.*s\n", from, (int)result->size, result->data);
    } else {
        printf("from the %s: %s: %s\n", from, result->code, result->message);
    }
    if (--unanswered == 0) {
        tb_engine_numbers numbers;
        tb_engine_stats(engine, &numbers, sizeof numbers);
        printf("%.0f records answered\n", numbers.batcher.total_completed);
        tb_engine_stop(engine, -1, on_stopped, NULL);
    }
}

static void *submit_all(void *engine)
{
    for (int i = 0; i < LINES; i++) {
        int64_t id = tb_engine_submit_threadsafe(engine, lines[i], strlen(lines[i]), NULL, on_result,
                                                 "other thread");
        if (id < 0) fprintf(stderr, "refused: %s\n", tb_error_text((int)id));
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct ev_loop *loop = ev_default_loop(0);
    tb_engine *engine;
    char err[512];
    if (argc != 2) {
        fprintf(stderr, "usage: embed SCRIPT\n");
        return 2;
    }
    if (tb_engine_new(&engine, loop, argv[1], err, sizeof err) != TB_OK) {
        fprintf(stderr, "embed: %s\n", err);
        return 1;
    }
    pthread_t thread;
    if (pthread_create(&thread, NULL, submit_all, engine) != 0) return 1;
    tb_submit_options soon = {.size = sizeof soon, .timeout_s = 5, .priority = 1};
    for (int i = 0; i < LINES; i++) {
        int64_t id = tb_engine_submit(engine, lines[i], strlen(lines[i]), &soon, on_result, "loop");
        if (id < 0) {
            fprintf(stderr, "refused: %s\n", tb_engine_message(engine));
            return 1;
        }
    }
    pthread_join(thread, NULL);
    ev_run(loop, 0);
    return 0;
}
