/* rapid.h - RapidJSON as we use it: its allocator is always given, so that `new` is compiled,
 * but never reached. */
#ifndef TB_JSON_RAPID_H
#define TB_JSON_RAPID_H

#include <cstdlib>
#include <new>

#define RAPIDJSON_NEW(x) (new (std::malloc(64)) x)
#define RAPIDJSON_DELETE(x) std::free(x)
#define RAPIDJSON_ASSERT(x) ((void)0)
#if defined(__SSE2__)
#define RAPIDJSON_SSE2 1
#elif defined(__ARM_NEON)
#define RAPIDJSON_NEON 1
#endif

#include <rapidjson/reader.h>

#endif
