/* text.c - bytes that are text: UTF-8, surrogates in escapes, a buffer that grows. */
#include "codec.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t HIGH_BITS = 0x8080808080808080u;

/* How many bytes from here on are ASCII. Eight at a time. */
static size_t ascii_length(const char *text, size_t size)
{
    size_t at = 0;
    for (uint64_t eight; at + sizeof eight <= size; at += sizeof eight) {
        memcpy(&eight, text + at, sizeof eight);
        if (eight & HIGH_BITS) {
            break;
        }
    }
    while (at < size && (unsigned char)text[at] < 0x80) {
        at++;
    }
    return at;
}

/* The length of the sequence that begins here, 0 if it is not one: shortest forms only, no
 * surrogates, at most U+10FFFF. */
static size_t sequence_length(const unsigned char *at, size_t left)
{
    assert(left > 0);
    assert(at[0] >= 0x80);
    unsigned low = 0x80, high = 0xBF;
    size_t length = at[0] >= 0xF5 || at[0] < 0xC2 ? 0 : at[0] >= 0xF0 ? 4 : at[0] >= 0xE0 ? 3 : 2;
    if (length == 0 || length > left) {
        return 0;
    }
    switch (at[0]) {
    case 0xE0: low = 0xA0; break;
    case 0xED: high = 0x9F; break;
    case 0xF0: low = 0x90; break;
    case 0xF4: high = 0x8F; break;
    default: break;
    }
    if (at[1] < low || at[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < length; i++) {
        if ((at[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return length;
}

size_t tb__utf8_error(const char *text, size_t size)
{
    assert(text || size == 0);
    size_t at = ascii_length(text, size);
    while (at < size) {
        size_t length = sequence_length((const unsigned char *)text + at, size - at);
        if (length == 0) {
            return at + 1;
        }
        at += length;
        at += ascii_length(text + at, size - at);
    }
    return 0;
}

/* The value of "uXXXX" at `at`; 0 if it is no such escape. */
static unsigned escape_value(const char *at, const char *end)
{
    unsigned value = 0;
    if (end - at < 5 || *at != 'u') {
        return 0;
    }
    for (int i = 1; i <= 4; i++) {
        char c = at[i];
        unsigned digit = (unsigned)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
        value = value * 16 + digit;
    }
    return value;
}

size_t tb__lone_surrogate(const char *text, size_t size)
{
    assert(text || size == 0);
    const char *at = text, *end = text + size;
    while (at < end && (at = memchr(at, '\\', (size_t)(end - at)))) {
        unsigned value = escape_value(at + 1, end);
        if (value >= 0xD800 && value <= 0xDFFF) {
            unsigned next = end - at > 7 && at[6] == '\\' ? escape_value(at + 7, end) : 0;
            if (value >= 0xDC00 || next < 0xDC00 || next > 0xDFFF) {
                return (size_t)(at - text) + 1;
            }
            at += 12;
        } else {
            at += 2;
        }
    }
    return 0;
}

bool tb__reserve(tb__buffer *buffer, size_t more)
{
    assert(buffer->size <= buffer->capacity);
    assert(buffer->bytes || buffer->capacity == 0);
    if (buffer->capacity - buffer->size >= more) {
        return true;
    }
    size_t capacity = buffer->capacity * 2 > buffer->size + more ? buffer->capacity * 2 : buffer->size + more + 256;
    char *bytes = realloc(buffer->bytes, capacity);
    if (!bytes) {
        return false;
    }
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return true;
}
