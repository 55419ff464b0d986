/* codec.h - the inside of the JSON codec.
 *
 * THE ROOM. src/json turns JSON text into Lua values and back, for lua/tokenbatcher/base/json,
 * which alone knows it. It knows Lua's C API, RapidJSON (headers only, which nobody needs
 * once it is built) and of C++'s own library how numbers are read and written (linked in); of
 * the rest of ours it knows nothing. It is a library of its own, a Lua module whose Lua symbols
 * come from the program; the executable has it linked in. Whoever does without it has what
 * base/json falls back on.
 *
 * Order, a file knows those before it: text number write shapes decode encode module
 *
 *     text.c      UTF-8, surrogates, buffers
 *     number.cpp  a number as text (C++'s own library)
 *     write.c     strings and numbers as JSON
 *     shapes.c    the order of an object's keys
 *     decode.cpp  text to values (RapidJSON's grammar)
 *     encode.c    values to text
 *     module.c    what Lua sees
 *
 * THE SPECIAL PROBLEM OF WHAT LUA HAS NO WORD FOR. A decoded list or object has a metatable
 * {__jsontype = "array"}, or {__jsontype = "object", __jsonorder = {keys}}: so [] stays a
 * list, and what is written again has the keys in the order in which they came (dkjson uses
 * these names, too). Null is the light userdata NULL, as in lua-cjson and nginx. An integer
 * above 2^53 is what exact_ffi.lua makes of its digits.
 *
 * THE SPECIAL PROBLEM OF LUA'S ERRORS. Every call of Lua that allocates may leave by longjmp,
 * past C++ frames. So what is allocated here hangs on the codec, which Lua collects, and no
 * object on a C++ stack owns anything: the text is parsed in place, in the codec's buffer.
 */
#ifndef TB_JSON_CODEC_H
#define TB_JSON_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include <lauxlib.h>
#include <lua.h>

/* How deep values may be nested. */
enum { TB__JSON_DEPTH = 1000 };

/* Integers up to here are Lua numbers, those beyond exact ones. */
#define TB__JSON_EXACT 9007199254740992.0

/* Upvalues of the module's functions. */
enum {
    TB__UP_CODEC = 1,
    TB__UP_LIST_MARK,
    TB__UP_SHAPES,
    TB__UP_NEW_EXACT,
    TB__UP_EXACT_TEXT,
    TB__UP_TYPE,
    TB__UP_ORDER,
    TB__UP_COUNT = TB__UP_ORDER
};

typedef struct tb__buffer {
    char *bytes;
    size_t size, capacity;
} tb__buffer;

/* A shape is a sequence of keys: another shape and one more key. 0 is the empty one. */
enum { TB__SHAPES = 1024, TB__SHAPE_SLOTS = 4096, TB__SHAPE_KEYS = 256 };
enum { TB__SHAPE_OWN = UINT16_MAX }; /* the object's order is kept with it alone */

typedef struct tb__shape {
    const char *key; /* Lua's own string, kept alive by the shapes' table */
    size_t key_size;
    uint16_t parent, size;
    bool has_mark; /* its metatable is in the shapes' table */
} tb__shape;

typedef struct tb__step {
    const char *key; /* NULL: free */
    uint16_t from, to;
} tb__step;

typedef struct tb__frame {
    uint32_t count;
    uint16_t shape;
    bool is_list;
} tb__frame;

typedef struct tb__key {
    const char *text; /* NULL: a number */
    size_t size;
    double number;
} tb__key;

typedef struct tb__codec {
    lua_State *L; /* during a call */
    tb__buffer text; /* what is being parsed, or written */
    tb__key *keys; /* of the objects being written, a stack */
    size_t key_count, key_capacity;
    uint32_t shape_count, step_count;
    tb__shape shapes[TB__SHAPES];
    tb__step steps[TB__SHAPE_SLOTS];
    tb__frame frames[TB__JSON_DEPTH];
    uint32_t guesses[TB__JSON_DEPTH]; /* how many members the last container so deep had */
} tb__codec;

/* --- text.c */

/* The first byte (from 1) that is not UTF-8, or 0. */
size_t tb__utf8_error(const char *text, size_t size);
/* The first escape (from 1) of half a surrogate pair in a JSON text that is right otherwise, or 0. */
size_t tb__lone_surrogate(const char *text, size_t size);
/* Room for so many bytes more. False: no memory. */
bool tb__reserve(tb__buffer *buffer, size_t more);

/* --- number.cpp */

enum { TB__NUMBER_SIZE = 40 };
/* As few digits as give the same finite number again, as %g writes them. Returns the length; no
 * 0 at the end. */
size_t tb__number_text(double value, char *text);

/* --- write.c: during a call. Those that return false push a message */

void tb__append(tb__codec *c, const char *bytes, size_t size);
void tb__append_char(tb__codec *c, char byte);
bool tb__append_string(tb__codec *c, const char *text, size_t size);
bool tb__append_number(tb__codec *c, double value);

/* --- shapes.c: L has the upvalues */

/* Forget all shapes, if there are many. Not while something is being decoded. */
void tb__shapes_trim(lua_State *L, tb__codec *c);
/* The shape after the key on top of the stack; TB__SHAPE_OWN: there is no room for it. */
uint16_t tb__shape_next(lua_State *L, tb__codec *c, uint16_t from);
/* Push the metatable of a shape. */
void tb__shape_mark(lua_State *L, tb__codec *c, uint16_t shape);
/* Push a metatable of its own, with the keys of a shape. */
void tb__own_mark(lua_State *L, const tb__codec *c, uint16_t shape);

/* --- decode.cpp, encode.c: lua_CFunctions */

/* (text): a value, or nil and a message */
int tb__json_decode(lua_State *L);
/* (value): a text, or nil and a message */
int tb__json_encode(lua_State *L);

#ifdef __cplusplus
}
#endif

#endif
