--- Devices that ship: what an iteration takes on a GPU with a model, where it was measured, and what was
-- checked. Times in milliseconds here, seconds everywhere else.
--
-- Sources. LLMServingSim (casys-kaist, MIT): kernel profiles of vLLM, and real runs of vLLM 0.19. Splitwise-sim
-- (Mutinifni, MIT; Patel et al., ISCA 2024): medians of measured prompt and token times. Vidur (Microsoft, MIT):
-- profiles of the dense layers alone. "Derived": d is the KV bytes of a token over 0.91 x the memory's
-- bandwidth, as holds for the two profiled cards; kv is 0.9 of the memory less the weights.

local M = {}

local CHECKED = "checked end to end against a real vLLM 0.19 run of 300 requests: "
local UNCHECKED = "not checked end to end: calibrate with fit --device"

-- Prompt tokens at which Splitwise measured.
local SPLITWISE = { 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768 }

-- `serves`: what a run must say of itself to be of this device: {model, gpu, tensor parallel}.
local function profiled(serves, of, terms, limits, checked)
  return { serves = serves, of = of, terms = terms, limits = limits, checked = checked }
end

local function measured(of, prompt_ms, token_ms, kv)
  return {
    of = of .. " (Splitwise-sim: medians of prompt times as a table, a line for tokens; kv derived)",
    table = {
      tokens = SPLITWISE, prompt_ms = prompt_ms, mixed = 1.1, a = token_ms[1], c = token_ms[2], d = token_ms[3],
    },
    limits = { kv = kv }, checked = UNCHECKED,
  }
end

local function dense(of, terms, kv)
  return {
    of = of .. " (Vidur: dense layers; d and kv derived; no head, no prefill attention)", terms = terms,
    limits = { kv = kv }, checked = UNCHECKED,
  }
end

--- In the order in which they are listed: {name, what}.
M.list = {
  { "rtx4090-llama3.1-8b", profiled({ "Llama-3.1-8B", "RTX 4090", 1 },
    "GeForce RTX 4090, Llama-3.1-8B bf16, kernels profiled", {
    a = 16.557, b = .03319, c = .03709, d = 1.443e-4, knee = 192, over = .0562, head = .00302, decode = .481,
    context = 4.105e-6,
  }, { seqs = 256, kv = 41408 }, CHECKED .. "within 5 % as it is") },
  { "rtxpro6000-llama3.1-8b", profiled({ "Llama-3.1-8B", "RTX PRO 6000", 1 },
    "RTX PRO 6000, Llama-3.1-8B bf16, kernels profiled", {
    a = 10.642, b = .01729, c = .02009, d = 9.044e-5, knee = 256, over = .01831, head = .00109, decode = .417,
    context = 2.289e-6,
  }, { seqs = 128 }, CHECKED .. "TTFT a quarter off as it is, all within 5 % with factor=1.081") },
  { "rtxpro6000-qwen3-32b-tp2", profiled({ "Qwen3-32B", "RTX PRO 6000", 2 },
    "2 x RTX PRO 6000, Qwen3-32B bf16, kernels profiled, prefill attention "
    .. "derived, no all-reduce", {
    a = 23.775, b = .03704, c = .0408, d = 8.7e-5, knee = 256, over = .0445, head = .00115, decode = .77,
    context = 4.578e-6,
  }, { seqs = 128 }, UNCHECKED) },
  { "a100-llama2-70b-tp8", measured("8 x A100 80 GB, Llama2-70B",
    { 65.35, 66.76, 93.02, 160.86, 282.71, 708.36, 1780.97, 3524.54, 7553.99 }, { 44.07, .1897, 3.354e-4 }, 1330000) },
  { "a100-llama2-70b-tp4", measured("4 x A100 80 GB, Llama2-70B",
    { 63.65, 78.57, 126.97, 247.38, 427.39, 1069.11, 2620.06, 5131.73, 10947.82 }, { 43.32, .1825, 3.716e-4 },
    451000) },
  { "h100-llama2-70b-tp8", measured("8 x H100 80 GB, Llama2-70B",
    { 58.19, 51.66, 53.86, 77.68, 134.42, 376.22, 831.49, 1551.73, 2936.33 }, { 29.89, .1993, 1.785e-4 }, 1330000) },
  { "h100-llama2-70b-tp4", measured("4 x H100 80 GB, Llama2-70B",
    { 49.09, 50.98, 59.72, 104.63, 200.45, 456.7, 924.95, 1726.05, 3520.47 }, { 28.82, .2642, 1.008e-4 }, 451000) },
  { "a100-bloom-176b-tp8", measured("8 x A100 80 GB, BLOOM-176B",
    { 79.67, 99.16, 174.38, 287.47, 536.06, 1332.64, 3591.47, 5782, 11251.83 }, { 48.04, .4365, 4.09e-4 }, 55000) },
  { "h100-bloom-176b-tp8", measured("8 x H100 80 GB, BLOOM-176B",
    { 48.28, 51.18, 76.14, 132.22, 251.96, 649.6, 1411.57, 2521.91, 4996.45 }, { 35.58, .3044, 1.559e-4 }, 55000) },
  { "a100-llama3-8b", dense("A100 80 GB, Llama-3-8B",
    { a = 9.701, b = .03136, c = .03136, d = 7.06e-5, knee = 128, over = .03636 }, 426000) },
  { "h100-llama2-7b", dense("H100 80 GB, Llama-2-7B",
    { a = 5.386, b = .01483, c = .01483, d = 1.72e-4, knee = 320, over = .00486 }, 111000) },
  { "a100-llama2-70b-tp4-dense", dense("4 x A100 80 GB, Llama2-70B",
    { a = 24.744, b = .06402, c = .06402, d = 4.42e-5, knee = 112, over = .09592 }, 451000) },
  { "h100-llama2-70b-tp4-dense", dense("4 x H100 80 GB, Llama2-70B",
    { a = 14.722, b = .0139, c = .0139, d = 2.69e-5, knee = 128, over = .0394 }, 451000) },
}

local function in_seconds(terms)
  local out = {}
  for name, value in pairs(terms) do out[name] = name == "knee" and value or value / 1000 end
  return out
end

--- Presets that a run of this model, GPU (nil: it does not say) and degree of tensor parallelism may be of.
-- @return names
function M.serving(model, gpu, parallel)
  local out = {}
  for _, entry in ipairs(M.list) do
    local serves = entry[2].serves
    local is_it = serves and serves[1] == model:match "[^/]*$" and serves[3] == parallel
    if is_it and (not gpu or gpu:find(serves[2], 1, true)) then out[#out + 1] = entry[1] end
  end
  return out
end

--- @return {of, checked, limits, terms or table} with times in seconds; or nil
function M.find(name)
  for _, entry in ipairs(M.list) do
    if entry[1] == name then
      local preset = entry[2]
      local out = { of = preset.of, checked = preset.checked, limits = preset.limits }
      if preset.terms then out.terms = in_seconds(preset.terms) end
      if preset.table then
        local t, seconds = preset.table, {}
        for i, ms in ipairs(t.prompt_ms) do seconds[i] = ms / 1000 end
        out.table = { tokens = t.tokens, seconds = seconds, mixed = t.mixed, a = t.a / 1000, c = t.c / 1000,
          d = t.d / 1000 }
      end
      return out
    end
  end
end

--- Their names.
function M.names()
  local out = {}
  for i, entry in ipairs(M.list) do out[i] = entry[1] end
  return out
end

return M
