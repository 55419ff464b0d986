--- Options of batchers changed while they run, over a unix socket of its owner's: POST /set with an object of options
-- by name, as batcher:set takes them; of several batchers, /set/NAME. All or none, as ever.
--
-- null is none, where an option may be none; a text is read as on the command line, so that policies can be named
-- with their parameters. Options that are functions cannot come this way.

local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local options = require "tokenbatcher.core.options"
local replies = require "tokenbatcher.listen.replies"
local shown = require "tokenbatcher.listen.shown"

local M = {}
local Control = {}
Control.__index = Control

-- --- which one --------------------------------------------------------------------------------

local function names_of(batchers)
  local names = {}
  for i, batcher in ipairs(batchers) do names[i] = shown.text(batcher:option "name" or "(one without a name)") end
  return table.concat(names, ", ")
end

-- @return a batcher, or nil and a message
local function find(self, name)
  if name == "" then
    if #self.batchers == 1 then return self.batchers[1] end
    return nil, "there are several batchers: POST to /set/NAME, one of: " .. names_of(self.batchers)
  end
  for _, batcher in ipairs(self.batchers) do
    if batcher:option "name" == name then return batcher end
  end
  return nil, ("there is no batcher %s; there are: %s"):format(errors.show(name), names_of(self.batchers))
end

-- --- what is to be set ----------------------------------------------------------------------

-- A value of JSON as one of the option. @return value, or nil and a message
local function value_of(name, value)
  local entry = options.by_name[name]
  if entry and entry.kind == "function" then
    return nil, ("set: option '%s' is a function: a script sets it, and SIGHUP loads it again"):format(name)
  end
  if value == json.null then
    if entry and entry.default ~= nil then return nil, ("set: option '%s' cannot be none"):format(name) end
    return false
  end
  if type(value) == "string" then return options.parse(name, value, "set") end
  return value
end

-- @return options by name, or nil and a message
local function read(body)
  local given, problem = json.decode(body or "")
  if type(given) ~= "table" or #given > 0 then
    return nil, "set: the body must be a JSON object of options by name" .. (problem and ": " .. problem or "")
  end
  local out, names = {}, {}
  for name in pairs(given) do names[#names + 1] = name end
  if #names == 0 then return nil, "set: no option is given" end
  table.sort(names)
  for _, name in ipairs(names) do
    local value, message = value_of(name, given[name])
    if value == nil then return nil, message end
    out[name] = value
  end
  return out
end

-- What batcher:set raises begins with a place in somebody's script.
local function without_place(message)
  return (message:gsub("^[^\n]-:%d+: (%a+Batcher)", "%1"))
end

-- Figures are told apart by name. @return nil, or a message
local function name_taken(self, batcher, given)
  local name = given.name
  for _, it in ipairs(name ~= nil and self.batchers or {}) do
    if it ~= batcher and (it:option "name" or "") == (name or "") then
      return ("set: option 'name': another batcher has the name %s"):format(errors.show(name or ""))
    end
  end
end

local function set(self, request)
  local batcher, message = find(self, request.path:match "^/set/?(.*)$")
  if not batcher then return replies.refusal(404, message) end
  if request.is_too_large then return replies.refusal(413, "set: the body is too large") end
  local given
  given, message = read(request.body)
  message = message or name_taken(self, batcher, given)
  if message then return replies.refusal(400, message) end
  if self.complete then self.complete(given) end
  local before = shown.options(batcher)
  local ok, err = pcall(batcher.set, batcher, given)
  if not ok then return replies.refusal(400, without_place(errors.message_of(err))) end
  local changes = json.list(shown.changes(before, shown.options(batcher), given))
  for _, text in ipairs(changes) do self.log("info", ("%s: set: %s"):format(shown.text(tostring(batcher)), text)) end
  return replies.json(200, { changed = changes })
end

-- --- what there is ----------------------------------------------------------------------------

local function list(self)
  local out = json.list {}
  for i, batcher in ipairs(self.batchers) do
    local values = {}
    for _, it in ipairs(shown.options(batcher)) do values[it[1]] = it[2] end
    out[i] = { name = batcher:option "name", options = values }
  end
  return replies.json(200, { batchers = out })
end

--- Answer a request: see server.lua.
function Control:serve(request)
  local is_set = request.path == "/set" or request.path:find "^/set/" ~= nil
  if not is_set and request.path ~= "/options" then
    return replies.refusal(404, "there are: POST /set, POST /set/NAME, GET /options")
  end
  if is_set then
    if request.method == "POST" then return set(self, request) end
    return replies.refusal(405, "set is for POST", "Allow: POST\n")
  end
  if request.method == "GET" or request.method == "HEAD" then return list(self) end
  return replies.refusal(405, "options are only read; POST to /set", "Allow: GET, HEAD\n")
end

--- @param given table  batchers; log(level, text); complete(options) or nil: may change what is to be set
function M.new(given)
  return setmetatable(given, Control)
end

return M
