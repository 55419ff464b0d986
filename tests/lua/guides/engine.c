/* What the block of the guide to C programs leaves out. */
#include <tokenbatcher_engine.h>

#include <ev.h>
#include <stdio.h>
#include <string.h>

static int fail(const char *text)
{
    fprintf(stderr, "%s\n", text);
    return 1;
}

static void on_result(tb_engine *of, const tb_engine_result *result, void *user)
{
    (void)of;
    (void)user;
    printf("%s\n", result->data ? "answered" : result->code);
}

static void on_stopped(tb_engine *of, void *user)
{
    (void)user;
    printf("stopped\n");
    tb_engine_free(of);
}

int main(void)
{
    struct ev_loop *loop = ev_default_loop(0);
    const char *bytes = "to be";
    size_t size = strlen(bytes);
    void *user = NULL;
    FILE *script = fopen("script.lua", "w");
    if (!script) return 1;
    fputs("return { inference_fn = function(records) return records end, batch_timeout_s = 0 }", script);
    fclose(script);
/* here */
    ev_run(loop, 0);
    return id < 0;
}
