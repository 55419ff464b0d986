/* test_engine_listen.c - an engine that is looked at over HTTP, on the program's loop.
 */
#include "test_engine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum { ANSWER = 65536 };

static int join(tb_engine *engine)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    at.sin_port = htons((uint16_t)atoi(strrchr(tb_engine_address(engine), ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

static void ask(int fd, const char *path)
{
    char text[TEXT];
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Run the loop until the answer holds `end`, or the connection has ended. */
static const char *hear(struct ev_loop *loop, int fd, const char *end)
{
    static char text[ANSWER];
    size_t size = 0;
    text[0] = '\0';
    while (!strstr(text, end)) {
        ev_run(loop, EVRUN_NOWAIT);
        ssize_t got = recv(fd, text + size, sizeof text - 1 - size, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN)) break;
        size += got > 0 ? (size_t)got : 0;
        text[size] = '\0';
    }
    return text;
}

static void it_serves_what_the_engine_does(void **state)
{
    struct rig *rig = *state;
    char err[TEXT] = "stale";
    tb_engine *engine = engine_on(rig->loop, ECHO "name = 'mine', batch_timeout_s = 0");
    assert_string_equal(tb_engine_address(engine), "");
    assert_int_equal(tb_engine_listen(engine, "127.0.0.1:0", err, TEXT), TB_OK);
    assert_string_equal(err, "");
    assert_memory_equal(tb_engine_address(engine), "127.0.0.1:", 10);
    must_submit(engine, "a", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 1);
    int fd = join(engine);
    ask(fd, "/metrics");
    assert_contains(hear(rig->loop, fd, "latency_seconds_count"), "tokenbatcher_completed_total{name=\"mine\"} 1\n");
    ask(fd, "/ready");
    assert_contains(hear(rig->loop, fd, "}"), "{\"status\":\"ready\"}");
    ask(fd, "/");
    assert_contains(hear(rig->loop, fd, "<title>"), "text/html");
    close(fd);
    tb_engine_free(engine);
}

/* ev_run() returns when the engine has stopped, whoever reads; they see the end. */
static void readers_keep_no_loop_going(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, ECHO "batch_timeout_s = 0");
    assert_int_equal(tb_engine_listen(engine, "127.0.0.1:0", NULL, 0), TB_OK);
    int fd = join(engine);
    ask(fd, "/events");
    hear(rig->loop, fd, "event: state");
    must_submit(engine, "a", &rig->notes);
    assert_int_equal(tb_engine_stop(engine, -1, on_stopped, &rig->notes), TB_OK);
    ev_run(rig->loop, 0);
    assert_int_equal(rig->notes.results, 1);
    assert_int_equal(rig->notes.stops, 1);
    hear(rig->loop, fd, "never");
    close(fd);
    tb_engine_free(engine);
}

static void it_may_be_freed_before_its_readers_leave(void **state)
{
    struct rig *rig = *state;
    tb_engine *engine = engine_on(rig->loop, ECHO);
    assert_int_equal(tb_engine_listen(engine, "127.0.0.1:0", NULL, 0), TB_OK);
    int reader = join(engine), silent = join(engine), half = join(engine);
    ask(reader, "/events");
    hear(rig->loop, reader, "event: state");
    assert_int_equal(send(half, "GET /sta", 8, MSG_NOSIGNAL), 8);
    ev_run(rig->loop, EVRUN_NOWAIT);
    tb_engine_free(engine);
    hear(rig->loop, reader, "never");
    close(reader);
    close(silent);
    close(half);
}

static void refused(tb_engine *engine, const char *address, int expected, const char *sentence)
{
    char err[TEXT] = "";
    assert_int_equal(tb_engine_listen(engine, address, err, TEXT), expected);
    assert_contains(err, sentence);
    assert_string_equal(tb_engine_message(engine), err);
}

static void what_is_wrong_with_an_address_is_said(void **state)
{
    struct rig *rig = *state;
    char elsewhere[TEXT];
    tb_engine *engine = engine_on(rig->loop, ECHO), *other = engine_on(rig->loop, ECHO);
    refused(engine, "9464", TB_EOPTION, "got \"9464\"");
    refused(engine, "0.0.0.0:0", TB_EOPTION, "0.0.0.0:0 can be reached from other machines");
    refused(engine, "unix:/nowhere/at/all", TB_ENGINE_ELISTEN, "cannot listen at unix:/nowhere/at/all");
    assert_string_equal(tb_engine_address(engine), "");
    assert_int_equal(tb_engine_listen(other, "127.0.0.1:0", NULL, 0), TB_OK);
    snprintf(elsewhere, sizeof elsewhere, "%s", tb_engine_address(other));
    refused(engine, elsewhere, TB_ENGINE_ELISTEN, "somebody listens there already");
    refused(other, "127.0.0.1:0", TB_ENGINE_ELISTEN, "it listens already, at 127.0.0.1:");
    tb_engine_free(other);
    assert_int_equal(tb_engine_listen(engine, elsewhere, NULL, 0), TB_OK);
    assert_string_equal(tb_engine_address(engine), elsewhere);
    tb_engine_free(engine);
}

static tb_engine *called_engine;
static int called_error;

__attribute__((visibility("default"))) void test_listen_beneath(void);
void test_listen_beneath(void)
{
    called_error = tb_engine_listen(called_engine, "127.0.0.1:0", NULL, 0);
}

static void a_script_cannot_make_it_listen(void **state)
{
    struct rig *rig = *state;
    called_engine = engine_on(rig->loop, "batch_timeout_s = 0, inference_fn = function(r) local ffi = require 'ffi' "
                                         "ffi.cdef 'void test_listen_beneath(void);' ffi.C.test_listen_beneath() "
                                         "return { 'x' } end");
    must_submit(called_engine, "a", &rig->notes);
    run_until(rig->loop, &rig->notes.results, 1);
    assert_int_equal(called_error, TB_ENGINE_EBUSY);
    tb_engine_free(called_engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_RIG(it_serves_what_the_engine_does),
        WITH_RIG(readers_keep_no_loop_going),
        WITH_RIG(it_may_be_freed_before_its_readers_leave),
        WITH_RIG(what_is_wrong_with_an_address_is_said),
        WITH_RIG(a_script_cannot_make_it_listen),
    };
    alarm(HANGS_AFTER_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
