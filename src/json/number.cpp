/* number.cpp - a number as text: RapidJSON finds the digits, we write them as %g does. */
#include "codec.h"
#include "rapid.h"

#include <rapidjson/internal/dtoa.h>

#include <cmath>
#include <cstdio>
#include <cstring>

namespace {

size_t integer_text(double value, char *text)
{
    char digits[24];
    size_t n = 0, length = 0;
    bool is_negative = std::signbit(value);
    for (auto left = static_cast<uint64_t>(std::fabs(value)); left > 0 || n == 0; left /= 10) {
        digits[n++] = static_cast<char>('0' + left % 10);
    }
    if (is_negative) {
        text[length++] = '-';
    }
    while (n > 0) {
        text[length++] = digits[--n];
    }
    return length;
}

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

size_t exponent_text(const char *digits, int n, int exponent, char *text)
{
    char *at = text;
    *at++ = digits[0];
    if (n > 1) {
        *at++ = '.';
        std::memcpy(at, digits + 1, static_cast<size_t>(n - 1));
        at += n - 1;
    }
    int written = std::snprintf(at, 8, "e%+03d", exponent);
    return static_cast<size_t>(at - text) + static_cast<size_t>(written);
}

} // namespace

size_t tb__number_text(double value, char *text)
{
    if (value == std::floor(value) && std::fabs(value) < TB__JSON_EXACT) {
        return integer_text(value, text);
    }
    char digits[32];
    int n, k;
    size_t sign = std::signbit(value) ? 1 : 0;
    text[0] = '-';
    rapidjson::internal::Grisu2(std::fabs(value), digits, &n, &k);
    int exponent = n + k - 1;
    if (exponent < -4 || exponent >= (n < 15 ? 15 : n)) {
        return sign + exponent_text(digits, n, exponent, text + sign);
    }
    return sign + plain_text(digits, n, exponent + 1, text + sign);
}
