-- A job whose lines have ids of their own is gone on with like any other.

local cli = dofile "tests/lua/cli_helper.lua"

describe("a job with ids of its own goes on", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  local function goes_on(name, id, flags)
    local script = cli.file("ids.lua", cli.ECHO)
    local function line(i) return ('{"%s":%s,"n":%d}'):format(name, id, i) end
    cli.file("ids.jsonl", line(1) .. "\n" .. line(2) .. "\n")
    local function run(more)
      local command = { "run", script, "--input", cli.path "ids.jsonl", "--output", cli.path "ids.out", more }
      for _, flag in ipairs(flags or {}) do command[#command + 1] = flag end
      return cli.command(command)
    end
    local r = run "--overwrite"
    assert.equal(0, r.status, r.err)
    local first = cli.read(cli.path "ids.out")
    assert.truthy(first:find(('{"index":1,"%s":%s,"result":'):format(name, id), 1, true), first)
    cli.file("ids.jsonl", line(1) .. "\n" .. line(2) .. "\n" .. line(3) .. "\n")
    r = run "--resume"
    assert.equal(0, r.status, r.err)
    assert.equal(first, cli.read(cli.path "ids.out"):sub(1, #first))
    assert.equal(3, select(2, cli.read(cli.path "ids.out"):gsub("\n", "")))
  end

  for _, id in ipairs { '"c1"', "7", '"a\\"b"', '"{\\"result\\":1}"', '""' } do
    it("custom_id = " .. id, function() goes_on("custom_id", id) end)
  end

  for _, name in ipairs { "id", "my-id", "x.y", "7" } do
    it("--id-field " .. name, function() goes_on(name, '"v"', { "--id-field", name }) end)
  end
end)
