/* test_listen_trouble.c - the HTTP server, and clients that are slow, many or hostile.
 */
#include "test_listen.h"

/* What is kept for it is bounded, and it is closed after its time; the others go on. */
static void a_reader_who_does_not_read_is_closed(void **state)
{
    struct rig *rig = *state;
    int fd = join(rig), other = join(rig), refusal;
    double id = open_stream(rig, fd), none;
    static char bytes[65536];
    memset(bytes, 'b', sizeof bytes);
    int64_t until_us = now_us() + 60 * (int64_t)US_PER_S, most = 0;
    bool was_full = false;
    while ((refusal = tb_listen_send(rig->listen, id, bytes, sizeof bytes)) != TB_LISTEN_EGONE) {
        assert_true(now_us() < until_us);
        was_full = was_full || refusal == TB_LISTEN_EFULL;
        int64_t pending = tb_listen_pending(rig->listen, id);
        most = pending > most ? pending : most;
        assert_int_equal(wait_and_turn(rig, &none, 1, 10), 0);
    }
    assert_true(was_full);
    assert_true(most <= TB_LISTEN_STREAM_BYTES);
    say(other, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    answer(rig, await_request(rig), "text");
    hear(rig, other, "text");
    close(fd);
    close(other);
}

static void a_request_that_does_not_come_whole_is_closed_after_its_time(void **state)
{
    struct rig *rig = *state;
    int quiet = join(rig), slow = join(rig);
    int64_t begun_us = now_us(), said_us = 0;
    say(slow, "GET / HTTP/1.1\r\nHost: x\r\n");
    bool is_open = true;
    while (is_open) { /* a byte a while keeps nobody */
        double id;
        char byte;
        assert_int_equal(wait_and_turn(rig, &id, 1, 100), 0);
        if (now_us() - said_us > US_PER_S) {
            said_us = now_us();
            send(slow, "a", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        ssize_t got = recv(slow, &byte, 1, MSG_DONTWAIT);
        is_open = got < 0 && errno == EAGAIN;
    }
    assert_true(now_us() - begun_us >= 14 * (int64_t)US_PER_S);
    await_end(rig, quiet);
    assert_int_equal(tb_listen_next(rig->listen), -1);
    close(quiet);
    close(slow);
}

static void those_above_the_limit_are_told_and_closed(void **state)
{
    struct rig *rig = *state;
    int fds[TB_LISTEN_CONNECTIONS], more;
    double id;
    for (int i = 0; i < TB_LISTEN_CONNECTIONS; i++) {
        fds[i] = join(rig);
        wait_and_turn(rig, &id, 1, 0);
    }
    for (int i = 0; i < 5; i++) {
        more = join(rig);
        const char *text = hear(rig, more, "never");
        assert_memory_equal(text, "HTTP/1.1 503 ", 13);
        assert_non_null(strstr(text, "\r\n\r\n{\"error\":{\"message\":\"too many connections at once\"}}\n"));
        close(more);
    }
    close(fds[0]); /* its place is another's, once that was seen */
    bool is_taken = false;
    while (!is_taken) {
        more = join(rig);
        say(more, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        while (!is_taken && recv(more, rig->text, 1, MSG_DONTWAIT | MSG_PEEK) < 0) {
            is_taken = wait_and_turn(rig, &id, 1, 1) == 1;
        }
        if (is_taken) {
            answer(rig, id, "text");
            hear(rig, more, "text");
        }
        close(more);
    }
    for (int i = 1; i < TB_LISTEN_CONNECTIONS; i++) {
        close(fds[i]);
    }
}

static void garbage_is_closed_and_harms_nobody_else(void **state)
{
    static const char *const garbage[] = {
        "\r\n\r\n\r\n\r\n garbage \r\n\r\n", "GET\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "GET / HTTP/1.1\r\nHost x\r\n: y\r\n\r\n",
    };
    struct rig *rig = *state;
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        int fd = join(rig);
        double id;
        say(fd, garbage[i]);
        shutdown(fd, SHUT_WR);
        char byte;
        ssize_t got;
        do {
            if (wait_and_turn(rig, &id, 1, 1) == 1) { /* it made sense to libmicrohttpd */
                answer(rig, id, "text");
            }
            got = recv(fd, &byte, 1, MSG_DONTWAIT);
        } while (got > 0 || (got < 0 && errno == EAGAIN));
        close(fd);
    }
    int fd = join(rig);
    say(fd, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    answer(rig, await_request(rig), "text");
    hear(rig, fd, "text");
    close(fd);
}

static void headers_above_the_limit_are_refused(void **state)
{
    struct rig *rig = *state;
    int fd = join(rig);
    double id;
    say(fd, "GET / HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < 2000; i++) {
        send(fd, "X-Large: 0123456789012345678901234567890\r\n", 41, MSG_NOSIGNAL | MSG_DONTWAIT);
        assert_int_equal(wait_and_turn(rig, &id, 1, 0), 0);
    }
    const char *text = hear(rig, fd, "never");
    assert_true(text[0] == '\0' || strncmp(text, "HTTP/1.1 4", 10) == 0);
    close(fd);
}

/* A client that leaves while its request waits, and one whose answer nobody takes. */
static void an_answer_to_who_has_left_harms_nobody(void **state)
{
    struct rig *rig = *state;
    int fd = join(rig);
    double none;
    say(fd, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    double id = await_request(rig);
    struct linger at_once = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
    answer(rig, id, "text");
    for (int i = 0; i < 10; i++) {
        assert_int_equal(wait_and_turn(rig, &none, 1, 1), 0);
    }
    assert_int_equal(tb_listen_next(rig->listen), -1);
}

static void without_descriptors_it_is_deaf_for_a_while(void **state)
{
    struct rig *rig = *state;
    struct rlimit former, low;
    int fd = join(rig);
    double id;
    getrlimit(RLIMIT_NOFILE, &former);
    low = former;
    low.rlim_cur = (rlim_t)fd + 1;
    setrlimit(RLIMIT_NOFILE, &low);
    say(fd, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(wait_and_turn(rig, &id, 1, 1000), 0);
    assert_true(tb_listen_next(rig->listen) > 0);
    struct pollfd wait = {.fd = tb_listen_fd(rig->listen), .events = POLLIN};
    assert_int_equal(poll(&wait, 1, 0), 0); /* nobody spins */
    setrlimit(RLIMIT_NOFILE, &former);
    answer(rig, await_request(rig), "text");
    hear(rig, fd, "text");
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_reader_who_does_not_read_is_closed),
        TEST(a_request_that_does_not_come_whole_is_closed_after_its_time),
        TEST(those_above_the_limit_are_told_and_closed),
        TEST(garbage_is_closed_and_harms_nobody_else),
        TEST(headers_above_the_limit_are_refused),
        TEST(an_answer_to_who_has_left_harms_nobody),
        TEST(without_descriptors_it_is_deaf_for_a_while),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
