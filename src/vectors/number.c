/* number.c - a decimal number as the nearest 32-bit float, and a float as a decimal number.
 *
 * A decimal number is read as a double that is off by little more than its last place; where both ends of what it may
 * be are rounded to the same float, that is the nearest float. Where they are not (the number lies at the border of two
 * floats), libc reads it, which is right and slow. libc goes by the locale, so it is asked in C's. */
#include "scan.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

enum { MOST_DIGITS = 18, MOST_POWER = 22, COPY = 128 };

/* Smaller doubles than this may be floats with fewer digits, where the step is not relative. */
static const double LEAST_QUICK = 1e-37, MOST_QUICK = 1e38;
/* Digits as a double, and one division or product: each is off by half a place at most. */
static const double OFF_BY = 4 * 2.220446049250313e-16;

/* What is scanned is a number: `digits` of it without its point, times 10^power. False: too many digits. */
static bool take_apart(const char *at, const char *end, uint64_t *all, int *power)
{
    int n = 0;
    *all = 0;
    *power = 0;
    bool is_after_point = false;
    for (; at < end && *at != 'e' && *at != 'E'; at++) {
        if (*at == '.') {
            is_after_point = true;
            continue;
        }
        *all = *all * 10 + (uint64_t)(*at - '0');
        n += *all > 0;
        *power -= is_after_point;
        if (n > MOST_DIGITS || *power < -100) {
            return false;
        }
    }
    if (at < end) {
        char text[8] = {0};
        size_t size = (size_t)(end - at) - 1;
        if (size >= sizeof text) {
            return false;
        }
        memcpy(text, at + 1, size);
        *power += (int)strtol(text, NULL, 10);
    }
    return true;
}

/* False: it is not known well enough. */
static bool quick_float(const char *at, const char *end, float *value)
{
    uint64_t all;
    int power;
    bool is_negative = *at == '-';
    if (!take_apart(at + is_negative, end, &all, &power)) {
        return false;
    }
    double near = (double)all;
    if (all != 0) {
        if (power < -MOST_POWER || power > MOST_POWER) {
            return false;
        }
        near = power < 0 ? near / TENS[-power] : near * TENS[power];
        if (near < LEAST_QUICK || near > MOST_QUICK) {
            return false;
        }
    }
    float low = (float)(near * (1 - OFF_BY)), high = (float)(near * (1 + OFF_BY));
    *value = is_negative ? -low : low;
    return low == high;
}

/* The same by libc. False: no memory, or more digits than anybody needs. */
static bool slow_float(const char *at, const char *end, locale_t c_locale, float *value)
{
    char text[COPY] = {0};
    size_t size = (size_t)(end - at);
    if (size < sizeof text) {
        memcpy(text, at, size);
        *value = strtof_l(text, NULL, c_locale);
        return true;
    }
    char *copy = strndup(at, size);
    if (copy) {
        *value = strtof_l(copy, NULL, c_locale);
    }
    free(copy);
    return copy != NULL;
}

bool tb__nearest_float(const char *at, const char *end, locale_t c_locale, float *value)
{
    assert(at < end);
    return quick_float(at, end, value) || slow_float(at, end, c_locale, value);
}

/* --- a float as a number */

enum { PLACES = 17, LEAST_PLACE = -6, MOST_PLACE = 5 }; /* 17 digits tell every double from its neighbours */

__extension__ typedef unsigned __int128 wide;

/* The place of the first digit that is not 0: 10^place <= value, which is from 10^LEAST_PLACE to 10^(MOST_PLACE+1). */
static int place_of(double value)
{
    int place = MOST_PLACE;
    while (place > LEAST_PLACE && value < (place < 0 ? 1 / TENS[-place] : TENS[place])) {
        place--;
    }
    return place;
}

/* A float's 17 digits, rounded: value = digits * 10^(place - 16). It is m * 2^-shift, so all is done in integers. */
static uint64_t digits_of(double value, int *place)
{
    int power;
    uint64_t m = (uint64_t)ldexp(frexp(value, &power), 24), scale = 1;
    unsigned shift = (unsigned)(24 - power);
    *place = place_of(value);
    wide product = m;
    for (int i = *place; i < PLACES - 1; i++) {
        product *= 10;
    }
    uint64_t digits = (uint64_t)((product + ((wide)1 << (shift - 1))) >> shift);
    for (int i = 0; i < PLACES; i++) {
        scale *= 10;
    }
    if (digits >= scale) {
        digits /= 10;
        ++*place;
    } else if (digits < scale / 10) { /* a power of ten that is no double */
        digits *= 10;
        --*place;
    }
    return digits;
}

static size_t put_digits(char *text, uint64_t digits, int place)
{
    int n = PLACES;
    while (digits % 10 == 0) {
        digits /= 10;
        n--;
    }
    char *at = text;
    if (place < 0) {
        memcpy(at, "0.000000", (size_t)(1 - place));
        at += 1 - place;
    }
    int whole = place < 0 ? n : place + 1, written = n > whole ? n : whole;
    char *end = at + written + (n > whole);
    for (int i = written - 1; i >= 0; i--) {
        char *to = at + i + (i >= whole);
        *to = i < n ? (char)('0' + digits % 10) : '0';
        digits = i < n ? digits / 10 : digits;
    }
    if (n > whole) {
        at[whole] = '.';
    }
    return (size_t)(end - text);
}

size_t tb__float_text(char *text, float value)
{
    assert(isfinite(value));
    double size = fabs((double)value);
    if (size < 1e-6 || size >= 1e6) {
        return (size_t)snprintf(text, TB__FLOAT_TEXT, "%.17g", (double)value);
    }
    size_t sign = value < 0;
    text[0] = '-';
    int place;
    uint64_t digits = digits_of(size, &place);
    return sign + put_digits(text + sign, digits, place);
}
