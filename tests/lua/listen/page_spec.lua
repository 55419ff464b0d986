-- The page as a file: small, whole, and nothing in it that could run what it shows. What it does in a browser:
-- tests/extra/live.js.

local nginx = dofile "tests/nginx/server.lua"
local page = require "tokenbatcher.listen.page"
local utf8 = require "tokenbatcher.base.utf8"

local html = page.html()

local function between(first, last)
  local from = select(2, html:find(first, 1, true)) + 1
  return html:sub(from, html:find(last, from, true) - 1)
end

-- A text's digest as openssl makes it.
local function digest_of(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  local digest = nginx.output_of("openssl dgst -sha256 -binary " .. path .. " | openssl base64")
  os.remove(path)
  return "'sha256-" .. digest .. "'"
end

describe("the live page", function()
  it("is one file of at most 40 kB", function()
    assert.is_true(#html <= 40000, #html)
    assert.is_nil(utf8.first_error(html))
    assert.equal("<!doctype html>\n<html lang=en>", html:match "^[^\n]*\n[^\n]*")
  end)

  it("asks for nothing but what lies beside it", function()
    local plain = html:gsub("http://www%.w3%.org/2000/svg", "")
    for _, pattern in ipairs { "https?:", "//%w+%.", "@import", "url%(", "<script%s", "<img", "<iframe", "<form",
      "import%s*%(", "XMLHttpRequest", "WebSocket", "sendBeacon" } do
      assert.is_nil(plain:find(pattern), pattern)
    end
    local _, links = plain:gsub("href=", "")
    assert.equal(1, links) -- its icon, which is in it
    local asked = {}
    for what in plain:gmatch 'fetch%("([^"]*)"' do asked[#asked + 1] = what end
    for what in plain:gmatch 'EventSource%("([^"]*)"' do asked[#asked + 1] = what end
    assert.same({ "stats.json", "events" }, asked)
  end)

  it("puts nothing in but as text", function()
    for _, word in ipairs { "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "setHTML", "srcdoc",
      "createContextualFragment", "DOMParser", "eval(", "new Function" } do
      assert.is_nil(html:find(word, 1, true), word)
    end
    assert.is_nil(between("</style>", "<script>"):find "%son%a+=") -- no handler in the markup
  end)

  it("lets no other script run, and nobody else be asked", function()
    local policy = page.headers()["content-security-policy"]
    assert.truthy(policy:find("script-src " .. digest_of(between("<script>", "</script>")) .. ";", 1, true), policy)
    assert.truthy(policy:find("style-src " .. digest_of(between("<style>", "</style>")) .. ";", 1, true), policy)
    for _, part in ipairs { "default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'",
      "frame-ancestors 'none'" } do
      assert.truthy(policy:find(part, 1, true), part)
    end
    assert.is_nil(policy:find "unsafe")
  end)

  it("names what it shows: each picture, each table, each section", function()
    local markup = between("</style>", "<script>")
    for tag in markup:gmatch "<canvas[^>]*>" do assert.truthy(tag:find "role=", tag) end
    for tag in markup:gmatch "<section[^>]*>" do
      local id = tag:match "aria%-labelledby=([%w-]+)"
      assert.truthy(id and markup:find("<h2 id=" .. id .. ">", 1, true), tag)
    end
    local ids = {}
    for id in markup:gmatch "%sid=([%w-]+)" do
      assert.is_nil(ids[id], id)
      ids[id] = true
    end
    for id in between("<script>", "</script>"):gmatch 'byId%("([%w-]+)"%)' do assert.is_true(ids[id], id) end
  end)
end)
