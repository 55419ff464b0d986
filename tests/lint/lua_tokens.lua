--- The words of a Lua file, without comments: a list of {kind, text, line}, kind one of "name",
-- "string" (text: what is between the quotes), "number", "symbol".

local M = {}

-- Long brackets: what is at `at`, the place after them, or nil.
local function long_bracket(text, at)
  local level = text:match("^%[(=*)%[", at)
  if not level then return nil end
  local first = at + #level + 2
  local last, after = text:find("]" .. level .. "]", first, true)
  return text:sub(first, (last or #text + 1) - 1), (after or #text) + 1
end

-- The end of a quoted string that begins at `at`.
local function quoted(text, at)
  local quote, place = text:sub(at, at), at + 1
  while place <= #text do
    local char = text:sub(place, place)
    if char == "\\" then place = place + 1
    elseif char == quote then break end
    place = place + 1
  end
  return text:sub(at + 1, place - 1), place + 1
end

local function after_comment(text, at)
  local _, after = long_bracket(text, at + 2)
  return after or text:find("\n", at, true) or #text + 1
end

-- What begins at `at`: kind, text and the place after it.
local function token_at(text, at)
  local name = text:match("^[%a_][%w_]*", at)
  if name then return "name", name, at + #name end
  local number = text:match("^%.?%d[%w.]*", at)
  if number then return "number", number, at + #number end
  if text:find("^['\"]", at) then return "string", quoted(text, at) end
  local long, after = long_bracket(text, at)
  if long then return "string", long, after end
  local symbol = text:match("^%.%.%.?", at) or text:match("^[=~<>]=", at) or text:sub(at, at)
  return "symbol", symbol, at + #symbol
end

--- @param text string  a Lua file
function M.read(text)
  local out, at, line = {}, 1, 1
  local function go_to(place)
    for _ in text:sub(at, place - 1):gmatch "\n" do line = line + 1 end
    at = place
  end
  if text:sub(1, 1) == "#" then go_to(text:find("\n", 1, true) or #text + 1) end
  while true do
    go_to(text:find("%S", at) or #text + 1)
    if at > #text then return out end
    if text:sub(at, at + 1) == "--" then
      go_to(after_comment(text, at))
    else
      local kind, word, after = token_at(text, at)
      out[#out + 1] = { kind = kind, text = word, line = line }
      go_to(after)
    end
  end
end

return M
