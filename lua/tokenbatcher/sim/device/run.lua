--- A recorded run of a real server, as LLMServingSim's benchmarks of vLLM write it: a folder with meta.json
-- (model, limits) and requests.jsonl (of each request its tokens, and when it was queued and had its first and
-- last token, in seconds). A request that has failed has no first or last token, no output, or says so; it is left
-- out and counted. And the same requests on a simulated device.

local json = require "tokenbatcher.base.json"

local M = {}

local NEEDED = { "input_toks", "output_toks", "queued_ts", "first_token_ts", "last_token_ts" }
local FINISHED = { "output_toks", "first_token_ts", "last_token_ts" } -- null or 0: it never came to that

local function is_number(value)
  return type(value) == "number" and value >= 0 and value < math.huge
end

local function is_nothing(value) return value == nil or type(value) == "userdata" end -- absent, or JSON's null

-- A number above 0 somewhere in nested tables, or nil: it does not say. Raises of anything else.
local function number_at(value, ...)
  for _, name in ipairs { ... } do
    if type(value) ~= "table" then return nil end
    value = value[name]
  end
  if is_nothing(value) then return nil end
  if is_number(value) and value > 0 then return value end
  error(("%s is %s, no number above 0"):format(table.concat({ ... }, "."),
    type(value) == "table" and "a list or an object" or "'" .. tostring(value) .. "'"), 0)
end

local function read_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text
  text, message = file:read "*a"
  file:close()
  if not text then return nil, ("%s: %s"):format(path, message) end
  return text
end

local function read_meta(path)
  local text, message = read_file(path)
  if not text then return nil, message end
  local meta
  meta, message = json.decode(text)
  if type(meta) ~= "table" then return nil, ("%s: no JSON object%s"):format(path, message and ": " .. message or "") end
  local model = meta.model
  if type(model) ~= "string" and type(meta.engine_kwargs) == "table" then model = meta.engine_kwargs.model end
  if type(model) ~= "string" then return nil, path .. ": it names no model" end
  meta.model = model:gsub("/+$", "")
  return meta
end

local function has_failed(value)
  if value.success == false or type(value.error) == "string" and value.error ~= "" then return true end
  local is_nought_a_time = value.queued_ts == 0 -- on a clock that began with the run
  for _, name in ipairs(FINISHED) do
    local at = value[name]
    if type(at) == "userdata" or at == 0 and not is_nought_a_time then return true end
  end
  return false
end

-- A line of requests.jsonl. @return a request; false: it has failed; or nil and what is wrong
local function request(line)
  local value, message = json.decode(line)
  if type(value) ~= "table" then return nil, "no JSON object" .. (message and ": " .. message or "") end
  if has_failed(value) then return false end
  for _, name in ipairs(NEEDED) do
    if not is_number(value[name]) then return nil, name .. " is no number" end
  end
  if value.input_toks < 1 or value.output_toks < 1 then return nil, "a request has at least one token each way" end
  if value.first_token_ts < value.queued_ts or value.last_token_ts < value.first_token_ts then
    return nil, "its times are out of order"
  end
  return {
    at_s = value.queued_ts, prompt = value.input_toks, output = value.output_toks,
    first_s = value.first_token_ts, last_s = value.last_token_ts,
  }
end

local function read_requests(path)
  local text, message = read_file(path)
  if not text then return nil, message end
  local out, number, failed = {}, 0, 0
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    number = number + 1
    if line:find "%S" then
      local row
      row, message = request(line)
      if row == nil then return nil, ("%s:%d: %s"):format(path, number, message) end
      if row then
        row.place = number
        out[#out + 1] = row
      else
        failed = failed + 1
      end
    end
  end
  if #out + failed == 0 then return nil, path .. " has no requests" end
  if failed > #out then return nil, ("%s: %d of %d requests have failed"):format(path, failed, #out + failed) end
  table.sort(out, function(a, b)
    if a.at_s ~= b.at_s then return a.at_s < b.at_s end
    return a.place < b.place
  end)
  local origin_s = out[1].at_s
  for _, row in ipairs(out) do
    row.at_us = (row.at_s - origin_s) * 1e6
    row.ttft, row.e2e = row.first_s - row.at_s, row.last_s - row.at_s
    row.tpot = (row.last_s - row.first_s) / math.max(1, row.output - 1)
  end
  return out, failed
end

-- What the run's server could hold. What vLLM resolved stands beside what it was asked for.
local function limits_of(meta)
  local function of(name)
    return number_at(meta, "engine_kwargs", name) or number_at(meta, "resolved_config", "scheduler_config", name)
  end
  local function cache(name) return number_at(meta, "kv_cache", name) or number_at(meta, "resolved_config",
    "cache_config", name) end
  local block, blocks = cache "block_size", cache "num_gpu_blocks"
  return {
    seqs = of "max_num_seqs", tokens = of "max_num_batched_tokens", block = block,
    kv = number_at(meta, "kv_cache", "num_kv_tokens") or block and blocks and block * blocks,
  }
end

-- What a device needs to know of it. Raises.
local function facts_of(meta)
  local replicas = number_at(meta, "engine_kwargs", "data_parallel_size") or 1
  if replicas ~= 1 then
    error(("engine_kwargs.data_parallel_size is %g: its requests went to %g servers, and a device is one"):format(
      replicas, replicas), 0)
  end
  return number_at(meta, "engine_kwargs", "tensor_parallel_size") or 1, limits_of(meta)
end

--- @param folder string
-- @return {requests, failed (how many more there were), model, gpu (or nil), parallel, limits (of a device; what the
-- run does not say is nil)}, or nil and a message
function M.read(folder)
  local path = folder .. "/meta.json"
  local meta, message = read_meta(path)
  if not meta then return nil, "cannot read the run: " .. message end
  local ok, parallel, limits = pcall(facts_of, meta)
  if not ok then return nil, ("cannot read the run: %s: %s"):format(path, parallel) end
  local requests, failed = read_requests(folder .. "/requests.jsonl")
  if not requests then return nil, "cannot read the run: " .. failed end
  local gpu = type(meta.hardware) == "table" and meta.hardware.device_name
  return {
    requests = requests, failed = failed, model = meta.model, gpu = type(gpu) == "string" and gpu or nil,
    parallel = parallel, limits = limits,
  }
end

--- The requests of a run on a device.
-- @return list of {ttft, tpot, e2e, output} (seconds) in the order of the requests, and the server; or nil and a
-- message
function M.simulate(requests, device, is_stepping)
  local server, out, of = device:new(is_stepping), {}, {}
  local function drain(limit_us)
    while server:run_to(limit_us) do
      for k = 1, server.ended_count do
        local seq = server.ended[k]
        local row, first, last = of[seq], server.first_us[seq], server.last_us[seq]
        local asked = requests[row]
        out[row] = {
          ttft = (first - asked.at_us) / 1e6, e2e = (last - asked.at_us) / 1e6, output = asked.output,
          tpot = (last - first) / 1e6 / math.max(1, asked.output - 1),
        }
      end
      server:take_ended()
    end
  end
  for i, row in ipairs(requests) do
    if not server:fits(row.prompt, row.output) then
      return nil, ("a request of %d + %d tokens does not fit a KV cache of %d"):format(row.prompt, row.output,
        device.limits.kv)
    end
    drain(row.at_us)
    of[server:admit(row.prompt, row.output, row.at_us)] = i
  end
  drain(math.huge)
  return out, server
end

--- The twelve figures of a run: list of {name, seconds}: mean, p50, p90, p99 of ttft, tpot, e2e.
function M.figures(rows)
  local out = {}
  for _, name in ipairs { "ttft", "tpot", "e2e" } do
    local values, sum = {}, 0
    for _, row in ipairs(rows) do
      if name ~= "tpot" or row.output > 1 then
        values[#values + 1] = row[name]
        sum = sum + row[name]
      end
    end
    table.sort(values)
    out[#out + 1] = { name .. " mean", #values > 0 and sum / #values or 0 }
    for _, share in ipairs { 0.5, 0.9, 0.99 } do
      out[#out + 1] = { ("%s p%d"):format(name, 100 * share), values[math.ceil(share * #values)] or 0 }
    end
  end
  return out
end

return M
