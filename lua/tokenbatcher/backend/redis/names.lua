--- Names of keys. That of the stream is the user's; those that follow from it are in its slot of a cluster.

local M = {}

function M.dead(stream) return ("{%s}:dead"):format(stream) end

function M.sweep(stream, group) return ("{%s}:sweep:%s"):format(stream, group) end

--- What the key of a reply stream begins with.
function M.reply_prefix(stream) return ("{%s}:r:"):format(stream) end

function M.reply(stream, producer) return M.reply_prefix(stream) .. producer end

return M
