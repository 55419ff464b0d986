/* write.c - strings and numbers into the codec's buffer, as JSON. */
#include "codec.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void tb__append(tb__codec *c, const char *bytes, size_t size)
{
    assert(c->L);
    assert(bytes || size == 0);
    if (!tb__reserve(&c->text, size)) {
        luaL_error(c->L, "not enough memory");
    }
    assert(c->text.capacity - c->text.size >= size);
    memcpy(c->text.bytes + c->text.size, bytes, size);
    c->text.size += size;
}

void tb__append_char(tb__codec *c, char byte)
{
    tb__append(c, &byte, 1);
}

/* Set in each byte of `eight` that is below 0x20, a quote or a backslash (and, after such a
 * byte, perhaps in others). */
static uint64_t specials(uint64_t eight)
{
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    uint64_t quote = eight ^ (ones * '"'), slash = eight ^ (ones * '\\');
    return (((eight - ones * 0x20) & ~eight) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash)) & highs;
}

static size_t plain_length(const char *text, size_t size)
{
    size_t at = 0;
    for (uint64_t eight; at + sizeof eight <= size; at += sizeof eight) {
        memcpy(&eight, text + at, sizeof eight);
        if (specials(eight)) {
            break;
        }
    }
    while (at < size && (unsigned char)text[at] >= 0x20 && text[at] != '"' && text[at] != '\\') {
        at++;
    }
    return at;
}

static size_t escape(unsigned char byte, char out[8])
{
    assert(byte < 0x20 || byte == '"' || byte == '\\');
    static const char NAMES[] = "\bb\ff\nn\rr\tt\"\"\\\\";
    out[0] = '\\';
    for (const char *name = NAMES; *name; name += 2) {
        if ((unsigned char)name[0] == byte) {
            out[1] = name[1];
            return 2;
        }
    }
    return (size_t)snprintf(out, 8, "\\u%04x", byte);
}

bool tb__append_string(tb__codec *c, const char *text, size_t size)
{
    assert(text);
    size_t wrong = tb__utf8_error(text, size);
    if (wrong) {
        lua_pushfstring(c->L, "a string that is not UTF-8 (byte %d) has no JSON form", (int)wrong);
        return false;
    }
    tb__append_char(c, '"');
    for (size_t at = 0; at < size;) {
        size_t plain = plain_length(text + at, size - at);
        tb__append(c, text + at, plain);
        at += plain;
        if (at < size) {
            char escaped[8];
            size_t length = escape((unsigned char)text[at++], escaped);
            tb__append(c, escaped, length);
        }
    }
    tb__append_char(c, '"');
    return true;
}

bool tb__append_number(tb__codec *c, double value)
{
    if (isnan(value) || isinf(value)) {
        const char *name = isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
        lua_pushfstring(c->L, "the number %s has no JSON form", name);
        return false;
    }
    char text[TB__NUMBER_SIZE];
    size_t length = tb__number_text(value, text);
    assert(length > 0);
    assert(length <= sizeof text);
    tb__append(c, text, length);
    return true;
}
