--- A gateway without nginx and without an upstream, in virtual time: what goes upstream is written down, and
-- answered as a spec says.

local tb = require "tokenbatcher"
local gateways = require "tokenbatcher.gateway"

local M = {}

local Fake = {}
Fake.__index = Fake

function Fake:is_doubtful() return self.state == "open" end
function Fake:limits() return { max_inputs = self.max_inputs } end
function Fake:status() return { state = self.state or "closed", retries = self.retries or 0, opened = 0 } end
function Fake:pass(target)
  local headers = { authorization = self.has_key and "Bearer own" or nil }
  return { url = self.shown .. target, host = "upstream", headers = headers }
end
function Fake:probe() return true, "is there, with " .. self.max_inputs .. " inputs a call" end

function Fake:call(request)
  self.calls[#self.calls + 1] = request
  return self.answer(request, #self.calls)
end

--- A fake upstream for gateway.new. @param answer function(request, n) -> response, or nil and an err
-- @param fields table|nil  preset, max_inputs, secrets, has_key, ...
function M.upstream(answer, fields)
  local fake = setmetatable({ calls = {}, answer = answer, preset = "openai", max_inputs = 2048, secrets = {},
    has_key = false, shown = "http://upstream" }, Fake)
  for name, value in pairs(fields or {}) do fake[name] = value end
  return fake
end

--- Run fn(gateway) in virtual time. @param given table  of the gateway, without upstreams
-- @param fakes table  upstreams  @return what was logged: a list of "level: text"
function M.run(given, fakes, fn)
  local logged, n = {}, 0
  local config = { upstreams = {} }
  for name, value in pairs(given) do config[name] = value end
  for i, fake in ipairs(fakes) do
    config.upstreams[i] = config.upstreams[i] or { url = fake.shown, models = fake.models, name = fake.name }
  end
  tb.run(function()
    local gateway = gateways.new(config, {
      log = function(level, text) logged[#logged + 1] = level .. ": " .. text end,
      new_upstream = function()
        n = n + 1
        return fakes[n]
      end,
    })
    gateway:start()
    fn(gateway, logged)
    for _, line in ipairs(gateway.lines) do line.batcher:stop() end
  end, { clock = "virtual" })
  return logged
end

local Request = {}
Request.__index = Request

function Request:announced() return self.body_bytes end
function Request:target() return self.whole or self.path end
function Request:text() return type(self.body) == "function" and self.body() or self.body end
function Request:receive() return #(self:text() or "") end

--- A request, as a host makes it. @param more table|nil  headers, method, path, address, body_bytes (as announced),
-- whole (path and query), on_abort
function M.request(path, body, more)
  local request = setmetatable({ method = "POST", path = path, body = body, headers = {} }, Request)
  request.address = "10.0.0.1"
  for name, value in pairs(more or {}) do request[name] = value end
  return request
end

--- One request, up to its end.
function M.handle(gateway, request)
  local status, headers, body = gateway:handle(request)
  gateway:over(request)
  return status, headers, body
end

--- Several requests at one instant. @return list of {status, headers, body}
function M.at_once(gateway, requests)
  local futures, answers = {}, {}
  for i, request in ipairs(requests) do
    futures[i] = tb.spawn(function() answers[i] = { M.handle(gateway, request) } end)
  end
  tb.gather(futures)
  return answers
end

return M
