--- The page: one HTML file with everything inside, which asks stats.json and events beside itself and nothing else.

local sha256 = require "tokenbatcher.base.sha256"

local M = {}

local SCRIPT = [==[
"use strict";
const byId = id => document.getElementById(id);
function show(state) {
  byId("now").textContent = state.batchers.map(b => (b.name || "batcher") + ": " + b.state + ", " + b.levels.queue +
    " queued, " + b.totals.completed + " answered").join("; ");
}
async function ask() {
  try { show(await (await fetch("stats.json", { cache: "no-store" })).json()); }
  catch (error) { byId("now").textContent = "no answer"; }
  setTimeout(ask, 1000);
}
ask();
]==]

local PAGE = [[
<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width"><title>TokenBatcher</title>
<h1>TokenBatcher</h1>
<p id=now role=status>asking</p>
<script>%s</script>
</html>
]]

-- A text's SHA-256 as a Content-Security-Policy has it.
local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function source_of(text)
  local bytes, out = sha256.of_text(text):gsub("%x%x", function(hex) return string.char(tonumber(hex, 16)) end), {}
  for at = 1, #bytes, 3 do
    local a, b, c = bytes:byte(at, at + 2)
    local value = a * 65536 + (b or 0) * 256 + (c or 0)
    for i = 1, 4 do
      local digit = math.floor(value / 64 ^ (4 - i)) % 64 + 1
      out[#out + 1] = i - 1 <= (c and 3 or b and 2 or 1) and DIGITS:sub(digit, digit) or "="
    end
  end
  return "'sha256-" .. table.concat(out) .. "'"
end

local html, headers

--- @return string  the file
function M.html()
  html = html or PAGE:format(SCRIPT)
  return html
end

--- What is to be sent with it: lower-case name -> value. No other script may run, and nobody else be asked.
function M.headers()
  headers = headers or { ["content-type"] = "text/html; charset=utf-8", ["cache-control"] = "no-cache",
    ["x-content-type-options"] = "nosniff", ["referrer-policy"] = "no-referrer",
    ["content-security-policy"] = ("default-src 'none'; connect-src 'self'; script-src %s; img-src data:; "
      .. "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"):format(source_of(SCRIPT)) }
  return headers
end

return M
