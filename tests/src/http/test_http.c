/* test_http.c - the HTTP client beside a server that the tests play themselves.
 */
#include "test_http.h"

#include <dirent.h>
#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>

/* --- a request and its answer -------------------------------------------------- */

static void a_request_goes_out_and_its_response_comes_whole(void **state)
{
    struct rig *rig = *state;
    char text[BUFFER];
    tb_http_request request = asking(rig->url);
    request.headers = "X-One: 1\nX-Two: 2\n";
    request.flags = TB_HTTP_POST_METHOD;
    request.body = "bo\0dy";
    request.body_size = 5;
    double id = tb_http_start(rig->http, &request);
    int connection = accept_request(rig, text);
    assert_non_null(strstr(text, "POST /path HTTP/1.1\r\n"));
    assert_non_null(strstr(text, "\r\nX-One: 1\r\nX-Two: 2\r\n"));
    assert_non_null(strstr(text, "\r\nContent-Length: 5\r\n"));
    assert_null(strstr(text, "Expect:"));
    assert_null(strstr(text, "Content-Type:"));
    say(connection, "HTTP/1.1 201 Made\r\nContent-Length: 3\r\nX-Three: 3\r\n\r\n");
    expect_none(rig);
    send(connection, "a\0b", 3, 0);
    tb_http_response response = await(rig, id);
    assert_int_equal(response.outcome, TB_HTTP_DONE);
    assert_int_equal(response.status, 201);
    assert_int_equal(response.body_size, 3);
    assert_memory_equal(response.body, "a\0b", 3);
    assert_memory_equal(response.headers, "Content-Length: 3\r\nX-Three: 3\r\n", 31);
    assert_int_equal(response.was_sent, 1);
    assert_string_equal(response.error, "");
    assert_int_equal(tb_http_release(rig->http, id), 1);
    close(connection);
}

static void the_next_request_takes_the_same_connection(void **state)
{
    struct rig *rig = *state;
    char text[BUFFER];
    double id = start(rig);
    int connection = accept_request(rig, text);
    for (int i = 0; i < 3; i++) {
        say(connection, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_int_equal(await(rig, id).outcome, TB_HTTP_DONE);
        tb_http_release(rig->http, id);
        id = start(rig);
        read_request(rig, connection, text);
    }
    close(connection);
}

static void the_headers_of_an_interim_response_are_forgotten(void **state)
{
    struct rig *rig = *state;
    char text[BUFFER];
    double id = start(rig);
    int connection = accept_request(rig, text);
    say(connection, "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 None\r\nA: b\r\n\r\n");
    tb_http_response response = await(rig, id);
    assert_int_equal(response.status, 204);
    assert_memory_equal(response.headers, "A: b\r\n", 6);
    assert_null(response.body);
    close(connection);
}

/* --- failures -------------------------------------------------------------------- */

static void a_connection_that_ends_half_way_is_broken(void **state)
{
    struct rig *rig = *state;
    char text[BUFFER];
    double id = start(rig);
    int connection = accept_request(rig, text);
    say(connection, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    close(connection);
    tb_http_response response = await(rig, id);
    assert_int_equal(response.outcome, TB_HTTP_BROKEN);
    assert_int_equal(response.body_size, 4);
    assert_true(strlen(response.error) > 0);
}

static void a_body_above_the_limit_is_too_large_announced_or_not(void **state)
{
    static const char *const answers[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n12345678901",
    };
    struct rig *rig = *state;
    char text[BUFFER];
    for (int i = 0; i < 2; i++) {
        tb_http_request request = asking(rig->url);
        request.max_response_bytes = 10;
        double id = tb_http_start(rig->http, &request);
        int connection = accept_request(rig, text);
        say(connection, answers[i]);
        tb_http_response response = await(rig, id);
        assert_int_equal(response.outcome, TB_HTTP_TOO_LARGE);
        assert_string_equal(response.error, "the response is larger than allowed");
        assert_true(is_closed(connection));
        tb_http_release(rig->http, id);
        close(connection);
    }
}

static void a_timeout_is_kept_to_the_microsecond_it_was_asked_for(void **state)
{
    struct rig *rig = *state;
    for (int64_t timeout_us = 300; timeout_us < 30000; timeout_us *= 9) {
        tb_http_request request = asking(rig->url);
        request.timeout_us = timeout_us;
        int64_t before_us = now_us();
        double id = tb_http_start(rig->http, &request);
        int64_t next_us = tb_http_next(rig->http);
        assert_true(next_us <= now_us() + timeout_us); /* the loop is told in time */
        tb_http_response response = await(rig, id);
        assert_true(now_us() - before_us >= timeout_us);
        assert_int_equal(response.outcome, TB_HTTP_TIMEOUT);
        tb_http_release(rig->http, id);
        assert_int_equal(tb_http_next(rig->http), -1);
    }
}

static void a_late_answer_before_the_turn_still_counts(void **state)
{
    struct rig *rig = *state;
    char text[BUFFER];
    tb_http_request request = asking(rig->url);
    request.timeout_us = 400000;
    double id = tb_http_start(rig->http, &request);
    int connection = accept_request(rig, text);
    say(connection, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    while (now_us() < tb_http_next(rig->http)) {
    }
    assert_int_equal(await(rig, id).outcome, TB_HTTP_DONE);
    close(connection);
}

static void nobody_who_listens_is_no_connection(void **state)
{
    struct rig *rig = *state;
    close(rig->listener);
    double id = start(rig);
    tb_http_response response = await(rig, id);
    assert_int_equal(response.outcome, TB_HTTP_CONNECT);
    assert_int_equal(response.was_sent, 0);
    assert_int_equal(response.status, 0);
    rig->listener = socket(AF_INET, SOCK_STREAM, 0);
}

/* --- ids ---------------------------------------------------------------------------- */

static void a_released_request_is_cancelled_and_its_connection_closed(void **state)
{
    struct rig *rig = *state;
    char text[BUFFER];
    double id = start(rig);
    int connection = accept_request(rig, text);
    assert_int_equal(tb_http_release(rig->http, id), 1);
    assert_true(is_closed(connection));
    expect_none(rig);
    assert_int_equal(tb_http_next(rig->http), -1);
    close(connection);
}

static void an_id_is_never_used_twice_and_a_dead_one_is_refused(void **state)
{
    struct rig *rig = *state;
    tb_http_response response;
    double first = start(rig);
    assert_int_equal(tb_http_read(rig->http, first, &response), 0); /* not finished */
    assert_int_equal(tb_http_release(rig->http, first), 1);
    assert_int_equal(tb_http_release(rig->http, first), 0);
    double second = start(rig);
    assert_true(second != first);
    assert_int_equal(tb_http_release(rig->http, first), 0);
    static const double wrong[] = {0, -1, 1e18, 0.5, 4095};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(tb_http_read(rig->http, wrong[i], &response), 0);
        assert_int_equal(tb_http_release(rig->http, wrong[i]), 0);
    }
}

static void finished_ids_come_in_order_and_one_that_is_released_first_does_not(void **state)
{
    struct rig *rig = *state;
    tb_http_request request = asking("http://x/");
    request.unix_socket = "/nonexistent/socket"; /* fails at once */
    double ids[4], finished[4];
    for (int i = 0; i < 4; i++) {
        ids[i] = tb_http_start(rig->http, &request);
    }
    assert_int_equal(tb_http_next(rig->http), 0);
    assert_int_equal(tb_http_release(rig->http, ids[1]), 1);
    assert_int_equal(tb_http_release(rig->http, ids[3]), 1); /* the last in line */
    assert_int_equal(tb_http_turn(rig->http, finished, 1), 1);
    assert_int_equal(tb_http_turn(rig->http, finished + 1, 3), 1);
    assert_true(finished[0] == ids[0] && finished[1] == ids[2]);
    double last = tb_http_start(rig->http, &request);
    assert_int_equal(tb_http_turn(rig->http, finished, 4), 1);
    assert_true(finished[0] == last);
}

static void holds_so_many_requests_and_refuses_the_next(void **state)
{
    struct rig *rig = *state;
    tb_http_request request = asking("http://x/");
    request.unix_socket = "/nonexistent/socket";
    double last = 0;
    for (int i = 0; i < TB_HTTP_CAPACITY; i++) {
        last = tb_http_start(rig->http, &request);
        assert_true(last > 0);
    }
    assert_true(tb_http_start(rig->http, &request) == TB_HTTP_EFULL);
    assert_int_equal(tb_http_release(rig->http, last), 1);
    assert_true(tb_http_start(rig->http, &request) > 0);
}

static void what_is_no_http_url_is_refused(void **state)
{
    static const char *const urls[] = {"", "http://", "ftp://x/", "file:///etc/passwd", "http://[::1",
                                       "http://x:99999/", "//x"};
    struct rig *rig = *state;
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        tb_http_request request = asking(urls[i]);
        assert_true(tb_http_start(rig->http, &request) == TB_HTTP_EURL);
    }
    assert_int_equal(tb_http_next(rig->http), -1);
}

static void an_unfinished_request_is_no_leak(void **state)
{
    struct rig *rig = *state; /* tear_down frees the client: the sanitizers look */
    start(rig);
    start(rig);
    tb_http_free(NULL);
    assert_int_equal(tb_http_abi(), TB_HTTP_ABI);
}

/* --- a name look-up that takes long ----------------------------------------------- */

static pthread_mutex_t look_up = PTHREAD_MUTEX_INITIALIZER;

/* Stands before the C library's for libcurl, too: "slow.test" takes as long as the lock
 * is held. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **result)
{
    if (node && strcmp(node, "slow.test") == 0) {
        pthread_mutex_lock(&look_up);
        pthread_mutex_unlock(&look_up);
        return EAI_NONAME;
    }
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(node, service, hints, result);
}

static int thread_count(void)
{
    int n = 0;
    DIR *tasks = opendir("/proc/self/task");
    while (readdir(tasks)) {
        n++;
    }
    closedir(tasks);
    return n;
}

static void a_slow_name_look_up_holds_up_nobody(void **state)
{
    struct rig *rig = *state;
    int threads = thread_count();
    pthread_mutex_lock(&look_up);
    tb_http_request request = asking("http://slow.test/");
    request.timeout_us = 5000;
    double timed_out = tb_http_start(rig->http, &request);
    assert_int_equal(await(rig, timed_out).outcome, TB_HTTP_TIMEOUT); /* or alarm() ends it */
    request.timeout_us = 0;
    double cancelled = tb_http_start(rig->http, &request);
    assert_int_equal(tb_http_release(rig->http, cancelled), 1);
    pthread_mutex_unlock(&look_up);
    while (thread_count() > threads) { /* its threads end by themselves */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(a_request_goes_out_and_its_response_comes_whole),
        WITH_RIG(the_next_request_takes_the_same_connection),
        WITH_RIG(the_headers_of_an_interim_response_are_forgotten),
        WITH_RIG(a_connection_that_ends_half_way_is_broken),
        WITH_RIG(a_body_above_the_limit_is_too_large_announced_or_not),
        WITH_RIG(a_timeout_is_kept_to_the_microsecond_it_was_asked_for),
        WITH_RIG(a_late_answer_before_the_turn_still_counts),
        WITH_RIG(nobody_who_listens_is_no_connection),
        WITH_RIG(a_released_request_is_cancelled_and_its_connection_closed),
        WITH_RIG(an_id_is_never_used_twice_and_a_dead_one_is_refused),
        WITH_RIG(finished_ids_come_in_order_and_one_that_is_released_first_does_not),
        WITH_RIG(holds_so_many_requests_and_refuses_the_next),
        WITH_RIG(what_is_no_http_url_is_refused),
        WITH_RIG(an_unfinished_request_is_no_leak),
        WITH_RIG(a_slow_name_look_up_holds_up_nobody),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
