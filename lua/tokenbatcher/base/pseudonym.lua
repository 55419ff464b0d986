--- Names that say who is who, and not who it is: a hash with a secret that is drawn for each
-- set of names and kept nowhere.

local M = {}

--- @param secret string  16 bytes  @return string  16 hexadecimal digits
M.hash = require("tokenbatcher.base.siphash_ffi").hash

--- A secret. @return string  16 bytes, or nil and a message
function M.secret()
  local file, message = io.open("/dev/urandom", "rb")
  local bytes = file and file:read(16)
  if file then file:close() end
  if bytes and #bytes == 16 then return bytes end
  return nil, message or "/dev/urandom: cannot be read"
end

return M
