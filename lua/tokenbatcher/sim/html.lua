--- The page of --report: one HTML file with everything inside. Tables first, which need nothing; then the lab, in
-- which a reader chooses runs, zooms into time, looks at single batches and compares two runs (lab/).

local compare = require "tokenbatcher.sim.compare"
local lab = require "tokenbatcher.sim.lab.data"
local seeds = require "tokenbatcher.sim.seeds"
local timeline_plot = require "tokenbatcher.sim.timeline_plot"
local timelines = require "tokenbatcher.sim.timeline"

local M = {}

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

local LAB = [[
<div id=lab>
<div class=bar>
<label>A: <select id=run-a></select></label> <label>B: <select id=run-b></select></label>
<button id=swap>swap</button>
<span><button id=closer title="closer (+)">+</button> <button id=wider title="wider (-)">-</button>
<button id=all title="all of time (0)">all</button> <span id=span></span></span>
</div>
<h2>Queue and batches over time</h2>
<p class=note>Drag over a piece of time to see it closer, or turn the wheel; double click for all of it; arrow keys
move. Point at a batch to read it. Colours: why it went.</p>
REASONS
<figure id=figure-a><figcaption></figcaption><canvas tabindex=0 role=img aria-label="queue and batches of run A">
</canvas></figure>
<figure id=figure-b><figcaption></figcaption><canvas tabindex=0 role=img aria-label="queue and batches of run B">
</canvas></figure>
<div class=pair>
<div><h2>Answered within a latency</h2><canvas id=curves role=img aria-label="distribution of latency"></canvas>
<ul class=keys id=keys></ul></div>
<div><h2>Latency against throughput</h2>
<canvas id=frontier role=img aria-label="latency against throughput"></canvas><ul class=keys id=lines></ul></div>
</div>
<h2>A and B</h2>
<div class=wide><table><thead><tr><th>figure<th>A<th>B<th>B - A<th>relative</thead><tbody id=comparison></tbody></table>
</div>
</div>
<div id=tip></div>
<noscript><p class=note>What follows is drawn by a script, which is switched off here; the tables are all of it.</p>
</noscript>
]]

local SCRIPTS = { "draw_js", "timeline_js", "curves_js", "page_js" }

local function reasons_key()
  local out = { "<ul class=keys>" }
  for _, name in ipairs(timelines.REASONS) do
    out[#out + 1] = ('<li><i style="background:%s"></i>%s'):format(timeline_plot.COLOURS[name], name)
  end
  return table.concat(out) .. "</ul>"
end

--- @param facts table  list of {name, text}: what was run  @param recorded table  the timeline of each row, or empty
-- @param slo_s number|nil
function M.page(rows, facts, recorded, slo_s)
  local out = { "<!doctype html>\n<html lang=en><meta charset=utf-8><title>TokenBatcher simulation</title>\n<style>\n",
    require "tokenbatcher.sim.lab.style", "</style>\n<h1>TokenBatcher simulation</h1>\n<dl>\n" }
  for _, fact in ipairs(facts) do
    out[#out + 1] = ("<dt>%s</dt><dd>%s</dd>\n"):format(escape(fact[1]), escape(fact[2]))
  end
  out[#out + 1] = "</dl>\n<h2>Comparison</h2>\n"
  for _, block in ipairs(compare.blocks(rows)) do out[#out + 1] = table_of(rows, block) end
  out[#out + 1] = NOTE
  local intervals = seeds.text(rows)
  if intervals ~= "" then out[#out + 1] = "<h2>How sure</h2>\n<pre class=wide>" .. escape(intervals) .. "</pre>\n" end
  out[#out + 1] = LAB:gsub("REASONS", function() return reasons_key() end)
  out[#out + 1] = '<script type="application/json" id=data>' .. lab.of(rows, recorded, slo_s) .. "</script>\n<script>\n"
  out[#out + 1] = require "tokenbatcher.base.canvas_js"
  for _, name in ipairs(SCRIPTS) do out[#out + 1] = require("tokenbatcher.sim.lab." .. name) end
  out[#out + 1] = "</script>\n</html>\n"
  return table.concat(out)
end

return M
