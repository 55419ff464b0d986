/* tokenbatcher_vectors.h - embeddings cut out of a server's answer, as the bytes that they came as.
 *
 * An answer to a batch holds a value for each input: {"data": [{"index": 0, "embedding": [0.1, ...]}, ...]}.
 * Who hands each value on to somebody else needs to know where it is, whose it is and that it is sound; the numbers
 * themselves are nobody's business. Making numbers of 32 x 1536 floats and text of them again takes more than ten times
 * as long as this, and changes their digits.
 *
 *     tb_vectors_shape shape = {.list = "data", .value = "embedding", .index = "index", .is_of_vectors = 1};
 *     tb_vectors_span spans[2];
 *     tb_vectors_answer answer;
 *     if (tb_vectors_cut(text, size, &shape, spans, 2, &answer) == TB_VECTORS_OK) {
 *         fwrite(text + spans[0].begin, 1, spans[0].size, stdout);       the first input's vector
 *     }
 *
 * The whole text is read, once, and held to JSON's grammar (RFC 8259); nothing of it is trusted. Whether its strings
 * are UTF-8 is not looked at. Names are compared as they are written: one with an escape in it is another name.
 *
 * Pure functions: no memory is taken, no clock read, nothing kept. Safe from any thread.
 */
#ifndef TOKENBATCHER_VECTORS_H
#define TOKENBATCHER_VECTORS_H

#ifndef TB_CDEF
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)
#endif

/* What is wrong with an answer. tb_vectors_sentence() has a clause for each. */
enum tb_vectors_problem {
    TB_VECTORS_OK = 0,
    TB_VECTORS_EJSON = -1,     /* no JSON; `at` is the byte, from 0 */
    TB_VECTORS_ELARGE = -2,    /* the text has 4 GiB or more */
    TB_VECTORS_ENOLIST = -3,   /* no list where it should be, or twice */
    TB_VECTORS_ECOUNT = -4,    /* `items` is not n */
    TB_VECTORS_EITEM = -5,     /* from here on `item` is at fault: it is no object */
    TB_VECTORS_ENOVALUE = -6,  /* has no value, or two */
    TB_VECTORS_EVECTOR = -7,   /* its value is no list of numbers, and no base64 of 32-bit floats */
    TB_VECTORS_EFINITE = -8,   /* a number in it is not finite: base64 of NaN, or 10^308 and more */
    TB_VECTORS_ELENGTH = -9,   /* its vector has another length than that of the first item */
    TB_VECTORS_EINDEX = -10,   /* its index is none of 0 to n - 1, another's, or missing where others are moved */
    TB_VECTORS_EDEEP = -11     /* nested more than TB_VECTORS_DEPTH deep; `at` is the byte */
};

/* How deep an answer may be nested; how many times as long as its text a vector may become. */
enum tb_vectors_limit { TB_VECTORS_DEPTH = 100, TB_VECTORS_ROOM = 6 };

/* Where values are. Strings end with 0. */
typedef struct tb_vectors_shape {
    const char *list;  /* the answer's field with the list; NULL: the answer is the list */
    const char *value; /* an item's field with its value; NULL: the item is the value */
    const char *index; /* an item's field that says which input it is of, from 0; NULL: they are in order. Where no
                        * item has it, or all that have one say so, they are in order, too. Needs objects as items */
    int32_t is_of_vectors; /* values are lists of finite numbers, or base64 of them, all of one length above 0 */
} tb_vectors_shape;

/* Bytes of the text, `size` from `begin`, without white space around them; size 0: there is none. */
typedef struct tb_vectors_span {
    uint32_t begin, size;
    uint32_t numbers; /* of a vector: how many */
} tb_vectors_span;

/* What else is in an answer that is an object. */
typedef struct tb_vectors_answer {
    tb_vectors_span usage; /* the field "usage", where it is an object */
    tb_vectors_span model; /* the field "model", where it is a string: with its quotes */
    uint32_t items; /* of the list */
    uint32_t item; /* the one at fault, from 0, in the order of the text */
    uint32_t at; /* the byte where reading ended */
} tb_vectors_answer;

/* Find the values of n inputs.
 *
 * text, size   the answer, which may begin with a byte order mark
 * spans        room for n; on success spans[i] is the value of input i
 * answer       is filled in, also on failure
 *
 * Returns TB_VECTORS_OK or what is wrong: then the spans are worth nothing. One pass over the text. */
int tb_vectors_cut(const char *text, size_t size, const tb_vectors_shape *shape, tb_vectors_span *spans, uint32_t n,
                   tb_vectors_answer *answer);

/* A clause for people, such as "has an item whose vector is no list of numbers"; static. */
const char *tb_vectors_sentence(int problem);

/* A vector as numbers to base64 of 32-bit floats, least significant byte first, in quotes: what numpy and OpenAI send.
 * Each number becomes the float that is nearest to it, ties to even, so what was printed of a float is that float.
 *
 * text, size   a list of numbers, as tb_vectors_cut finds it
 * out, room    where to, and how many bytes there are; TB_VECTORS_ROOM * (size + 1) are always enough
 *
 * Returns how many bytes were written; TB_VECTORS_EVECTOR (no list of numbers), TB_VECTORS_EFINITE (a number is beyond
 * what a 32-bit float holds), TB_VECTORS_ELARGE (not enough room, or no memory for a locale). */
int64_t tb_vectors_to_base64(const char *text, size_t size, char *out, size_t room);

/* The other way: base64 in quotes to a list of numbers. Each has up to 17 digits and is, read as a 64-bit float, the
 * number that it was: nothing is lost and nothing added. Returns as above. */
int64_t tb_vectors_to_floats(const char *text, size_t size, char *out, size_t room);

#ifndef TB_CDEF
#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

#endif
