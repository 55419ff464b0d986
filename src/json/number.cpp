/* number.cpp - a number as text: C++'s library finds the shortest digits that give it again, of
 * those the nearest ones, and we write them as %g does. */
#include "codec.h"

#include <charconv>
#include <cmath>
#include <cstring>

namespace {

/* value = 0.DIGITS x 10^point */
size_t plain_text(const char *digits, int n, int point, char *text)
{
    char *at = text;
    if (point <= 0) {
        *at++ = '0';
        *at++ = '.';
        for (int i = point; i < 0; i++) {
            *at++ = '0';
        }
        std::memcpy(at, digits, static_cast<size_t>(n));
        return static_cast<size_t>(at - text) + static_cast<size_t>(n);
    }
    for (int i = 0; i < n || i < point; i++) {
        if (i == point) {
            *at++ = '.';
        }
        *at++ = i < n ? digits[i] : '0';
    }
    return static_cast<size_t>(at - text);
}

} // namespace

size_t tb__number_text(double value, char *text)
{
    char *end = text + TB__NUMBER_SIZE;
    char shortest[TB__NUMBER_SIZE], digits[TB__NUMBER_SIZE];
    if (value == std::floor(value) && std::fabs(value) < TB__JSON_EXACT && !(value == 0 && std::signbit(value))) {
        return static_cast<size_t>(std::to_chars(text, end, static_cast<int64_t>(value)).ptr - text);
    }
    size_t sign = std::signbit(value) ? 1 : 0;
    text[0] = '-';
    /* D.DDDe-DD */
    auto written = std::to_chars(shortest, shortest + sizeof shortest, std::fabs(value), std::chars_format::scientific);
    int n = 0, exponent = 0;
    const char *at = shortest;
    for (; *at != 'e'; at++) {
        if (*at != '.') {
            digits[n++] = *at;
        }
    }
    std::from_chars(at[1] == '+' ? at + 2 : at + 1, written.ptr, exponent);
    if (exponent < -4 || exponent >= (n < 15 ? 15 : n)) {
        auto size = static_cast<size_t>(written.ptr - shortest);
        std::memcpy(text + sign, shortest, size);
        return sign + size;
    }
    return sign + plain_text(digits, n, exponent + 1, text + sign);
}
