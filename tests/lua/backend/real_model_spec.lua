-- A real embedding model behind `tokenbatcher run examples/embeddings.lua`; the long form is
-- tests/soak/embeddings.lua.

local cjson = require "cjson"
local cli = dofile "tests/lua/cli_helper.lua"
local model = require "tests.http.model_server"

local PROMPTS, GUARD_S = 32, 100

describe("a real embedding model:", function()
  local server, missing
  setup(function()
    cli.new_folder()
    server, missing = model.start(GUARD_S)
  end)
  teardown(function()
    if server then server.stop() end
    cli.clean()
  end)

  local function vectors(lines, settings)
    local r = cli.command({ "run", "examples/embeddings.lua", "--base-url", server.url, unpack(settings) }, lines)
    assert.equal(0, r.status, r.err)
    local list = {}
    for i, line in ipairs(r.lines) do list[i] = cjson.decode(line).result end
    return list
  end

  it("batched vectors are those got alone, to 1e-5", function()
    if not server then return pending("skipped: " .. missing) end
    local lines = {}
    for i, question in ipairs(model.questions(PROMPTS)) do -- short and long ones
      lines[i] = cjson.encode { text = i % 4 == 0 and question or question:match "^.-[.?]" or question }
    end
    lines = table.concat(lines, "\n") .. "\n"
    local alone = vectors(lines, { "--set", "max_batch_size=1" })
    local batched = vectors(lines, {})
    assert.equal(PROMPTS, #batched)
    for i = 1, PROMPTS do
      local difference = model.difference(alone[i], batched[i])
      assert.is_true(difference <= 1e-5, ("prompt %d: %g"):format(i, difference))
    end
  end)
end)
