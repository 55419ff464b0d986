/* test_http_trouble.c - the HTTP client: loops that were away, and answers that are none. */
#include "test_http.h"

enum { MANY = 80, LINE = 120000 };

static void send_all(int connection, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(connection, text, size, MSG_NOSIGNAL);
        assert_true(sent > 0);
        text += sent;
        size -= (size_t)sent;
    }
}

/* R5: completions that have arrived are taken first, of more sockets than one look reports. */
static void what_has_arrived_while_the_loop_was_away_counts_before_timeouts_do(void **state)
{
    struct rig *rig = *state;
    char text[BUFFER];
    int connections[MANY];
    double ids[MANY + 1];
    int64_t first_late_us = now_us() + 2 * US_PER_S;
    for (int i = 0; i < MANY; i++) {
        tb_http_request request = asking(rig->url);
        request.timeout_us = 2 * US_PER_S;
        assert_true(tb_http_start(rig->http, &request) > 0);
        connections[i] = accept_request(rig, text);
    }
    while (tb_http_next(rig->http) < first_late_us) {
        expect_none(rig); /* until libcurl has no timer left that would look at sockets */
    }
    for (int i = 0; i < MANY; i++) {
        say(connections[i], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
    int64_t all_late_us = now_us() + 2 * US_PER_S;
    while (now_us() < all_late_us) { /* busy with other things: it does not turn */
    }
    assert_int_equal(tb_http_turn(rig->http, ids, MANY + 1), MANY);
    for (int i = 0; i < MANY; i++) {
        tb_http_response response;
        assert_int_equal(tb_http_read(rig->http, ids[i], &response), 1);
        assert_int_equal(response.outcome, TB_HTTP_DONE);
        assert_int_equal(response.body_size, 2);
        close(connections[i]);
    }
}

static void who_has_not_answered_is_late_although_others_have(void **state)
{
    struct rig *rig = *state;
    char text[BUFFER];
    tb_http_request request = asking(rig->url);
    request.timeout_us = US_PER_S / 2;
    double silent = tb_http_start(rig->http, &request);
    int one = accept_request(rig, text);
    double prompt = tb_http_start(rig->http, &request);
    int two = accept_request(rig, text);
    say(two, "HTTP/1.1 204 None\r\n\r\n");
    int64_t late_us = now_us() + request.timeout_us;
    while (now_us() < late_us) {
    }
    double ids[3];
    assert_int_equal(tb_http_turn(rig->http, ids, 3), 2);
    assert_true(ids[0] == prompt && ids[1] == silent);
    tb_http_response response;
    tb_http_read(rig->http, silent, &response);
    assert_int_equal(response.outcome, TB_HTTP_TIMEOUT);
    close(one);
    close(two);
}

static void expect_broken(struct rig *rig, const char *answer, const char *error)
{
    char text[BUFFER];
    double id = start(rig);
    int connection = accept_request(rig, text);
    say(connection, answer);
    close(connection);
    tb_http_response response = await(rig, id);
    assert_int_equal(response.outcome, TB_HTTP_BROKEN);
    assert_string_equal(response.error, error);
    tb_http_release(rig->http, id);
}

static void a_status_line_without_a_status_is_broken(void **state)
{
    static const char error[] = "the status line of the response cannot be read";
    expect_broken(*state, "HTTP/200\r\nContent-Length: 2\r\n\r\nok", error);
    expect_broken(*state, "HTTP/200 OK\r\n\r\nok", error);
}

static void an_end_within_the_headers_is_broken(void **state)
{
    static const char error[] = "the connection ended within the headers of the response";
    expect_broken(*state, "HTTP/1.1 200 OK\r\n", error);
    expect_broken(*state, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n", error);
    expect_broken(*state, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", error);
}

static void trailers_after_a_body_are_no_headers_that_go_on(void **state)
{
    struct rig *rig = *state;
    char text[BUFFER];
    double id = start(rig);
    int connection = accept_request(rig, text);
    say(connection, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n");
    tb_http_response response = await(rig, id);
    assert_int_equal(response.outcome, TB_HTTP_DONE);
    assert_memory_equal(response.body, "ok", 2);
    close(connection);
}

static void headers_above_64_KiB_are_too_large_however_long_a_line_is(void **state)
{
    struct rig *rig = *state;
    static const size_t sizes[] = {TB_HTTP_HEADERS_BYTES, LINE};
    char text[BUFFER], *line = malloc(LINE);
    memset(line, 'a', LINE);
    for (size_t i = 0; i < 2; i++) {
        double id = start(rig);
        int connection = accept_request(rig, text);
        say(connection, "HTTP/1.1 200 OK\r\nX: ");
        send_all(connection, line, sizes[i]);
        say(connection, "\r\n\r\n");
        tb_http_response response = await(rig, id);
        assert_int_equal(response.outcome, TB_HTTP_TOO_LARGE);
        assert_string_equal(response.error, "the headers of the response are larger than 64 KiB");
        tb_http_release(rig->http, id);
        close(connection);
    }
    free(line);
}

static void headers_of_a_request_above_64_KiB_are_refused_and_below_go_out(void **state)
{
    struct rig *rig = *state;
    char *headers = malloc(TB_HTTP_HEADERS_BYTES + 2);
    memset(headers, 'a', TB_HTTP_HEADERS_BYTES + 1);
    headers[1] = ':';
    headers[TB_HTTP_HEADERS_BYTES + 1] = '\0';
    tb_http_request request = asking(rig->url);
    request.headers = headers;
    assert_true(tb_http_start(rig->http, &request) == TB_HTTP_EHEADERS);
    headers[TB_HTTP_HEADERS_BYTES] = '\0';
    double id = tb_http_start(rig->http, &request);
    assert_true(id > 0);
    assert_int_equal(tb_http_release(rig->http, id), 1);
    free(headers);
}

static void an_error_quotes_no_credentials(void **state)
{
    static const char *const proxies[] = {"http://user:se'cr et@127.0.0.1:bad", "http://user:secret@127.0.0.1:1"};
    struct rig *rig = *state;
    unsetenv("no_proxy"); /* which keeps the other tests from proxies */
    unsetenv("NO_PROXY");
    for (size_t i = 0; i < 2; i++) {
        setenv("http_proxy", proxies[i], 1);
        double id = start(rig);
        tb_http_response response = await(rig, id);
        unsetenv("http_proxy");
        assert_int_equal(response.outcome, TB_HTTP_CONNECT);
        assert_true(strlen(response.error) > 0);
        assert_null(strstr(response.error, "user"));
        assert_null(strstr(response.error, "cr"));
        tb_http_release(rig->http, id);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(what_has_arrived_while_the_loop_was_away_counts_before_timeouts_do),
        WITH_RIG(who_has_not_answered_is_late_although_others_have),
        WITH_RIG(a_status_line_without_a_status_is_broken),
        WITH_RIG(an_end_within_the_headers_is_broken),
        WITH_RIG(trailers_after_a_body_are_no_headers_that_go_on),
        WITH_RIG(headers_above_64_KiB_are_too_large_however_long_a_line_is),
        WITH_RIG(headers_of_a_request_above_64_KiB_are_refused_and_below_go_out),
        WITH_RIG(an_error_quotes_no_credentials), /* the last: it leaves an environment without no_proxy */
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("http_trouble", tests, NULL, NULL);
}
