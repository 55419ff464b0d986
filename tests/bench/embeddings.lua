-- For wrk: POST /v1/embeddings with a text of its own each time.
-- usage: wrk ... -s embeddings.lua URL -- short|mixed     (mixed: one in 32 is long)

local LONG = ("The quick brown fox jumps over the lazy dog while seven wizards mix a potion. "):rep(13)
local n, is_mixed = 0, false

function init(arguments)
  is_mixed = arguments[1] == "mixed"
  math.randomseed(os.time())
end

function request()
  n = n + 1
  local text = ("What is the capital of country %d on page %d?"):format(n, math.random(1e6))
  if is_mixed and n % 32 == 0 then text = LONG .. n end
  return wrk.format("POST", "/v1/embeddings", { ["Content-Type"] = "application/json" },
    ('{"model":"use-lite-512","input":"%s"}'):format(text))
end

function done(summary)
  local e = summary.errors
  io.write(("errors %d\n"):format(e.connect + e.read + e.write + e.status + e.timeout))
end
