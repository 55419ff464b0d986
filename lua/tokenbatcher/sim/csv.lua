--- Lines of CSV, as RFC 4180 has them: fields between commas, quoted where they hold commas, quotes (twice) or ends
-- of lines.

local find, gsub, sub = string.find, string.gsub, string.sub

local M = {}

--- Is a quote still open at the end of text[from..to]? Then the field goes on in the next line.
function M.is_open(text, from, to)
  local count, at = 0, from
  while true do
    at = find(text, '"', at, true)
    if not at or at > to then return count % 2 == 1 end
    count, at = count + 1, at + 1
  end
end

-- A quoted field that begins at `at`. @return its text and the place behind its last quote; nil: it does not end
local function quoted(text, at, to)
  local stop = at
  repeat
    stop = find(text, '"', stop + 1, true)
    if not stop or stop > to then return nil end
    local is_twice = sub(text, stop + 1, stop + 1) == '"' and stop < to
    if is_twice then stop = stop + 1 end
  until not is_twice
  return (gsub(sub(text, at + 1, stop - 1), '""', '"')), stop + 1
end

--- The fields of text[from..to], into `out`. @return number of fields, or nil and what is wrong
function M.split(text, from, to, out)
  local n, at = 0, from
  while true do
    n = n + 1
    if at <= to and sub(text, at, at) == '"' then
      local value, behind = quoted(text, at, to)
      if not value then return nil, ("field %d has a quote that does not end"):format(n) end
      if behind <= to and sub(text, behind, behind) ~= "," then
        return nil, ("field %d goes on behind its quote"):format(n)
      end
      out[n], at = value, behind
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
