/* base64.c - vectors of 32-bit floats in base64 and as lists of numbers, each made of the other without loss. */
#include "scan.h"

#include <assert.h>
#include <locale.h>
#include <math.h>
#include <string.h>

/* --- base64 as bytes */

static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Reads base64 that may hold "\/" for "/", three bytes a step. */
typedef struct reader {
    const char *at, *end;
    bool has_ended; /* with padding */
} reader;

/* The next character without its escape, 0 at the end. */
static char next_char(reader *r)
{
    if (r->at < r->end && *r->at == '\\' && r->end - r->at > 1 && r->at[1] == '/') {
        r->at++;
    }
    return r->at < r->end ? *r->at++ : '\0';
}

/* Up to three bytes more. Returns how many, 0 at the end, -1: that is no base64. */
static int next_bytes(reader *r, unsigned char bytes[3])
{
    if (r->at >= r->end) {
        return 0;
    }
    char c[4];
    for (int i = 0; i < 4; i++) {
        c[i] = next_char(r);
    }
    int padding = c[3] == '=' ? c[2] == '=' ? 2 : 1 : 0;
    int a = value_of(c[0]), b = value_of(c[1]);
    int third = padding > 1 ? 0 : value_of(c[2]), last = padding ? 0 : value_of(c[3]);
    if (r->has_ended || a < 0 || b < 0 || third < 0 || last < 0) {
        return -1;
    }
    bool has_left_over = (padding == 2 && (b & 15)) || (padding == 1 && (third & 3)); /* bits of no byte */
    if (has_left_over) {
        return -1;
    }
    r->has_ended = padding > 0;
    bytes[0] = (unsigned char)(a << 2 | b >> 4);
    bytes[1] = (unsigned char)((b & 15) << 4 | third >> 2);
    bytes[2] = (unsigned char)((third & 3) << 6 | last);
    return 3 - padding;
}

/* --- base64 as floats */

/* Reads floats out of base64. */
typedef struct float_reader {
    reader in;
    unsigned char kept[8]; /* bytes that are read and not taken */
    int n_kept;
    bool is_broken;
} float_reader;

static float_reader float_reader_of(const char *text, size_t size)
{
    float_reader r = {.in = {.at = text, .end = text + size}};
    return r;
}

/* False: at the end, or broken. */
static bool next_float(float_reader *r, float *value)
{
    while (r->n_kept < 4) {
        int n = next_bytes(&r->in, r->kept + r->n_kept);
        if (n <= 0) {
            r->is_broken = n < 0 || r->n_kept > 0;
            return false;
        }
        r->n_kept += n;
    }
    uint32_t bits = 0;
    for (int i = 3; i >= 0; i--) {
        bits = bits << 8 | r->kept[i];
    }
    memcpy(value, &bits, sizeof *value);
    r->n_kept -= 4;
    memmove(r->kept, r->kept + 4, (size_t)r->n_kept);
    return true;
}

uint32_t tb__base64_floats(const char *text, size_t size, bool *is_finite)
{
    float_reader r = float_reader_of(text, size);
    uint32_t count = 0;
    float value;
    *is_finite = true;
    while (next_float(&r, &value)) {
        count++;
        *is_finite = *is_finite && isfinite(value);
    }
    return r.is_broken ? 0 : count;
}

/* --- writing */

typedef struct writer {
    char *out;
    size_t size, room;
    unsigned char kept[3]; /* bytes that wait for a third one */
    int n_kept;
} writer;

static void put_char(writer *w, char c)
{
    if (w->size < w->room) {
        w->out[w->size] = c;
    }
    w->size++;
}

/* What is kept, as four characters. */
static void put_four(writer *w)
{
    unsigned a = w->kept[0], b = w->n_kept > 1 ? w->kept[1] : 0, c = w->n_kept > 2 ? w->kept[2] : 0;
    put_char(w, DIGITS[a >> 2]);
    put_char(w, DIGITS[(a & 3) << 4 | b >> 4]);
    put_char(w, w->n_kept > 1 ? DIGITS[(b & 15) << 2 | c >> 6] : '=');
    put_char(w, w->n_kept > 2 ? DIGITS[c & 63] : '=');
    w->n_kept = 0;
}

static void put_float(writer *w, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    for (int i = 0; i < 4; i++) {
        w->kept[w->n_kept++] = (unsigned char)(bits >> 8 * i);
        if (w->n_kept == 3) {
            put_four(w);
        }
    }
}

static int64_t finish(const writer *w)
{
    return w->size > w->room ? TB_VECTORS_ELARGE : (int64_t)w->size;
}

static int64_t put_numbers(tb__scan *s, writer *w, locale_t c_locale)
{
    put_char(w, '"');
    do {
        const char *begin = s->at;
        if (!tb__scan_number(s)) {
            return s->problem == TB_VECTORS_EFINITE ? TB_VECTORS_EFINITE : TB_VECTORS_EVECTOR;
        }
        float value;
        if (!tb__nearest_float(begin, s->at, c_locale, &value)) {
            return TB_VECTORS_ELARGE;
        }
        if (!isfinite(value)) {
            return TB_VECTORS_EFINITE;
        }
        put_float(w, value);
        tb__scan_space(s);
    } while (tb__scan_take(s, ','));
    if (w->n_kept > 0) {
        put_four(w);
    }
    put_char(w, '"');
    bool is_at_end = s->at + 1 == s->end && *s->at == ']';
    return is_at_end ? finish(w) : TB_VECTORS_EVECTOR;
}

int64_t tb_vectors_to_base64(const char *text, size_t size, char *out, size_t room)
{
    assert(text || size == 0);
    assert(out);
    tb__scan s = {.at = text, .begin = text, .end = text + size};
    if (!tb__scan_take(&s, '[')) {
        return TB_VECTORS_EVECTOR;
    }
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c_locale) {
        return TB_VECTORS_ELARGE;
    }
    writer w = {.out = out, .room = room};
    int64_t written = put_numbers(&s, &w, c_locale);
    freelocale(c_locale);
    return written;
}

/* --- numbers out of base64 */

static int64_t put_floats(float_reader *r, char *out, size_t room)
{
    size_t size = 0;
    float value;
    out[size++] = '[';
    while (next_float(r, &value)) {
        if (!isfinite(value)) {
            return TB_VECTORS_EFINITE;
        }
        if (room - size < TB__FLOAT_TEXT + 2) {
            return TB_VECTORS_ELARGE;
        }
        if (size > 1) {
            out[size++] = ',';
        }
        size += tb__float_text(out + size, value);
    }
    bool is_empty = size == 1;
    out[size++] = ']';
    return r->is_broken || is_empty ? TB_VECTORS_EVECTOR : (int64_t)size;
}

int64_t tb_vectors_to_floats(const char *text, size_t size, char *out, size_t room)
{
    assert(text || size == 0);
    assert(out);
    if (size < 2 || text[0] != '"' || text[size - 1] != '"') {
        return TB_VECTORS_EVECTOR;
    }
    locale_t c_locale = room < 2 ? (locale_t)0 : newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c_locale) {
        return TB_VECTORS_ELARGE;
    }
    locale_t outer = uselocale(c_locale);
    float_reader r = float_reader_of(text + 1, size - 2);
    int64_t written = put_floats(&r, out, room);
    uselocale(outer);
    freelocale(c_locale);
    return written;
}
