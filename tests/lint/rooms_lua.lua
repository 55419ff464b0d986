--- Who may know whom in lua/tokenbatcher. Prints each breach; exit 1 if there are any.
-- (lua/kong and lua/apisix, plugins whose place others have fixed, are rooms, too.)
-- usage: luajit tests/lint/rooms_lua.lua [ROOT]   the folder with lua/ and examples/
--
--  1. A module requires its own room or a lower one, when it is loaded or later. A name that is built
--     when the program runs ("tokenbatcher.policy." .. name) says in its beginning which room it means.
--  2. `tokenbatcher` itself is for the command line and for users' scripts, which know nothing else of ours.
--  3. What is not ours is known where it belongs: ffi in core/ffi.lua and *_ffi.lua, and so on.
--  4. What ships (policies, estimators) knows base and its own support/; its first file registers it.
--  5. A field whose name begins with _ belongs to the room that gives it to an object of its own: on
--     self, in a constructor or as a method. No other room reads or writes it.
--  6. One file of each room, its first, begins with "--- ROOM: " and says what it is for and whom it may know.
--  7. Nobody puts a function into another module, and nobody assigns anything into a module of another room.

local tokens_of = dofile((arg[0]:match "^.*/" or "") .. "lua_tokens.lua").read

local root = arg[1] or "."

-- One line a rank, lowest first; rooms on one line do not know each other.
local ORDER = {
  { "base" },
  { "core" },
  { "runtime" },
  { "batching" },
  { "policy", "estimator" },
  { "backend" },
  { "listen" },
  { "script" },
  { "gateway", "sim", "testing" },
  { "cli", "kong", "apisix" },
}

local FACE = "face" -- lua/tokenbatcher/init.lua: below the command line, above all else
local USER = "user" -- examples

local RANK = { [FACE] = #ORDER - 0.5, [USER] = #ORDER + 1 }
for rank, rooms in ipairs(ORDER) do
  for _, room in ipairs(rooms) do RANK[room] = rank end
end

-- Modules that are not ours, and who may know them: rooms, or patterns of files. What is not
-- named here is known to nobody; what users' scripts need is theirs.
local OUTSIDERS = {
  bit = { "" },
  ["table.new"] = { "" },
  ffi = { "^core/ffi%.lua$", "_ffi%.lua$" },
  cjson = { "^base/json%.lua$" },
  ["string.buffer"] = { "^backend/threads%.lua$", "^script/worker%.lua$" },
  ["ngx.semaphore"] = { "^runtime/.*nginx" },
  argparse = { "^cli/" },
  ["tokenbatcher.process"] = { "^cli/" }, -- the executable's own
  ["kong.db.schema.typedefs"] = { "^lua/kong/" },
  ["apisix.core"] = { "^lua/apisix/" },
  ["apisix.secret"] = { "^lua/apisix/" },
}

-- Rule 4: of batching, what the first file may know.
local SHIPS = { policy = "tokenbatcher.batching.policies", estimator = "tokenbatcher.batching.estimators" }

-- Fields of objects that are not ours, for want of another way, and the room that may.
-- Those of argparse: commands, the flags that they have, what follows them.
local FOREIGN = { _commands = "cli", _options = "cli", _aliases = "cli", _epilog = "cli" }

local breaches = {}

local function breach(file, token, what)
  breaches[#breaches + 1] = ("%s:%d: %s"):format(file.path, token.line, what)
end

-- --- the files ------------------------------------------------------------------

local function read(path)
  local handle = assert(io.open(path, "rb"))
  local text = handle:read "*a"
  handle:close()
  return text
end

local function list(folder)
  local pipe = assert(io.popen(("cd '%s' && find %s -name '*.lua' | LC_ALL=C sort"):format(root, folder)))
  local out = {}
  for path in pipe:lines() do out[#out + 1] = path end
  pipe:close()
  return out
end

local function room_of(path)
  local plugin = path:match "^lua/(%l+)/plugins/"
  if plugin then return plugin end
  if not path:find "^lua/tokenbatcher/" then return USER end
  if path == "lua/tokenbatcher/init.lua" then return FACE end
  return path:match "^lua/tokenbatcher/([^/]*)/" or "none"
end

local files, is_file = {}, {}
for _, folder in ipairs { "lua", "examples" } do
  for _, path in ipairs(list(folder)) do
    is_file[path] = true
    local text = read(root .. "/" .. path)
    files[#files + 1] = { path = path, room = room_of(path), short = path:gsub("^lua/tokenbatcher/", ""),
      head = text:match "^[^\n]*", tokens = tokens_of(text) }
  end
end

-- --- 1 to 4: requires -------------------------------------------------------------

local function is_known_to(outsider, file)
  for _, pattern in ipairs(OUTSIDERS[outsider] or {}) do
    if file.short:find(pattern) then return true end
  end
  return false
end

local function check_shipped(file, token, name, room)
  local is_first = file.short == file.room .. "/init.lua"
  if room == "base" or is_first and (name == SHIPS[file.room] or room == file.room) then return end
  if name:find("^tokenbatcher%." .. file.room .. "%.support%.") then return end
  breach(file, token, ("a file that ships knows base and its own support/, not %s"):format(name))
end

-- `name` is whole, or the beginning of one.
local function check_ours(file, token, name, is_whole)
  local room = name:match "^tokenbatcher%.([^.]+)%." or is_whole and name:match "^tokenbatcher%.([^.]+)$"
  if not room then return breach(file, token, ("%s names no room"):format(name)) end
  if not RANK[room] then return breach(file, token, ("%s is in no room that is known"):format(name)) end
  local path = "lua/" .. name:gsub("%.", "/")
  if is_whole and not (is_file[path .. ".lua"] or is_file[path .. "/init.lua"]) then
    return breach(file, token, name .. ": there is no such module")
  end
  if file.room == USER then return breach(file, token, "an example knows 'tokenbatcher' alone, not " .. name) end
  if SHIPS[file.room] then return check_shipped(file, token, name, room) end
  if room ~= file.room and RANK[room] >= RANK[file.room] then
    breach(file, token, ("%s may not know %s: %s"):format(file.room, room, name))
  end
end

local function check_required(file, token, name, is_whole)
  if name == "tokenbatcher" then
    if file.room == "cli" or file.room == USER then return end
    breach(file, token, "only cli may require 'tokenbatcher' itself")
  elseif OUTSIDERS[name] then
    if file.room ~= USER and not is_known_to(name, file) then breach(file, token, name .. " is not for this file") end
  elseif name:find "^tokenbatcher" then
    check_ours(file, token, name, is_whole)
  elseif file.room ~= USER then
    breach(file, token, ("%s is not ours, and nobody here may know it"):format(name))
  end
end

-- What the `require` at i is given: the token, and the one after it.
local function argument_of(tokens, i)
  local after = tokens[i + 1]
  if after and (after.text == "(" or after.text == ",") and after.kind == "symbol" then i = i + 1 end
  return tokens[i + 1], tokens[i + 2]
end

local function check_requires(file)
  local tokens = file.tokens
  for i, token in ipairs(tokens) do
    if token.kind == "name" and token.text == "require" then
      local given, after = argument_of(tokens, i)
      if not given or given.kind ~= "string" then
        if file.room ~= USER then breach(file, token, "require of a name that cannot be read here") end
      else
        given.is_checked = true
        check_required(file, given, given.text, not (after and after.text == ".."))
      end
    elseif token.kind == "string" and not token.is_checked and file.room ~= USER then
      local room = token.text:match "^tokenbatcher%.([^.]+)"
      if RANK[room] and RANK[room] > RANK[file.room] then breach(file, token, "names a room above: " .. token.text) end
    end
  end
end

-- --- 5: whose fields --------------------------------------------------------------

local function is_private(token)
  return token.kind == "name" and token.text:find "^_%l" ~= nil
end

-- Is tokens[i] the name of a field: after a dot or a colon, or in brackets?
local function field_at(tokens, i)
  local token, before = tokens[i], tokens[i - 1]
  if not before or before.kind ~= "symbol" then return nil end
  if is_private(token) and (before.text == "." or before.text == ":") then return token.text, tokens[i - 2] end
  if token.kind == "string" and before.text == "[" and token.text:find "^_%l[%w_]*$" then
    return token.text, tokens[i - 2]
  end
end

-- Is the field at i assigned, alone or among others (a._x, b._y = ...)?
local function is_assigned(tokens, i)
  local at = i + 1
  while tokens[at] and (tokens[at].text == "," or tokens[at].text == "." or tokens[at].kind == "name"
    and tokens[at].line == tokens[i].line) do
    at = at + 1
  end
  return tokens[at] ~= nil and tokens[at].kind == "symbol" and tokens[at].text == "="
end

-- Is the name at i a field of a constructor: { _x = 1, _y = 2 }?
local function is_constructed(tokens, i)
  local before, after = tokens[i - 1], tokens[i + 1]
  return is_private(tokens[i]) and before and after and after.kind == "symbol" and after.text == "="
    and before.kind == "symbol" and (before.text == "{" or before.text == "," or before.text == ";")
end

local function is_method(tokens, i)
  return tokens[i - 3] ~= nil and tokens[i - 3].kind == "name" and tokens[i - 3].text == "function"
end

-- field -> room -> the first place where the room gives it to an object of its own
local function owners()
  local out = {}
  for _, file in ipairs(files) do
    for i, token in ipairs(file.tokens) do
      local field, object = field_at(file.tokens, i)
      local is_own = field and (object.text == "self" and is_assigned(file.tokens, i) or is_method(file.tokens, i))
      if is_constructed(file.tokens, i) then field, is_own = token.text, true end
      if is_own then
        out[field] = out[field] or {}
        out[field][file.room] = out[field][file.room] or { file = file, token = token }
      end
    end
  end
  return out
end

local function check_fields()
  local owned = owners()
  for field, rooms in pairs(owned) do
    for room, place in pairs(rooms) do
      for other in pairs(rooms) do
        if RANK[other] and RANK[room] and RANK[other] < RANK[room] then
          breach(place.file, place.token, ("%s is a field of %s's"):format(field, other))
        end
      end
    end
  end
  for _, file in ipairs(files) do
    for i, token in ipairs(file.tokens) do
      local field = field_at(file.tokens, i)
      if field and not (owned[field] and owned[field][file.room]) and FOREIGN[field] ~= file.room then
        breach(file, token, ("%s is a field of another room's object"):format(field))
      end
    end
  end
end

-- --- 6: a room's first file ----------------------------------------------------------

local function check_first_files()
  local first, has_file = {}, {}
  for _, file in ipairs(files) do
    has_file[file.room] = has_file[file.room] or file
    if file.head:find("^%-%-%- " .. file.room .. ": ") then
      local former = first[file.room]
      if former then breach(file, { line = 1 }, "is not the first file: " .. former.path .. " is") end
      first[file.room] = file
    end
  end
  for room, file in pairs(has_file) do
    if RANK[room] and room ~= FACE and room ~= USER and not first[room] then
      breach(file, { line = 1 }, ("no file of %s begins with '--- %s: '"):format(room, room))
    end
  end
end

-- --- 7: what is put into modules ----------------------------------------------------

-- Locals that are modules, and those that are functions.
local function locals_of(tokens)
  local modules, functions = {}, {}
  for i, token in ipairs(tokens) do
    if token.kind == "name" and token.text == "local" and tokens[i + 2] then
      local name, equals, value = tokens[i + 1], tokens[i + 2], tokens[i + 3]
      if name.text == "function" then functions[tokens[i + 2].text] = true
      elseif equals.text == "=" and value and value.text == "function" then functions[name.text] = true
      elseif equals.text == "=" and value and value.text == "require" then
        local given, after = argument_of(tokens, i + 3)
        if after and after.text == ")" then after = tokens[i + 7] end
        local is_used_at_once = after and after.text:find "^[.:(%[]$" -- require("x").y
        if given and given.kind == "string" and not is_used_at_once then modules[name.text] = given.text end
      end
    end
  end
  return modules, functions
end

local function check_assigned(file, i, functions, into)
  local token, before, value = file.tokens[i], file.tokens[i - 1], file.tokens[i + 4]
  local field = file.tokens[i + 2]
  if before and before.text == "function" then
    return breach(file, token, ("puts the function %s into the module %s"):format(field.text, into))
  end
  if not is_assigned(file.tokens, i + 2) or before and (before.text == "." or before.text == ":") then return end
  if file.tokens[i + 3].text == "=" and value and (value.text == "function" or functions[value.text]) then
    breach(file, token, ("puts the function %s into the module %s"):format(field.text, into))
  elseif into:match "^tokenbatcher%.([^.]+)" ~= file.room then
    breach(file, token, ("assigns %s of the module %s"):format(field.text, into))
  end
end

local function check_modules(file)
  local tokens = file.tokens
  local modules, functions = locals_of(tokens)
  for i, token in ipairs(tokens) do
    local into = token.kind == "name" and modules[token.text]
    local dot, field = tokens[i + 1], tokens[i + 2]
    if into and dot and (dot.text == "." or dot.text == ":") and field and field.kind == "name" then
      check_assigned(file, i, functions, into)
    end
  end
end

-- --- all of it ------------------------------------------------------------------------

for _, file in ipairs(files) do
  if file.room ~= USER and not RANK[file.room] then breach(file, { line = 1 }, "is in no room that is known") end
  check_requires(file)
  if file.room ~= USER then check_modules(file) end
end
check_fields()
check_first_files()

table.sort(breaches)
for _, line in ipairs(breaches) do print(line) end
os.exit(breaches[1] and 1 or 0)
