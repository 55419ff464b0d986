--- The link of a connection (connection.lua) on our own loop: the C library, as a source of the loop (see
-- loop.add_source).

local clock = require "tokenbatcher.runtime.clock"
local loop = require "tokenbatcher.runtime.loop"
local redis_ffi = require "tokenbatcher.backend.redis.redis_ffi"
local tbffi = require "tokenbatcher.core.ffi"

local C = redis_ffi.lib

local M = {}
local Link = {}
Link.__index = Link

--- @param owner table  the connection
function M.new(owner)
  local self = setmetatable({ owner = owner, handle = redis_ffi.connection(), pump = clock.pump }, Link)
  local ok, message = self.pump.attach(C.tb_redis_fd(self.handle))
  if not ok then error("tokenbatcher: the loop cannot wait for Redis: " .. message, 0) end
  loop.add_source(self)
  return self
end

--- @return nil; or what is wrong
function Link:open(address)
  local refusal = redis_ffi.open(self.handle, address)
  if refusal == C.TB_REDIS_EMEMORY then return "out of memory or descriptors" end
  if refusal ~= 0 then return "its address cannot be one" end
end

--- @param words table  strings and numbers  @return boolean  false: it cannot be written now
function Link:write(words, n)
  local handle = self.handle
  if C.tb_redis_begin(handle, n) ~= 0 then return false end
  for i = 1, n do
    local word = words[i]
    if type(word) ~= "string" then word = ("%.14g"):format(word) end
    C.tb_redis_word(handle, word, #word)
  end
  clock.notify()
  return true
end

function Link:shut() C.tb_redis_close(self.handle) end

--- A turn looks at the time.
function Link.again() end

function Link:free()
  self.pump.detach(C.tb_redis_fd(self.handle))
  redis_ffi.close(self.handle)
end

-- --- as a source of the loop ------------------------------------------------------------

function Link:turn(now)
  local owner = self.owner
  if owner.is_closed then return end
  if owner.retry_at then
    if now >= owner.retry_at then owner:open() end
    return
  end
  local n = C.tb_redis_turn(self.handle)
  while n > 0 and not owner.retry_at and not owner.is_closed do
    owner:take(redis_ffi.take(self.handle))
    n = n - 1
  end
  if not owner.retry_at and not owner.is_closed and C.tb_redis_state(self.handle) == C.TB_REDIS_CLOSED then
    owner:lose(tbffi.text(C.tb_redis_error(self.handle)))
  end
end

function Link:next_us()
  local owner = self.owner
  if owner.is_closed then return nil end
  if owner.retry_at then return owner.retry_at end
  if C.tb_redis_state(self.handle) == C.TB_REDIS_CLOSED then return clock.pump.now() end -- it could not even begin
  local at = tonumber(C.tb_redis_next(self.handle))
  return at >= 0 and at or nil
end

function Link:excuse(us)
  if not self.owner.is_closed then C.tb_redis_excuse(self.handle, math.floor(us)) end
end

--- The run has ended.
function Link:close() self.owner:shut() end

function Link:is_busy() return self.owner:is_busy() end

return M
