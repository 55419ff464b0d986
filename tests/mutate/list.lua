--- Mutants as data: what is small, wrong and builds. A list reads
--
--     # a comment
--     == src/core/heap.c : SUITE
--     - the old text
--       goes on where a line begins with a space
--     + the new text, or nothing
--     = why nothing can tell, if nothing can: the mutant is equivalent
--
-- An empty line ends a mutant; the head, whose suite may be left out, holds for all up to the next. Old text is found
-- whatever the white space in it, and must be there exactly once: a list outlives the code's being moved about,
-- and says so when what it speaks of has gone.

local M = {}

local function read(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text = file:read "*a"
  file:close()
  return text
end
M.read = read

local function trim(text) return (text:gsub("^%s+", ""):gsub("%s+$", "")) end

--- A Lua pattern for a text, any white space in it being as good as any other.
local function pattern_of(text)
  return (trim(text):gsub("%p", "%%%0"):gsub("%s+", "%%s+"))
end

local function append(mutant, field, text)
  mutant[field] = mutant[field] and mutant[field] .. "\n" .. text or text
end

local FIELDS = { ["-"] = "old", ["+"] = "new", ["="] = "reason" }

-- A line of a list. @return the mutant that it is of, and which of its fields
local function take_line(line, where, head, mutant, field)
  local sign, text = line:match "^([-+=]) ?(.*)$"
  if field and line:find "^ " then
    append(mutant, field, trim(line))
    return mutant, field
  end
  if not sign then error(("%s: not a line of a list: %s"):format(where, line), 0) end
  if not head.file then error(where .. ": a mutant before the first file", 0) end
  mutant = mutant or { file = head.file, suite = head.suite, where = where }
  append(mutant, FIELDS[sign], trim(text))
  return mutant, FIELDS[sign]
end

--- @param path string  of a list  @return list of {file, suite, old, new, reason, where}
function M.parse(path)
  local text, message = read(path)
  if not text then error(message, 0) end
  local out, head, number = {}, {}, 0
  local mutant, field
  local function finish()
    if mutant and not (mutant.old and mutant.old ~= "") then error(mutant.where .. ": no old text", 0) end
    out[#out + 1], mutant, field = mutant, nil, nil
  end
  for line in (text .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    local where = ("%s:%d"):format(path, number)
    local file, suite = line:match "^== ([^ ]+) : (%S+)$"
    file = file or line:match "^== (%S+)$"
    if file or line == "" then finish() end
    if file then head = { file = file, suite = suite }
    elseif line ~= "" and line:sub(1, 1) ~= "#" then mutant, field = take_line(line, where, head, mutant, field) end
  end
  finish()
  for _, each in ipairs(out) do each.new = each.new or "" end
  return out
end

--- Where the old text is. @return first and last byte and the line, or nil and how often it was found
function M.find(text, mutant)
  local pattern, count, from, first, last = pattern_of(mutant.old), 0, 1, nil, nil
  while true do
    local a, b = text:find(pattern, from)
    if not a then break end
    count, from = count + 1, a + 1
    first, last = first or a, last or b
  end
  if count ~= 1 then return nil, count end
  return first, last, select(2, text:sub(1, first):gsub("\n", "")) + 1
end

--- The text of its file with the mutant in it.
function M.apply(text, mutant)
  local first, last = M.find(text, mutant)
  return text:sub(1, first - 1) .. mutant.new .. text:sub(last + 1)
end

--- What is wrong with a mutant; its line is noted. @param root string  of the tree  @return string or nil
function M.check(root, mutant)
  local text, message = read(root .. "/" .. mutant.file)
  if not text then return ("%s: %s"):format(mutant.where, message) end
  local first, last, line = M.find(text, mutant)
  if not first then
    return ("%s: the old text is %s in %s: %s"):format(mutant.where,
      last == 0 and "not" or last .. " times", mutant.file, mutant.old:match "[^\n]*")
  end
  mutant.line = line
  if M.apply(text, mutant) == text then return mutant.where .. ": the new text is the old one" end
end

--- As a diff.
function M.show(mutant)
  local function marked(sign, text) return sign .. " " .. text:gsub("\n", "\n    " .. sign .. " ") end
  return ("%s:%d\n    %s\n    %s"):format(mutant.file, mutant.line, marked("-", mutant.old), marked("+", mutant.new))
end

return M
