std = "luajit"
max_line_length = 120
files["tests/lua"] = { std = "luajit+busted" }
files["tests/nginx"] = { std = "luajit+ngx_lua" }
files["examples/openresty"] = { std = "luajit+ngx_lua" }
files["tests/bench/embeddings.lua"] = { globals = { "init", "request", "done" }, read_globals = { "wrk" } }
