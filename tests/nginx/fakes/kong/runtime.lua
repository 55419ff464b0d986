--- What a plugin meets inside Kong, for specs in Debian's nginx: written from what Kong 3.10's plugin development kit
-- and plugin runner do, with the traps that they have for a plugin.
--
--  - handlers are loaded in init_by_lua, before there are workers; `kong` is a global by then
--  - configure() is called in init_worker and later in a timer, with new tables, nil if there are none, and before
--    requests are handed the new ones
--  - access() runs in a coroutine; kong.response.exit() yields in it for good, and what has been begun ends there
--  - kong.response.exit() checks its arguments, and raises
--  - the rest of the plugins of lower priority do not run after that; log() of all of them does
--  - a function of the kit raises in a phase that is not its own
--  - ngx.timer.at is another one (lua-resty-timer-ng), whose callbacks take turns in light threads; when the worker
--    exits these end within a second, and what is asked for later never runs; the real one is native_timer_at
--  - kong.ctx.plugin may be another plugin's once something has waited
--  - a secret that is a reference changes inside the configuration
--  - client_body_buffer_size is 8k and lua_check_client_abort off: see the specs' nginx.conf

local cjson = require "cjson.safe"
local semaphore = require "ngx.semaphore"

local M = { said = {} } -- said: what was serialized for the log, a line each

-- --- timers ---------------------------------------------------------------------------------------

local native_at = ngx.timer.at
local jobs, bell = {}, nil
local THREADS, WAIT_S, RESOLUTION_S = 8, 1, 0.1
local n_free -- threads that wait for a job

local function run_job(is_premature)
  local job = table.remove(jobs, 1)
  ngx.ctx = {}
  n_free = n_free - 1
  local ok, err = pcall(job.fn, is_premature, unpack(job, 1, job.n))
  n_free = n_free + 1
  if not ok then ngx.log(ngx.ERR, "timer: ", err) end
end

-- When the worker exits, a thread runs what is left, and ends.
local function thread(is_premature)
  if is_premature then return end
  n_free = n_free + 1
  while not ngx.worker.exiting() do
    bell:wait(WAIT_S)
    while jobs[1] and not ngx.worker.exiting() do run_job(false) end
  end
  while jobs[1] do run_job(true) end
  n_free = n_free - 1
  if n_free == 0 then ngx.log(ngx.NOTICE, "no thread is left for timers") end
end

local function start_threads()
  bell, n_free = semaphore.new(0), 0
  for _ = 1, THREADS do assert(native_at(0, thread)) end
end

local function push(_, job)
  jobs[#jobs + 1] = job
  bell:post(1)
end

local function pooled_at(delay_s, fn, ...)
  if delay_s > 0 and delay_s < RESOLUTION_S then return native_at(delay_s, fn, ...) end
  local job = { fn = fn, n = select("#", ...), ... }
  if delay_s > 0 then return native_at(delay_s, push, job) end
  push(nil, job)
  return true
end

-- --- the kit --------------------------------------------------------------------------------------

local kit = { response = {}, client = {}, log = {}, ctx = {} }

local function check_phase(name, ...)
  local phase = ngx.get_phase()
  for _, allowed in ipairs { ... } do
    if phase == allowed then return end
  end
  error(("function '%s' cannot be called in phase '%s'"):format(name, phase), 3)
end

local function check_header(name, value)
  assert(type(name) == "string", "invalid header name: got " .. type(name))
  local kind = type(value)
  if kind == "table" then
    for _, item in ipairs(value) do check_header(name, item) end
  elseif kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
    error(("invalid header value for %q: got %s"):format(name, kind), 4)
  end
end

local function send(answer)
  ngx.status = answer.status
  for name, value in pairs(answer.headers or {}) do ngx.header[name] = value end
  ngx.header["Content-Length"] = #(answer.body or "")
  if answer.body then ngx.print(answer.body) end
  return ngx.exit(answer.status)
end

function kit.response.exit(status, body, headers)
  check_phase("exit", "rewrite", "access", "header_filter")
  if ngx.headers_sent then error("headers have already been sent", 2) end
  if type(status) ~= "number" then error("code must be a number", 2) end
  if status < 100 or status > 599 then error("code must be a number between 100 and 599", 2) end
  if body ~= nil and type(body) ~= "string" then error("body must be a nil, string or table", 2) end
  if headers ~= nil and type(headers) ~= "table" then error("headers must be a nil or table", 2) end
  for name, value in pairs(headers or {}) do check_header(name, value) end
  local ctx = ngx.ctx
  local answer = { status = status, body = body, headers = headers }
  if ctx.delay_response and not ctx.delayed_response then
    ctx.delayed_response = answer
    coroutine.yield()
    error("a coroutine that exit() has ended was resumed", 0)
  end
  return send(answer)
end

function kit.client.get_consumer()
  check_phase("get_consumer", "access", "header_filter", "body_filter", "log")
  return ngx.ctx.consumer
end

function kit.client.get_credential()
  check_phase("get_credential", "access", "header_filter", "body_filter", "log")
  return ngx.ctx.credential
end

function kit.log.set_serialize_value(key, value)
  check_phase("set_serialize_value", "rewrite", "access", "header_filter", "body_filter", "log")
  if type(key) ~= "string" then error("key must be a string", 2) end
  assert(cjson.encode(value))
  ngx.ctx.serialized = ngx.ctx.serialized or {}
  ngx.ctx.serialized[key] = value
end

-- kong.ctx.plugin: of the request, and of the plugin that runs; where that has waited, of the one that has run last.
local running

setmetatable(kit.ctx, { __index = function(_, name)
  assert(name == "plugin", "kong.ctx." .. name)
  check_phase("kong.ctx.plugin", "rewrite", "access", "header_filter", "body_filter", "log")
  local ctx = ngx.ctx
  ctx.of_plugins = ctx.of_plugins or {}
  ctx.of_plugins[running] = ctx.of_plugins[running] or {}
  return ctx.of_plugins[running]
end })

-- --- the runner -----------------------------------------------------------------------------------

local plugins = {} -- {name, handler, schema}, in the order of their priority
local configured = {} -- by the name of a plugin: its configuration, as requests are handed it

local function load_plugin(name)
  local handler = require("kong.plugins." .. name .. ".handler")
  assert(type(handler.PRIORITY) == "number" and type(handler.VERSION) == "string", name)
  return { name = name, handler = handler, schema = require("kong.plugins." .. name .. ".schema") }
end

local function copied(value)
  if type(value) ~= "table" then return value end
  local out = {}
  for name, item in pairs(value) do out[name] = copied(item) end
  return out
end

--- In init_by_lua. @param names string[]  of plugins  @param more table|nil  other plugins {name, handler}
function M.init(names, more)
  kong = kit -- luacheck: ignore
  native_timer_at, ngx.timer.at = native_at, pooled_at -- luacheck: ignore
  for _, name in ipairs(names) do plugins[#plugins + 1] = load_plugin(name) end
  for _, plugin in ipairs(more or {}) do plugins[#plugins + 1] = plugin end
  table.sort(plugins, function(a, b) return a.handler.PRIORITY > b.handler.PRIORITY end)
end

-- @param list table  {name, id, config}
local function configure(list, before_swap)
  local by_name, now = {}, {}
  for i, it in ipairs(list) do
    local conf = copied(it.config)
    conf.__plugin_id, conf.__key__, conf.route_id = it.id, "plugins:" .. it.name .. i, "a route"
    by_name[it.name] = by_name[it.name] or {}
    table.insert(by_name[it.name], conf)
    now[it.name] = conf
  end
  for _, plugin in ipairs(plugins) do
    if plugin.handler.configure then
      local ok, err = pcall(plugin.handler.configure, plugin.handler, by_name[plugin.name])
      if not ok then ngx.log(ngx.ERR, "failed to execute plugin '", plugin.name, "': ", err) end
    end
  end
  if before_swap then before_swap() end
  configured = now
end

--- In init_worker_by_lua. @param list table  of {name, id, config}
function M.init_worker(list)
  start_threads()
  configure(list)
end

--- A plugin's own `local` that its access() uses, for specs that look inside.
function M.inside(name, wanted)
  for _, plugin in ipairs(plugins) do
    for i = 1, plugin.name == name and 60 or 0 do
      local found, value = debug.getupvalue(plugin.handler.access, i)
      if found == wanted then return value end
    end
  end
end

--- In a request: the configuration is another one. @param list table  of {name, id, config}
-- @param meanwhile function|nil  called when plugins know, and requests do not yet
function M.configure(list, meanwhile)
  local sema = semaphore.new(0)
  ngx.timer.at(0, function()
    configure(list, meanwhile)
    sema:post(1)
  end)
  assert(sema:wait(10))
end

--- A secret was rotated: nobody is called.
function M.rotate(name, change) change(configured[name]) end

--- The configuration of a plugin with its defaults; or nil and {path = message}.
function M.validate(name, config)
  local validator = require "kong.db.schema.validator"
  for _, plugin in ipairs(plugins) do
    if plugin.name == name then return validator.config(plugin.schema, config) end
  end
end

--- In access_by_lua.
function M.access()
  local ctx = ngx.ctx
  ctx.delay_response, ctx.ran = true, {}
  for _, plugin in ipairs(plugins) do
    local conf = configured[plugin.name]
    if conf then ctx.ran[#ctx.ran + 1] = { plugin = plugin, conf = conf } end
    if conf and plugin.handler.access and not ctx.delayed_response then
      running = plugin.name
      local co = coroutine.create(plugin.handler.access)
      local ok, err = coroutine.resume(co, plugin.handler, conf)
      if not ok then
        ngx.log(ngx.ERR, "plugin ", plugin.name, ": ", err)
        ctx.delayed_response = { status = 500, body = "An unexpected error occurred" }
      end
    end
  end
  ctx.delay_response = nil
  if ctx.delayed_response then return send(ctx.delayed_response) end
end

--- In log_by_lua.
function M.log()
  local ctx = ngx.ctx
  for _, it in ipairs(ctx.ran or {}) do
    running = it.plugin.name
    if it.plugin.handler.log then it.plugin.handler:log(it.conf) end
  end
  if ctx.serialized then M.said[#M.said + 1] = cjson.encode(ctx.serialized) end
end

return M
