--- What a record says of itself beside its content: who it is (an id, carried into the answer), whose, how urgent,
-- with whom. By the script's submit_options(record), and by fields that flags name, which win.

local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}

local function above_zero(value) return value > 0 end
local function not_below_zero(value) return value >= 0 end
local function any() return true end

--- In the order in which they are looked at. flag: in the arguments; option: of submit.
M.FIELDS = {
  { flag = "key_field", option = "key", kind = "string", what = "a string" },
  { flag = "group_field", option = "group", kind = "string", what = "a string" },
  { flag = "priority_field", option = "priority", kind = "number", what = "a number", fits = any },
  { flag = "timeout_field", option = "timeout_s", kind = "number", what = "a number of seconds above 0", fits = above_zero },
  { flag = "batch_timeout_field", option = "batch_timeout_s", kind = "number", what = "a number of seconds >= 0",
    fits = not_below_zero },
}
local OPTIONS, BY_OPTION = {}, {}
for i, field in ipairs(M.FIELDS) do
  OPTIONS[i], BY_OPTION[field.option] = field.option, field
end

-- A field of a record; "a.b" is also b of a. JSON's null is as good as none.
local function value_of(record, name)
  if type(record) ~= "table" then return nil end
  local value = record[name]
  if value == nil then
    value = record
    for part in name:gmatch "[^.]+" do
      if type(value) ~= "table" then return nil end
      value = value[part]
    end
  end
  if type(value) == "userdata" then return nil end
  return value
end

-- A number that is a name: as it was written, if it was whole.
local function as_name(value)
  if type(value) == "number" then return ("%.14g"):format(value) end
  if type(value) == "cdata" then return (tostring(value):gsub("U?LL$", "")) end
  return value
end

local function converted(field, value)
  if field.kind == "string" then
    value = as_name(value)
    return type(value) == "string" and value or nil
  end
  value = tonumber(value)
  return value and value == value and field.fits(value) and value or nil
end

local function scripted(fn, record, opts)
  local ok, given = tasks.guarded("submit_options function", fn, record)
  if not ok then return nil, "submit_options raised: " .. errors.message_of(given) end
  if given == nil then return opts end
  if type(given) ~= "table" then return nil, "submit_options returned a " .. type(given) .. ", not a table" end
  for name, value in pairs(given) do
    local field = BY_OPTION[name]
    if not field then
      return nil, ("submit_options: unknown option '%s'; did you mean '%s'?"):format(errors.text(name),
        errors.nearest(errors.text(name), OPTIONS))
    end
    if type(value) ~= field.kind or field.fits and not (value == value and field.fits(value)) then
      return nil, ("submit_options: %s must be %s, got %s"):format(name, field.what, errors.show(value))
    end
    opts[name] = value
  end
  return opts
end

--- @param fn function|nil  the script's submit_options  @param fields table|nil  see fields_of
-- @return table|nil options of submit; or nil and a message
function M.options(record, fn, fields)
  if not fn and not fields then return nil end
  local opts = {}
  if fn then
    local _, message = scripted(fn, record, opts)
    if message then return nil, message end
  end
  for _, field in ipairs(fields or {}) do
    local value = value_of(record, field.name)
    if value ~= nil then
      local fitting = converted(field, value)
      if fitting == nil then
        return nil, ("field '%s' must be %s, got %s"):format(field.name, field.what, errors.show(value))
      end
      opts[field.option] = fitting
    end
  end
  return opts
end

--- The fields that flags have named, or nil.
function M.fields_of(args)
  local list = {}
  for _, field in ipairs(M.FIELDS) do
    if args[field.flag] then
      list[#list + 1] = { name = args[field.flag], option = field.option, kind = field.kind, what = field.what,
        fits = field.fits }
    end
  end
  return #list > 0 and list or nil
end

local USUAL_ID = "custom_id"
local TAKEN = { index = true, result = true, error = true, at = true }

--- @return true, or nil and a message: may a record's id be called so in its answer?
function M.check_id_field(name)
  if not name or not TAKEN[name] then return true end
  return nil, ("--id-field: '%s' has another meaning in an answer"):format(name)
end

--- A record's own id. @param name string|nil  --id-field  @return {name, text} as JSON, or nil
function M.id(record, name)
  local value = value_of(record, name or USUAL_ID)
  if value == nil then return nil end
  local text = json.encode(value)
  return text and { name = json.quote(name or USUAL_ID), text = text } or nil
end

return M
