-- Every block of every guide is tried: what runs, runs; what is printed, is printed. How: guides_helper.lua.

local guides = dofile "tests/lua/guides_helper.lua"
local cli = guides.cli

local function lines(command)
  local pipe = assert(io.popen(command))
  local out = {}
  for line in pipe:lines() do out[#out + 1] = line end
  pipe:close()
  return out
end

local GUIDES = lines "git ls-files '*.md' 2>/dev/null || find . -name '*.md' -not -path './build/*'"

for _, guide in ipairs(GUIDES) do
  describe(guide .. ":", function()
    setup(guides.checkout)
    teardown(cli.clean)

    local before
    for _, block in ipairs(guides.blocks(guide)) do
      block.before, before = before, block
      it(("line %d: %s"):format(block.line, block.how and block.how.kind or "a block"), function()
        assert(block.how, ("%s:%d: nobody says how this block is tried (see tests/lua/guides_helper.lua)"):format(guide,
          block.line))
        local missing = guides.missing(block)
        if missing then return pending("skipped: " .. missing) end
        guides.try(block)
      end)
    end
  end)
end

describe("the helper of the guides", function()
  setup(guides.checkout)
  teardown(cli.clean)

  local function try(text)
    cli.file("guide.md", text)
    local block = guides.blocks(cli.path "guide.md")[1]
    return pcall(guides.try, block)
  end

  it("finds what is not printed", function()
    assert.is_true(try "<!-- test: session -->\n```\n$ printf 'a\\nb 1\\nc\\n'\na\n...\nc\n```\n")
    assert.is_false(try "<!-- test: session -->\n```\n$ printf 'a\\nb 1\\nc\\n'\na\nc\n```\n")
    assert.is_false(try "<!-- test: session -->\n```\n$ printf 'c\\na\\n'\na\n...\nc\n```\n")
    assert.is_true(try "<!-- test: session, roughly -->\n```\n$ echo 'x   12.5 ms'\nx 3 ms\n```\n")
    assert.is_false(try "<!-- test: session, roughly -->\n```\n$ echo 'x   12.5 ms'\ny 3 ms\n```\n")
    assert.is_true(try "<!-- test: session -->\n```\n$ echo 'a b c'\na b...\n```\n")
    assert.is_false(try "<!-- test: session -->\n```\n$ echo 'a b c'\na c...\n```\n")
  end)

  it("finds commands that fail, programs that raise, flags that are not there", function()
    assert.is_false(try "<!-- test: commands -->\n\n    false\n")
    assert.is_true(try "<!-- test: commands -->\n\n    true\n")
    assert.is_false(try "<!-- test: lua -->\n```lua\nerror 'no'\n```\n")
    assert.is_true(try "<!-- test: usage -->\n\n    tokenbatcher run SCRIPT [--input F]\n")
    assert.is_false(try "<!-- test: usage -->\n\n    tokenbatcher run SCRIPT [--inputs F]\n")
    assert.is_false(try "<!-- test: text of LICENSE -->\n```\nnot in it\n```\n")
  end)

  it("sees blocks of which nobody says how", function()
    cli.file("guide.md", "text\n\n    ls\n\n<!-- test: picture -->\n```\n-->\n```\n\n```\nmore\n```\n"
      .. "- a list\n    goes on\n")
    local blocks = guides.blocks(cli.path "guide.md")
    assert.equal(3, #blocks)
    assert.is_nil(blocks[1].how)
    assert.equal("picture", blocks[2].how.kind)
    assert.is_nil(blocks[3].how)
  end)
end)
