--- Words (runs of what is not white space) x ratio.
return {
  about = "words x ratio",
  parameters = {
    { name = "field", default = "text", kind = "string", text = "the field of a table that holds the text" },
    { name = "ratio", default = 1.33, kind = "number", above = 0, unit = "tokens", text = "tokens to a word" },
  },
  new = function(p, estimators)
    local field, ratio = p.field, p.ratio
    return function(record)
      local _, words = estimators.text_of(record, field):gsub("%S+", "")
      return words * ratio
    end
  end,
}
