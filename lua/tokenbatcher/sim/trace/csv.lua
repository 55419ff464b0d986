--- Lines of CSV, as RFC 4180 has them: fields between commas, quoted where they hold commas, quotes (twice) or ends
-- of lines.

local find, gsub, sub = string.find, string.gsub, string.sub

local M = {}

-- Where the quote ends in which text[at] is, or nil; a quote that comes twice is one of the field's.
local function end_of_quote(text, at, to)
  repeat
    local stop = find(text, '"', at, true)
    if not stop or stop > to then return nil end
    if stop == to or sub(text, stop + 1, stop + 1) ~= '"' then return stop end
    at = stop + 2
  until false
end

-- Where the next field begins, or nil.
local function next_field(text, at, to)
  local comma = find(text, ",", at, true)
  return comma and comma <= to and comma + 1 or nil
end

--- Does a quoted field go on behind text[from..to]? @param is_open boolean  it went on behind the line before this one
function M.is_open(text, from, to, is_open)
  local at = from
  while at do
    if is_open or sub(text, at, at) == '"' and at <= to then
      local stop = end_of_quote(text, is_open and at or at + 1, to)
      if not stop then return true end
      at, is_open = stop + 1, false
    end
    at = next_field(text, at, to)
  end
  return false
end

--- The fields of text[from..to], into `out`. @return number of fields, or nil and what is wrong
function M.split(text, from, to, out)
  local n, at = 0, from
  while true do
    n = n + 1
    if at <= to and sub(text, at, at) == '"' then
      local stop = end_of_quote(text, at + 1, to)
      if not stop then return nil, ("field %d has a quote that does not end"):format(n) end
      if stop < to and sub(text, stop + 1, stop + 1) ~= "," then
        return nil, ("field %d goes on behind its quote"):format(n)
      end
      out[n], at = gsub(sub(text, at + 1, stop - 1), '""', '"'), stop + 1
    else
      local comma = find(text, ",", at, true)
      local stop = comma and comma <= to and comma or to + 1
      out[n], at = sub(text, at, stop - 1), stop
    end
    if at > to then return n end
    at = at + 1
  end
end

return M
