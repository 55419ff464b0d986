--- What runs in Redis: every change of a record's state is one of these, so that it happens wholly or not at all.
-- XACK decides: whoever's returns 1 writes the answer, and nobody else's does.
--
-- KEYS[1] is the stream, KEYS[2] its dead letters, ARGV[1] the group, ARGV[2] the consumer. All but `answer`,
-- `dead` and `release` change nothing for a record that another consumer owns.
--
-- THE SPECIAL PROBLEM OF A FAILING COMMAND. A script that fails half-way keeps what it has done: a reply that
-- cannot be added (its key is of another type, say) must not end it, or records are acknowledged without
-- an answer. So whatever may fail is a pcall, and such a record becomes a dead letter.

local M = {}

-- Into the dead letters goes the record as it came. unpack fails for very many fields; the first do.
local BURY = [=[
local function bury(id, reason, deliveries)
  local entry = redis.pcall('XRANGE', KEYS[1], id, id)
  local words = {'stream_id', id, 'reason', reason, 'deliveries', deliveries}
  local fields = entry[1] and entry[1][2] or {}
  for i = 1, math.min(#fields, 2000) do words[#words + 1] = fields[i] end
  return redis.pcall('XADD', KEYS[2], '*', unpack(words))
end
]=]

-- Is the record pending, and mine? Then how often it was started.
local OWN = [=[
local function own(id)
  local p = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  if p[1] and p[1][2] == ARGV[2] then return p[1][4] end
end
]=]

--- KEYS[3...]: reply streams. ARGV[3] their life in ms, then for each record 8: id in the stream, place of its reply
-- stream in KEYS (0: none), its own id, "result" or "error", that, deliveries, wait_ms, service_ms.
-- @return how many were answered; the others had been already
M.answer = "#!lua flags=allow-oom\n" .. BURY .. [=[
local call, done, touched = redis.pcall, {}, {}
for i = 4, #ARGV, 8 do
  if call('XACK', KEYS[1], ARGV[1], ARGV[i]) == 1 then
    local at = tonumber(ARGV[i + 1])
    if at > 0 then
      local added = call('XADD', KEYS[at], '*', 'id', ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], 'worker', ARGV[2],
        'deliveries', ARGV[i + 5], 'wait_ms', ARGV[i + 6], 'service_ms', ARGV[i + 7])
      if type(added) == 'table' then bury(ARGV[i], 'bad_reply_to', ARGV[i + 5]) else touched[at] = true end
    end
    done[#done + 1] = ARGV[i]
  end
end
if #done > 0 then redis.call('XDEL', KEYS[1], unpack(done)) end
for at in pairs(touched) do redis.call('PEXPIRE', KEYS[at], ARGV[3]) end
return #done
]=]

--- The same for records that get no result. For each record 6: id in the stream, place of its reply stream
-- (0: none), its own id, the error that is answered, the reason, deliveries.
M.dead = "#!lua flags=allow-oom\n" .. BURY .. [=[
local n = 0
for i = 4, #ARGV, 6 do
  if redis.pcall('XACK', KEYS[1], ARGV[1], ARGV[i]) == 1 then
    local at = tonumber(ARGV[i + 1])
    bury(ARGV[i], ARGV[i + 4], ARGV[i + 5])
    if at > 0 then
      local added = redis.pcall('XADD', KEYS[at], '*', 'id', ARGV[i + 2], 'error', ARGV[i + 3], 'worker', ARGV[2],
        'deliveries', ARGV[i + 5])
      if type(added) ~= 'table' then redis.call('PEXPIRE', KEYS[at], ARGV[3]) end
    end
    redis.call('XDEL', KEYS[1], ARGV[i])
    n = n + 1
  end
end
return n
]=]

--- ARGV[3...]: ids. They are mine for another lease. @return those that are not mine any more
M.beat = "#!lua flags=allow-oom\n" .. OWN .. [=[
local lost = {}
for i = 3, #ARGV do
  if own(ARGV[i]) then redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else lost[#lost + 1] = ARGV[i] end
end
return lost
]=]

--- ARGV[3...]: ids, which run now: counted. @return those that are not mine any more
M.start = "#!lua flags=allow-oom\n" .. OWN .. [=[
local lost = {}
for i = 3, #ARGV do
  local n = own(ARGV[i])
  if n then redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'RETRYCOUNT', n + 1, 'JUSTID')
  else lost[#lost + 1] = ARGV[i] end
end
return lost
]=]

--- ARGV[3] the lease in ms, ARGV[4...] ids that have not been started: anybody may have them at once.
M.release = "#!lua flags=allow-oom\n" .. OWN .. [=[
local freed = 0
for i = 4, #ARGV do
  local n = own(ARGV[i])
  if n then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'IDLE', ARGV[3], 'RETRYCOUNT', math.max(n - 1, 0),
      'JUSTID')
    freed = freed + 1
  end
end
return freed
]=]

--- KEYS[3] the sweep's lock. ARGV[3] the lease in ms, ARGV[4] the cursor, ARGV[5] how many at most, ARGV[6]
-- the most bytes of a record, ARGV[7] how long the next sweep may wait, in ms.
-- @return nil: another consumer sweeps; or {cursor, {{id, fields or nil: too large, starts, reply_to, own id}, ...}}
M.claim = "#!lua flags=allow-oom\n" .. [=[
if not redis.call('SET', KEYS[3], ARGV[2], 'NX', 'PX', ARGV[7]) then return false end
local claimed = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5], 'JUSTID')
local out, most = {}, tonumber(ARGV[6])
for _, id in ipairs(claimed[2]) do
  local entry = redis.call('XRANGE', KEYS[1], id, id)
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  if entry[1] and pending[1] then
    local fields, size, reply_to, own = entry[1][2], 0, '', ''
    for i = 1, #fields, 2 do
      size = size + #fields[i] + #fields[i + 1]
      if fields[i] == 'reply_to' then reply_to = fields[i + 1] elseif fields[i] == 'id' then own = fields[i + 1] end
    end
    local is_small = size <= most + 8192
    if #reply_to > 1024 or #own > 1024 then reply_to, own = '', '' end
    out[#out + 1] = {id, is_small and fields, pending[1][4], reply_to, own}
  end
end
if claimed[1] ~= '0-0' or #out > 0 then redis.call('DEL', KEYS[3]) end
return {claimed[1], out}
]=]

--- ARGV[2] a consumer, or "" for every one that has been silent for ARGV[3] ms: forget those that own nothing.
M.leave = "#!lua flags=allow-oom\n" .. [=[
local list, n = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1]), 0
if list.err then return 0 end
for _, c in ipairs(list) do
  local of = {}
  for i = 1, #c, 2 do of[c[i]] = c[i + 1] end
  local is_meant = ARGV[2] == of.name or ARGV[2] == '' and of.idle >= tonumber(ARGV[3])
  if is_meant and of.pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], of.name)
    n = n + 1
  end
end
return n
]=]

--- For producers. ARGV: ids in the stream. @return those that are not in it
M.gone = "#!lua flags=no-writes\n" .. [=[
local out = {}
for i = 1, #ARGV do
  local entry = redis.pcall('XRANGE', KEYS[1], ARGV[i], ARGV[i], 'COUNT', 1)
  if entry.err or not entry[1] then out[#out + 1] = ARGV[i] end
end
return out
]=]

--- For producers that go on. ARGV[1] where to begin, ARGV[2] how many to look at, ARGV[3] a reply stream.
-- @return {where to go on or "", {id in the stream, own id, ...}} of those that are answered there
M.mine = "#!lua flags=no-writes\n" .. [=[
local list, out = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2]), {}
for _, entry in ipairs(list) do
  local reply_to, own
  for i = 1, #entry[2], 2 do
    local name, value = entry[2][i], entry[2][i + 1]
    if name == 'reply_to' then reply_to = value elseif name == 'id' then own = value end
  end
  if reply_to == ARGV[3] and own then out[#out + 1] = entry[1] out[#out + 1] = own end
end
return {#list == tonumber(ARGV[2]) and '(' .. list[#list][1] or '', out}
]=]

--- For people. KEYS[2] the dead letters, ARGV: ids there. They go back into the stream, as they came.
-- @return how many
M.retry = "#!lua\n" .. [=[
local n, ours = 0, {stream_id = true, reason = true, deliveries = true}
for i = 1, #ARGV do
  local entry = redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i])
  if entry[1] then
    local words, fields = {}, entry[1][2]
    for k = 1, #fields, 2 do
      if k > 6 or not ours[fields[k]] then words[#words + 1] = fields[k] words[#words + 1] = fields[k + 1] end
    end
    if #words > 0 then
      redis.call('XADD', KEYS[1], '*', unpack(words))
      redis.call('XDEL', KEYS[2], ARGV[i])
      n = n + 1
    end
  end
end
return n
]=]

return M
