-- Golden files: what clients send, what goes upstream for it, what the upstream says, and what each client gets, byte
-- for byte. golden/*.txt are blocks that begin with a line "== name of a case"; within one:
--
--   > PATH [header: value; header: value]     a request, its body on the next line
--   upstream PATH                             a call, its body on the next line, "STATUS answer" on the line after it
--   < STATUS                                  an answer to a client, its body on the next line, in the requests' order
--   preset NAME                               of the upstream

local helper = dofile "tests/lua/gateway_helper.lua"

local function headers_of(text)
  local headers = {}
  for name, value in text:gmatch "([%w-]+): ([^;]+)" do headers[name] = value end
  return headers
end

-- @return list of {name, preset, requests, calls = {{path, body, status, answer}}, answers = {{status, body}}}
local function cases_of(path)
  local list, case, next_line = {}, nil, nil
  for line in io.lines(path) do
    if next_line then
      next_line = next_line(line)
    elseif line:find "^== " then
      case = { name = line:sub(4), requests = {}, calls = {}, answers = {} }
      list[#list + 1] = case
    elseif line:find "^preset " then
      case.preset = line:sub(8)
    elseif line:find "^> " then
      local where, more = line:match "^> (%S+) ?(.*)$"
      local headers = headers_of(more)
      headers["x-request-id"] = headers["x-request-id"] or "r" .. #case.requests + 1
      next_line = function(body) table.insert(case.requests, helper.request(where, body, { headers = headers })) end
    elseif line:find "^upstream " then
      local call = { path = line:match "^upstream (%S+)$" }
      table.insert(case.calls, call)
      next_line = function(body)
        call.body = body
        return function(answer) call.status, call.answer = answer:match "^(%d+) (.*)$" end
      end
    elseif line:find "^< " then
      local answer = { status = tonumber(line:match "^< (%d+)$") }
      table.insert(case.answers, answer)
      next_line = function(body) answer.body = body end
    else
      assert(line == "" or line:find "^#", path .. ": " .. line)
    end
  end
  return list
end

local function run(case)
  local upstream = helper.upstream(function(request, n)
    local call = case.calls[n]
    assert(call, "a call more than expected: " .. request.body)
    assert.equal(call.path .. "\n" .. call.body, request.path .. "\n" .. request.body)
    return { status = tonumber(call.status), headers = {}, body = call.answer }
  end, { preset = case.preset })
  helper.run({}, { upstream }, function(gateway, logged)
    local answers = helper.at_once(gateway, case.requests)
    assert.equal(#case.answers, #answers)
    for i, answer in ipairs(answers) do
      if not answer[1] then answer = { 0, {}, "passed on to " .. answer[2].url .. "\n" } end
      assert.equal(("%d %s\n"):format(case.answers[i].status, case.answers[i].body),
        ("%d %s"):format(answer[1], answer[3]), table.concat(logged, "\n"))
    end
  end)
  assert.equal(#case.calls, #upstream.calls)
end

for _, name in ipairs { "embeddings", "moderations", "completions", "tei" } do
  describe("golden file " .. name .. ":", function()
    for _, case in ipairs(cases_of(("tests/lua/gateway/golden/%s.txt"):format(name))) do
      it(case.name, function() run(case) end)
    end
  end)
end
