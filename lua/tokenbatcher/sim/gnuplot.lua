--- Pictures by gnuplot (Debian: gnuplot-nox), which is needed only when one is asked for.

local M = {}

-- Of Okabe and Ito, told apart by colour-blind eyes, too.
M.COLOURS = { "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555" }

--- A text as gnuplot's own quoted word.
function M.quote(text)
  return "'" .. text:gsub("'", "''"):gsub("%c", " ") .. "'"
end

--- A colour as gnuplot's words. @param colour number  from 1
function M.colour(colour)
  return ("lc rgb '%s'"):format(M.COLOURS[(colour - 1) % #M.COLOURS + 1])
end

--- How a line is drawn. @param colour number  from 1  @param dash number  from 1, whole lines first
function M.style(colour, dash)
  local n = #M.COLOURS
  local turns = math.floor((colour - 1) / n)
  return ("lc rgb '%s' dt %d lw 2"):format(M.COLOURS[(colour - 1) % n + 1], (dash - 1 + turns) % 5 + 1)
end

--- A named block of data. @param rows table  list of lists of numbers or of words
function M.block(name, rows)
  local lines = { "$" .. name .. " << EOD" }
  for _, row in ipairs(rows) do
    local cells = {}
    for k, value in ipairs(row) do cells[k] = type(value) == "number" and ("%.9g"):format(value) or value end
    lines[#lines + 1] = table.concat(cells, " ")
  end
  lines[#lines + 1] = "EOD"
  return table.concat(lines, "\n")
end

local TERMINALS = {
  svg = "set terminal svg noenhanced size %d,%d font 'sans-serif,13' background '#ffffff' name 'tb%d'",
  png = "set terminal pngcairo noenhanced size %d,%d font 'sans-serif,10' background '#ffffff'",
}
local drawn = 0

--- What a picture's file name says it is. @return "svg" or "png", or nil and a message
function M.format_of(path)
  local format = path:match "%.(%a+)$"
  format = format and format:lower()
  if TERMINALS[format] then return format end
  return nil, ("a picture is a .svg or a .png, got '%s'"):format(path)
end

--- Is it there? @return true, or nil and a message
function M.check()
  local found = os.execute "command -v gnuplot >/dev/null 2>&1"
  if found == 0 or found == true then return true end
  return nil, "pictures are drawn by gnuplot, which is not installed (Debian: apt-get install gnuplot-nox)"
end

local function read_and_remove(path)
  local file = io.open(path, "rb")
  local text = file and file:read "*a" or ""
  if file then file:close() end
  os.remove(path)
  return text
end

-- A word for the shell.
local function shell_quote(text)
  return "'" .. text:gsub("'", [['\'']]) .. "'"
end

local TAIL_BYTES = 16
local ENDS = { svg = "</svg>%s*$", png = "IEND....$" }

-- gnuplot says nothing of a disk that is full.
local function is_whole(path, format)
  local file = io.open(path, "rb")
  local bytes = file and file:seek "end" or 0
  local text = bytes > 0 and file:seek("set", math.max(0, bytes - TAIL_BYTES)) and file:read(TAIL_BYTES) or ""
  if file then file:close() end
  return text:find(ENDS[format]) ~= nil
end

local function draw(path, format, script, width, height)
  local file, message = io.open(path, "wb") -- a better message than gnuplot's
  if not file then return nil, "cannot write: " .. message end
  file:close()
  drawn = drawn + 1
  local script_path, log_path = os.tmpname(), os.tmpname()
  local out = assert(io.open(script_path, "wb"))
  out:write(TERMINALS[format]:format(width, height, drawn), "\nset output ", M.quote(path), "\n", script,
    "\nunset output\n")
  out:close()
  local status = os.execute(("gnuplot %s >%s 2>&1 </dev/null"):format(shell_quote(script_path), shell_quote(log_path)))
  local log = read_and_remove(log_path)
  os.remove(script_path)
  if status ~= 0 and status ~= true then return nil, "gnuplot: " .. log:gsub("%s+$", "") end
  if not is_whole(path, format) then return nil, ("cannot write %s: gnuplot did not finish it"):format(path) end
  return true
end

--- Draw. @param script string  what follows the terminal and the output
-- @return true, or nil and a message
function M.draw(path, script, width, height)
  local format, message = M.format_of(path)
  if not format then return nil, message end
  return draw(path, format, script, width, height)
end

--- Draw as SVG. @return its text, or nil and a message
function M.svg(script, width, height)
  local path = os.tmpname() -- made here, by O_EXCL: no name is used that somebody else may have made meanwhile
  local ok, message = draw(path, "svg", script, width, height)
  local text = read_and_remove(path)
  if not ok then return nil, message end
  return (text:gsub("^.-(<svg)", "%1"))
end

return M
