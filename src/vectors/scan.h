/* scan.h - the inside of what cuts vectors out of answers.
 *
 * THE ROOM. src/vectors finds each input's value in the text of a server's answer and hands it on as it came
 * (include/tokenbatcher_vectors.h); where a server has answered in the other notation, it turns base64 into numbers and
 * numbers into base64. It knows libc and nothing of ours, takes no memory and keeps no state; Lua knows it
 * through lua/tokenbatcher/gateway/vectors.lua alone.
 *
 * Order, a file knows those before it: scan number base64 cut
 *
 *     scan.c     JSON's grammar: one value, one string, one list of numbers further
 *     number.c   one number as a 32-bit float, and the other way
 *     base64.c   vectors in base64 and as lists of numbers
 *     cut.c      the answer: its list, whose each item is, and what is wrong with it
 */
#ifndef TB_VECTORS_SCAN_H
#define TB_VECTORS_SCAN_H

#include "tokenbatcher_vectors.h"

#include <locale.h>
#include <stdbool.h>

/* A place in a text. Once something is wrong (`problem`, TB_VECTORS_E...) it stays there. */
typedef struct tb__scan {
    const char *at, *begin, *end;
    int problem;
} tb__scan;

/* --- scan.c: each returns false when what it looks for is not there, and says so in `problem` */

void tb__scan_space(tb__scan *s);
/* The byte that comes next is `byte`: go past it, and past white space. No problem if not. */
bool tb__scan_take(tb__scan *s, char byte);
/* One value, of any kind, so deep inside of others. */
bool tb__scan_value(tb__scan *s, unsigned depth);
/* A string, quotes included. */
bool tb__scan_string(tb__scan *s);
/* A finite number. */
bool tb__scan_number(tb__scan *s);
/* A list that holds finite numbers and nothing else. @return how many, 0: none, or something is wrong */
uint32_t tb__scan_numbers(tb__scan *s);

/* --- number.c: c_locale is the locale "C" */

enum { TB__FLOAT_TEXT = 25 }; /* bytes of a float with 17 digits, and a 0 */

/* The float nearest to what tb__scan_number() has passed, infinity where it is too large. False: no memory. */
bool tb__nearest_float(const char *at, const char *end, locale_t c_locale, float *value);
/* A finite float as a number that is, read as a double, the same. In the locale "C". Returns its size, without a 0. */
size_t tb__float_text(char *text, float value);

/* --- base64.c */

/* How many floats a string holds as base64 (the text between its quotes; "\/" is "/"): 0 if it is none. */
uint32_t tb__base64_floats(const char *text, size_t size, bool *is_finite);

#endif
