/* decode.cpp - JSON text to Lua values: RapidJSON's grammar, the numbers of C++'s own library,
 * our tables.
 *
 * Lua's stack while a container is open, from the bottom: a list's table; or an object's own
 * mark (nil while a shared shape does), its table, and the key whose value comes. */
#include "codec.h"
#include "rapid.h"

#include <charconv>
#include <cstring>

namespace {

using rapidjson::SizeType;
typedef rapidjson::InsituStringStream stream;
typedef rapidjson::GenericReader<rapidjson::UTF8<>, rapidjson::UTF8<>, rapidjson::CrtAllocator> reader;

/* Numbers as text: so the reader needs no memory of its own. */
enum { FLAGS = rapidjson::kParseInsituFlag | rapidjson::kParseNumbersAsStringsFlag, STACK_A_LEVEL = 8 };

/* An integer of so many digits fits 64 bits. */
enum { SAFE_DIGITS = 18 };

bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* A number that is beyond what a double holds: is it too large, and not too small? That is so
 * if its first digit that is not 0 stands before the point, once the exponent has moved it. */
bool is_large(const char *text, const char *end)
{
    long place = 0, exponent = 0; /* how many digits are before the point, from that digit on */
    bool is_after_point = false, has_begun = false;
    const char *at = *text == '-' ? text + 1 : text;
    for (; at < end && (is_digit(*at) || *at == '.'); at++) {
        if (*at == '.') {
            is_after_point = true;
            continue;
        }
        has_begun = has_begun || *at != '0';
        place += has_begun && !is_after_point ? 1 : !has_begun && is_after_point ? -1 : 0;
    }
    if (at < end) {
        at += at[1] == '+' ? 2 : 1;
        if (std::from_chars(at, end, exponent).ec != std::errc()) {
            return *at != '-';
        }
    }
    return place + exponent > 0;
}

/* Takes what the reader finds. Returning false ends the reading. */
struct builder {
    lua_State *L;
    tb__codec *c;
    int depth;
    const char *too_large; /* the number that is */

    bool value()
    {
        if (depth > 0) {
            tb__frame &f = c->frames[depth - 1];
            if (f.is_list) {
                lua_rawseti(L, -2, static_cast<int>(++f.count));
            } else {
                lua_rawset(L, -3);
            }
        }
        return true;
    }

    bool number(double number)
    {
        lua_pushnumber(L, number);
        return value();
    }

    bool exact_integer(const char *text, size_t size)
    {
        lua_pushvalue(L, lua_upvalueindex(TB__UP_NEW_EXACT));
        lua_pushlstring(L, text, size);
        lua_call(L, 1, 1);
        return value();
    }

    bool small_integer(const char *text, const char *end)
    {
        int64_t sum = 0;
        bool is_negative = *text == '-';
        for (const char *at = text + is_negative; at < end; at++) {
            sum = sum * 10 + (*at - '0');
        }
        if (sum > INT64_C(1) << 53) {
            return exact_integer(text, static_cast<size_t>(end - text));
        }
        double nearest = static_cast<double>(sum);
        return number(is_negative ? -nearest : nearest);
    }

    bool open(bool is_list)
    {
        if (depth == TB__JSON_DEPTH || !lua_checkstack(L, STACK_A_LEVEL)) {
            return false;
        }
        int guess = static_cast<int>(c->guesses[depth]);
        if (is_list) {
            lua_createtable(L, guess, 0);
        } else {
            lua_pushnil(L);
            lua_createtable(L, 0, guess);
        }
        tb__frame opened = {0, 0, is_list};
        c->frames[depth++] = opened;
        return true;
    }

    /* What was as large once is made as large again, within reason. */
    bool close(SizeType count)
    {
        depth--;
        c->guesses[depth] = count < 4096 ? count : 4096;
        return value();
    }

    /* The key on top is new in an object whose order is its own: add it there. */
    void append_own()
    {
        lua_pushvalue(L, -1);
        lua_rawget(L, -3);
        bool is_new = lua_isnil(L, -1);
        lua_pop(L, 1);
        if (is_new) {
            lua_pushvalue(L, lua_upvalueindex(TB__UP_ORDER));
            lua_rawget(L, -4);
            lua_pushvalue(L, -2);
            lua_rawseti(L, -2, static_cast<int>(lua_objlen(L, -2)) + 1);
            lua_pop(L, 1);
        }
    }

    void order()
    {
        tb__frame &f = c->frames[depth - 1];
        if (f.shape != TB__SHAPE_OWN) {
            uint16_t next = tb__shape_next(L, c, f.shape);
            if (next == TB__SHAPE_OWN) {
                tb__own_mark(L, c, f.shape);
                lua_replace(L, -4);
            }
            f.shape = next;
        }
        if (f.shape == TB__SHAPE_OWN) {
            append_own();
        }
    }

    /* --- the reader's events */

    bool Null()
    {
        lua_pushlightuserdata(L, NULL);
        return value();
    }
    bool Bool(bool b)
    {
        lua_pushboolean(L, b);
        return value();
    }
    bool Int(int) { return false; } /* this one and the next four: not asked for */
    bool Uint(unsigned) { return false; }
    bool Int64(int64_t) { return false; }
    bool Uint64(uint64_t) { return false; }
    bool Double(double) { return false; }
    bool RawNumber(const char *text, SizeType size, bool)
    {
        const char *end = text + size, *at = text + (*text == '-');
        while (at < end && is_digit(*at)) {
            at++;
        }
        bool is_integer = at == end;
        if (is_integer && size <= SAFE_DIGITS) {
            return small_integer(text, end);
        }
        double d = 0;
        if (std::from_chars(text, end, d).ec != std::errc()) {
            if (is_large(text, end)) {
                too_large = text;
                return false;
            }
            d = *text == '-' ? -0.0 : 0.0;
        }
        return is_integer ? exact_integer(text, size) : number(d);
    }
    bool String(const char *text, SizeType size, bool)
    {
        lua_pushlstring(L, text, size);
        return value();
    }
    bool StartArray() { return open(true); }
    bool EndArray(SizeType count)
    {
        lua_pushvalue(L, lua_upvalueindex(TB__UP_LIST_MARK));
        lua_setmetatable(L, -2);
        return close(count);
    }
    bool StartObject() { return open(false); }
    bool Key(const char *text, SizeType size, bool)
    {
        lua_pushlstring(L, text, size);
        order();
        return true;
    }
    bool EndObject(SizeType count)
    {
        uint16_t shape = c->frames[depth - 1].shape;
        if (shape == TB__SHAPE_OWN) {
            lua_pushvalue(L, -2);
        } else {
            tb__shape_mark(L, c, shape);
        }
        lua_setmetatable(L, -2);
        lua_replace(L, -2); /* the table takes its mark's place */
        return close(count);
    }
};

const char TOO_LARGE[] = "a number is too large";
const char CONTROL[] = "a control character in a string, which must be escaped";

/* What is wrong, in our words; `at` is the byte it was found at. */
const char *sentence(rapidjson::ParseErrorCode code, const char *at, const char *end)
{
    bool is_control = at < end && static_cast<unsigned char>(*at) < 0x20;
    switch (code) {
    case rapidjson::kParseErrorDocumentEmpty: return "a value is missing";
    case rapidjson::kParseErrorDocumentRootNotSingular: return "something follows the value";
    case rapidjson::kParseErrorValueInvalid: return "no value is written like this";
    case rapidjson::kParseErrorObjectMissName: return "a name in quotes is missing in an object";
    case rapidjson::kParseErrorObjectMissColon: return "a colon is missing after a name";
    case rapidjson::kParseErrorObjectMissCommaOrCurlyBracket: return "a comma or } is missing in an object";
    case rapidjson::kParseErrorArrayMissCommaOrSquareBracket: return "a comma or ] is missing in a list";
    case rapidjson::kParseErrorStringUnicodeEscapeInvalidHex: return "\\u needs four hexadecimal digits";
    case rapidjson::kParseErrorStringUnicodeSurrogateInvalid: return "a lone surrogate in a string";
    case rapidjson::kParseErrorStringEscapeInvalid:
        return is_control ? CONTROL : "an unknown escape in a string";
    case rapidjson::kParseErrorStringMissQuotationMark:
        return is_control ? CONTROL : "a string has no end";
    case rapidjson::kParseErrorStringInvalidEncoding: return "invalid UTF-8";
    case rapidjson::kParseErrorNumberTooBig: return TOO_LARGE;
    case rapidjson::kParseErrorNumberMissFraction: return "digits are missing after a decimal point";
    case rapidjson::kParseErrorNumberMissExponent: return "digits are missing in an exponent";
    case rapidjson::kParseErrorTermination: return "it is nested too deeply";
    default: return "it is no JSON";
    }
}

int refuse(lua_State *L, const char *what, size_t byte)
{
    lua_settop(L, 1);
    lua_pushnil(L);
    lua_pushfstring(L, "%s (byte %d)", what, static_cast<int>(byte));
    return 2;
}

} // namespace

extern "C" int tb__json_decode(lua_State *L)
{
    size_t size;
    const char *text = luaL_checklstring(L, 1, &size);
    auto *c = static_cast<tb__codec *>(lua_touserdata(L, lua_upvalueindex(TB__UP_CODEC)));
    lua_settop(L, 1);
    c->text.size = 0;
    if (!tb__reserve(&c->text, size + 16)) {
        return luaL_error(L, "not enough memory");
    }
    size_t wrong = tb__utf8_error(text, size);
    if (wrong) {
        return refuse(L, "invalid UTF-8", wrong);
    }
    tb__shapes_trim(L, c);
    std::memcpy(c->text.bytes, text, size);
    c->text.bytes[size] = 0;
    stream is(c->text.bytes);
    builder b = {L, c, 0, nullptr};
    rapidjson::CrtAllocator allocator;
    reader r(&allocator);
    rapidjson::ParseResult result = r.Parse<FLAGS>(is, b);
    if (b.too_large) {
        return refuse(L, TOO_LARGE, static_cast<size_t>(b.too_large - c->text.bytes) + 1);
    }
    if (result.IsError()) {
        return refuse(L, sentence(result.Code(), text + result.Offset(), text + size), result.Offset() + 1);
    }
    if (is.Tell() < size) { /* a byte of 0 ends the reader's text */
        return refuse(L, "something follows the value", is.Tell() + 1);
    }
    wrong = tb__lone_surrogate(text, size);
    if (wrong) {
        return refuse(L, "a lone surrogate in a string", wrong);
    }
    return 1;
}
