-- The README names files; they exist, and its tour names every room.

local cli = dofile "tests/lua/cli_helper.lua"

local README = cli.read "README.md"

-- Names of files that stand for a user's own, or are another project's.
local OTHERS = {
  ["your_script.lua"] = true, ["service.lua"] = true, ["test.jsonl"] = true, ["_dynamic_batcher.py"] = true,
  ["src/flyte/extras/_dynamic_batcher.py"] = true,
}

local function lines(command)
  local pipe = assert(io.popen(command))
  local out = {}
  for line in pipe:lines() do out[#out + 1] = line end
  pipe:close()
  return out
end

local function exists(path)
  return lines(("ls -d %s 2>/dev/null"):format(cli.quote(path):gsub("%*", "'*'")))[1] ~= nil
end

-- The part from one heading to the next.
local function section(title)
  return (README:match("\n## " .. title .. "\n(.-)\n## "))
end

describe("the README:", function()
  it("every path that it names exists", function()
    local n = 0
    for folder, rest in README:gmatch "%f[%w/]([a-z]+)/([%w_./*-]*)" do
      local path = (folder .. "/" .. rest):gsub("%.+$", "")
      if ({ src = 1, lua = 1, include = 1, tests = 1, examples = 1 })[folder] and not OTHERS[path] then
        n = n + 1
        assert.is_true(exists(path), path)
      end
    end
    assert.is_true(n > 50)
  end)

  it("every file that it names without a folder is somewhere in the tree", function()
    local is_there = {}
    for _, path in ipairs(lines "find src lua include tests examples -type f") do
      is_there[path:match "[^/]*$"] = true
    end
    for word in README:gmatch "`([^`\n]+)`" do
      for name in word:gmatch "%f[%w_*]([%w_*-]+%.%l+)%f[^%w_.-]" do
        if not name:find "*" and (name:find "%.[ch]$" or name:find "%.lua$" or name:find "%.sh$") then
          assert.is_true(is_there[name] or OTHERS[name] or false, name)
        end
      end
    end
  end)

  it("its tour names every room, in order, and each room's first file", function()
    local tour = section "A tour of the source"
    local at = 1
    for room in ("base core runtime batching policy estimator backend script gateway sim testing cli"):gmatch "%l+" do
      at = assert(tour:find("`" .. room .. "/`", at, true), room)
    end
    for _, room in ipairs(lines "ls lua/tokenbatcher | grep -v init.lua") do
      assert.truthy(tour:find("`" .. room .. "/`", 1, true), room)
      local first = lines(("grep -lrE '^--- %s: ' lua/tokenbatcher/%s"):format(room, room))
      assert.equal(1, #first)
      assert.truthy(tour:find("`" .. first[1]:gsub("^lua/tokenbatcher/", "") .. "`", 1, true), first[1])
    end
    for _, room in ipairs(lines "ls src") do
      assert.truthy(tour:find("`src/" .. room .. "/`", 1, true), room)
      local first = lines(("grep -l 'THE ROOM' src/%s/*"):format(room))
      assert.equal(1, #first)
      assert.truthy(tour:find("`" .. first[1] .. "`", 1, true), first[1])
    end
  end)
end)
