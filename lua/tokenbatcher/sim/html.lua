--- The page of --report: one HTML file with everything inside.

local compare = require "tokenbatcher.sim.compare"
local seeds = require "tokenbatcher.sim.seeds"

local M = {}

local STYLE = [[
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2em auto; max-width: 1140px; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.1em; margin-top: 2em; }
table { border-collapse: collapse; margin: .6em 0 1.4em; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { font-weight: 600; color: #555; } th:first-child, td:first-child, td.words { text-align: left; }
td.best { font-weight: 700; background: #e8f4ea; } .wide { overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content auto; gap: .2em 1.2em; } dt { color: #666; } dd { margin: 0; }
svg { max-width: 100%; height: auto; } p.note { color: #555; font-size: .92em; }
]]

local NOTE = [[
<p class=note>Latency runs from the time of arrival, waiting for room included. Goodput: the share of all arrivals
answered within the SLO. Padding: records x the largest over the sum of costs. Fairness: Jain's index of the tokens
served to keys that wait at the same time. Best of a column: bold.</p>
]]

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

local function escape(text)
  return (text:gsub('[&<>"]', ESCAPES))
end

local function table_of(rows, block)
  local out, best = { "<div class=wide><table><tr><th>", escape(block[1]), "</th>" }, {}
  for i, column in ipairs(block[2]) do
    out[#out + 1] = "<th>" .. escape(column[1]) .. "</th>"
    best[i] = compare.best_of(rows, column)
  end
  out[#out + 1] = (block[3] and "<th>dispatched</th>" or "") .. "</tr>\n"
  for _, row in ipairs(rows) do
    out[#out + 1] = "<tr><td>" .. escape(compare.label(row)) .. "</td>"
    for i, column in ipairs(block[2]) do
      local text, is_best = compare.cell(row, column, best[i])
      out[#out + 1] = ("<td%s>%s</td>"):format(is_best and " class=best" or "", text)
    end
    out[#out + 1] = (block[3] and "<td class=words>" .. escape(block[3](row)) .. "</td>" or "") .. "</tr>\n"
  end
  out[#out + 1] = "</table></div>\n"
  return table.concat(out)
end

--- @param facts table  list of {name, text}: what was run  @param pictures table  list of {heading, svg}
function M.page(rows, facts, pictures)
  local out = { "<!doctype html>\n<html lang=en><meta charset=utf-8><title>TokenBatcher simulation</title>\n<style>\n",
    STYLE, "</style>\n<h1>TokenBatcher simulation</h1>\n<dl>\n" }
  for _, fact in ipairs(facts) do
    out[#out + 1] = ("<dt>%s</dt><dd>%s</dd>\n"):format(escape(fact[1]), escape(fact[2]))
  end
  out[#out + 1] = "</dl>\n<h2>Comparison</h2>\n"
  for _, block in ipairs(compare.blocks(rows)) do out[#out + 1] = table_of(rows, block) end
  out[#out + 1] = NOTE
  local intervals = seeds.text(rows)
  if intervals ~= "" then out[#out + 1] = "<h2>How sure</h2>\n<pre class=wide>" .. escape(intervals) .. "</pre>\n" end
  for _, picture in ipairs(pictures) do
    out[#out + 1] = ("<h2>%s</h2>\n%s\n"):format(escape(picture[1]), picture[2])
  end
  out[#out + 1] = "</html>\n"
  return table.concat(out)
end

return M
