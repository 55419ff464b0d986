--- What the specs of the lint rules share: a copy of the tree, into which they plant breaches.

local M = {}

local BUILD = os.getenv "TOKENBATCHER_BUILD" or os.getenv "B" or "build"

--- What a command writes, both ways.
function M.run(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

--- A new folder with copies of these folders of the checkout. @return string
function M.copy_of(folders)
  local root = M.run("mktemp -d"):match "%S+"
  M.run(("cp -r %s %s/"):format(folders, root))
  return root
end

--- The same with the objects of src in build/src.
function M.copy_with_objects()
  local root = M.copy_of "src"
  M.run(("mkdir %s/build && cp -r %s/src %s/build/"):format(root, BUILD, root))
  return root
end

function M.remove(root)
  M.run("rm -rf " .. root)
end

--- Write a file of the copy, or put text at the end of one that is there.
function M.write(root, path, text, mode)
  local file = assert(io.open(root .. "/" .. path, mode or "w"))
  file:write(text)
  file:close()
end

function M.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

return M
