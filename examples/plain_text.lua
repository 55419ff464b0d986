-- Plain text in, tab-separated text out: decode makes a record of a line, encode a line of
-- an answer. The "model" counts words.
--
--     printf 'to be\nor not to be\n' | tokenbatcher run examples/plain_text.lua

local function count_words(text)
  local _, n = text:gsub("%S+", "")
  return n
end

return {
  decode = function(line) return line end,
  encode = function(record, result, err)
    return record .. "\t" .. (err and "failed: " .. err.message or result)
  end,
  token_estimator = count_words,
  inference_fn = function(records)
    local counts = {}
    for i, record in ipairs(records) do counts[i] = count_words(record) end
    return counts
  end,
}
