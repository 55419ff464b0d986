--- What the specs of the endpoint share: a batcher that is listened at, and clients in the same loop.

local H = require "tests.lua.helper"
local tb = require "tokenbatcher"

local M = {}

--- Why it cannot be tested here, or nil.
function M.missing()
  local ok = pcall(require, "tokenbatcher.listen.listen_ffi")
  if not ok then return "no libtokenbatcher_listen.so" end
  if not pcall(require, "tokenbatcher.backend.http.http_ffi") then return "no libtokenbatcher_http.so" end
  if not pcall(require, "socket") then return "no Lua module socket (Debian: lua-socket)" end
end

--- An inference function that answers "re:" .. record after so long.
function M.echo(takes_s)
  return function(records)
    tb.sleep(takes_s or 0.001)
    local results = {}
    for i, record in ipairs(records) do results[i] = "re:" .. tostring(record) end
    return results
  end
end

--- A batcher for it. @param options table|nil
function M.batcher(options)
  local given = { inference_fn = M.echo(), default_cost = 1, target_batch_tokens = 10, batch_timeout_s = 0.001,
    name = "a" }
  for name, value in pairs(options or {}) do given[name] = value end
  return tb.TokenBatcher(given)
end

local function silent() end

--- Run fn(listener, batcher) on the real clock with a started batcher that is listened at.
-- @param given table|nil  for tb.listen; `options` of the batcher
function M.listening(given, fn)
  return function()
    H.run(function()
      local all = { address = "127.0.0.1:0", log = silent }
      for name, value in pairs(given or {}) do all[name] = value end
      local batcher = M.batcher(all.options)
      all.options, all.batchers = nil, all.batchers or { batcher }
      tb.with(batcher, function()
        local listener = assert(tb.listen(all))
        fn(listener, batcher)
        listener:close()
      end)
    end, "real")
  end
end

--- GET (or POST a body) at a listener. @param opts table|nil  of tb.http; body: POST
function M.get(address, path, opts)
  local given = { timeout_s = 30 }
  for name, value in pairs(opts or {}) do given[name] = value end
  local file = address:match "^unix:(.*)"
  if file then given.unix_socket = file end
  local url = "http://" .. (file and "localhost" or address) .. path
  return assert((given.body and tb.http.post or tb.http.get)(url, given))
end

--- A client byte by byte. @return table  say(text), hear(until_text) -> what came so far (is_closed is set at its
-- end), close()
function M.client(address)
  local socket = require "socket"
  local host, port = address:match "^%[?([%x.:]-)%]?:(%d+)$"
  local connection = assert(socket.connect(host, tonumber(port)))
  connection:settimeout(0)
  local self = { got = "", is_closed = false, connection = connection }
  function self.say(text) return connection:send(text) end
  function self.hear(text)
    while not self.got:find(text, 1, true) and not self.is_closed do
      local whole, err, part = connection:receive(65536)
      self.got = self.got .. (whole or part or "")
      if err == "closed" then self.is_closed = true else tb.sleep(0.002) end
    end
    return self.got
  end
  function self.close() connection:close() end
  return self
end

return M
