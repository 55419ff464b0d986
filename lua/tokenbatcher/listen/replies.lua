--- Answers as server.lua takes them: status, headers as lines, body.

local json = require "tokenbatcher.base.json"

local M = {}

-- Whoever is asked by a page of somebody else's gets nothing from us that it could read, frame or run.
local ALWAYS = "X-Content-Type-Options: nosniff\nX-Frame-Options: DENY\nReferrer-Policy: no-referrer\n"
  .. "Cross-Origin-Resource-Policy: same-origin\nCache-Control: no-store\n"
local NOTHING = "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\n"

--- @param kind string  the content type  @param more string|nil  further lines
function M.headers(kind, more)
  return "Content-Type: " .. kind .. "\n" .. ALWAYS .. NOTHING .. (more or "")
end

local TAKEN_CARE_OF = { ["cache-control"] = true, ["x-content-type-options"] = true, ["referrer-policy"] = true,
  ["x-frame-options"] = true }

--- Those of a page that says its own, by lower-case name, the content type and its policy among them.
function M.headers_of_page(own)
  local names = {}
  for name in pairs(own) do names[#names + 1] = not TAKEN_CARE_OF[name] and name or nil end
  table.sort(names)
  local lines = {}
  for i, name in ipairs(names) do lines[i] = name .. ": " .. own[name] .. "\n" end
  return table.concat(lines) .. ALWAYS
end

function M.text(status, kind, body)
  return status, M.headers(kind), body
end

function M.json(status, value, more)
  return status, M.headers("application/json", more), json.encode(value) .. "\n"
end

--- @param more string|nil  further header lines
function M.refusal(status, message, more)
  return M.json(status, { error = { message = message } }, more)
end

return M
