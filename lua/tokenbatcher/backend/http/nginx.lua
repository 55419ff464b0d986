--- Requests by nginx's cosockets (backend/cosocket), inside its workers: the other way in which tb.http sends.

local address = require "tokenbatcher.backend.cosocket.address"
local asked = require "tokenbatcher.backend.retry.asked"
local cosocket = require "tokenbatcher.backend.cosocket"
local errors = require "tokenbatcher.base.errors"

local M = {}

local NO_CA_FILE = "%s: nginx has no ca_file of a request's own: name the certificates in lua_ssl_trusted_certificate"

local function place_of(given)
  local p = given.p
  if p.ca_file then errors.misuse(NO_CA_FILE:format(given.who)) end
  local place, problem = address.parse(given.url)
  if not place then errors.misuse(("%s: the URL %s"):format(given.who, problem)) end
  if p.unix_socket then place.unix, place.host = p.unix_socket, nil end
  return place
end

--- As curl.lua's.
function M.sender(given)
  local place, p = place_of(given), given.p
  local path = place.path == "" and "/" or place.path
  local headers = table.concat(given.lines, "\r\n") .. "\r\n"
  return function()
    local response, code, message, was_sent = cosocket.request(place, {
      method = given.method, target = path .. place.query, headers = headers,
      body = p.body or given.method == "POST" and "" or nil, until_us = cosocket.until_us(p.timeout_s),
      connect_timeout_s = p.connect_timeout_s, max_response_bytes = p.max_response_bytes, tls_verify = p.tls_verify })
    if not response then
      local err = errors.new(code, given.what .. message)
      err.was_sent = was_sent
      return nil, err
    end
    local wait_s = asked.retry_after_s(response.headers)
    if wait_s and wait_s > 0 then response.retry_after_s = wait_s end
    return response
  end
end

return M
