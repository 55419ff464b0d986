-- How scripts are loaded, for all who load them: the command line, engines in C programs, worker threads.
-- What people see of it there is in tests/lua/cli and tests/src/script.

local cli = dofile "tests/lua/cli_helper.lua"
local script = require "tokenbatcher.script.load"

local ECHO = "inference_fn = function(records) return records end"

describe("loading a script:", function()
  local path = package.path

  before_each(cli.new_folder)
  after_each(function()
    package.path = path -- scripts put their folders before it
    cli.clean()
  end)

  local function load(text) return script.load(cli.file("script.lua", text)) end

  local function with_options()
    return assert(load([[return {
      options = { size = { "how many", 4 }, name = { "of whom", "x" }, loud = { "?", false } },
      setup = function(opt) return { max_batch_size = opt.size, name = opt.name, ]] .. ECHO .. [[ } end }]]))
  end

  it("what it returns is split into the batcher's options and its own functions", function()
    local made = assert(script.build(assert(load("return { max_batch_size = 7, decode = tonumber, encode = tostring, "
      .. ECHO .. " }")), {}, {}))
    assert.equal(7, made.options.max_batch_size)
    assert.equal("function", type(made.options.inference_fn))
    assert.equal(tonumber, made.decode)
    assert.equal(tostring, made.encode)
    assert.is_nil(made.options.decode)
  end)

  it("its own options are declared by name, in order, with the flag that each is", function()
    local flags = {}
    for i, option in ipairs(with_options().declared) do flags[i] = option.flag end
    assert.same({ "--loud", "--name", "--size" }, flags)
  end)

  it("a text becomes a value of its option by the type of the default", function()
    local definition = with_options()
    assert.equal(12, script.option_value(definition, "size", "12"))
    assert.equal("12", script.option_value(definition, "name", "12"))
    assert.is_true(script.option_value(definition, "loud", "true"))
    for name, text in pairs { size = "nan", loud = "yes" } do
      local value, message = script.option_value(definition, name, text)
      assert.is_nil(value)
      assert.truthy(message:find(("got '%s'"):format(text), 1, true), message)
    end
    assert.matches("did you mean 'size'%?", select(2, script.option_value(definition, "sise", "1")))
  end)

  it("setup gets what was given, and defaults for the rest", function()
    local made = assert(script.build(with_options(), { size = 9 }, {}))
    assert.equal(9, made.options.max_batch_size)
    assert.equal("x", made.options.name)
  end)

  it("an option that is no longer there, or of another type, is refused when it was given", function()
    assert.matches("'gone', which was given, is no longer there",
      select(2, script.build(with_options(), { gone = 1 }, {})))
    assert.matches("%-%-size is a number now, but was given as a string",
      select(2, script.build(with_options(), { size = "9" }, {})))
  end)

  it("what is set from outside wins over the script, by either of an option's names", function()
    local made = assert(script.build(assert(load("return { target_batch_tokens = 5, " .. ECHO .. " }")), {},
      { { "target_batch_cost", 8 }, { "max_batch_size", 2 }, { "max_batch_size", 3 } }))
    assert.is_nil(made.options.target_batch_tokens)
    assert.equal(8, made.options.target_batch_cost)
    assert.equal(3, made.options.max_batch_size)
  end)

  it("loads its folder's modules anew each time, and keeps those of before when it fails", function()
    cli.file("part.lua", "return { size = 1 }")
    local text = 'return { max_batch_size = require("part").size, ' .. ECHO .. " }"
    assert.equal(1, assert(script.build(assert(load(text)), {}, {})).options.max_batch_size)
    cli.file("part.lua", "return { size = 2 }")
    assert.equal(2, assert(script.build(assert(load(text)), {}, {})).options.max_batch_size)
    cli.file("part.lua", "error 'no part'")
    local definition, message = load(text)
    assert.is_nil(definition)
    assert.matches("no part", message)
    assert.equal(2, package.loaded.part.size)
    package.loaded.part = nil
  end)

  it("raises nothing, whatever the file holds", function()
    for text, said in pairs {
      ["return 1"] = "must return a table of options, got a number",
      ["error(setmetatable({}, { __tostring = function() error 'x' end }))"] = "script.lua: raised",
      ["return { setup = 1 }"] = "'setup' must be a function, got a number",
      ["return { options = {} }"] = "'options' needs a 'setup' function",
      ["return { form = function() end }"] = "a policy, not a script",
      ["\27LJ"] = "is bytecode; a script must be text",
    } do
      local definition, message = load(text)
      assert.is_nil(definition)
      assert.truthy(message:find(said, 1, true), message)
    end
  end)
end)
