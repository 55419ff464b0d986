-- luacheck: ignore
local tb = require "tokenbatcher"
require("ffi").cdef "int setenv(const char *name, const char *value, int overwrite);"
require("ffi").C.setenv("COHERE_API_KEY", "k", 1)
local function ask_my_server(records) return records end
-- here
