-- Exact token counts: any tokenizer plugs in as a function. Here it is a child process, Node
-- with the npm package tiktoken, asked over its standard input and a named pipe: a text per
-- line goes out, a count per line comes back (some 50 us each, in which the loop waits).
--
--     npm install tiktoken@1.0.22
--     tokenbatcher run examples/exact_tokens.lua --input examples/prompts.jsonl

local COUNTER = [[
  const say = (line) => require("fs").writeSync(1, line + "\n");
  let encoding;
  try { encoding = require("tiktoken").get_encoding(process.argv[1]); }
  catch (error) { say(error.message.split("\n")[0]); process.exit(1); }
  const unescape = (text) => text.replace(/\\(.)/g, (_, c) => c === "n" ? "\n" : c);
  let rest = "";
  process.stdin.setEncoding("utf8").on("data", (chunk) => {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop();
    for (const line of lines) say(encoding.encode(unescape(line), [], []).length);
  });
  say("ready");
]]

local function fail(said)
  error(("exact_tokens needs node with the npm package tiktoken: npm install tiktoken@1.0.22 (%s)"):format(said), 0)
end

-- A named pipe of this user's alone; mkfifo fails where somebody else has made one of the name.
local function new_pipe()
  local base = os.tmpname()
  local status = os.execute("mkfifo -m 600 " .. base .. ".counts")
  os.remove(base)
  if status ~= 0 then fail "and mkfifo" end
  return base .. ".counts"
end

local function start_counter(encoding)
  assert(encoding:find "^[%w_]+$", "an encoding is a word such as cl100k_base")
  local fifo = new_pipe()
  local to = assert(io.popen(("exec node -e '%s' %s >%s"):format(COUNTER, encoding, fifo), "w"))
  local from = assert(io.open(fifo))
  os.remove(fifo)
  local said = from:read "*l"
  if said ~= "ready" then fail(said or "node did not start") end
  return function(text)
    to:write((text:gsub("\\", "\\\\"):gsub("\n", "\\n")), "\n")
    to:flush()
    return tonumber(from:read "*l") or error("the tokenizer has gone away", 0)
  end
end

return {
  options = { encoding = { "tiktoken's name of the encoding", "cl100k_base" } },
  setup = function(opt)
    local count = start_counter(opt.encoding)
    return {
      token_estimator = function(record) return count(record.text) end,
      target_batch_tokens = 2000,
      inference_fn = function(_, info) -- stands for a model: the answer is the count
        local results = {}
        for i = 1, info.size do results[i] = { tokens = info.costs[i] } end
        return results
      end,
    }
  end,
}
