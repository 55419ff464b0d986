--- What a request holds of a record: its input, and its own fields (model, temperature, ...), which go out with it.
-- Records whose fields differ never share a request. A field that is neither known to the endpoint nor named in
-- `send` or `ignore` is the record's error: nothing is left out in silence. What the command line was told to take for
-- itself (--key-field and the like) is left out where the endpoint does not know it, either.
--
-- A record is a text; a list of token ids; a table with the input in `field` (or in the endpoint's own: "input",
-- "messages"); or a line of a batch file, {custom_id, method, url, body}.

local answers = require "tokenbatcher.backend.server.answer"
local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local utf8 = require "tokenbatcher.base.utf8"

local M = {}
local Reader = {}
Reader.__index = Reader

local NAMES_OF_LINE = { "custom_id", "id" } -- whose line it is; carried into the answer by whoever reads lines

local function set_of(list)
  local set = {}
  for _, name in pairs(list) do set[name] = true end
  return set
end

--- @param p table  field, fields, send, ignore, wrap; endpoint.make gets it, too
-- @param endpoint table  see endpoints.lua  @param base table  name -> JSON: what every request holds
function M.new(p, endpoint, base)
  local self = setmetatable({ p = p, endpoint = endpoint, base = base, fields = p.fields or { p.field },
    send = set_of(p.send), ignore = set_of(p.ignore), beside = set_of(endpoint.beside or {}) }, Reader)
  self.aside = {}
  for _, name in ipairs(NAMES_OF_LINE) do self.ignore[name] = not self.send[name] or nil end
  self.plain = self:rest {}
  return self
end

-- --- which field is what -----------------------------------------------------------------------

local function is_tokens(value)
  return type(value) == "table" and type(value[1]) == "number"
end

-- The record itself, or the body of a line of a batch file, whose url must be the endpoint's.
local function unwrapped(self, record)
  if type(record.url) ~= "string" or type(record.body) ~= "table" then return record end
  if record.method ~= nil and record.method ~= "POST" then
    return nil, ("the line's method is %s, not POST"):format(errors.show(record.method))
  end
  local path = record.url:gsub("[?#].*", "")
  if path:sub(-#self.endpoint.path - 1) ~= "/" .. self.endpoint.path then
    return nil, ("the line's url is %s, and this backend asks .../%s"):format(errors.show(record.url),
      self.endpoint.path)
  end
  return record.body
end

-- The name of the field with the input, or nil.
local function input_name(self, record)
  if not answers.is_none(record[self.endpoint.input]) then return self.endpoint.input end
  for _, name in ipairs(self.fields) do
    if not answers.is_none(record[name]) then return name end
  end
end

local function no_input(self)
  local quoted = {}
  for i, name in ipairs(self.fields) do quoted[i] = "'" .. name .. "'" end
  return ("the record has no text in its field%s %s"):format(#quoted > 1 and "s" or "", table.concat(quoted, ", "))
end

local REFUSED = {
  stream = function(value) return value == true and "'stream' is true, and answers come in one piece here" end,
  background = function(value) return value == true and "'background' is true, and answers are waited for here" end,
  n = function(value) return value ~= 1 and "'n' must be 1: a record has one result" end,
}

-- What is wrong with a field; false: it goes out; nil: it does not.
local function verdict(self, name, value)
  if type(name) ~= "string" then return "the record has a field whose name is no text" end
  if self.ignore[name] then return nil end
  local problem = REFUSED[name] and self.endpoint.known[name] and REFUSED[name](value)
  if problem then return "the record's field " .. problem end
  if self.send[name] or self.endpoint.known[name] or self.beside[name] then return false end
  if self.aside[name] or self.ignore["*"] then return nil end
  if self.send["*"] then return false end
  return ("the record's field '%s' is none that the endpoint '%s' knows: name it in `send`, to send it, or in `ignore`")
    :format(name:sub(1, 40), self.endpoint.path)
end

-- A record's own fields as JSON by name, but for the input; those that say what every request says are left out.
local function own_fields(self, record, input)
  local own
  for name, value in pairs(record) do
    if name ~= input then
      local problem = verdict(self, name, value)
      if problem then return nil, problem end
      if problem == false then
        local text, why = json.encode(value)
        if not text then return nil, ("the record's field '%s' cannot be sent: %s"):format(name, why) end
        own = own or {}
        if self.base[name] ~= text then own[name] = text end
      end
    end
  end
  return own or {}
end

-- --- as JSON --------------------------------------------------------------------------------------

local function fields_json(fields)
  local list = {}
  for name in pairs(fields) do list[#list + 1] = name end
  table.sort(list)
  for i, name in ipairs(list) do list[i] = json.quote(name) .. ":" .. fields[name] end
  return table.concat(list, ",")
end

--- What a request holds beside its input: JSON that follows other fields.
function Reader:rest(own)
  local all = {}
  for name, text in pairs(self.base) do all[name] = text end
  for name, text in pairs(own) do all[name] = text end
  return next(all) and "," .. fields_json(all) or ""
end

local function text_input(self, text)
  local at = utf8.first_error(text)
  if at then return nil, ("the record's text is not UTF-8 (byte %d)"):format(at) end
  local value = self.endpoint.make and self.endpoint.make(text, self.p) or text
  if self.p.wrap then value = { value } end
  return value, json.encode(value)
end

-- An input that is no text. @return value, its JSON; or nil and what is wrong
local function other_input(self, value, name)
  local endpoint = self.endpoint
  if endpoint.has_lists and not (endpoint.takes_tokens and is_tokens(value)) and not self.p.wrap then
    return nil, type(value) == "table" and name
      and ("the record's field '%s' is not one text: give each text a record of its own"):format(name) or no_input(self)
  end
  local problem = not endpoint.has_lists and endpoint.check and endpoint.check(value)
  if problem then return nil, "the record's field " .. problem end
  local text, why = json.encode(value)
  if not text then return nil, "the record's input cannot be sent: " .. why end
  return value, text
end

local function split(self, record)
  if type(record) == "string" or is_tokens(record) then return record, {} end
  if type(record) ~= "table" then return nil, no_input(self) end
  local body, problem = unwrapped(self, record)
  if not body then return nil, problem end
  local name = input_name(self, body)
  if not name then return nil, no_input(self) end
  local own
  own, problem = own_fields(self, body, name)
  if not own then return nil, problem end
  return body[name], own, name
end

--- @param names string[]  of fields that are not for the server, unless it knows them
function Reader:set_aside(names)
  self.aside = set_of(names)
end

--- @return table {value, json, text (for comparing words with), own, rest (JSON of the other fields), part (records
-- of unequal parts never share a request)}; or nil and what is wrong
function Reader:read(record)
  local value, own, name = split(self, record)
  if value == nil then return nil, own end
  local text, value_json
  if type(value) == "string" then
    text = value
    if self.endpoint.refuses_text then return nil, "the record's field " .. self.endpoint.check(value) end
    value, value_json = text_input(self, value)
  else
    value, value_json = other_input(self, value, name)
  end
  if value == nil then return nil, value_json end
  for beside in pairs(self.beside) do
    if not own[beside] then return nil, ("the record has no '%s'"):format(beside) end
  end
  local part = fields_json(own)
  return { value = value, json = value_json, text = text or value_json, own = own, base = self.base,
    rest = part == "" and self.plain or self:rest(own), part = is_tokens(value) and "tokens " .. part or part }
end

--- What may share a request with it, for submit: nil where it has nothing of its own.
function Reader:group(record)
  if type(record) == "string" then return nil end
  local value, own = split(self, record)
  if value == nil then return nil end -- it fails by itself
  local part = fields_json(own)
  if is_tokens(value) then part = "tokens " .. part end
  return part ~= "" and part or nil
end

return M
