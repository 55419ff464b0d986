-- The simulator's case study: its commands print what it shows. Those over the trace, which is not included here, run
-- where GUIDE_DATA is a folder with it (see tests/README.md).

local cli = dofile "tests/lua/cli_helper.lua"

local TRACE = os.getenv "GUIDE_DATA" and os.getenv "GUIDE_DATA" .. "/AzureLLMInferenceTrace_code.csv"
local SECTION = assert(cli.read("lua/tokenbatcher/sim/README.md"):match "\n## A case study\n(.-)\n## ")

-- Each command of the section, and the pieces of its output that are shown, in order.
local function examples()
  local out = {}
  for text in SECTION:gmatch "```\n%$ (.-)```" do
    local command, shown = text:match "^(.-[^\\])\n(.*)$"
    local pieces = {}
    for piece in ("\n" .. shown):gsub("\n%.%.%.\n", "\n\0\n"):gmatch "%Z+" do
      if piece:find "%S" then pieces[#pieces + 1] = piece:match "^\n?(.-)\n?$" end
    end
    out[#out + 1] = { command = command, pieces = pieces }
  end
  return out
end

local function must(command)
  local r = cli.shell(command)
  assert.equal(0, r.status, r.err)
  return r.out
end

describe("the case study:", function()
  setup(function() -- a folder in which the commands can be run as they are written
    cli.new_folder()
    must("cp -R examples " .. cli.folder)
    if TRACE then must(("cp %s %s/AzureLLMInferenceTrace_code.csv"):format(cli.quote(TRACE), cli.folder)) end
  end)
  teardown(cli.clean)

  for number, example in ipairs(examples()) do
    it("command " .. number .. " prints what is shown", function()
      if example.command:find("--trace", 1, true) and not TRACE then
        pending "skipped: GUIDE_DATA has no AzureLLMInferenceTrace_code.csv"
        return
      end
      local out = must(("cd %s && %s"):format(cli.folder, (example.command:gsub("^tokenbatcher", cli.exe))))
      local at = 1
      assert.is_true(#example.pieces > 0)
      for _, piece in ipairs(example.pieces) do
        local _, to = out:find(piece .. "\n", at, true)
        at = assert(to, "not printed, or not in this order:\n" .. piece .. "\nbut:\n" .. out)
      end
    end)
  end

  it("has five commands", function() assert.equal(5, #examples()) end)
end)
