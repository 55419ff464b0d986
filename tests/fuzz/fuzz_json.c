/* fuzz_json.c - bytes are a text for base/json.
 *
 * What is taken is written on one line, the same by both encoders, and comes back as it was;
 * what is refused is refused with a byte; UTF-8 is what base/utf8 says it is.
 */
static const char CHECK[] =
    "package.path = 'lua/?.lua;' .. package.path\n"
    "local json, utf8 = require 'tokenbatcher.base.json', require 'tokenbatcher.base.utf8'\n"
    "return function(text)\n"
    "  local value, message = json.decode(text)\n"
    "  local wrong = utf8.first_error(text, 1)\n"
    "  assert(wrong == utf8.first_error(text), 'UTF-8')\n"
    "  if message then\n"
    "    local at = tonumber(message:match '%(byte (%d+)%)$')\n"
    "    assert(at and at >= 1 and at <= #text + 2, message)\n"
    "    assert(not wrong or at == wrong, message)\n"
    "    return\n"
    "  end\n"
    "  assert(not wrong, 'taken, and no UTF-8')\n"
    "  local line = assert(json.encode(value))\n"
    "  assert(not line:find '[%z\\1-\\31]', 'a control character was written')\n"
    "  local again = assert(json.encode(json.decode(line)))\n"
    "  assert(again == line, again)\n"
    "  local in_lua = json.encode_in_lua(value)\n"
    "  assert(in_lua == line or json.encode(json.decode(in_lua)) == line, in_lua)\n"
    "end\n";

#include "lua_fuzz.h"
