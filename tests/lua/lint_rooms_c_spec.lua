-- The lint rule about the rooms of src: what it must find is planted here.

local function run(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

describe("lint, rooms of src:", function()
  local folder

  before_each(function()
    folder = run("mktemp -d"):match "%S+"
    run(("mkdir %s/core && cp build/src/core/*.o %s/core/"):format(folder, folder))
  end)

  after_each(function() run("rm -rf " .. folder) end)

  -- An object of the room as if its source had been this.
  local function plant(name, source)
    local file = ("%s/%s.c"):format(folder, name)
    local handle = assert(io.open(file, "w"))
    handle:write(source)
    handle:close()
    assert.are.equal("", run(("cc -c %s -o %s/core/%s.o"):format(file, folder, name)))
  end

  local function breaches() return run("sh tests/lint/rooms_c.sh " .. folder) end

  it("has nothing to say of the core as it is", function()
    assert.are.equal("", breaches())
  end)

  it("finds a file that calls one that comes later", function()
    plant("order", "void tb__batch_end(void); void tb__order_add(void) { tb__batch_end(); }")
    assert.are.equal("src/core/order.c calls up: tb__batch_end is in batch.c\n", breaches())
  end)

  it("finds two files that call each other", function()
    plant("heap", "void tb__heap_push(void); void tb__grown(void); void tb__heap_push(void) { tb__grown(); }")
    plant("slots", "void tb__grown(void); void tb__heap_push(void); void tb__grown(void) { tb__heap_push(); }")
    assert.are.equal("src/core/slots.c calls up: tb__heap_push is in heap.c\n", breaches())
  end)

  it("finds a file that the order does not name", function()
    plant("anew", "int tb__anew;")
    assert.are.equal("src/core/anew.c: the room's order does not name it\n", breaches())
  end)
end)
