-- Traces of others: each read by its header, columns as people name them, rows that are out of order or
-- quoted, pipes, and lengths for arrivals that are made up.

local cli = dofile "tests/lua/cli_helper.lua"
local columns = require "tokenbatcher.sim.trace.columns"
local csv = require "tokenbatcher.sim.trace.csv"
local dates = require "tokenbatcher.sim.trace.dates"
local lengths = require "tokenbatcher.sim.trace.lengths"
local trace = require "tokenbatcher.sim.trace"

-- All rows of a trace, as {at_us, cost, output, key, group, class, priority}. @return rows, trace
local function rows_of(text, options, name)
  options = options or {}
  if type(options.columns) == "string" then options.columns = assert(columns.parse(options.columns)) end
  local opened, message = trace.open(cli.file(name or "t", text), options)
  if not opened then return nil, message end
  local ok, source = pcall(opened.source, opened, 1)
  if not ok then return nil, source end
  local out = {}
  while not source.is_done do
    out[#out + 1] = { source.at_us, source.cost, source.output, source.key, source.group, source.class,
      source.priority ~= 0 and source.priority or nil }
    local went, problem = pcall(source.take, source)
    if not went then return nil, problem end
  end
  return out, opened
end

local function refuses(text, options, ...)
  local rows, message = rows_of(text, options)
  assert.is_nil(rows)
  for _, part in ipairs { ... } do
    assert.truthy(message:find(part, 1, true), ("'%s' is not in: %s"):format(part, message))
  end
end

describe("a trace", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  describe("is known by its first line:", function()
    local function known(what, unit, text, expected)
      it(what, function()
        local rows, opened = rows_of(text)
        assert(rows, opened)
        local got = {}
        for i, row in ipairs(rows) do got[i] = { row[1], row[2], row[3] } end
        assert.same(expected, got)
        assert.truthy(what:find(opened.format.name:match "^%S+", 1, true), opened.format.name)
        assert.equal(unit, opened.format.unit)
      end)
    end
    known("Azure CSV of 2023", "date", "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
      .. "2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.0319600,3180,8",
      { { 0, 4808, 10 }, { 52000, 3180, 8 } })
    known("Azure CSV of 2024: time zones, mixed fractions", "date", "TIMESTAMP,ContextTokens,GeneratedTokens\n"
      .. "2024-05-10 00:00:00+00:00,5,1\n2024-05-10 00:00:00.5+00:00,6,2\n2024-05-10 02:00:01.25+02:00,7,3\n",
      { { 0, 5, 1 }, { 500000, 6, 2 }, { 1250000, 7, 3 } })
    known("Azure CSV of 2025, with images", "date", "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"
      .. "2025-05-12 00:00:00.001+00:00,0,100,5\n2025-05-12 00:00:01.001Z,3,200,6\n",
      { { 0, 100, 5 }, { 1e6, 200, 6 } })
    known("BurstGPT CSV, first and second: failed requests have no answer", "s",
      "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n"
      .. "45,GPT-4,1087,0,1087,API log\n50,GPT-4,10,20,30,API log\n", { { 0, 472, 18 }, { 45e6, 10, 20 } })
    known("BurstGPT CSV, third: sessions", "s",
      "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
      .. "5.5,a-b,1.2,ChatGPT,472,18,490,Conversation log\n6,c,2,ChatGPT,7,5,12,Conversation log\n",
      { { 0, 472, 18 }, { 5e5, 7, 5 } })
    known("Mooncake JSON lines: milliseconds", "ms", '{"timestamp": 0, "input_length": 40, "output_length": 6}\n'
      .. '{"timestamp": 3000, "input_length": 60, "output_length": 3, "hash_ids": [1]}\n',
      { { 0, 40, 6 }, { 3e6, 60, 3 } })
    known("Bailian JSON lines: the same names, and seconds", "s",
      '{"chat_id": 1, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 5, "output_length": 3}\n'
      .. '{"chat_id": 2, "timestamp": 121.714, "input_length": 6, "output_length": 4, "type": "search"}\n',
      { { 0, 5, 3 }, { 60600000, 6, 4 } })
    known("Splitwise-sim CSV", "s",
      "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
      .. "0,0,0,0.1,1,100,10\n1,0,0,0.5,1,200,20\n", { { 0, 100, 10 }, { 4e5, 200, 20 } })
    known("Vidur CSV", "s", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.1,100,10\n0.5,200,20\n",
      { { 0, 100, 10 }, { 4e5, 200, 20 } })
    known("LLMServingSim JSON lines: nanoseconds", "ns",
      '{"input_toks": 9, "output_toks": 5, "arrival_time_ns": 1000000000}\n'
      .. '{"input_toks": 8, "output_toks": 4, "arrival_time_ns": 1500000000}\n', { { 0, 9, 5 }, { 5e5, 8, 4 } })
    known("LLMServingSim JSON lines, recorded: requests.jsonl", "s", '{"request_id": "bench-0", "input_toks": 2358, '
      .. '"output_toks": 531, "arrival_time": 1787267980.08, "queued_ts": 27536.5, "first_token_ts": 27537.3}\n'
      .. '{"input_toks": 10, "output_toks": 7, "arrival_time": 1787267980.34, "queued_ts": 27537.0}\n',
      { { 0, 2358, 531 }, { 5e5, 10, 7 } })
    local BENCH = '{"date":"x","start_times":[3.5,1.25,2.0],"input_lens":[10,20,30],"output_lens":[1,2,0],'
      .. '"ttfts":[0.1],"errors":["","","boom"]}'
    known("vLLM benchmark: lists, ordered, and without what failed", "s", BENCH, { { 0, 20, 2 }, { 2250000, 10, 1 } })
    known("vLLM benchmark, of embeddings", "s", '{"start_times":[1,2],"input_lens":[10,20],"latencies":[1,1]}',
      { { 0, 10, -1 }, { 1000000, 20, -1 } })
    known("vLLM benchmark, on many lines", "s", BENCH:gsub(",", ",\n  "):gsub("{", "{\n"),
      { { 0, 20, 2 }, { 2250000, 10, 1 } })

    known("BurstGPT_3: a session that is empty, an answer of 0 tokens that failed", "s", "Timestamp,Session ID,"
      .. "Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
      .. "19440110.0,1722ac82-0a46,43,GPT-4,906,446,1352,Conversation log\n19440161.0,,2,ChatGPT,36,29,65,API log\n"
      .. "19440192.0,,8,GPT-4,1779,0,1779,API log\n", { { 0, 906, 446 }, { 51e6, 36, 29 } })
    known("BurstGPT_1: whole seconds", "s", "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
      .. "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,230,1317,Conversation log\n",
      { { 0, 472, 18 }, { 40e6, 1087, 230 } })
    known("LLMServingSim's requests of a run, one of which failed: its times are null", "s",
      '{"request_id":"b-0","input_toks":7,"output_toks":5,"arrival_time":null,"queued_ts":null,"first_token_ts":null}\n'
      .. '{"request_id":"b-1","input_toks":8,"output_toks":6,"arrival_time":9.5,"queued_ts":4.5,"first_token_ts":5}\n',
      { { 0, 8, 6 } })
    it("what its names say of classes", function()
      local rows = assert(rows_of("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        .. "5,ChatGPT,472,18,490,x\n45,GPT-4,10,5,1087,y\n"))
      assert.same({ "ChatGPT", "GPT-4" }, { rows[1][6], rows[2][6] })
    end)

    it("none that it is not", function()
      refuses("a,b\n1,2\n", nil, "no trace of a known format", "--columns", "it has: a, b")
      refuses('{"a":1}\n', nil, "no trace of a known format", "it has: a")
      refuses('{"a":\n', nil, "no trace of a known format")
      refuses("num_prefill_tokens,num_decode_tokens,pd_ratio\n1,2,3\n", nil, "no times of arrival", "tokens=@FILE")
      refuses('{"input_lens":[1,2],"output_lens":[1,2]}', nil, "without start_times", "tokens=@FILE")
      refuses('{"input_lens":[1,2],"latencies":[1,2],"errors":["",""]}', nil, "of embeddings", "without start_times")
      refuses('{"input_lens":[1],"output_lens":[1],"start_times":[1]}\n{"input_lens":[2],"output_lens":[1],'
        .. '"start_times":[1]}\n', nil, "more than one of vLLM's benchmarks", "a file of its own")
      refuses('{"session_id":"t","arrival_time_ns":5,"sub_requests":[{"input_toks":1,"output_toks":2}]}', nil,
        "calls that wait for each other (sub_requests)")
      refuses('{"input_lens":[1,2],"output_lens":[1],"start_times":[1,2]}', nil, "output_lens has 1 values")
      refuses('{"input_lens":[1,2],"output_lens":[1,"x"],"start_times":[1,2]}', nil, "output_lens[1] is no number")
    end)
  end)

  it("with Mooncake's names and fractions of milliseconds is warned of, once, and --time-unit settles it", function()
    local text = '{"timestamp": 0, "input_length": 40}\n{"timestamp": 1.25, "input_length": 4}\n'
      .. '{"timestamp": 2.75, "input_length": 5}\n'
    local notes = {}
    local rows = assert(rows_of(text, { note = function(note) notes[#notes + 1] = note end }))
    assert.same({ 0, 1250, 2750 }, { rows[1][1], rows[2][1], rows[3][1] })
    assert.equal(1, #notes)
    assert.truthy(notes[1]:find("--time-unit s", 1, true), notes[1])
    notes = {}
    rows = assert(rows_of(text, { unit = "s", note = function(note) notes[#notes + 1] = note end }))
    assert.same({ 0, 1250000, 2750000, 0 }, { rows[1][1], rows[2][1], rows[3][1], #notes })
  end)

  it("with Mooncake's names and times that are texts is none of Mooncake's, and its unit is asked for", function()
    local TEXT = '{"timestamp":"0","input_length":5,"output_length":1,"session_id":"a"}\n'
      .. '{"timestamp":"61","input_length":6,"output_length":2,"session_id":"a"}\n'
    refuses(TEXT, nil, "--time-unit is needed", "the first time is '0'")
    assert.are.same({ { 0, 5, 1 }, { 61e6, 6, 2 } }, (rows_of(TEXT, { unit = "s" })))
  end)

  it("of LLMServingSim says of the session of an agent why it is left out", function()
    local said = {}
    local rows = rows_of('{"input_toks":5,"output_toks":1,"arrival_time_ns":0}\n'
      .. '{"session_id":"t","arrival_time_ns":5,"sub_requests":[{"input_toks":1}]}\n',
      { note = function(text) said[#said + 1] = text end })
    assert.are.same({ { 0, 5, 1 } }, rows)
    assert.truthy(said[1]:find("a session of calls that wait for each other", 1, true), said[1])
  end)

  describe("whose columns are named", function()
    it("is CSV with quotes, commas and ends of lines in them, and dates", function()
      local text = 'when,"prompt, tokens",who,text\r\n'
        .. '"2024-01-01T10:00:00+02:00",12,"a ""b""","line one\nline ""two"", ok"\r\n'
        .. '2024-01-01 08:00:03.5Z,13,b,plain\n'
      local rows, opened = rows_of(text, { columns = "time=when,cost=prompt, tokens,key=who,class=text" })
      assert(rows, opened)
      assert.same({ { 0, 12, -1, 'a "b"', nil, 'line one\nline "two", ok' },
        { 3500000, 13, -1, "b", nil, "plain" } }, rows)
      assert.equal("date", opened.format.unit)
    end)

    it("is CSV with a quote in a field that has none around it, and an error where one does not end", function()
      local text = 't,c,what\n1,5,3.5" disk\n2,6,plain\n'
      assert.equal(2, #assert(rows_of(text, { columns = "time=t,cost=c", unit = "s" })))
      refuses('t,c,what\n1,5,x\n2,6,"open\n3,7,x\n4,8,x\n', { columns = "time=t,cost=c", unit = "s" },
        "t:3: a quote begins that does not end")
    end)

    it("is JSON lines, dotted where they are inside of others, or have dots in their names", function()
      local text = '{"id":1,"req":{"at":1700000000123,"usage":{"p":12,"c":3}},"u.name":7,"prio":2,"m":"x","k":null}\n'
        .. '{"id":2,"req":{"at":1700000001123,"usage":{"p":15}},"u.name":"y","prio":-1.5,"m":"z"}\n'
      local rows = assert(rows_of(text, { unit = "ms", columns = "time=req.at,cost=req.usage.p,output=req.usage.c,"
        .. "key=u.name,priority=prio,group=m" }))
      assert.same({ { 0, 12, 3, "7", "x", nil, 2 }, { 1e6, 15, -1, "y", "z", nil, -1.5 } }, rows)
    end)

    it("in each unit", function()
      for unit, times in pairs { s = { 1, 2.5 }, ms = { 1000, 2500 }, us = { 1e6, 2.5e6 }, ns = { 1e9, 2.5e9 } } do
        local text = ("t,c\n%.14g,5\n%.14g,6\n"):format(times[1], times[2])
        local rows = assert(rows_of(text, { unit = unit, columns = "time=t,cost=c" }))
        assert.same({ { 0, 5, -1 }, { 1500000, 6, -1 } }, rows)
      end
      local large = '{"t":1787267980082740312,"c":1}\n{"t":1787267980582740312,"c":1}\n'
      local rows = assert(rows_of(large, { unit = "ns", columns = "time=t,cost=c" }))
      assert.near(500000, rows[2][1], 1)
    end)

    it("adds to what is known of the rest", function()
      local text = "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
        .. "0,7,app,0.1,1,100,10\n1,7,app,0.5,1,200,20\n"
      local rows = assert(rows_of(text, { columns = "key=application_id" }))
      assert.same({ { 0, 100, 10, "app", nil, "7" }, { 4e5, 200, 20, "app", nil, "7" } }, rows)
    end)

    it("needs a unit where times are numbers, and names the nearest of a column that is not there", function()
      refuses("t,c\n1,5\n", { columns = "time=t,cost=c" }, "--time-unit is needed", "'1'")
      refuses('{"t":1,"c":5}\n', { columns = "time=t,cost=c" }, "--time-unit is needed")
      refuses("arrival,cost\n1,5\n", { columns = "time=arival,cost=cost", unit = "s" }, "time=arival", "'arrival'")
      refuses('{"a":{"tokens":1},"t":1}\n', { columns = "time=t,cost=a.token", unit = "s" }, "'a.tokens'")
      refuses('{"a":1,"t":1,"output":3}\n', { columns = "time=t,cost=a,output=outputs", unit = "s" }, "'output'")
      refuses('{"tokenbatcher_recording":1}\n', { columns = "time=t" }, "a recording of ours")
      assert.truthy(select(2, columns.parse "tim=t"):find("'time'", 1, true))
      assert.truthy(select(2, columns.parse "time=t,time=u"):find("twice", 1, true))
      assert.truthy(select(2, columns.parse "time=,cost=u"):find("time= needs", 1, true))
      assert.truthy(select(2, columns.parse "time"):find("--columns needs", 1, true))
    end)

    it("names a bad value and its column", function()
      local notes = {}
      local text = "t,c,p\n1,5,1\n2,five,1\nx,5,1\n3,5\n4,-1,1\n5,0x10,1\n6,5,high\n"
        .. ("7,5,1\n"):rep(6)
      local rows, opened = rows_of(text, { columns = "time=t,cost=c,priority=p", unit = "s",
        note = function(note) notes[#notes + 1] = note end })
      assert.same({ 7, 6, 5 }, { #rows, opened.bad, #notes })
      for i, part in ipairs { "t:3: c is 'five', no number", "t:4: t is 'x', no number of s",
        "t:5: 3 columns are expected, there are 2", "t:6: c is '-1'", "t:7: c is '0x10'" } do
        assert.truthy(notes[i]:find(part, 1, true), notes[i])
      end
    end)
  end)

  describe("out of order", function()
    -- Rows i = 1 .. n at i seconds, in the order given; cost i.
    local function jsonl(order)
      local lines = {}
      for i, at in ipairs(order) do lines[i] = ('{"timestamp":%d,"input_length":%d}'):format(1000 * at, at) end
      return table.concat(lines, "\n")
    end

    it("is sorted within a thousand rows, over the ends of blocks, too", function()
      local n, order = 140000, {}
      for i = 1, n do order[i] = i end
      local swaps = { { 1, 400 }, { 65536, 66500 }, { 65000, 65990 }, { 66536, 66537 }, { n - 3, n } }
      for _, pair in ipairs(swaps) do order[pair[1]], order[pair[2]] = order[pair[2]], order[pair[1]] end
      local rows, opened = rows_of(jsonl(order))
      assert(rows, opened)
      assert.equal(n, #rows)
      for i, row in ipairs(rows) do
        if row[1] ~= (i - 1) * 1e6 or row[2] ~= i then error(("row %d is %d, %d"):format(i, row[1], row[2])) end
      end
      assert.same({ n, n - 1, 0 }, { opened.rows, opened.span_s, opened.bad })
      assert.is_true(opened.sorted > 5)
    end)

    it("keeps the order of rows at one time, and values with their rows", function()
      local rows = assert(rows_of('{"t":3,"c":1,"k":"a"}\n{"t":1,"c":2}\n{"t":3,"c":3,"k":"b"}\n'
        .. '{"t":1,"c":4,"k":"c"}\n', { columns = "time=t,cost=c,key=k", unit = "s" }))
      assert.same({ { 0, 2, -1 }, { 0, 4, -1, "c" }, { 2e6, 1, -1, "a" }, { 2e6, 3, -1, "b" } }, rows)
    end)

    it("by more than that is a bad row", function()
      local order, notes = {}, {}
      for i = 1, 3000 do order[i] = i end
      table.insert(order, 2500, 0)
      local rows, opened = rows_of(jsonl(order), { note = function(note) notes[#notes + 1] = note end })
      assert.same({ 3000, 1 }, { #rows, opened.bad })
      assert.truthy(notes[1]:find("t:2500: its time is 2499.000000 s before that of a row above", 1, true), notes[1])
    end)
  end)

  it("of any bytes, or of names in any script, does not write them to the screen as they are", function()
    local function first(text)
      local opened, message = trace.open(cli.file("t", text), {})
      assert.is_nil(opened)
      return message
    end
    assert.truthy(first("PK\3\27[2Jx,y\n1,2\n"):find("it has: PK??[2Jx, y", 1, true))
    assert.truthy(first("\230\153\130,n\n1,2\n"):find("it has: \230\153\130, n", 1, true))
    refuses("ti\27me,n\n1,2\n", { columns = "time=time,cost=n", unit = "s" }, "did you mean 'ti?me'?")
  end)

  it("that is one JSON list, on a line or on many, is told how to be one", function()
    local options = { columns = "time=t,cost=n", unit = "s" }
    for _, text in ipairs { '[{"t":1,"n":2},{"t":2,"n":3}]\n', '[\n {"t":1,"n":2},\n {"t":2,"n":3}\n]\n',
      '[{"timestamp":1,"input_length":2}]' } do
      refuses(text, options, "is one JSON list", "jq -c '.[]'")
      refuses(text, {}, "is one JSON list")
    end
    refuses("[1,2]\n", {}, "is no trace of a known format")
    refuses('{\n"t":1,\n"n":2}\n', {}, "is no trace of a known format")
  end)

  it("with two columns of a name that is needed is refused", function()
    refuses("t,n,n\n1,2,3\n", { columns = "time=t,cost=n", unit = "s" }, "cost=n: more than one column has this name")
    assert(rows_of("t,x,n,x\n1,2,3,4\n", { columns = "time=t,cost=n", unit = "s" }))
  end)

  it("that is compressed is read as if it were not", function()
    local lines = { "TIMESTAMP,ContextTokens,GeneratedTokens" }
    for i = 1, 20000 do -- more than one read of either
      lines[i + 1] = ("2023-11-16 18:%02d:%02d.%03d0000,%d,%d"):format(17 + i / 600, i / 10 % 60, i % 10,
        i * 7919 % 8000, i * 31 % 500)
    end
    local text = table.concat(lines, "\n") .. "\n"
    local plain, path = assert(rows_of(text)), cli.file("c", text)
    assert.equal(0, os.execute("gzip -f '" .. path .. "'"))
    local file = assert(io.open(path .. ".gz", "rb"))
    local packed = file:read "*a"
    file:close()
    local rows, opened = rows_of(packed)
    assert(rows, opened)
    assert.equal(20000, #rows)
    assert.same(plain, rows)
    assert.is_nil((rows_of(packed:sub(1, -9) .. packed:sub(-7)))) -- what is left out is seen, wherever it is
    refuses(packed:sub(1, 5000), {}, "the gzip data ends too early")
    refuses(packed:sub(1, 20000) .. ("x"):rep(9) .. packed:sub(20010), {}, "corrupt gzip data")
    refuses(packed:sub(1, 20), {}, "the gzip data ends too early")
  end)

  it("most of whose rows are bad is an error", function()
    refuses('{"timestamp":0,"input_length":1}\n' .. ("x\n"):rep(2), nil, "2 of 3 rows are bad", "Mooncake")
    assert.equal(2, #assert(rows_of('{"timestamp":0,"input_length":1}\n{"timestamp":1,"input_length":1}\nx\nx\n')))
  end)

  it("says how it was read: rows, span, rate and unit, and what was left out", function()
    local _, opened = rows_of("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
      .. "5,a,1,2,3,x\n4,a,1,2,3,x\n7,a,1,0,3,x\n8,a,nope,1,3,x\n9,a,1,1,2,x\n")
    assert.truthy(opened:about(1):find("(BurstGPT CSV, 3 rows in 5 s, 0.6 a second; times in s; 1 out of order; "
      .. "1 bad, left out; 1 failed at the source, left out)", 1, true), opened:about(1))
    assert.truthy(opened:about(10):find(", 10 times as fast: 6 a second", 1, true))
  end)

  it("of CSV splits as RFC 4180 says", function()
    local function split(line)
      local out = {}
      local n, message = csv.split(line, 1, #line, out)
      if not n then return message end
      for i = #out, n + 1, -1 do out[i] = nil end
      return out
    end
    assert.same({ "a", "", 'b "c", d', "" }, split 'a,,"b ""c"", d",')
    assert.same({ "" }, split "")
    assert.same({ "", "" }, split '"",')
    assert.equal("field 2 goes on behind its quote", split 'a,"b"c')
    assert.equal("field 1 has a quote that does not end", split '"a,b')
    assert.same({ '3.5" disk', 'b"' }, split '3.5" disk,b"')
    for line, is_open in pairs { ['a,"b'] = true, ['"a""'] = true, ['"a"",b'] = true, ['a"b,c'] = false,
      ['"a","b"'] = false, ['a,"'] = true, ['""'] = false, ["a,"] = false, [""] = false } do
      assert.equal(is_open, csv.is_open(line, 1, #line, false), line)
    end
    assert.is_false(csv.is_open('b",c', 1, 4, true))
    assert.is_true(csv.is_open('b","c', 1, 5, true))
  end)

  it("has dates of the calendar alone", function()
    local function read(text)
      local whole, part, behind = dates.read(text, 1)
      return whole and behind == #text + 1 and whole + part or nil
    end
    assert.equal(0, read "1970-01-01 00:00:00")
    assert.equal(951782400 + 0.25, read "2000-02-29T00:00:00.25Z")
    assert.equal(read "2024-01-01 00:00:00", read "2023-12-31 18:30:00-05:30")
    for _, text in ipairs { "2023-02-29 00:00:00", "2023-13-01 00:00:00", "2023-01-01 24:00:00", "2023-01-01 00:00:00.",
      "2023-01-01 00:00:00+15:00", "2023-1-1 00:00:00", "2023-01-01 00:00:00." .. ("1"):rep(30) } do
      assert.is_nil(read(text), text)
    end
  end)
end)

describe("lengths of real records", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  local function read(text, given) return lengths.read(cli.file("l", text), given) end

  it("are those of a trace, with times or without, of numbers, and of named columns", function()
    for _, text in ipairs { "num_prefill_tokens,num_decode_tokens,pd_ratio\n7,1,2\n8,2,3\n", "7,1\n8,2\n",
      '{"timestamp":9,"input_length":7,"output_length":1}\n{"timestamp":1,"input_length":8,"output_length":2}\n',
      '{"input_lens":[7,8],"output_lens":[1,2]}', "TIMESTAMP,ContextTokens,GeneratedTokens\nnever,7,1\nsoon,8,2\n" } do
      local found = assert(read(text))
      assert.same({ 2, { 7, 8 }, { 1, 2 }, true }, { found.n, found.cost, found.output, found.has_outputs }, text)
    end
    local found = assert(read("a,b\n1,2\n3,4\n", { columns = { cost = "b" } }))
    assert.same({ { 2, 4 }, false }, { found.cost, found.has_outputs })
    assert.same({ 5, 6 }, assert(read "5\n6\n").cost)
    local named = { columns = { time = "when", cost = "n.c" } } -- a time is of no use, and does no harm
    assert.same({ 5, 6 }, assert(read('{"n":{"c":5}}\n{"n":{"c":6}}\n', named)).cost)
    assert.same({ 7 }, assert(read '{"tokenbatcher_recording":1}\n{"at":1,"cost":7}\n').cost)
  end)

  it("are refused where there are none", function()
    assert.truthy(select(2, read ""):find("is empty", 1, true))
    assert.truthy(select(2, read "a,b\n1,2\n"):find("no trace of a known format", 1, true))
    assert.truthy(select(2, read "5\nx\ny\n"):find("2 of 3 rows are bad (line 2", 1, true))
    assert.truthy(select(2, lengths.read "/nowhere"):find("/nowhere", 1, true))
  end)

  it("are drawn by lot, the output with its cost, the same for a seed", function()
    local path = cli.file("pairs.csv", "100,1\n200,2\n400,4\n")
    local function simulate(spec, ...)
      return cli.command { "simulate", "--arrivals", spec, "--limit", "3000", "--service",
        "1e-6*output_tokens + 1e-9*tokens", "--set", "max_batch_size=1", "--json", "-", ... }
    end
    local result = simulate("poisson:rate=10,tokens=@" .. path)
    assert.equal(0, result.status, result.err)
    local mean = tonumber(result.out:match '"batch_cost":{"mean":([%d.]+)')
    assert.near(700 / 3, mean, 8)
    assert.equal(result.out, simulate("poisson:rate=10,tokens=@" .. path).out)
    assert.not_equal(result.out, simulate("poisson:rate=10,tokens=@" .. path, "--seed", "2").out)
    assert.equal(0, simulate("poisson:rate=10,tokens=5,output=@" .. path).status)
    local plain = cli.file("plain.csv", "100\n200\n")
    assert.truthy(simulate("poisson:rate=10,tokens=@" .. plain).err:find("asks for outputs", 1, true))
    assert.truthy(simulate("poisson:rate=10,output=@" .. plain).err:find("rows without outputs", 1, true))
    assert.truthy(simulate("poisson:rate=10,tokens=@/nowhere").err:find("/nowhere", 1, true))
    assert.truthy(simulate("poisson:rate=10", "--columns", "cost=a").err:find("--columns is for a trace", 1, true))
  end)
end)
