/* scan.c - JSON's grammar, value by value, without making anything of it. */
#include "scan.h"

#include <assert.h>
#include <string.h>

static bool fail(tb__scan *s, int problem)
{
    assert(problem < 0);
    if (s->problem == TB_VECTORS_OK) {
        s->problem = problem;
    }
    return false;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

void tb__scan_space(tb__scan *s)
{
    assert(s->at <= s->end);
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t')) {
        s->at++;
    }
}

bool tb__scan_take(tb__scan *s, char byte)
{
    if (s->at >= s->end || *s->at != byte) {
        return false;
    }
    s->at++;
    tb__scan_space(s);
    return true;
}

/* --- strings */

static bool is_hex(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* What follows a backslash. */
static bool escape(tb__scan *s)
{
    if (s->at >= s->end) {
        return fail(s, TB_VECTORS_EJSON);
    }
    char c = *s->at;
    if (c != 'u') {
        if (c == '\0' || !strchr("\"\\/bfnrt", c)) {
            return fail(s, TB_VECTORS_EJSON);
        }
        s->at++;
        return true;
    }
    for (int i = 1; i <= 4; i++) {
        if (s->end - s->at <= i || !is_hex(s->at[i])) {
            return fail(s, TB_VECTORS_EJSON);
        }
    }
    s->at += 5;
    return true;
}

bool tb__scan_string(tb__scan *s)
{
    if (s->at >= s->end || *s->at != '"') {
        return fail(s, TB_VECTORS_EJSON);
    }
    s->at++;
    while (s->at < s->end) {
        unsigned char c = (unsigned char)*s->at;
        if (c < 0x20) {
            return fail(s, TB_VECTORS_EJSON);
        }
        s->at++;
        if (c == '"') {
            return true;
        }
        if (c == '\\' && !escape(s)) {
            return false;
        }
    }
    return fail(s, TB_VECTORS_EJSON);
}

/* --- numbers */

/* A double holds every number below 10 to this power. */
enum { FINITE_PLACES = 308, ENOUGH = 100000 };

static const char *digits(const char *at, const char *end)
{
    while (at < end && is_digit(*at)) {
        at++;
    }
    return at;
}

/* The exponent at `at`, behind its e, far from the ends of an int. */
static int exponent(const char *at, const char *end)
{
    bool is_negative = at < end && *at == '-';
    int sum = 0;
    for (at += is_negative || *at == '+'; at < end && is_digit(*at); at++) {
        sum = sum < ENOUGH ? sum * 10 + (*at - '0') : sum;
    }
    return is_negative ? -sum : sum;
}

/* A number's digits, before and behind its point. */
typedef struct parts {
    const char *whole, *whole_end, *fraction, *fraction_end;
    int power;
} parts;

/* Is it below 10^FINITE_PLACES? */
static bool is_finite(const parts *number)
{
    const char *first = number->whole;
    while (first < number->whole_end && *first == '0') {
        first++;
    }
    ptrdiff_t places = number->whole_end - first;
    if (places > 0) {
        return places < ENOUGH && (int)places + number->power <= FINITE_PLACES;
    }
    first = number->fraction;
    while (first < number->fraction_end && *first == '0') {
        first++;
    }
    ptrdiff_t zeros = first - number->fraction;
    bool is_zero = first == number->fraction_end;
    return is_zero || zeros >= ENOUGH || number->power - (int)zeros <= FINITE_PLACES;
}

bool tb__scan_number(tb__scan *s)
{
    const char *at = s->at, *end = s->end;
    at += at < end && *at == '-';
    parts number = {.whole = at, .whole_end = digits(at, end)};
    if (number.whole_end == at || (*at == '0' && number.whole_end - at > 1)) {
        return fail(s, TB_VECTORS_EJSON);
    }
    at = number.whole_end;
    if (at < end && *at == '.') {
        number.fraction = at + 1;
        at = number.fraction_end = digits(number.fraction, end);
        if (at == number.fraction) {
            return fail(s, TB_VECTORS_EJSON);
        }
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        const char *first = at + 1;
        const char *sign_end = first + (first < end && (*first == '+' || *first == '-'));
        at = digits(sign_end, end);
        if (at == sign_end) {
            return fail(s, TB_VECTORS_EJSON);
        }
        number.power = exponent(first, at);
    }
    bool may_be_large = number.power > 0 || number.whole_end - number.whole > FINITE_PLACES;
    if (may_be_large && !is_finite(&number)) {
        return fail(s, TB_VECTORS_EFINITE);
    }
    s->at = at;
    return true;
}

uint32_t tb__scan_numbers(tb__scan *s)
{
    uint32_t count = 0;
    if (!tb__scan_take(s, '[')) {
        fail(s, TB_VECTORS_EVECTOR);
        return 0;
    }
    do {
        bool may_be_number = s->at < s->end && (*s->at == '-' || is_digit(*s->at));
        if (!may_be_number) {
            fail(s, TB_VECTORS_EVECTOR);
            return 0;
        }
        if (!tb__scan_number(s)) {
            return 0;
        }
        count++;
        tb__scan_space(s);
    } while (tb__scan_take(s, ','));
    if (s->at >= s->end || *s->at != ']') {
        fail(s, s->at < s->end ? TB_VECTORS_EVECTOR : TB_VECTORS_EJSON);
        return 0;
    }
    s->at++;
    return count;
}

/* --- values */

static bool word(tb__scan *s, const char *expected)
{
    size_t size = strlen(expected);
    if ((size_t)(s->end - s->at) < size || memcmp(s->at, expected, size) != 0) {
        return fail(s, TB_VECTORS_EJSON);
    }
    s->at += size;
    return true;
}

/* The members of a list or an object, behind its first bracket: values apart, with names in front of them. */
static bool members(tb__scan *s, unsigned depth, char last, bool has_names)
{
    tb__scan_space(s);
    if (s->at < s->end && *s->at == last) {
        s->at++;
        return true;
    }
    do {
        if (has_names) {
            if (!tb__scan_string(s)) {
                return false;
            }
            tb__scan_space(s);
            if (!tb__scan_take(s, ':')) {
                return fail(s, TB_VECTORS_EJSON);
            }
        }
        if (!tb__scan_value(s, depth + 1)) {
            return false;
        }
        tb__scan_space(s);
    } while (tb__scan_take(s, ','));
    if (s->at >= s->end || *s->at != last) {
        return fail(s, TB_VECTORS_EJSON);
    }
    s->at++;
    return true;
}

bool tb__scan_value(tb__scan *s, unsigned depth)
{
    if (depth > TB_VECTORS_DEPTH) {
        return fail(s, TB_VECTORS_EDEEP);
    }
    char c = '\0';
    if (s->at < s->end) {
        c = *s->at;
    }
    switch (c) {
    case '{': s->at++; return members(s, depth, '}', true);
    case '[': s->at++; return members(s, depth, ']', false);
    case '"': return tb__scan_string(s);
    case 't': return word(s, "true");
    case 'f': return word(s, "false");
    case 'n': return word(s, "null");
    default: return tb__scan_number(s);
    }
}
