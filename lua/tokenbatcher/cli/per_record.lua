--- What a record says of itself beside its content: who it is (an id, carried into the answer), whose, how urgent,
-- with whom. By the script's submit_options(record), and by fields that flags name, which win.

local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local submit_options = require "tokenbatcher.script.submit_options"

local M = {}

--- In the order in which they are looked at. flag: in the arguments; option: of submit.
M.FIELDS = {
  { flag = "key_field", option = "key" },
  { flag = "group_field", option = "group" },
  { flag = "priority_field", option = "priority" },
  { flag = "timeout_field", option = "timeout_s" },
  { flag = "batch_timeout_field", option = "batch_timeout_s" },
}

-- A field of a record; "a.b" is also b of a. JSON's null is as good as none.
local function value_of(record, name)
  if type(record) ~= "table" then return nil end
  local value = record[name]
  if value == nil and name:find(".", 1, true) then
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

local function converted(known, value)
  value = known.kind == "string" and as_name(value) or known.kind == "number" and tonumber(value) or nil
  return submit_options.fits(known, value) and value or nil
end

--- @param fn function|nil  the script's submit_options  @param fields table|nil  see fields_of
-- @return table|nil options of submit; or nil and a message
function M.options(record, fn, fields)
  if not fn and not fields then return nil end
  local opts = {}
  for _, field in ipairs(fields or {}) do
    local value = value_of(record, field.name)
    if value ~= nil then
      local known = submit_options.KNOWN[field.option]
      local fitting = converted(known, value)
      if fitting == nil then
        return nil, ("field '%s' must be %s, got %s"):format(field.name, known.what, errors.show(value))
      end
      opts[field.option] = fitting
    end
  end
  if fn then return submit_options.ask(fn, record, opts) end
  return opts
end

--- The fields that flags have named, or nil.
function M.fields_of(args)
  local list = {}
  for _, field in ipairs(M.FIELDS) do
    if args[field.flag] then
      list[#list + 1] = { name = args[field.flag], option = field.option }
    end
  end
  return #list > 0 and list or nil
end

--- Names of the fields that flags take for themselves.
function M.names_of(args)
  local names = { args.id_field }
  for _, field in ipairs(args.fields or {}) do names[#names + 1] = field.name end
  return names
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
