/* A program around the cookbook's options. */
#include <tokenbatcher_engine.h>

#include <ev.h>
#include <stdio.h>

int main(void)
{
    struct ev_loop *loop = ev_default_loop(0);
    tb_engine *engine;
    char why[512];
    FILE *script = fopen("script.lua", "w");
    if (!script) return 1;
    fputs("return { inference_fn = function(records) return records end }", script);
    fclose(script);
    if (tb_engine_new(&engine, loop, "script.lua", why, sizeof why) != TB_OK) return 1;
/* here */
    int is_listening = tb_engine_address(engine)[0] != 0;
    tb_engine_free(engine);
    return !is_listening;
}
