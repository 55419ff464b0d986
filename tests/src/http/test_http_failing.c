/* test_http_failing.c - the HTTP client when memory, descriptors and libcurl's handles run out: a request is
 * refused, or ends with an outcome and a sentence; the next one works.
 */
#include "../failing.h"
#include "test_http.h"

#include <curl/curl.h>
#include <sys/epoll.h>

#undef curl_easy_init

FAILING(int, epoll_create1, -1, (int flags), (flags))
FAILING_IF(what != EPOLL_CTL_DEL, int, epoll_ctl, -1, (int set, int what, int fd, struct epoll_event *event),
           (set, what, fd, event))
FAILING(CURLcode, curl_global_init, CURLE_OUT_OF_MEMORY, (long flags), (flags))
FAILING(CURLM *, curl_multi_init, NULL, (void), ())
FAILING(CURL *, curl_easy_init, NULL, (void), ())
FAILING(CURLU *, curl_url, NULL, (void), ())
FAILING(CURLMcode, curl_multi_add_handle, CURLM_OUT_OF_MEMORY, (CURLM * multi, CURL *easy), (multi, easy))
FAILING(struct curl_slist *, curl_slist_append, NULL, (struct curl_slist * list, const char *text), (list, text))

enum { BODY = 200000 };

static struct rig rig;
static char *answer; /* a whole one, with a body that is larger than any first buffer */

static void new_in_spite(void)
{
    rig.http = tb_http_new();
    if (rig.http) return;
    assert_true(recovers());
    rig.http = tb_http_new();
    assert_non_null(rig.http);
}

static double start_in_spite(const tb_http_request *request)
{
    double id = tb_http_start(rig.http, request);
    if (id > 0) return id;
    if (id != TB_HTTP_EMEMORY) fail_msg("call %d: %.0f", (int)fail_at, id);
    assert_true(recovers());
    id = tb_http_start(rig.http, request);
    assert_true(id > 0);
    return id;
}

/* Accepts, sends the answer bit by bit once something was asked, and turns until the request has ended. */
static tb_http_response play(double id)
{
    int connection = -1;
    size_t sent = 0, size = strlen(answer);
    bool was_asked = false;
    double finished = 0;
    uint32_t n = 0;
    char text[4096];
    while (n == 0) {
        if (connection < 0) connection = accept(rig.listener, NULL, NULL);
        ssize_t came = connection >= 0 ? recv(connection, text, sizeof text, MSG_DONTWAIT) : -1;
        was_asked = was_asked || came > 0;
        if (came == 0 && !was_asked) { /* it was given up before it was accepted */
            close(connection);
            connection = -1;
        }
        if (was_asked && sent < size) {
            ssize_t done = send(connection, answer + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
            sent += done > 0 ? (size_t)done : 0;
        }
        struct pollfd p = {.fd = tb_http_fd(rig.http), .events = POLLIN};
        poll(&p, 1, 1);
        n = tb_http_turn(rig.http, &finished, 1);
    }
    assert_true(finished == id);
    if (connection >= 0) close(connection);
    tb_http_response response;
    assert_int_equal(tb_http_read(rig.http, id, &response), 1);
    return response;
}

static void story(void)
{
    static const char HEADERS[] = "X-One: 1\nX-Two: 2\n";
    tb_http_request request = {.url = rig.url, .headers = HEADERS, .body = "a body", .body_size = 6,
                               .max_response_bytes = 2 * BODY, .timeout_us = 30LL * US_PER_S,
                               .flags = TB_HTTP_POST_METHOD};
    new_in_spite();
    for (int i = 0; i < 3; i++) {
        double id = start_in_spite(&request);
        tb_http_response response = play(id);
        bool is_done = response.outcome == TB_HTTP_DONE;
        if (is_done) assert_true(response.status == 200 && response.body_size == BODY);
        assert_int_equal(is_done, response.error[0] == '\0');
        if (!is_done) assert_true(recovers());
        assert_int_equal(tb_http_release(rig.http, id), 1);
        if (is_done) break;
        assert_true(i < 2);
    }
    tb_http_free(rig.http);
}

static void whatever_fails_the_next_request_works(void **state)
{
    (void)state;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    rig.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(rig.listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(rig.listener, 16), 0);
    assert_int_equal(getsockname(rig.listener, (struct sockaddr *)&at, &size), 0);
    snprintf(rig.url, sizeof rig.url, "http://127.0.0.1:%d/path", ntohs(at.sin_port));
    answer = calloc(1, BODY + 200);
    assert_non_null(answer);
    int head = sprintf(answer, "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", BODY);
    memset(answer + head, 'x', BODY);
    uint64_t calls = tell_until_nothing_fails(story);
    print_message("  %d calls, each of them failed once\n", (int)calls);
    assert_true(calls >= 12);
    free(answer);
    close(rig.listener);
}

/* Time in which nobody could look does not count. */
static void excused_time_does_not_count(void **state)
{
    struct rig *own = *state;
    tb_http_request request = asking(own->url);
    request.timeout_us = 10LL * US_PER_S;
    double id = tb_http_start(own->http, &request);
    assert_true(id > 0);
    int64_t before = tb_http_next(own->http);
    tb_http_excuse(own->http, 3600LL * US_PER_S);
    while (tb_http_next(own->http) == 0) expect_none(own);
    int64_t now = now_us(), next = tb_http_next(own->http);
    assert_true(before == 0 || before <= now + 11LL * US_PER_S);
    assert_true(next < 0 || next > now); /* libcurl's own timers come earlier, and end nothing */
    while (now_us() < now + 50000) expect_none(own);
    assert_int_equal(tb_http_release(own->http, id), 1);
    tb_http_excuse(own->http, 1);
    assert_int_equal(tb_http_abi(), TB_HTTP_ABI);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_fails_the_next_request_works),
        WITH_RIG(excused_time_does_not_count),
    };
    alarm(2 * HANGS_AFTER_S);
    return cmocka_run_group_tests_name("http_failing", tests, NULL, NULL);
}
