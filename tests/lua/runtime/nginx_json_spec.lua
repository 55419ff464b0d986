-- base/json in a real nginx worker.

local cli = dofile "tests/lua/cli_helper.lua"
local nginx = dofile "tests/nginx/server.lua"
local missing = nginx.missing()

describe("in an nginx worker", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("the library decodes and encodes, nested in handlers of many requests", function()
    if missing then return pending("skipped: " .. missing) end
    local server = nginx.start { server = [[
      location / { content_by_lua_block {
        local json = require("tokenbatcher").json
        ngx.req.read_body()
        local value = assert(json.decode(ngx.req.get_body_data()))
        ngx.sleep(0.001)
        ngx.print(json.encode(value), " ", tostring(json.lost()), " ", tostring(json.null == ngx.null))
      } }
    ]] }
    local ok, err = pcall(function()
      local text = '{"z":[],"id":18446744073709551615,"a":{},"n":null}'
      for _ = 1, 3 do
        local r = cli.shell(("curl -s -d '%s' http://127.0.0.1:%d/"):format(text, server.port))
        assert.equal(text .. " nil true", r.out, r.err)
      end
    end)
    server:stop()
    if not ok then error(err, 0) end
  end)
end)
