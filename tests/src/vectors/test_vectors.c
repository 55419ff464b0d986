/* test_vectors.c - vectors cut out of answers, and the two notations made of each other. */
#include "tokenbatcher_vectors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 4, ROOM = 4096 };

static const tb_vectors_shape EMBEDDINGS = {.list = "data", .value = "embedding", .index = "index", .is_of_vectors = 1};
static const tb_vectors_shape LISTS = {.is_of_vectors = 1};
static const tb_vectors_shape RESULTS = {.list = "results", .index = "index"};

static tb_vectors_span spans[MOST];
static tb_vectors_answer answer;

/* On a heap of its own size, so that a byte too far is seen by valgrind and ASan. */
static int cut(const char *text, const tb_vectors_shape *shape, uint32_t n)
{
    static char *copy;
    size_t size = strlen(text);
    free(copy);
    copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    return tb_vectors_cut(copy, size, shape, spans, n, &answer);
}

static void assert_span(const char *text, const char *expected, tb_vectors_span span)
{
    assert_int_equal(span.size, strlen(expected));
    assert_memory_equal(text + span.begin, expected, span.size);
}

static void gives_each_input_its_own_bytes(void **state)
{
    (void)state;
    const char *text = "\xEF\xBB\xBF {\"data\": [ {\"index\":1,\"embedding\":[1.50, -2e-3] , "
                       "\"x\":{\"embedding\":[9]}}, {\"embedding\":\"AADAPwAAEMA=\", \"index\":0}], "
                       "\"model\":\"m\", \"usage\":{\"total_tokens\":3}} ";
    assert_int_equal(cut(text, &EMBEDDINGS, 2), TB_VECTORS_OK);
    assert_span(text, "\"AADAPwAAEMA=\"", spans[0]);
    assert_span(text, "[1.50, -2e-3]", spans[1]);
    assert_int_equal(spans[0].numbers, 2);
    assert_span(text, "\"m\"", answer.model);
    assert_span(text, "{\"total_tokens\":3}", answer.usage);
    assert_int_equal(answer.items, 2);
}

static void pairs_by_place_where_no_item_has_an_index(void **state)
{
    (void)state;
    const char *text = "{\"data\":[{\"embedding\":[1]},{\"index\":null,\"embedding\":[2]}]}";
    assert_int_equal(cut(text, &EMBEDDINGS, 2), TB_VECTORS_OK);
    assert_span(text, "[2]", spans[1]);
    assert_int_equal(answer.model.size, 0);
}

static void takes_other_shapes(void **state)
{
    (void)state;
    const char *lists = "[[1,2],[3,4]]", *results = "{\"id\":1,\"results\":[{\"a\":[{}]},{\"flagged\":true}]}";
    assert_int_equal(cut(lists, &LISTS, 2), TB_VECTORS_OK);
    assert_span(lists, "[3,4]", spans[1]);
    assert_int_equal(cut(results, &RESULTS, 2), TB_VECTORS_OK);
    assert_span(results, "{\"a\":[{}]}", spans[0]);
}

typedef struct wrong {
    const char *text;
    int problem;
} wrong;

static const wrong WRONG[] = {
    {"", TB_VECTORS_EJSON},
    {"null", TB_VECTORS_ENOLIST},
    {"[]", TB_VECTORS_ENOLIST},
    {"{}", TB_VECTORS_ENOLIST},
    {"{\"data\":{}}", TB_VECTORS_ENOLIST},
    {"{\"data\":[{\"embedding\":[1]},{\"embedding\":[2]}],\"data\":[]}", TB_VECTORS_ENOLIST},
    {"{\"data\":[]}", TB_VECTORS_ECOUNT},
    {"{\"data\":[{\"embedding\":[1]}]}", TB_VECTORS_ECOUNT},
    {"{\"data\":[{\"embedding\":[1]},{\"embedding\":[1]},{\"embedding\":[1]}]}", TB_VECTORS_ECOUNT},
    {"{\"data\":[7]}", TB_VECTORS_EITEM},
    {"{\"data\":[{}]}", TB_VECTORS_ENOVALUE},
    {"{\"data\":[{\"embedding\":[1],\"embedding\":[2]}]}", TB_VECTORS_ENOVALUE},
    {"{\"data\":[{\"embedding\":null}]}", TB_VECTORS_EVECTOR},
    {"{\"data\":[{\"embedding\":[]}]}", TB_VECTORS_EVECTOR},
    {"{\"data\":[{\"embedding\":[\"1\"]}]}", TB_VECTORS_EVECTOR},
    {"{\"data\":[{\"embedding\":[1,[2]]}]}", TB_VECTORS_EVECTOR},
    {"{\"data\":[{\"embedding\":[NaN]}]}", TB_VECTORS_EVECTOR},
    {"{\"data\":[{\"embedding\":\"\"}]}", TB_VECTORS_EVECTOR},
    {"{\"data\":[{\"embedding\":\"AAAA\"}]}", TB_VECTORS_EVECTOR},
    {"{\"data\":[{\"embedding\":\"AADAPw=\"}]}", TB_VECTORS_EVECTOR},
    {"{\"data\":[{\"embedding\":\"AADAPw==AAAA\"}]}", TB_VECTORS_EVECTOR},
    {"{\"data\":[{\"embedding\":\"AADAPx==\"}]}", TB_VECTORS_EVECTOR},
    {"{\"data\":[{\"embedding\":\"AACAfw==\"}]}", TB_VECTORS_EFINITE},
    {"{\"data\":[{\"embedding\":[1e999]}]}", TB_VECTORS_EFINITE},
    {"{\"data\":[{\"embedding\":[1]}],\"usage\":1e400}", TB_VECTORS_EFINITE},
    {"{\"data\":[{\"embedding\":[1]},{\"embedding\":[1,2]}]}", TB_VECTORS_ELENGTH},
    {"{\"data\":[{\"embedding\":[1],\"index\":2}]}", TB_VECTORS_EINDEX},
    {"{\"data\":[{\"embedding\":[1],\"index\":-1}]}", TB_VECTORS_EINDEX},
    {"{\"data\":[{\"embedding\":[1],\"index\":0.5}]}", TB_VECTORS_EINDEX},
    {"{\"data\":[{\"embedding\":[1],\"index\":1e0}]}", TB_VECTORS_EINDEX},
    {"{\"data\":[{\"embedding\":[1],\"index\":\"0\"}]}", TB_VECTORS_EINDEX},
    {"{\"data\":[{\"embedding\":[1],\"index\":NaN}]}", TB_VECTORS_EINDEX},
    {"{\"data\":[{\"embedding\":[1],\"index\":100000000000000000000}]}", TB_VECTORS_EINDEX},
    {"{\"data\":[{\"embedding\":[1],\"index\":0,\"index\":1}]}", TB_VECTORS_EINDEX},
    {"{\"data\":[{\"embedding\":[1],\"index\":1},{\"embedding\":[1],\"index\":1}]}", TB_VECTORS_EINDEX},
    {"{\"data\":[{\"embedding\":[1],\"index\":1},{\"embedding\":[1]}]}", TB_VECTORS_EINDEX},
    {"{\"data\":[{\"embedding\":[1]},{\"embedding\":[1]}]", TB_VECTORS_EJSON},
    {"{\"data\":[{\"embedding\":[1]},{\"embedding\":[1]}]}x", TB_VECTORS_EJSON},
    {"{\"data\":[{\"embedding\":[1]},{\"embedding\":[01]}]}", TB_VECTORS_EJSON},
    {"{\"data\":[{\"embedding\":[1]},{\"embedding\":[1.]}]}", TB_VECTORS_EJSON},
    {"{\"data\":[{\"embedding\":[1]},{\"embedding\":[1,]}]}", TB_VECTORS_EVECTOR},
    {"{\"data\":[{\"embedding\":[1", TB_VECTORS_EJSON},
    {"{\"a\":\"\t\"}", TB_VECTORS_EJSON},
    {"{\"a\":\"\\x\"}", TB_VECTORS_EJSON},
    {"{\"a\":\"\\u12", TB_VECTORS_EJSON},
    {"{\"a\":tru}", TB_VECTORS_EJSON},
    {"{\"a\" 1}", TB_VECTORS_EJSON},
};

static void says_what_is_wrong(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        int problem = cut(WRONG[i].text, &EMBEDDINGS, 2);
        if (problem != WRONG[i].problem) {
            fail_msg("%s: %s", WRONG[i].text, tb_vectors_sentence(problem));
        }
        assert_true(answer.at <= strlen(WRONG[i].text));
    }
    for (int problem = TB_VECTORS_EDEEP; problem <= TB_VECTORS_OK; problem++) {
        assert_string_not_equal(tb_vectors_sentence(problem), tb_vectors_sentence(1));
    }
}

static void is_not_led_too_deep(void **state)
{
    (void)state;
    static char text[100000] = "{\"a\":";
    memset(text + 5, '[', sizeof text - 6);
    assert_int_equal(cut(text, &EMBEDDINGS, 2), TB_VECTORS_EDEEP);
    memset(text + 5, 0, sizeof text - 5);
    memset(text + 5, '[', 90);
    memset(text + 95, ']', 90);
    strcat(text, ",\"data\":[]}");
    assert_int_equal(cut(text, &EMBEDDINGS, 0), TB_VECTORS_OK);
}

/* --- the two notations */

static char out[ROOM], back[ROOM];

static int64_t to_base64(const char *text)
{
    int64_t size = tb_vectors_to_base64(text, strlen(text), out, sizeof out - 1);
    out[size > 0 ? size : 0] = '\0';
    return size;
}

static int64_t to_floats(const char *text)
{
    int64_t size = tb_vectors_to_floats(text, strlen(text), back, sizeof back - 1);
    back[size > 0 ? size : 0] = '\0';
    return size;
}

static void turns_numbers_into_base64(void **state)
{
    (void)state;
    assert_true(to_base64("[1.5, -2.25,3.1415927410125732]") > 0);
    assert_string_equal(out, "\"AADAPwAAEMDbD0lA\"");
    assert_true(to_base64("[-0]") > 0);
    assert_string_equal(out, "\"AAAAgA==\"");
    assert_int_equal(to_base64("[1e39]"), TB_VECTORS_EFINITE);
    assert_int_equal(to_base64("[1e999]"), TB_VECTORS_EFINITE);
    assert_int_equal(to_base64("[]"), TB_VECTORS_EVECTOR);
    assert_int_equal(to_base64("[1,]"), TB_VECTORS_EVECTOR);
    assert_int_equal(to_base64("[1] "), TB_VECTORS_EVECTOR);
    assert_int_equal(to_base64("\"AADAPw==\""), TB_VECTORS_EVECTOR);
    assert_int_equal(tb_vectors_to_base64("[1]", 3, out, 9), TB_VECTORS_ELARGE);
    assert_int_equal(tb_vectors_to_base64("[1]", 3, out, 10), 10);
}

static void turns_base64_into_numbers(void **state)
{
    (void)state;
    assert_true(to_floats("\"AADAPwAAEMDbD0lA\"") > 0);
    assert_string_equal(back, "[1.5,-2.25,3.1415927410125732]");
    assert_true(to_floats("\"AAAAgA==\"") > 0);
    assert_string_equal(back, "[-0]");
    assert_int_equal(to_floats("\"AACAfw==\""), TB_VECTORS_EFINITE);
    assert_int_equal(to_floats("\"AAAA\""), TB_VECTORS_EVECTOR);
    assert_int_equal(to_floats("\"\""), TB_VECTORS_EVECTOR);
    assert_int_equal(to_floats("[1]"), TB_VECTORS_EVECTOR);
    assert_int_equal(tb_vectors_to_floats("\"AADAPw==\"", 10, back, 20), TB_VECTORS_ELARGE);
}

static uint32_t seed = 1;

static uint32_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    return seed ^= seed << 5;
}

static float random_float(void)
{
    float value;
    do {
        uint32_t bits = next_random();
        if (next_random() % 4) {
            bits = (bits & 0x807FFFFFu) | (100 + next_random() % 50) << 23; /* of a size as embeddings have */
        }
        memcpy(&value, &bits, sizeof value);
    } while (!isfinite(value));
    return value;
}

/* Every float comes back as it was: from base64, and from however it is printed; and is read as it was as a double. */
static void is_exact_both_ways(void **state)
{
    (void)state;
    static const int PRECISIONS[] = {9, 12, 17, 40};
    for (int i = 0; i < 300000; i++) {
        float value = random_float(), again;
        char text[80];
        snprintf(text, sizeof text, "[%.*g]", PRECISIONS[i % 4], (double)value);
        assert_true(to_base64(text) == 10);
        char first[16];
        memcpy(first, out, 11);
        assert_true(to_floats(first) > 0);
        if (strtod(back + 1, NULL) != (double)value) {
            fail_msg("%s became %s", text, back);
        }
        assert_true(to_base64(back) == 10);
        assert_string_equal(out, first);
        again = (float)strtod(back + 1, NULL);
        assert_memory_equal(&again, &value, sizeof value);
    }
}

/* Decimals near the border of two floats: libc knows which is nearer. */
static void rounds_as_libc_does(void **state)
{
    (void)state;
    for (int i = 0; i < 100000; i++) {
        float value = random_float();
        double border = ((double)value + (double)nextafterf(value, INFINITY)) / 2;
        char text[80], expected[80];
        snprintf(text, sizeof text, "[%.*g]", 10 + i % 20, border);
        float nearest = strtof(text + 1, NULL);
        int64_t size = to_base64(text);
        if (!isfinite(nearest)) {
            assert_int_equal(size, TB_VECTORS_EFINITE);
            continue;
        }
        memcpy(expected, out, 11);
        snprintf(text, sizeof text, "[%.17g]", (double)nearest);
        assert_true(to_base64(text) == 10);
        assert_string_equal(out, expected);
    }
}

static void goes_by_no_locale(void **state)
{
    (void)state;
    static const char *NAMES[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "C.UTF-8"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES && !setlocale(LC_NUMERIC, NAMES[i]); i++) {
    }
    assert_true(to_base64("[1.5000000000000000000000000000000000001,1e-7]") > 0);
    assert_true(to_floats(out) > 0);
    setlocale(LC_NUMERIC, "C");
    assert_string_equal(back, "[1.5,1.0000000116860974e-07]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_each_input_its_own_bytes),
        cmocka_unit_test(pairs_by_place_where_no_item_has_an_index),
        cmocka_unit_test(takes_other_shapes),
        cmocka_unit_test(says_what_is_wrong),
        cmocka_unit_test(is_not_led_too_deep),
        cmocka_unit_test(turns_numbers_into_base64),
        cmocka_unit_test(turns_base64_into_numbers),
        cmocka_unit_test(is_exact_both_ways),
        cmocka_unit_test(rounds_as_libc_does),
        cmocka_unit_test(goes_by_no_locale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
