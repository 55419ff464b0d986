/* test_redis_trouble.c - the connection to Redis: what ends it, and how it begins over TCP.
 */
#include "test_redis.h"

/* --- ends ------------------------------------------------------------------------------ */

static void closes_on_what_is_not_the_protocol(void **state)
{
    static const char *const wrong[] = {"HTTP/1.1 400 Bad Request\r\n\r\n", "$abc\r\n", "*-5\r\n", ":1x\r\n",
                                        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n"};
    struct rig *rig = *state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        open_it(rig);
        ask(rig, "X");
        serve_text(rig, wrong[i]);
        wait_for(rig, TB_REDIS_CLOSED);
        assert_int_equal(tb_redis_state(rig->redis), TB_REDIS_CLOSED);
        assert_non_null(strstr(tb_redis_error(rig->redis), "protocol"));
        close(rig->server);
    }
    rig->server = -1;
}

static void closes_on_a_reply_that_nothing_has_asked_for(void **state)
{
    struct rig *rig = *state;
    open_it(rig);
    serve_text(rig, "+hello\r\n");
    for (int i = 0; i < 100 && tb_redis_state(rig->redis) != TB_REDIS_CLOSED; i++) {
        tb_redis_turn(rig->redis);
    }
    assert_int_equal(tb_redis_state(rig->redis), TB_REDIS_CLOSED);
}

static void says_why_it_cannot_connect(void **state)
{
    struct rig *rig = *state;
    tb_redis_address address = address_of(rig);
    close(rig->listener);
    assert_int_equal(tb_redis_open(rig->redis, &address), 0);
    wait_for(rig, TB_REDIS_CLOSED);
    assert_string_equal(tb_redis_error(rig->redis), "cannot connect: Connection refused");
}

static void refuses_what_is_no_address(void **state)
{
    struct rig *rig = *state;
    char path[200];
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = '\0';
    tb_redis_address address = {.connect_timeout_us = 1, .silence_us = 1};
    assert_int_equal(tb_redis_open(rig->redis, &address), TB_REDIS_EADDRESS);
    address.host = "localhost";
    assert_int_equal(tb_redis_open(rig->redis, &address), TB_REDIS_EADDRESS);
    address.unix_socket = path;
    assert_int_equal(tb_redis_open(rig->redis, &address), TB_REDIS_EADDRESS);
    address = address_of(rig);
    assert_int_equal(tb_redis_open(rig->redis, &address), 0);
    assert_int_equal(tb_redis_open(rig->redis, &address), TB_REDIS_ESTATE);
}

static void closes_when_a_reply_is_owed_and_nothing_comes(void **state)
{
    struct rig *rig = *state;
    tb_redis_address address = address_of(rig);
    address.silence_us = 50000;
    assert_int_equal(tb_redis_open(rig->redis, &address), 0);
    rig->server = accept(rig->listener, NULL, NULL);
    wait_for(rig, TB_REDIS_OPEN);
    assert_int_equal(tb_redis_next(rig->redis), -1); /* it owes nothing: it may be silent */
    int64_t began_us = now_us();
    ask(rig, "X");
    wait_for(rig, TB_REDIS_CLOSED);
    assert_true(now_us() - began_us >= 50000);
    assert_string_equal(tb_redis_error(rig->redis), "no answer for 0.1 s");
}

static void does_not_count_time_in_which_nobody_could_look(void **state)
{
    struct rig *rig = *state;
    tb_redis_address address = address_of(rig);
    address.silence_us = US_PER_S;
    assert_int_equal(tb_redis_open(rig->redis, &address), 0);
    rig->server = accept(rig->listener, NULL, NULL);
    wait_for(rig, TB_REDIS_OPEN);
    ask(rig, "X");
    int64_t due_us = tb_redis_next(rig->redis);
    tb_redis_turn(rig->redis);
    due_us = tb_redis_next(rig->redis);
    tb_redis_excuse(rig->redis, 3 * US_PER_S);
    assert_int_equal(tb_redis_next(rig->redis), due_us + 3 * US_PER_S);
}

static void takes_an_answer_that_came_in_time_though_it_looks_late(void **state)
{
    struct rig *rig = *state;
    tb_redis_address address = address_of(rig);
    uint32_t count;
    address.silence_us = 20000;
    assert_int_equal(tb_redis_open(rig->redis, &address), 0);
    rig->server = accept(rig->listener, NULL, NULL);
    wait_for(rig, TB_REDIS_OPEN);
    ask(rig, "X");
    tb_redis_turn(rig->redis);
    serve_text(rig, "+OK\r\n");
    while (now_us() < tb_redis_next(rig->redis)) {
    }
    assert_int_equal(tb_redis_turn(rig->redis), 1);
    assert_non_null(tb_redis_reply(rig->redis, &count));
    assert_int_equal(tb_redis_state(rig->redis), TB_REDIS_OPEN);
}

/* --- TCP ---------------------------------------------------------------------------------- */

static int listen_on_loopback(int32_t *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bind(fd, (struct sockaddr *)&at, sizeof at);
    listen(fd, 4);
    getsockname(fd, (struct sockaddr *)&at, &size);
    *port = ntohs(at.sin_port);
    return fd;
}

static void connects_to_a_number_and_to_a_name(void **state)
{
    static const char *const hosts[] = {"127.0.0.1", "localhost"};
    struct rig *rig = *state;
    for (size_t i = 0; i < 2; i++) {
        tb_redis_address address = address_of(rig);
        int listener = listen_on_loopback(&address.port);
        address.unix_socket = NULL;
        address.host = hosts[i];
        assert_int_equal(tb_redis_open(rig->redis, &address), 0);
        assert_int_equal(tb_redis_state(rig->redis), i == 0 ? TB_REDIS_CONNECTING : TB_REDIS_RESOLVING);
        ask(rig, "PING");
        wait_for(rig, TB_REDIS_OPEN);
        assert_int_equal(tb_redis_state(rig->redis), TB_REDIS_OPEN);
        tb_redis_close(rig->redis);
        assert_int_equal(tb_redis_owed(rig->redis), 0);
        close(listener);
    }
}

static void says_that_a_name_is_unknown(void **state)
{
    struct rig *rig = *state;
    tb_redis_address address = address_of(rig);
    address.unix_socket = NULL;
    address.host = "no-such-host.invalid";
    address.port = 6379;
    assert_int_equal(tb_redis_open(rig->redis, &address), 0);
    wait_for(rig, TB_REDIS_CLOSED);
    assert_non_null(strstr(tb_redis_error(rig->redis), "cannot be looked up"));
}

static void may_be_freed_while_a_name_is_looked_up(void **state)
{
    struct rig *rig = *state;
    tb_redis_address address = address_of(rig);
    address.unix_socket = NULL;
    address.host = "localhost";
    address.port = 6379;
    for (int i = 0; i < 50; i++) {
        assert_int_equal(tb_redis_open(rig->redis, &address), 0);
        tb_redis_close(rig->redis);
    }
    assert_int_equal(tb_redis_open(rig->redis, &address), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(closes_on_what_is_not_the_protocol),
        T(closes_on_a_reply_that_nothing_has_asked_for),
        T(says_why_it_cannot_connect),
        T(refuses_what_is_no_address),
        T(closes_when_a_reply_is_owed_and_nothing_comes),
        T(does_not_count_time_in_which_nobody_could_look),
        T(takes_an_answer_that_came_in_time_though_it_looks_late),
        T(connects_to_a_number_and_to_a_name),
        T(says_that_a_name_is_unknown),
        T(may_be_freed_while_a_name_is_looked_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
