/* test_redis.c - the connection to Redis: commands and replies.
 */
#include "test_redis.h"

/* --- commands --------------------------------------------------------------------- */

static void writes_commands_as_arrays_of_words_with_any_bytes(void **state)
{
    struct rig *rig = *state;
    static const char expected[] = "*3\r\n$3\r\nSET\r\n$4\r\na\0\r\n\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n";
    char got[256];
    open_it(rig);
    assert_int_equal(tb_redis_begin(rig->redis, 3), 0);
    tb_redis_word(rig->redis, "SET", 3);
    tb_redis_word(rig->redis, "a\0\r\n", 4);
    tb_redis_word(rig->redis, "", 0);
    ask(rig, "PING");
    assert_int_equal(tb_redis_owed(rig->redis), 2);
    tb_redis_turn(rig->redis);
    assert_int_equal(recv(rig->server, got, sizeof got, 0), sizeof expected - 1);
    assert_memory_equal(got, expected, sizeof expected - 1);
}

static void keeps_commands_that_were_written_before_it_was_open(void **state)
{
    struct rig *rig = *state;
    tb_redis_address address = address_of(rig);
    char got[64];
    assert_int_equal(tb_redis_open(rig->redis, &address), 0);
    ask(rig, "PING");
    rig->server = accept(rig->listener, NULL, NULL);
    wait_for(rig, TB_REDIS_OPEN);
    tb_redis_turn(rig->redis);
    assert_int_equal(recv(rig->server, got, sizeof got, 0), 14);
}

static void refuses_commands_while_it_is_closed(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(tb_redis_begin(rig->redis, 1), TB_REDIS_ESTATE);
}

static void writes_on_when_the_server_reads_slowly(void **state)
{
    struct rig *rig = *state;
    size_t size = 4 << 20, got = 0;
    char *large = calloc(1, size), buffer[BUFFER];
    open_it(rig);
    assert_int_equal(tb_redis_begin(rig->redis, 1), 0);
    tb_redis_word(rig->redis, large, size);
    while (got < size + 4 + 10 + 2) {
        tb_redis_turn(rig->redis);
        ssize_t n = recv(rig->server, buffer, sizeof buffer, MSG_DONTWAIT);
        got += n > 0 ? (size_t)n : 0;
    }
    assert_int_equal(got, size + 4 + 10 + 2);
    free(large);
}

/* --- replies ------------------------------------------------------------------------ */

static const char EVERYTHING[] =
    "*6\r\n+OK\r\n:-42\r\n$-1\r\n$3\r\na\0b\r\n*2\r\n$0\r\n\r\n*0\r\n-ERR no\r\n";

static void check_everything(struct rig *rig)
{
    uint32_t count = 0;
    const tb_redis_node *node = tb_redis_reply(rig->redis, &count);
    assert_non_null(node);
    assert_int_equal(count, 9);
    assert_int_equal(node[0].kind, TB_REDIS_ARRAY);
    assert_int_equal(node[0].size, 6);
    assert_text(&node[1], TB_REDIS_STATUS, "OK");
    assert_int_equal(node[2].kind, TB_REDIS_INTEGER);
    assert_true(node[2].number == -42);
    assert_int_equal(node[3].kind, TB_REDIS_NIL);
    assert_int_equal(node[4].size, 3);
    assert_memory_equal(node[4].text, "a\0b", 3);
    assert_int_equal(node[5].kind, TB_REDIS_ARRAY);
    assert_text(&node[6], TB_REDIS_STRING, "");
    assert_int_equal(node[7].size, 0);
    assert_text(&node[8], TB_REDIS_ERROR, "ERR no");
}

static void reads_every_kind_of_reply(void **state)
{
    struct rig *rig = *state;
    open_it(rig);
    ask(rig, "X");
    serve(rig, EVERYTHING, sizeof EVERYTHING - 1);
    assert_int_equal(wait_for(rig, TB_REDIS_CLOSED), 1);
    check_everything(rig);
    assert_int_equal(tb_redis_owed(rig->redis), 0);
}

static void reads_a_reply_that_comes_byte_by_byte_behind_others(void **state)
{
    struct rig *rig = *state;
    uint32_t count;
    open_it(rig);
    for (size_t i = 0; i < sizeof EVERYTHING - 1; i++) {
        ask(rig, "X");
        if (i == 0) {
            ask(rig, "X");
        }
        serve(rig, EVERYTHING + i, 1);
        if (i + 1 < sizeof EVERYTHING - 1) {
            tb_redis_turn(rig->redis);
            assert_null(tb_redis_reply(rig->redis, &count));
        }
    }
    assert_int_equal(wait_for(rig, TB_REDIS_CLOSED), 1);
    check_everything(rig);
}

static void keeps_the_half_that_came_while_others_are_taken(void **state)
{
    struct rig *rig = *state;
    uint32_t count;
    size_t half = sizeof EVERYTHING / 2;
    open_it(rig);
    for (int i = 0; i < 3; i++) {
        ask(rig, "X");
    }
    serve_text(rig, "+first\r\n$5\r\nother\r\n");
    serve(rig, EVERYTHING, half);
    assert_int_equal(wait_for(rig, TB_REDIS_CLOSED), 2);
    assert_text(tb_redis_reply(rig->redis, &count), TB_REDIS_STATUS, "first");
    assert_text(tb_redis_reply(rig->redis, &count), TB_REDIS_STRING, "other");
    assert_null(tb_redis_reply(rig->redis, &count));
    tb_redis_turn(rig->redis);
    serve(rig, EVERYTHING + half, sizeof EVERYTHING - 1 - half);
    assert_int_equal(wait_for(rig, TB_REDIS_CLOSED), 1);
    check_everything(rig);
}

static void hands_out_what_came_whole_before_the_end(void **state)
{
    struct rig *rig = *state;
    uint32_t count;
    char sent[64];
    open_it(rig);
    ask(rig, "X");
    ask(rig, "Y");
    tb_redis_turn(rig->redis);
    recv(rig->server, sent, sizeof sent, 0);
    serve_text(rig, ":7\r\n$9\r\nhal");
    close(rig->server);
    rig->server = -1;
    wait_for(rig, TB_REDIS_CLOSED);
    assert_true(tb_redis_reply(rig->redis, &count)->number == 7);
    assert_null(tb_redis_reply(rig->redis, &count));
    while (tb_redis_state(rig->redis) != TB_REDIS_CLOSED) {
        tb_redis_turn(rig->redis);
    }
    assert_string_equal(tb_redis_error(rig->redis), "Redis has closed the connection");
    open_it(rig); /* half a reply of before is forgotten */
    ask(rig, "X");
    serve_text(rig, "+new\r\n");
    assert_int_equal(wait_for(rig, TB_REDIS_CLOSED), 1);
    assert_text(tb_redis_reply(rig->redis, &count), TB_REDIS_STATUS, "new");
}

static void takes_an_array_of_very_many_that_never_come(void **state)
{
    struct rig *rig = *state;
    uint32_t count;
    open_it(rig);
    ask(rig, "X");
    serve_text(rig, "*2000000000\r\n:1\r\n");
    tb_redis_turn(rig->redis);
    assert_null(tb_redis_reply(rig->redis, &count));
    assert_int_equal(tb_redis_state(rig->redis), TB_REDIS_OPEN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(writes_commands_as_arrays_of_words_with_any_bytes),
        T(keeps_commands_that_were_written_before_it_was_open),
        T(refuses_commands_while_it_is_closed),
        T(writes_on_when_the_server_reads_slowly),
        T(reads_every_kind_of_reply),
        T(reads_a_reply_that_comes_byte_by_byte_behind_others),
        T(keeps_the_half_that_came_while_others_are_taken),
        T(hands_out_what_came_whole_before_the_end),
        T(takes_an_array_of_very_many_that_never_come),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
