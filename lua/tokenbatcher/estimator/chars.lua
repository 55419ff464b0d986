--- Bytes / ratio; the batcher rounds up.
return {
  about = "bytes / ratio",
  parameters = {
    { name = "field", default = "text", kind = "string", text = "the field of a table that holds the text" },
    { name = "ratio", default = 4, kind = "number", above = 0, unit = "bytes", text = "bytes to a token" },
  },
  new = function(p, estimators)
    local field, ratio = p.field, p.ratio
    return function(record) return #estimators.text_of(record, field) / ratio end
  end,
}
