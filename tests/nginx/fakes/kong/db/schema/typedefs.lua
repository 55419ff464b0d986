--- Of Kong's typedefs what the schema of a plugin needs. See ../../runtime.lua.

local PROTOCOLS = { "grpc", "grpcs", "http", "https" }

return {
  protocols_http = { type = "set", required = true, default = PROTOCOLS,
    elements = { type = "string", one_of = { "grpc", "grpcs", "http", "https", "tcp", "tls" } } },
}
