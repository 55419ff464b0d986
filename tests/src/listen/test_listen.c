/* test_listen.c - the HTTP server: requests, streams, and where it listens.
 */
#include "test_listen.h"

#include <dirent.h>

/* --- a request and its answer ---------------------------------------------------- */

static void a_request_comes_whole_and_its_answer_goes_out(void **state)
{
    struct rig *rig = *state;
    int fd = join(rig);
    say(fd, "GET /a%20b?x=1&after=2%2e5 HTTP/1.1\r\nHost: localhost:1\r\n\r\n");
    double id = await_request(rig);
    tb_listen_request request = read_request(rig, id);
    assert_string_equal(request.method, "GET");
    assert_string_equal(request.path, "/a b");
    assert_string_equal(request.host, "localhost:1");
    assert_string_equal(request.local, "127.0.0.1");
    assert_null(request.body);
    assert_string_equal(tb_listen_argument(rig->listen, id, "after"), "2.5");
    assert_null(tb_listen_argument(rig->listen, id, "before"));
    answer(rig, id, "text");
    assert_null(tb_listen_argument(rig->listen, id, "after"));
    const char *text = hear(rig, fd, "text");
    assert_memory_equal(text, "HTTP/1.1 200 OK\r\n", 17);
    assert_non_null(strstr(text, "\r\nContent-Type: text/plain\r\n"));
    assert_non_null(strstr(text, "\r\nX-One: 1\r\n"));
    assert_non_null(strstr(text, "\r\nContent-Length: 4\r\n"));
    assert_int_equal(tb_listen_read(rig->listen, id, &request), 0);
    assert_int_equal(tb_listen_answer(rig->listen, id, &(tb_listen_response){.status = 200}), TB_LISTEN_EGONE);
    close(fd);
}

static void a_host_that_is_said_twice_is_none(void **state)
{
    static const char *const SAID[] = {"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
                                       "GET / HTTP/1.1\r\nHost: evil\r\nhOST: localhost\r\n\r\n"};
    struct rig *rig = *state;
    for (size_t i = 0; i < sizeof SAID / sizeof SAID[0]; i++) {
        int fd = join(rig);
        say(fd, SAID[i]);
        double id = await_request(rig);
        assert_string_equal(read_request(rig, id).host, "");
        answer(rig, id, "text");
        hear(rig, fd, "text");
        close(fd);
    }
}

static void a_nul_in_a_path_ends_nothing(void **state)
{
    struct rig *rig = *state;
    int fd = join(rig);
    say(fd, "GET /a%00b?after=1%00 HTTP/1.1\r\nHost: x\r\n\r\n");
    double id = await_request(rig);
    assert_string_equal(read_request(rig, id).path, "/a%00b");
    assert_string_equal(tb_listen_argument(rig->listen, id, "after"), "1%00");
    answer(rig, id, "text");
    close(fd);
}

static void the_same_connection_asks_again_under_another_id(void **state)
{
    struct rig *rig = *state;
    int fd = join(rig);
    double former = 0;
    for (int i = 0; i < 3; i++) {
        say(fd, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        double id = await_request(rig);
        assert_true(id != former);
        answer(rig, id, "text");
        hear(rig, fd, "text");
        former = id;
    }
    close(fd);
}

static void requests_that_came_at_once_are_answered_in_their_order(void **state)
{
    struct rig *rig = *state;
    int fd = join(rig);
    say(fd, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n");
    double id = await_request(rig);
    assert_string_equal(read_request(rig, id).path, "/1");
    answer(rig, id, "one");
    id = await_request(rig);
    assert_string_equal(read_request(rig, id).path, "/2");
    answer(rig, id, "two");
    const char *text = hear(rig, fd, "two");
    assert_true(strstr(text, "one") < strstr(text, "two"));
    close(fd);
}

static void a_body_comes_whole_and_one_that_is_too_large_is_dropped(void **state)
{
    struct rig *rig = *state;
    char head[128];
    for (int i = 0; i < 2; i++) {
        int fd = join(rig), size = i == 0 ? TB_LISTEN_BODY_BYTES : TB_LISTEN_BODY_BYTES + 1;
        char *body = malloc((size_t)size);
        memset(body, 'a', (size_t)size);
        snprintf(head, sizeof head, "POST /set HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size);
        say(fd, head);
        assert_int_equal(send(fd, body, (size_t)size, 0), size);
        double id = await_request(rig);
        tb_listen_request request = read_request(rig, id);
        assert_int_equal(request.is_too_large, i);
        assert_int_equal(request.body_size, i == 0 ? size : 0);
        if (i == 0) {
            assert_memory_equal(request.body, body, (size_t)size);
        }
        answer(rig, id, "text");
        hear(rig, fd, "text");
        free(body);
        close(fd);
    }
}

static void a_head_is_told_the_length_and_sent_no_body(void **state)
{
    struct rig *rig = *state;
    int fd = join(rig);
    say(fd, "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    answer(rig, await_request(rig), "text");
    const char *text = hear(rig, fd, "never");
    assert_non_null(strstr(text, "Content-Length: 4\r\n"));
    assert_null(strstr(text, "text\r"));
    assert_string_equal(text + strlen(text) - 4, "\r\n\r\n");
    close(fd);
}

static void as_many_are_reported_as_are_asked_for(void **state)
{
    struct rig *rig = *state;
    int fds[3];
    double ids[3];
    uint32_t n = 0;
    for (int i = 0; i < 3; i++) {
        fds[i] = join(rig);
        say(fds[i], "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    while (n < 3) {
        uint32_t got = wait_and_turn(rig, ids + n, 1, 1000);
        assert_true(got <= 1);
        n += got;
    }
    assert_true(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    for (int i = 0; i < 3; i++) {
        answer(rig, ids[i], "text");
    }
    for (int i = 0; i < 3; i++) {
        hear(rig, fds[i], "text");
        close(fds[i]);
    }
}

/* --- streams ------------------------------------------------------------------- */

static void a_stream_is_added_to_until_it_is_ended(void **state)
{
    struct rig *rig = *state;
    int fd = join(rig);
    double id = open_stream(rig, fd);
    const char *text = hear(rig, fd, "begin\r\n");
    assert_non_null(strstr(text, "Transfer-Encoding: chunked"));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(tb_listen_send(rig->listen, id, "more", 4), 0);
        hear(rig, fd, "more\r\n");
        assert_int_equal(tb_listen_pending(rig->listen, id), 0);
    }
    assert_int_equal(tb_listen_send(rig->listen, id, "last", 4), 0);
    assert_int_equal(tb_listen_end(rig->listen, id), 0);
    assert_int_equal(tb_listen_send(rig->listen, id, "no", 2), TB_LISTEN_EGONE);
    text = hear(rig, fd, "\r\n0\r\n\r\n");
    assert_non_null(strstr(text, "last"));
    say(fd, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    answer(rig, await_request(rig), "text");
    hear(rig, fd, "text");
    close(fd);
}

static void a_reader_who_has_left_is_gone_at_the_next_bytes(void **state)
{
    struct rig *rig = *state;
    int fd = join(rig);
    double id = open_stream(rig, fd), none;
    hear(rig, fd, "begin");
    close(fd);
    while (tb_listen_send(rig->listen, id, "more", 4) != TB_LISTEN_EGONE) {
        wait_and_turn(rig, &none, 1, 1);
    }
    assert_int_equal(tb_listen_pending(rig->listen, id), TB_LISTEN_EGONE);
    assert_int_equal(tb_listen_end(rig->listen, id), TB_LISTEN_EGONE);
}

/* --- where it listens -------------------------------------------------------------- */

static int open_at(tb_listen **out, tb_listen_options options, char *err)
{
    return tb_listen_open(out, &options, err, 256);
}

static void an_address_that_is_wrong_taken_or_remote_is_refused(void **state)
{
    struct rig *rig = *state;
    tb_listen *other;
    char err[256];
    assert_int_equal(open_at(&other, (tb_listen_options){.host = "localhost"}, err), TB_LISTEN_EADDRESS);
    assert_int_equal(open_at(&other, (tb_listen_options){.host = "127.0.0.1", .port = 65536}, err),
                     TB_LISTEN_EADDRESS);
    assert_int_equal(open_at(&other, (tb_listen_options){.host = "127.0.0.1", .port = rig->port}, err),
                     TB_LISTEN_EINUSE);
    assert_null(other);
    assert_string_equal(err, "somebody listens there already");
    assert_int_equal(open_at(&other, (tb_listen_options){.host = "0.0.0.0"}, err), TB_LISTEN_EREMOTE);
    assert_int_equal(open_at(&other, (tb_listen_options){.host = "::"}, err), TB_LISTEN_EREMOTE);
    assert_int_equal(open_at(&other, (tb_listen_options){.host = "192.0.2.1", .flags = TB_LISTEN_REMOTE}, err),
                     TB_LISTEN_ESYSTEM); /* not of this machine */
    assert_int_equal(open_at(&other, (tb_listen_options){.host = "0.0.0.0", .flags = TB_LISTEN_REMOTE}, err), 0);
    assert_memory_equal(tb_listen_address(other), "0.0.0.0:", 8);
    tb_listen_free(other);
}

static void a_unix_socket_is_private_replaces_a_stale_one_and_goes(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_listenXXXXXX", path[64], err[256];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/s", folder);
    tb_listen *listen, *other;
    struct stat there;
    mode_t mask = umask(0);
    assert_int_equal(open_at(&listen, (tb_listen_options){.path = path}, err), 0);
    umask(mask);
    assert_int_equal(stat(path, &there), 0);
    assert_int_equal(there.st_mode & 07777, 0600);
    assert_int_equal(open_at(&other, (tb_listen_options){.path = path}, err), TB_LISTEN_EINUSE);
    tb_listen_free(listen);
    assert_int_equal(stat(path, &there), -1);

    int stale = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strcpy(at.sun_path, path);
    assert_int_equal(bind(stale, (struct sockaddr *)&at, sizeof at), 0);
    close(stale);
    assert_int_equal(open_at(&listen, (tb_listen_options){.path = path}, err), 0);
    tb_listen_free(listen);

    FILE *file = fopen(path, "w");
    fclose(file);
    assert_int_equal(open_at(&listen, (tb_listen_options){.path = path}, err), TB_LISTEN_EINUSE);
    assert_int_equal(stat(path, &there), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void a_file_that_is_another_s_stays_when_it_closes(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_listenXXXXXX", path[64], err[256];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/s", folder);
    tb_listen *listen, *other;
    assert_int_equal(open_at(&listen, (tb_listen_options){.path = path}, err), 0);
    unlink(path);
    assert_int_equal(open_at(&other, (tb_listen_options){.path = path}, err), 0);
    tb_listen_free(listen);
    struct stat there;
    assert_int_equal(stat(path, &there), 0);
    tb_listen_free(other);
    assert_int_equal(rmdir(folder), 0);
}

static int open_descriptors(void)
{
    int n = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder)) {
        n++;
    }
    closedir(folder);
    return n;
}

static void closing_leaves_nothing_whatever_was_under_way(void **state)
{
    (void)state;
    int before = open_descriptors(), fds[4];
    void *inner = NULL;
    assert_int_equal(set_up(&inner), 0);
    struct rig *rig = inner;
    for (int i = 0; i < 4; i++) {
        fds[i] = join(rig);
    }
    double none;
    open_stream(rig, fds[0]);
    hear(rig, fds[0], "begin\r\n");
    say(fds[1], "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    await_request(rig); /* reported, and never answered */
    say(fds[2], "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_and_turn(rig, &none, 0, 100); /* asked, and not reported */
    say(fds[3], "GET / HT");
    wait_and_turn(rig, &none, 0, 100);
    tear_down(&inner);
    for (int i = 0; i < 4; i++) {
        char bytes[64];
        if (i == 0) { /* the stream ends as one */
            ssize_t got = recv(fds[i], bytes, sizeof bytes, 0);
            assert_true(got >= 5);
            assert_memory_equal(bytes + got - 5, "0\r\n\r\n", 5);
        }
        assert_true(recv(fds[i], bytes, sizeof bytes, 0) <= 0);
        close(fds[i]);
    }
    assert_int_equal(open_descriptors(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_request_comes_whole_and_its_answer_goes_out),
        TEST(a_host_that_is_said_twice_is_none),
        TEST(a_nul_in_a_path_ends_nothing),
        TEST(the_same_connection_asks_again_under_another_id),
        TEST(requests_that_came_at_once_are_answered_in_their_order),
        TEST(a_body_comes_whole_and_one_that_is_too_large_is_dropped),
        TEST(a_head_is_told_the_length_and_sent_no_body),
        TEST(as_many_are_reported_as_are_asked_for),
        TEST(a_stream_is_added_to_until_it_is_ended),
        TEST(a_reader_who_has_left_is_gone_at_the_next_bytes),
        TEST(an_address_that_is_wrong_taken_or_remote_is_refused),
        cmocka_unit_test(a_unix_socket_is_private_replaces_a_stale_one_and_goes),
        cmocka_unit_test(a_file_that_is_another_s_stays_when_it_closes),
        cmocka_unit_test(closing_leaves_nothing_whatever_was_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
