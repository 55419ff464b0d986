-- The lint rule about the rooms of src: what it must find is planted here.

local lint = dofile "tests/lua/lint_helper.lua"

describe("lint, rooms of src:", function()
  local root

  before_each(function() root = lint.copy_with_objects() end)
  after_each(function() lint.remove(root) end)

  -- A source of a room, and its object.
  local function plant(name, source)
    lint.write(root, "src/" .. name .. ".c", source)
    assert.equal("", lint.run(("cd %s && cc -c src/%s.c -o build/src/%s.o"):format(root, name, name)))
  end

  local function breaches()
    return lint.run(("sh tests/lint/rooms_c.sh %s/src %s/build/src"):format(root, root))
  end

  it("has nothing to say of src as it is", function()
    assert.equal("", breaches())
  end)

  it("finds a file that calls one that comes later", function()
    plant("core/order", "void tb__batch_end(void); void tb__order_add(void) { tb__batch_end(); }")
    assert.equal("src/core/order.c calls up: tb__batch_end is in core/batch.c\n", breaches())
  end)

  it("finds two files that call each other", function()
    plant("core/heap", "void tb__heap_push(void); void tb__grown(void); void tb__heap_push(void) { tb__grown(); }")
    plant("core/slots", "void tb__grown(void); void tb__heap_push(void); void tb__grown(void) { tb__heap_push(); }")
    assert.equal("src/core/slots.c calls up: tb__heap_push is in core/heap.c\n", breaches())
  end)

  it("finds a file that calls a room above", function()
    plant("core/error", "void tb_ev_now(void); void tb_error_name(void) { tb_ev_now(); }")
    assert.matches("src/core/error%.c calls up: tb_ev_now is in ev/%w+%.c\n", breaches())
    plant("ev/wake", "void tb_engine_new(void); void tb__wake(void) { tb_engine_new(); }")
    assert.matches("src/ev/wake%.c calls up: tb_engine_new is in script/%w+%.c\n", breaches())
  end)

  it("finds a file that the order does not name", function()
    plant("core/anew", "int tb__anew;")
    assert.equal("src/core/anew.c: no order of rooms names it\n", breaches())
  end)

  it("goes by the order that a room's first file states, and finds that it states none", function()
    lint.run(("sed -i 's/error options slots/slots error options/' %s/src/core/core.h"):format(root))
    assert.equal("", breaches())
    lint.run(("sed -i 's/slots error options/error options/' %s/src/core/core.h"):format(root))
    assert.matches("src/core/slots%.c: no order of rooms names it\n", breaches())
    lint.run(("sed -i 's/Order/About/' %s/src/ev/driver.h"):format(root))
    assert.matches("src/ev/loop%.c: no order of rooms names it\n", breaches())
  end)

  it("finds a room that has no order", function()
    lint.run(("mkdir %s/src/attic %s/build/src/attic"):format(root, root))
    plant("attic/core", "int tb__attic;")
    assert.equal("src/attic/core.c: no order of rooms names it\n", breaches())
  end)

  it("finds a name in the order for which there is no file, or none that is built", function()
    lint.run(("rm %s/src/core/heap.c %s/build/src/core/slots.o"):format(root, root))
    assert.matches("src/core/heap%.c: named in the order, but there is none\n", breaches())
    assert.matches("src/core/slots%.c: is not built\n", breaches())
  end)

  it("passes over the object of a source that is gone", function()
    lint.run(("cp %s/build/src/core/heap.o %s/build/src/core/long_gone.o"):format(root, root))
    assert.equal("", breaches())
  end)
end)
