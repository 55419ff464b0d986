-- What examples/embed.c runs: records are strings, results are tables, `encode` makes
-- bytes of them.
--     printf 'to be\nor not to be\n' | tokenbatcher run examples/embed.lua

return {
  inference_fn = function(records, info)
    local results = {}
    for i, text in ipairs(records) do
      local _, words = text:gsub("%S+", "")
      results[i] = { words = words, batch = info.size }
    end
    return results
  end,
  token_estimator = function(text) return #text / 4 + 1 end,
  batch_timeout_s = 0.005,
  decode = function(line) return line end,
  encode = function(text, result, err)
    if err then return text .. ": " .. tostring(err) end
    return ("%s: %d words, in a batch of %d"):format(text, result.words, result.batch)
  end,
}
