/* A program around what the cookbook shows of results and refusals. */
#include <tokenbatcher_engine.h>

#include <ev.h>
#include <stdio.h>
#include <string.h>
/* here */

static void on_stopped(tb_engine *engine, void *user)
{
    (void)user;
    tb_engine_free(engine);
}

int main(void)
{
    struct ev_loop *loop = ev_default_loop(0);
    tb_engine *engine;
    char err[512];
    FILE *script = fopen("script.lua", "w");
    if (!script) return 1;
    fputs("return { inference_fn = function(records)\n"
          "  for i, r in ipairs(records) do if r == 'bad' then error 'no' end end return records end,\n"
          "  on_error = 'bisect', token_estimator = function(r) if r == 'worse' then error 'never' end return 1 end }",
          script);
    fclose(script);
    if (tb_engine_new(&engine, loop, "script.lua", err, sizeof err) != TB_OK) return fprintf(stderr, "%s\n", err), 1;
    if (hand_in(engine, "good") != 0 || hand_in(engine, "bad") != 0 || hand_in(engine, "worse") == 0) return 1;
    if (tb_engine_stop(engine, 5, on_stopped, NULL) != TB_OK) return 1;
    ev_run(loop, 0);
    return 0;
}
