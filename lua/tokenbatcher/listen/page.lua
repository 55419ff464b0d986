--- The page: one HTML file with everything inside, which asks stats.json and events beside itself, and nobody else.
-- What comes from there is put in as text (page/page_js.lua), and the policy sent with it lets no other script run.

local colours = require "tokenbatcher.base.reason_colours"
local REASONS = require("tokenbatcher.core.stats").REASONS
local sha256 = require "tokenbatcher.base.sha256"

local M = {}

local SCRIPTS = { "line_js", "draw_js", "page_js" }

local function script()
  local out = { require "tokenbatcher.base.canvas_js" }
  for _, name in ipairs(SCRIPTS) do out[#out + 1] = require("tokenbatcher.listen.page." .. name) end
  return table.concat(out)
end

-- For each reason a text made of its name and colour.
local function each_reason(template)
  local out = {}
  for i, name in ipairs(REASONS) do
    out[i] = template:gsub("%u+", { NAME = name, COLOUR = colours[name] })
  end
  return table.concat(out)
end

local function style()
  return (require("tokenbatcher.listen.page.style"):gsub("REASONS", function()
    return each_reason "--NAME: COLOUR; "
  end))
end

local function markup()
  return (require("tokenbatcher.listen.page.markup"):gsub("REASONS", function()
    return each_reason "<li><i class=NAME></i>NAME"
  end))
end

local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

-- A text's SHA-256 as a Content-Security-Policy has it: in base64.
local function source_of(text)
  local bytes, out = sha256.of_text(text):gsub("%x%x", function(hex) return string.char(tonumber(hex, 16)) end), {}
  for at = 1, #bytes, 3 do
    local a, b, c = bytes:byte(at, at + 2)
    local value = a * 65536 + (b or 0) * 256 + (c or 0)
    for i = 1, 4 do
      local digit = math.floor(value / 64 ^ (4 - i)) % 64 + 1
      out[#out + 1] = i <= (c and 4 or b and 3 or 2) and DIGITS:sub(digit, digit) or "="
    end
  end
  return "'sha256-" .. table.concat(out) .. "'"
end

local ICON = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
  .. "<path d='M1 3h9v3H1zM1 7h14v3H1zM1 11h6v3H1z' fill='%230072b2'/></svg>"

local html, headers

local function make()
  local code, look = "\n" .. script(), "\n" .. style()
  html = table.concat { "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n",
    "<meta name=viewport content=\"width=device-width, initial-scale=1\">\n<title>TokenBatcher</title>\n",
    "<link rel=icon href=\"", ICON, "\">\n<style>", look, "</style>\n", markup(), "<script>", code,
    "</script>\n</html>\n" }
  headers = { ["content-type"] = "text/html; charset=utf-8", ["cache-control"] = "no-cache",
    ["x-content-type-options"] = "nosniff", ["referrer-policy"] = "no-referrer",
    ["content-security-policy"] = ("default-src 'none'; connect-src 'self'; img-src data:; script-src %s; "
      .. "style-src %s; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"):format(source_of(code),
      source_of(look)) }
end

--- @return string  the file, at most 40 kB
function M.html()
  if not html then make() end
  return html
end

--- What is to be sent with it: lower-case name -> value.
function M.headers()
  if not headers then make() end
  return headers
end

return M
