-- The README and the guides name files; they exist. The README's tour names every room. (What their blocks show is
-- tried by guides_spec.lua.)

local cli = dofile "tests/lua/cli_helper.lua"

local README = cli.read "README.md"

-- Names of files that stand for a user's own, or are another project's.
local OTHERS = {
  ["your_script.lua"] = true, ["service.lua"] = true, ["test.jsonl"] = true, ["_dynamic_batcher.py"] = true,
  ["src/flyte/extras/_dynamic_batcher.py"] = true, ["first.lua"] = true, ["handler.lua"] = true,
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

local GUIDES = lines "git ls-files '*.md' 2>/dev/null || find . -name '*.md' -not -path './build/*'"

-- A link of a guide, as a path from here.
local function path_of(link, guide)
  local path = (guide:match "^.*/" or "") .. link:gsub("#.*$", "")
  local n
  repeat path, n = path:gsub("[^/.]+/%.%./", "", 1) until n == 0
  return path
end

describe("the guides:", function()
  it("are where the README says: every link of each leads to a file, and to a heading", function()
    local n = 0
    for _, guide in ipairs(GUIDES) do
      for link in cli.read(guide):gmatch "%]%(([^%s)]+)%)" do
        if not link:find "^%a+:" then
          local path = link:sub(1, 1) == "#" and guide or path_of(link, guide)
          assert.is_true(exists(path), guide .. " -> " .. link)
          local anchor = link:match "#(.+)$"
          local has = not anchor
          for heading in (anchor and "\n" .. cli.read(path) or ""):gmatch "\n#+ ([^\n]+)" do
            has = has or heading:lower():gsub("[^%w%- ]", ""):gsub(" ", "-") == anchor
          end
          assert.is_true(has, guide .. " -> " .. link)
          n = n + 1
        end
      end
    end
    assert.is_true(n > 30)
  end)

  it("every path that they name exists", function()
    local n = 0
    for _, guide in ipairs(GUIDES) do
      for folder, rest in cli.read(guide):gsub("%.%./", ""):gmatch "%f[%w/]([a-z]+)/([%w_./*-]*)" do
        local path = (folder .. "/" .. rest):gsub("%.+$", "")
        if ({ src = 1, lua = 1, include = 1, tests = 1, examples = 1 })[folder] and not OTHERS[path] then
          n = n + 1
          assert.is_true(exists(path), guide .. ": " .. path)
        end
      end
    end
    assert.is_true(n > 50)
  end)

  it("that of examples/ names every example", function()
    local guide = cli.read "examples/README.md"
    for _, path in ipairs(lines "git ls-files examples 2>/dev/null || find examples -type f") do
      local name, folder = path:match "^examples/(.*)$", path:match "^examples/([%w]+)/"
      local is_there = guide:find("(" .. name .. ")", 1, true) or folder and guide:find("](" .. folder .. "/", 1, true)
      local is_data = name == "README.md" or name:find "%.svg$" or name:find "%.jsonl$"
      assert.truthy(is_there or is_data, name)
    end
  end)

  it("every file that they name without a folder is somewhere in the tree", function()
    local is_there = {}
    for _, path in ipairs(lines "find src lua include tests examples -type f") do
      is_there[path:match "[^/]*$"] = true
    end
    for _, guide in ipairs(GUIDES) do
      for word in cli.read(guide):gmatch "`([^`\n]+)`" do
        for name in word:gmatch "%f[%w_*]([%w_*-]+%.%l+)%f[^%w_.-]" do
          if not name:find "*" and (name:find "%.[ch]$" or name:find "%.lua$" or name:find "%.sh$") then
            assert.is_true(is_there[name] or OTHERS[name] or false, guide .. ": " .. name)
          end
        end
      end
    end
  end)
end)

describe("the README:", function()
  it("is a front door", function()
    local shown = README:gsub("<!%-%- test: [^\n]*\n", "") -- see guides_helper.lua
    local _, n = shown:gsub("\n", "\n")
    assert.is_true(n <= 240, n .. " lines")
  end)

  it("its tour names every room, in order, and each room's first file", function()
    local tour = section "A tour of the source"
    local at = 1
    local rooms = "base core runtime batching policy estimator backend listen script gateway sim testing cli"
    for room in rooms:gmatch "%l+" do
      at = assert(tour:find("`" .. room .. "/`", at, true), room)
    end
    for _, room in ipairs(lines "cd lua/tokenbatcher && ls -d */ | tr -d /") do
      assert.truthy(tour:find("`" .. room .. "/`", 1, true), room)
      local first = lines(("grep -lrE '^--- %s: ' lua/tokenbatcher/%s"):format(room, room))
      assert.equal(1, #first)
      assert.truthy(tour:find("`" .. first[1]:gsub("^lua/tokenbatcher/", "") .. "`", 1, true), first[1])
    end
    for _, room in ipairs(lines "cd lua && ls -d */ | tr -d / | grep -v '^tokenbatcher$'") do -- plugins
      local first = lines(("grep -lrE '^--- %s: ' lua/%s"):format(room, room))
      assert.equal(1, #first)
      assert.truthy(tour:find("`" .. first[1] .. "`", 1, true), first[1])
    end
    for _, room in ipairs(lines "cd src && ls -d */ | tr -d /") do
      assert.truthy(tour:find("`src/" .. room .. "/`", 1, true), room)
      local first = lines(("grep -l 'THE ROOM' src/%s/*"):format(room))
      assert.equal(1, #first)
      assert.truthy(tour:find("`" .. first[1] .. "`", 1, true), first[1])
    end
  end)
end)
