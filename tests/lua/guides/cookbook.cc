// A program in C++ around the cookbook's lambda.
#include <tokenbatcher_engine.h>

#include <ev.h>

#include <cstdio>
#include <string>

int main()
{
    struct ev_loop *loop = ev_default_loop(0);
    tb_engine *engine;
    char err[512];
    std::FILE *script = std::fopen("script.lua", "w");
    if (!script) return 1;
    std::fputs("return { inference_fn = function(records) return records end }", script);
    std::fclose(script);
    if (tb_engine_new(&engine, loop, "script.lua", err, sizeof err) != TB_OK) return 1;
    std::string text = "to be", answer;
    // here
    tb_engine_stop(engine, 5, [](tb_engine *of, void *) { tb_engine_free(of); }, nullptr);
    ev_run(loop, 0);
    return id < 0 || answer != "to be";
}
