--- What a plugin meets inside APISIX, for specs in Debian's nginx: written from what APISIX 3.18's plugin runner and
-- core do, with the traps that they have for a plugin.
--
--  - access() of every plugin runs, by priority, then before_proxy(), both in the access phase; what returns a code or
--    a body ends the request there, and a body without a code raises
--  - a request that has ctx.bypass_nginx_upstream goes to no upstream; the others do after before_proxy()
--  - ctx comes from a pool and is emptied behind log(): who keeps it has somebody else's
--  - writing ctx.var.NAME raises unless nginx's configuration declares it
--  - a configuration is a new table when it has changed, and nobody says that the former is gone
--  - plugins are loaded again while requests are under way: destroy(), and a new module with init()
--  - client_body_buffer_size may be small and lua_check_client_abort is off: see the specs' nginx.conf

local json_schema = require "apisix.json_schema"

local M = { limited = {} } -- limited: what ai-rate-limiting has counted, by instance

local plugins = {} -- in the order of their priority
local route -- {conf by the name of a plugin}
local pool = {}

-- --- plugins --------------------------------------------------------------------------------------

local function load_plugin(name)
  package.loaded["apisix.plugins." .. name] = nil
  local plugin = require("apisix.plugins." .. name)
  assert(plugin.name == name and type(plugin.version) == "number" and type(plugin.priority) == "number", name)
  assert(plugin.schema.type == "object" and plugin.check_schema, name)
  for _, path in ipairs(plugin.schema.encrypt_fields or {}) do json_schema.assert_path(plugin.schema, path) end
  return plugin
end

--- In init_worker_by_lua. @param names string[]  @param more table|nil  other plugins
function M.load(names, more)
  for _, plugin in ipairs(plugins) do
    if plugin.destroy then plugin.destroy() end
  end
  plugins = {}
  for _, name in ipairs(names) do plugins[#plugins + 1] = load_plugin(name) end
  for _, plugin in ipairs(more or {}) do plugins[#plugins + 1] = plugin end
  table.sort(plugins, function(a, b) return a.priority > b.priority end)
  for _, plugin in ipairs(plugins) do
    if plugin.init then plugin.init() end
  end
end

function M.plugin(name)
  for _, plugin in ipairs(plugins) do
    if plugin.name == name then return plugin end
  end
end

--- A plugin's own `local` that its access() uses, for specs that look inside.
function M.inside(name, wanted)
  for i = 1, 60 do
    local found, value = debug.getupvalue(M.plugin(name).access, i)
    if found == wanted then return value end
  end
end

--- The only route has these plugins. @param confs table  by name  @return true; or nil and what is wrong
function M.set_route(confs)
  for name, conf in pairs(confs) do
    local plugin = M.plugin(name)
    if plugin.check_schema then
      local ok, message = plugin.check_schema(conf)
      assert(ok == true or ok == false and type(message) == "string", "check_schema")
      if not ok then return nil, message end
    end
    conf._meta = {}
  end
  route = confs
  return true
end

-- --- a request ------------------------------------------------------------------------------------

local DECLARED = { llm_model = true } -- of the variables that newer ones have

local VARIABLES = {
  __index = function(_, name) return ngx.var[name] end,
  __newindex = function(self, name, value)
    if not DECLARED[name] then error(('variable "%s" not found for writing; maybe it is a built-in variable that is '
      .. "not changeable"):format(name), 2) end
    rawset(self, name, value)
  end,
}

local core

local function run(phase, ctx)
  for _, plugin in ipairs(plugins) do
    local conf = route[plugin.name]
    if conf and plugin[phase] then
      local code, body = plugin[phase](conf, ctx)
      if phase ~= "log" and (code or body) then
        if code >= 400 then ngx.log(ngx.WARN, plugin.name, " exits with http status code ", code) end
        core.response.exit(code, body)
        error "unreachable"
      end
    end
  end
end

--- In access_by_lua.
function M.access()
  core = require "apisix.core"
  local ctx = table.remove(pool) or {}
  ctx.var = setmetatable({}, VARIABLES)
  ngx.ctx.api_ctx = ctx
  run("rewrite", ctx)
  run("access", ctx)
  run("before_proxy", ctx)
  if ctx.bypass_nginx_upstream then return core.response.exit(502, "bypassed, and nobody has answered") end
end

--- In log_by_lua.
function M.log()
  local ctx = ngx.ctx.api_ctx
  if not ctx then return end
  run("log", ctx)
  for name in pairs(ctx) do ctx[name] = nil end
  pool[#pool + 1] = ctx
end

--- In content_by_lua of the control API.
function M.control()
  core = require "apisix.core"
  for _, plugin in ipairs(plugins) do
    for _, it in ipairs(plugin.control_api and plugin.control_api() or {}) do
      if it.uris[1] == ngx.var.uri and it.methods[1] == ngx.req.get_method() then
        return core.response.exit(it.handler())
      end
    end
  end
  return ngx.exit(404)
end

-- --- other plugins --------------------------------------------------------------------------------

--- Who asks, by a header.
M.auth = { name = "auth", priority = 2500, rewrite = function(_, ctx)
  local name = ngx.var.http_x_consumer
  if name then ctx.consumer_name, ctx.consumer = name, { username = name, credential_id = "key of " .. name } end
end }

--- Refuses in access, behind the plugin. @field ran number
M.limit = { name = "limit", priority = 1002, ran = 0, access = function()
  M.limit.ran = M.limit.ran + 1
  if ngx.var.http_x_limited then return 429, { error_msg = "enough" } end
end }

--- Counts tokens by instance, as ai-rate-limiting does: nothing where no instance was picked.
M.ai_limit = { name = "ai-limit", priority = 1030, log = function(_, ctx)
  local name, usage = ctx.picked_ai_instance_name, ctx.ai_token_usage
  if name and usage then
    M.limited[name] = (M.limited[name] or 0) + usage.total_tokens
    M.limited.model = ctx.var.llm_model
  end
end }

return M
