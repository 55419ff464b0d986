--- The live page of all workers together (listen/): each puts down what its batchers do while somebody looks, and
-- whoever is asked adds it up.
--
-- That somebody looks stands in the shared dict for LOOKED_S. A worker asks for it twice a second, which is all that
-- the page costs when it is closed. What is put down is bounded, so that it never drives out what board.lua keeps
-- there: all workers' together take a quarter of the dict at most, and where there is no room nothing is written.

local json = require "tokenbatcher.base.json"
local page = require "tokenbatcher.listen.page"
local pseudonym = require "tokenbatcher.base.pseudonym"
local state = require "tokenbatcher.listen.state"
local watch = require "tokenbatcher.listen.watch"

local M = {}
local View = {}
View.__index = View

local LOOKED_S, KEPT_S = 5, 10
local SLACK_S = 2 -- what others have put down is so old at most
local PATIENCE_S, TICK_S = 1.2, 0.05

local HOW = { open = "bad", probing = "warn" }

--- How often a worker looks whether somebody does, seconds; and how often there is an event.
M.PERIOD_S = 0.5

--- Watch the lines of a gateway that has started. The secret of pseudonyms is the gateway's, so that all workers' are
-- the same.
local function watches_of(gateway)
  local out = {}
  for i, line in ipairs(gateway.lines) do
    out[i] = watch.new(line.batcher, gateway.secret)
    out[i].facts = function()
      local circuit = line.upstream:status().state or "closed"
      return { { "circuit", circuit, HOW[circuit] or "good" } }
    end
  end
  return out
end

--- @param given table  gateway (that has started), dict (as board.lua has it, with safe_set), board, bytes (of the
-- dict), workers (how many)
function M.new(given)
  local self = setmetatable({ gateway = given.gateway, dict = given.dict, board = given.board,
    bytes = given.bytes / 4 / math.max(1, given.workers) }, View)
  self.watches = watches_of(given.gateway)
  self.worker = M.name_of(self.board.id, self.board.generation)
  self.dict:add("v:id", pseudonym.hash(assert(pseudonym.secret()), "gateway"))
  return self
end

--- What a worker is called on the page: after a reload another one has its number.
function M.name_of(id, generation)
  return generation > 1 and ("%d (%d)"):format(id, generation) or ("%d"):format(id)
end

function View:own(opts)
  opts.worker, opts.id = self.worker, self.dict:get "v:id"
  return state.of(self.watches, opts)
end

-- A state that takes so many bytes at most: with fewer batches, then with fewer batchers.
local function bounded_text(self)
  for _, most in ipairs { 256, 64, 16, 0 } do
    local text = assert(json.encode(self:own { most_batches = most }))
    if #text <= self.bytes then return text end
  end
  local few = self:own { most_batches = 0 }
  while #few.batchers > 0 do
    table.remove(few.batchers)
    few.left_out = few.left_out + 1
    local text = assert(json.encode(few))
    if #text <= self.bytes then return text end
  end
end

--- To be called now and then: put down what this worker's batchers do, if somebody looks.
function View:put()
  if not self.dict:get "v:looked" then return end
  local text = bounded_text(self)
  if text then self.dict:safe_set("v:" .. self.worker, text, KEPT_S) end
end

-- What the other workers that live have put down; nil: one has not yet.
local function others(self)
  local out, lacks = {}, false
  for _, it in ipairs(self.board:live()) do
    local name = M.name_of(it.id, it.generation)
    if name ~= self.worker then
      local text = self.dict:get("v:" .. name)
      out[#out + 1] = text and json.decode(text)
      lacks = lacks or not text
    end
  end
  return out, lacks
end

local FIELD = {}
for i, name in ipairs(state.FIELDS) do FIELD[name] = i end

-- Without batches that had ended by then.
local function drop_before(other, after)
  for _, batcher in ipairs(other.batchers) do
    local rows = json.list {}
    for _, row in ipairs(batcher.batches) do
      if row[FIELD.at] + row[FIELD.s] > after then rows[#rows + 1] = row end
    end
    batcher.batches = rows
  end
end

--- The state of all workers, as JSON. Waits for those that have nothing there yet, for a moment, the first time.
-- @param after number|nil  see listen/state.lua; some batches come twice  @param sleep function(s)
function View:text(after, sleep)
  local was_looked_at = self.dict:get "v:looked"
  self.dict:set("v:looked", true, LOOKED_S)
  after = after and after - SLACK_S or -1
  local list, lacks = others(self)
  local patience = was_looked_at and 0 or PATIENCE_S
  while lacks and patience > 0 do
    sleep(TICK_S)
    patience = patience - TICK_S
    list, lacks = others(self)
  end
  local sum = self:own { after = after }
  for _, other in ipairs(list) do
    drop_before(other, after)
    state.add(sum, other)
  end
  table.sort(sum.batchers, function(a, b) return a.name < b.name end)
  return state.text(sum)
end

--- What is answered below /tb/, but for events: see nginx_view.lua. @param path string  what is behind it
-- @return status, headers, body; nil: there is no such page
function View:page(path, after, sleep)
  if path == "" then return 200, page.headers(), page.html() end
  if path ~= "stats.json" then return nil end
  return 200, { ["content-type"] = "application/json", ["cache-control"] = "no-store" }, self:text(after, sleep)
end

return M
