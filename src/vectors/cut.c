/* cut.c - an answer: its list, each item's value and index, and which input that is of.
 *
 * Items are paired by their index. Where none has one, the order is that of the inputs; where some have, theirs must
 * say the same. */
#include "scan.h"

#include <assert.h>
#include <string.h>

/* What is being read, and what was found. */
typedef struct cutter {
    tb__scan s;
    const tb_vectors_shape *shape;
    tb_vectors_span *spans;
    tb_vectors_answer *answer;
    uint32_t n;
    uint32_t numbers; /* of the first vector */
    bool has_list;
    bool has_unnumbered, has_moved; /* items without an index, and with another than their place */
} cutter;

static bool fail(cutter *c, int problem)
{
    assert(problem < 0);
    if (c->s.problem == TB_VECTORS_OK) {
        c->s.problem = problem;
    }
    return false;
}

static tb_vectors_span span_from(const cutter *c, const char *begin)
{
    assert(begin >= c->s.begin && begin <= c->s.at);
    tb_vectors_span span = {.begin = (uint32_t)(begin - c->s.begin), .size = (uint32_t)(c->s.at - begin)};
    return span;
}

/* The name of a member, quotes included. */
typedef struct member {
    const char *begin, *end;
} member;

/* What comes next is a name; go past its colon. */
static bool begin_member(cutter *c, member *m)
{
    m->begin = c->s.at;
    if (!tb__scan_string(&c->s)) {
        return false;
    }
    m->end = c->s.at;
    tb__scan_space(&c->s);
    return tb__scan_take(&c->s, ':') || fail(c, TB_VECTORS_EJSON);
}

static bool is_member(const member *m, const char *name)
{
    if (!name) {
        return false;
    }
    size_t size = strlen(name);
    return (size_t)(m->end - m->begin) == size + 2 && memcmp(m->begin + 1, name, size) == 0;
}

/* Past the value that was read: is there another member? False at the end of the object, or of all sense. */
static bool next_member(cutter *c)
{
    tb__scan_space(&c->s);
    if (tb__scan_take(&c->s, ',')) {
        return true;
    }
    if (c->s.at < c->s.end && *c->s.at == '}') {
        c->s.at++;
        return false;
    }
    return fail(c, TB_VECTORS_EJSON);
}

/* --- one item */

typedef struct item {
    tb_vectors_span value;
    int64_t index; /* -1: none */
} item;

static bool read_vector(cutter *c, tb_vectors_span *value)
{
    const char *begin = c->s.at;
    uint32_t numbers = 0;
    if (begin < c->s.end && *begin == '"') {
        bool is_finite = true;
        if (!tb__scan_string(&c->s)) {
            return false;
        }
        numbers = tb__base64_floats(begin + 1, (size_t)(c->s.at - begin) - 2, &is_finite);
        if (numbers == 0 || !is_finite) {
            return fail(c, numbers == 0 ? TB_VECTORS_EVECTOR : TB_VECTORS_EFINITE);
        }
    } else {
        numbers = tb__scan_numbers(&c->s);
        if (numbers == 0) {
            return false;
        }
    }
    if (c->answer->items == 0) {
        c->numbers = numbers;
    }
    if (numbers != c->numbers) {
        return fail(c, TB_VECTORS_ELENGTH);
    }
    *value = span_from(c, begin);
    value->numbers = numbers;
    return true;
}

static bool read_value(cutter *c, unsigned depth, tb_vectors_span *value)
{
    if (c->shape->is_of_vectors) {
        return read_vector(c, value);
    }
    const char *begin = c->s.at;
    if (!tb__scan_value(&c->s, depth)) {
        return false;
    }
    *value = span_from(c, begin);
    return true;
}

/* A whole number below n, or null. */
static bool read_index(cutter *c, int64_t *index)
{
    const char *at = c->s.at;
    if (at < c->s.end && *at == 'n') {
        return tb__scan_value(&c->s, 0);
    }
    uint64_t sum = 0;
    if (at >= c->s.end || *at < '0' || *at > '9') {
        return fail(c, TB_VECTORS_EINDEX);
    }
    if (!tb__scan_number(&c->s)) {
        return fail(c, TB_VECTORS_EINDEX);
    }
    for (; at < c->s.at && *at >= '0' && *at <= '9' && sum < c->n; at++) {
        sum = sum * 10 + (uint64_t)(*at - '0');
    }
    if (at < c->s.at || sum >= c->n || *index >= 0) {
        return fail(c, TB_VECTORS_EINDEX);
    }
    *index = (int64_t)sum;
    return true;
}

/* One member of an item that is an object, behind its name. */
static bool read_member(cutter *c, const member *m, item *out)
{
    if (is_member(m, c->shape->value)) {
        if (out->value.size > 0) {
            return fail(c, TB_VECTORS_ENOVALUE);
        }
        return read_value(c, 2, &out->value);
    }
    if (is_member(m, c->shape->index)) {
        return read_index(c, &out->index);
    }
    return tb__scan_value(&c->s, 2);
}

static bool read_object(cutter *c, item *out)
{
    const char *begin = c->s.at;
    if (!tb__scan_take(&c->s, '{')) {
        return fail(c, TB_VECTORS_EITEM);
    }
    if (c->s.at < c->s.end && *c->s.at == '}') {
        c->s.at++;
    } else {
        do {
            member m;
            if (!begin_member(c, &m) || !read_member(c, &m, out)) {
                return false;
            }
        } while (next_member(c));
    }
    if (c->s.problem != TB_VECTORS_OK) {
        return false;
    }
    if (!c->shape->value) {
        out->value = span_from(c, begin);
    }
    return out->value.size > 0 || fail(c, TB_VECTORS_ENOVALUE);
}

/* Where the value belongs. Items beyond n are counted and dropped. */
static bool place(cutter *c, const item *it)
{
    uint32_t number = c->answer->items, at = number;
    if (number >= c->n) {
        return true;
    }
    if (c->shape->index) {
        if (it->index < 0) {
            c->has_unnumbered = true;
        } else {
            at = (uint32_t)it->index;
            c->has_moved = c->has_moved || at != number;
        }
    }
    if (c->spans[at].size > 0 || (c->has_unnumbered && c->has_moved)) {
        return fail(c, TB_VECTORS_EINDEX);
    }
    c->spans[at] = it->value;
    return true;
}

static bool read_item(cutter *c)
{
    item it = {.index = -1};
    c->answer->item = c->answer->items;
    bool is_object = c->shape->value || c->shape->index;
    bool is_read = is_object ? read_object(c, &it) : read_value(c, 1, &it.value);
    if (!is_read || !place(c, &it)) {
        return false;
    }
    c->answer->items++;
    return true;
}

/* --- the answer */

static bool read_list(cutter *c)
{
    if (c->has_list || !tb__scan_take(&c->s, '[')) {
        return fail(c, TB_VECTORS_ENOLIST);
    }
    c->has_list = true;
    if (c->s.at < c->s.end && *c->s.at == ']') {
        c->s.at++;
        return true;
    }
    do {
        if (!read_item(c)) {
            return false;
        }
        tb__scan_space(&c->s);
    } while (tb__scan_take(&c->s, ','));
    if (c->s.at >= c->s.end || *c->s.at != ']') {
        return fail(c, TB_VECTORS_EJSON);
    }
    c->s.at++;
    return true;
}

static bool read_field(cutter *c, const member *m)
{
    if (is_member(m, c->shape->list)) {
        return read_list(c);
    }
    const char *begin = c->s.at;
    if (!tb__scan_value(&c->s, 1)) {
        return false;
    }
    if (*begin == '{' && is_member(m, "usage")) {
        c->answer->usage = span_from(c, begin);
    } else if (*begin == '"' && is_member(m, "model")) {
        c->answer->model = span_from(c, begin);
    }
    return true;
}

static bool read_answer(cutter *c)
{
    if (!c->shape->list) {
        return read_list(c);
    }
    if (!tb__scan_take(&c->s, '{')) {
        return fail(c, c->s.at < c->s.end ? TB_VECTORS_ENOLIST : TB_VECTORS_EJSON);
    }
    if (c->s.at < c->s.end && *c->s.at == '}') {
        c->s.at++;
        return true;
    }
    do {
        member m;
        if (!begin_member(c, &m) || !read_field(c, &m)) {
            return false;
        }
    } while (next_member(c));
    return c->s.problem == TB_VECTORS_OK;
}

static const char MARK[] = "\xEF\xBB\xBF";

int tb_vectors_cut(const char *text, size_t size, const tb_vectors_shape *shape, tb_vectors_span *spans, uint32_t n,
                   tb_vectors_answer *answer)
{
    assert(text || size == 0);
    assert(shape && answer && (spans || n == 0));
    memset(answer, 0, sizeof *answer);
    if (size >= UINT32_MAX) {
        return TB_VECTORS_ELARGE;
    }
    if (n > 0) {
        memset(spans, 0, n * sizeof *spans);
    }
    cutter c = {.s = {.at = text, .begin = text, .end = text + size}, .shape = shape, .spans = spans, .n = n};
    c.answer = answer;
    size_t mark = sizeof MARK - 1;
    if (size >= mark && memcmp(text, MARK, mark) == 0) {
        c.s.at += mark;
    }
    tb__scan_space(&c.s);
    if (read_answer(&c)) {
        tb__scan_space(&c.s);
        if (c.s.at < c.s.end) {
            fail(&c, TB_VECTORS_EJSON);
        } else if (!c.has_list) {
            fail(&c, TB_VECTORS_ENOLIST);
        } else if (answer->items != n) {
            fail(&c, TB_VECTORS_ECOUNT);
        }
    }
    answer->at = (uint32_t)(c.s.at - text);
    return c.s.problem;
}

const char *tb_vectors_sentence(int problem)
{
    switch (problem) {
    case TB_VECTORS_OK: return "is fine";
    case TB_VECTORS_EJSON: return "is not JSON";
    case TB_VECTORS_ELARGE: return "is too large";
    case TB_VECTORS_ENOLIST: return "has no list where one should be";
    case TB_VECTORS_ECOUNT: return "has another number of items than there are inputs";
    case TB_VECTORS_EITEM: return "has an item that is no object";
    case TB_VECTORS_ENOVALUE: return "has an item without a value, or with two";
    case TB_VECTORS_EVECTOR: return "has an item whose vector is no list of numbers, nor base64 of any";
    case TB_VECTORS_EFINITE: return "has a number that is not finite";
    case TB_VECTORS_ELENGTH: return "has vectors of unequal length";
    case TB_VECTORS_EINDEX: return "has an item whose index is wrong";
    case TB_VECTORS_EDEEP: return "is nested too deeply";
    default: return "is wrong";
    }
}
