--- Finds policies: by the name of one that ships, by file, or as given.
--
-- A policy is a table with form(queue, batch, now) and, if it wants, on_complete(report); or
-- a function of its parameters that returns such a table; or {parameters, new(p)}, where
-- parameters are declared as those of what ships (base/parameters.lua) and checked: names that
-- are not declared are refused. A plain function takes whatever it is given. It, or new, is called
-- once for each batcher, so that two batchers never share its state.
--
-- A policy that ships is a module tokenbatcher.policy.NAME: {about, parameters, new(p)};
-- what new makes may have max_record_cost, above which no record is accepted. fifo and
-- eager are in the core; their modules serve as `inner` of other policies.

local errors = require "tokenbatcher.base.errors"
local kinds = require "tokenbatcher.base.kinds"
local parameters = require "tokenbatcher.base.parameters"
local script_folder = require "tokenbatcher.base.script_folder"
local view = require "tokenbatcher.core.view"

local M = {}

--- What ships, in the order of the list that people see.
M.names = {}
local load_shipped

--- What ships. @param load function(name) -> its module
function M.ship(names, load)
  M.names, load_shipped = names, load
end

local IN_CORE = { fifo = true, eager = true }

--- Is it decided in C? @return boolean
function M.is_in_core(name)
  return IN_CORE[name] == true
end

local function is_shipped(name)
  for _, known in ipairs(M.names) do
    if known == name then return true end
  end
  return false
end

--- The module of a policy that ships: about, parameters, new.
function M.module(name)
  return load_shipped(name)
end

-- What shipped() has made: function -> Resolved.
local made_by_us = setmetatable({}, { __mode = "k" })

--- Where a policy comes from: {name, in_core} and either module and
-- parameters, or declared (somebody's own module) and parameters, or policy, or factory and given.
local Resolved = {}
Resolved.__index = Resolved

local function describe(name, p)
  local module = M.module(name)
  return setmetatable({
    name = name, in_core = IN_CORE[name], module = module, parameters = p,
  }, Resolved)
end

-- A function that makes what is described, and that resolve() knows again.
local function known(resolved)
  local function make() return (resolved:make()) end
  made_by_us[make] = resolved
  return make
end

--- A function that makes the policy, its parameters checked now. For tb.policy.NAME{...}.
function M.shipped(name, given)
  local p = parameters.read("policy '" .. name .. "'", M.module(name).parameters, given)
  return known(describe(name, p))
end

--- A value for the option `policy` that is as `resolved`, but each policy made goes through
-- watch(policy), which returns what is to take its place. report: see inner().
function M.watched(resolved, watch, report)
  return known(setmetatable({ name = resolved.name, of = resolved, watch = watch, report = report }, Resolved))
end

local function load_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, "cannot open the policy: " .. message end
  local text = file:read "*a"
  file:close()
  if not text then return nil, "cannot read the policy " .. path end
  if text:sub(1, 1) == "\27" then return nil, path .. ": is bytecode; a policy is text" end
  local chunk
  chunk, message = loadstring(text, "@" .. path)
  if not chunk then return nil, message end
  local ok, value = pcall(chunk)
  if not ok then return nil, errors.text(value) end
  return value
end

local function check_table(policy, name)
  if type(policy) ~= "table" then
    return nil, ("policy '%s' must be a table with a function 'form', got %s"):format(name,
      policy == nil and "nil" or "a " .. type(policy))
  end
  if not errors.is_callable(policy.form) then
    return nil, ("policy '%s' has no function 'form'"):format(name)
  end
  if policy.on_complete ~= nil and not errors.is_callable(policy.on_complete) then
    return nil, ("policy '%s': 'on_complete' must be a function, got a %s"):format(name, type(policy.on_complete))
  end
  return policy
end

--- A new policy, and the Resolved that it is of: a function may return what
-- tb.policy.NAME{...} returned. Raises what a user's function raises.
-- @param former table|nil  {resolved, policy} that it takes the place of: of the same module,
--   they may share what has to outlive a change of parameters
-- @param report function|nil  see inner()
function Resolved:make(former, report)
  if self.watch then
    local policy, made = self.of:make(former, self.report)
    return self.watch(policy), made
  end
  if self.module then
    local alike = former and former.resolved.module == self.module and former.policy or nil
    return self.module.new(self.parameters, M, report, alike), self
  end
  if self.policy then return self.policy, self end
  local given = {}
  for name, parameter in pairs(self.parameters or self.given) do given[name] = parameter end
  local value = (self.factory or self.declared.new)(given, M, report)
  if made_by_us[value] then return made_by_us[value]:make(former, report) end
  local made, message = check_table(value, self.name)
  if not made then error(message, 0) end
  return made, self
end

local function from_declared(value, name, given)
  if not errors.is_callable(value.new) then
    return nil, ("policy '%s': 'new' must be a function, got a %s"):format(name, type(value.new))
  end
  local declared, message = parameters.declare("policy '" .. name .. "'", value.parameters)
  if not declared then return nil, message end
  local p
  p, message = parameters.check("policy '" .. name .. "'", declared, given)
  if not p then return nil, message end
  return setmetatable({ name = name, declared = { new = value.new, parameters = declared }, parameters = p }, Resolved)
end

local function from_value(value, name, given)
  if made_by_us[value] then
    if given and next(given) then return nil, ("policy '%s' takes no parameters"):format(name) end
    return made_by_us[value]
  end
  if type(value) == "function" then
    return setmetatable({ name = name, factory = value, given = given or {} }, Resolved)
  end
  if type(value) == "table" and rawget(value, "new") ~= nil and rawget(value, "form") == nil then
    return from_declared(value, name, given)
  end
  local policy, message = check_table(value, name)
  if not policy then return nil, message end
  if given and next(given) then return nil, ("policy '%s' takes no parameters"):format(name) end
  return setmetatable({ name = name, policy = policy }, Resolved)
end

local function from_name(text, given)
  if is_shipped(text) then
    local module = M.module(text)
    local p, message = parameters.check("policy '" .. text .. "'", module.parameters, given)
    if not p then return nil, message end
    return describe(text, p)
  end
  if not text:find "[/.]" then
    return nil, ("there is no policy '%s'; did you mean '%s'? (a file's name has a '/' or '.lua')"):format(text,
      errors.nearest(text, M.names))
  end
  text = script_folder.resolve(text)
  local value, message = load_file(text)
  if message then return nil, message end
  local resolved
  resolved, message = from_value(value, text, given)
  if resolved then resolved.file, resolved.given = text, given or {} end
  return resolved, message
end

--- @param value string|table|function  a name that ships, a file, a policy, or a function
-- @param given table|nil  parameters
-- @return table {name, in_core} with make(), or nil and a message
function M.resolve(value, given)
  if type(value) == "string" then return from_name(value, given) end
  if getmetatable(value) == Resolved then return value end
  local made = type(value) == "function" and made_by_us[value]
  if made then
    if made.file then return from_name(made.file, made.given) end -- it may have changed
    return made
  end
  if type(value) == "table" or type(value) == "function" then
    local named = type(value) == "table" and type(value.name) == "string" and value.name
    return from_value(value, named or "(a " .. type(value) .. ")", given)
  end
  return nil, "a policy is a name, a file, a table or a function, got a " .. type(value)
end

--- The parameters that a policy has declared, or nil. @param value any  for resolve()
function M.parameters_of(value)
  local resolved = M.resolve(value)
  local module = resolved and (resolved.module or resolved.declared)
  return module and module.parameters
end

--- Does it take parameters that nobody checks? @param resolved table  see resolve()
function M.is_unchecked(resolved)
  return resolved.factory ~= nil
end

local function parse_value(text)
  if text == "true" or text == "false" then return text == "true" end
  return tonumber(text) or text
end

--- A policy as people write it on a command line: name, file, or either with parameters,
-- "fair:quantum=500". @return a value for resolve(), or nil and a message
function M.parse(text)
  local name, rest = text:match "^(.-):(.*)$"
  if not name or not (rest:find "=" or is_shipped(name)) then name, rest = text, "" end
  local given = {}
  for pair in rest:gmatch "[^,]+" do
    local key, value = pair:match "^([^=]+)=(.*)$"
    if not key then return nil, ("policy '%s': parameters are name=value, got '%s'"):format(name, pair) end
    if given[key] ~= nil then return nil, ("policy '%s': parameter '%s' is given twice"):format(name, key) end
    given[key] = parse_value(value)
  end
  local resolved, message = M.resolve(name, given)
  if not resolved then return nil, message end
  if next(given) == nil then return name end
  return known(resolved)
end

--- A policy, or an inner one, that fails so often in a row is disabled (X1).
M.ERRORS_IN_A_ROW = 10

local function is_later(at, now)
  return type(at) == "number" and at > now and at < math.huge
end

--- An inner policy of a policy, made at once and guarded: form returns a time later than now,
-- or nil. When it raises, what it has named is undone, `report` is told and fifo chooses; after
-- ten in a row, for good. It may lower the budget below `tokens`, for its own choice; one that
-- ships is told `tokens`, and keeps to them whatever it undoes.
-- @param former table|nil  the inner policy that it takes the place of: see Resolved:make
-- @param report function|nil  (err, is_last)
-- @return table {form(queue, batch, now, tokens), choose_fifo(queue, batch, tokens),
--   on_complete(report), admit (of one that ships: see rate_limited, or nil), max_record_cost, resolved, policy}
function M.inner(value, former, report)
  local resolved, message = M.resolve(value)
  if not resolved then error(message, 0) end
  local policy, made = resolved:make(former, report)
  local form, on_complete, admit = policy.form, policy.on_complete, made.module and policy.admit
  local fifo, in_a_row = M.module("fifo").new(), { form = 0, on_complete = 0 }
  local function is_disabled() return in_a_row.form + in_a_row.on_complete >= M.ERRORS_IN_A_ROW end
  local function failed(what, err)
    in_a_row[what] = in_a_row[what] + 1
    if report then report(err, is_disabled()) end
  end
  local inner = { resolved = made, policy = policy, max_record_cost = made.module and policy.max_record_cost }
  function inner.choose_fifo(queue, batch, tokens)
    view.reset(batch)
    batch:limit(tokens)
    fifo.form(queue, batch)
  end
  function inner.form(queue, batch, now, tokens)
    batch:limit(tokens)
    if is_disabled() then return fifo.form(queue, batch) end
    local ok, at = pcall(form, queue, batch, now, made.module and tokens)
    if not ok then
      failed("form", at)
      return inner.choose_fifo(queue, batch, tokens)
    end
    in_a_row.form = 0
    return is_later(at, now) and at or nil
  end
  inner.admit = admit or nil
  function inner.on_complete(completed)
    if not on_complete or is_disabled() then return end
    local ok, err = pcall(on_complete, completed)
    if not ok then return failed("on_complete", err) end
    in_a_row.on_complete = 0
  end
  return inner
end

kinds.register("policy", M)

return M
