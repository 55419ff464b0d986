--- The made-up upstream of the gateway's specs and measurements. It answers after a while
-- (2 ms unless told otherwise) with vectors that can be checked: bytes, checksum, first byte.
-- /behave?as=well|slow|held|failing|blabbing|busy|half|short|shuffled|chunked|based&ms=N tells it how, as do the
-- names in ODD below, which are answers that no client should have to expect; held: only so many
-- are answered as /release?calls=N has allowed so far, for specs that wait for what they mean;
-- an input that is "poison" is refused with 400, as an input that a model does not take.

local cjson = require "cjson.safe"
local ffi = require "ffi"

local M = {}
local kept = ngx.shared.upstream

--- The vector of a text, or of a list of tokens.
function M.vector(text)
  if type(text) == "table" then text = table.concat(text, ",") end
  return { #text, ngx.crc32_long(text), text:byte() or 0 }
end

local function refuse(status, message)
  ngx.status = status
  ngx.header.content_type = "application/json"
  ngx.print(cjson.encode { error = { message = message, type = "invalid_request_error" } })
end

local ODD = {
  speechless = { 500, '{"error":{"message":{"not":"text"}}}' },
  locked = { 401, '{"error":{"message":"the key is wrong"}}' },
  moved = { 302, "" },
  empty = { 204 },
  null = { 200, '{"data":[{"index":0,"embedding":null}]}' },
  nan = { 200, '{"data":[{"index":0,"embedding":[NaN]}]}' },
  uncounted = { 200, '{"data":[{"index":0,"embedding":[1]}],"usage":{"total_tokens":-5}}' },
  unchunked = { nil, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n" },
  negative = { nil, "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" },
}

local function send_odd(status, text)
  if not status then
    local socket = assert(ngx.req.socket(true))
    socket:send(text)
    return ngx.exit(444)
  end
  ngx.status = status
  if text then
    ngx.header.content_length = #text
    ngx.print(text)
  end
  return ngx.exit(ngx.OK)
end

-- A vector in base64, as an upstream sends it that is asked for that (or not).
local function based(vector)
  return ngx.encode_base64(ffi.string(ffi.new("float[3]", vector), 12))
end

local function items_of(inputs, as)
  local data = {}
  for i, text in ipairs(inputs) do
    local vector = M.vector(text)
    data[i] = { object = "embedding", index = i - 1, embedding = as == "based" and based(vector) or vector }
  end
  if as == "short" then data[#data] = nil end
  if as == "shuffled" then
    for i = 1, math.floor(#data / 2) do data[i], data[#data + 1 - i] = data[#data + 1 - i], data[i] end
  end
  return data
end

local function send(text, as)
  if as == "chunked" then return ngx.print(text) end
  ngx.header.content_length = #text
  if as ~= "half" then return ngx.print(text) end
  ngx.print(text:sub(1, math.floor(#text / 2)))
  ngx.flush(true)
  return ngx.exit(444)
end

local function wait_for_release()
  while kept:get "as" == "held" and kept:incr("released", -1, 0) < 0 do
    kept:incr("released", 1)
    ngx.sleep(0.005)
  end
end

function M.embeddings()
  ngx.req.read_body()
  local request = cjson.decode(ngx.req.get_body_data() or "")
  if not request then return refuse(400, "no JSON") end
  local inputs = type(request.input) == "string" and { request.input } or request.input
  kept:incr("requests", 1, 0)
  kept:incr("inputs", #inputs, 0)
  local as = kept:get "as" or "well"
  ngx.sleep((kept:get "ms" or 2) / 1000)
  if as == "slow" then ngx.sleep(30) end
  if as == "held" then wait_for_release() end
  if as == "failing" then return refuse(500, "out of order") end
  if as == "blabbing" then return refuse(500, "I choked on " .. table.concat(inputs, " and ")) end
  if as == "busy" then return refuse(429, "slow down") end
  if ODD[as] then return send_odd(unpack(ODD[as], 1, 2)) end
  for _, text in ipairs(inputs) do
    if text == "poison" then return refuse(400, "I will not swallow poison") end
  end
  local tokens = 0
  for _, text in ipairs(inputs) do tokens = tokens + (type(text) == "table" and #text or math.ceil(#text / 4)) end
  send(cjson.encode { object = "list", data = items_of(inputs, as), model = request.model,
    usage = { prompt_tokens = tokens, total_tokens = tokens } }, as)
end

--- What is not batched: who asked, as it came; in pieces where the body says so.
function M.anything()
  ngx.req.read_body()
  local headers, body = ngx.req.get_headers(), ngx.req.get_body_data() or ""
  ngx.header["x-of-upstream"] = "kept"
  if body:find '"stream":true' then
    ngx.header.content_type = "text/event-stream"
    for i = 1, 3 do
      ngx.print("data: " .. i .. "\n\n")
      ngx.flush(true)
      wait_for_release()
    end
    return ngx.print "data: [DONE]\n\n"
  end
  if ngx.var.uri == "/v1/nothing" then return refuse(404, "no such page here") end
  if ngx.var.uri == "/v1/trap" then ngx.header["x-accel-redirect"] = "/metrics" end
  ngx.header.content_type = "application/json"
  ngx.print(cjson.encode { method = ngx.req.get_method(), uri = ngx.var.request_uri, body = body, host = headers.host,
    authorization = headers.authorization, id = headers["x-request-id"] })
end

function M.behave()
  kept:set("as", ngx.var.arg_as or "well")
  kept:set("ms", tonumber(ngx.var.arg_ms) or 2)
  kept:set("requests", 0)
  kept:set("inputs", 0)
  kept:set("released", 0)
end

function M.release() kept:incr("released", tonumber(ngx.var.arg_calls), 0) end

function M.stats()
  ngx.print(cjson.encode { requests = kept:get "requests" or 0, inputs = kept:get "inputs" or 0 })
end

return M
