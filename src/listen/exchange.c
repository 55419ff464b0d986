/* exchange.c - one request and its answer, from the handler to the last byte.
 */
#include "server.h"

#include "../base/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { BLOCK = 16384, ANSWER_S = 30, STREAM_S = 10, FIRST_ROOM = 4096, HEADER_LINE = 1024 };

static void copy_text(char *out, size_t size, const char *text)
{
    size_t length = text ? strnlen(text, size - 1) : 0;
    memcpy(out, text ? text : "", length);
    out[length] = '\0';
}

/* --- asking -------------------------------------------------------------------- */

struct hosts {
    const char *value;
    int n;
};

static enum MHD_Result on_header(void *user, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct hosts *hosts = user;
    (void)kind;
    if (strcasecmp(name, MHD_HTTP_HEADER_HOST) == 0) {
        *hosts = (struct hosts){value, hosts->n + 1};
    }
    return MHD_YES;
}

/* Who says it twice has said none: others may take the other one. */
static void read_host(struct tb__exchange *exchange)
{
    struct hosts hosts = {0};
    MHD_get_connection_values(exchange->connection, MHD_HEADER_KIND, on_header, &hosts);
    bool is_one = hosts.n == 1 && hosts.value && strlen(hosts.value) < sizeof exchange->host;
    copy_text(exchange->host, sizeof exchange->host, is_one ? hosts.value : "");
}

struct tb__exchange *tb__exchange_begin(tb_listen *listen, struct MHD_Connection *connection, struct tb__peer *peer)
{
    struct tb__exchange *exchange = tb__slots_take(&listen->exchanges);
    if (!exchange) {
        return NULL;
    }
    struct tb__slot taking = exchange->taking;
    *exchange = (struct tb__exchange){
        .taking = taking, .listen = listen, .connection = connection, .peer = peer, .state = TB__READING};
    read_host(exchange);
    peer->exchange = exchange;
    return exchange;
}

struct tb__exchange *tb__exchange_find(const tb_listen *listen, double id)
{
    return id > 0 && id < 0x1p53 ? tb__slots_find(&listen->exchanges, (int64_t)id) : NULL;
}

void tb__exchange_add_body(struct tb__exchange *exchange, const char *bytes, size_t size)
{
    assert(exchange->state == TB__READING);
    if (!exchange->is_too_large && exchange->body_size + size <= TB_LISTEN_BODY_BYTES) {
        char *grown = realloc(exchange->body, exchange->body_size + size);
        if (grown) {
            memcpy(grown + exchange->body_size, bytes, size);
            exchange->body = grown;
            exchange->body_size += size;
            return;
        }
    }
    free(exchange->body);
    exchange->body = NULL;
    exchange->body_size = 0;
    exchange->is_too_large = true;
}

void tb__exchange_ask(struct tb__exchange *exchange)
{
    tb_listen *listen = exchange->listen;
    assert(exchange->state == TB__READING);
    MHD_suspend_connection(exchange->connection);
    exchange->is_suspended = true;
    exchange->state = TB__ASKED;
    exchange->peer->deadline_us = 0;
    exchange->next = NULL;
    *listen->last_asked = exchange;
    listen->last_asked = &exchange->next;
}

static void leave_line(tb_listen *listen, const struct tb__exchange *exchange)
{
    struct tb__exchange **link = &listen->first_asked;
    while (*link != exchange) {
        assert(*link);
        link = &(*link)->next;
    }
    *link = exchange->next;
    if (!*link) {
        listen->last_asked = link;
    }
}

uint32_t tb__exchanges_report(tb_listen *listen, double *ids, uint32_t max)
{
    uint32_t n = 0;
    while (listen->first_asked && n < max) {
        struct tb__exchange *exchange = listen->first_asked;
        leave_line(listen, exchange);
        exchange->state = TB__REPORTED;
        ids[n++] = (double)tb__slots_id(&listen->exchanges, exchange);
    }
    return n;
}

/* --- answering ----------------------------------------------------------------- */

void tb__exchange_resume(struct tb__exchange *exchange)
{
    if (exchange->is_suspended) {
        exchange->is_suspended = false;
        exchange->listen->has_resumed = true;
        MHD_resume_connection(exchange->connection);
    }
}

/* libmicrohttpd wants more of a stream: what was handed out is sent. */
static ssize_t on_more(void *user, uint64_t at, char *out, size_t most)
{
    struct tb__exchange *exchange = user;
    (void)at;
    if (exchange->peer->is_ended) {
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    size_t size = exchange->size - exchange->done;
    if (size == 0) {
        exchange->peer->deadline_us = 0;
        if (exchange->is_ended) {
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        MHD_suspend_connection(exchange->connection);
        exchange->is_suspended = true;
        return 0;
    }
    size = size < most ? size : most;
    memcpy(out, exchange->kept + exchange->done, size);
    exchange->done += size;
    exchange->peer->deadline_us = tb__clock_us() + (int64_t)STREAM_S * TB__US_PER_S;
    return (ssize_t)size;
}

/* A line "Name: value"; what is longer than a line may be is the caller's mistake. */
static bool add_header(struct MHD_Response *response, const char *line, size_t size)
{
    char text[HEADER_LINE];
    assert(size < sizeof text);
    memcpy(text, line, size);
    text[size] = '\0';
    char *value = strchr(text, ':');
    assert(value);
    *value++ = '\0';
    value += strspn(value, " ");
    return MHD_add_response_header(response, text, value) == MHD_YES;
}

static bool add_headers(struct MHD_Response *response, const char *lines)
{
    while (lines && *lines) {
        size_t size = strcspn(lines, "\n");
        if (!add_header(response, lines, size)) {
            return false;
        }
        lines += size + (lines[size] == '\n');
    }
    return true;
}

static struct MHD_Response *new_response(struct tb__exchange *exchange, const tb_listen_response *given)
{
    if (given->flags & TB_LISTEN_STREAM) {
        return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, on_more, exchange, NULL);
    }
    return MHD_create_response_from_buffer(given->body_size, (void *)given->body, MHD_RESPMEM_MUST_COPY);
}

static bool keep(struct tb__exchange *exchange, const char *bytes, size_t size)
{
    if (exchange->done == exchange->size) {
        exchange->done = exchange->size = 0;
    }
    if (exchange->size + size > exchange->room) {
        size_t room = exchange->room ? exchange->room : FIRST_ROOM;
        while (room < exchange->size + size) {
            room *= 2;
        }
        char *grown = realloc(exchange->kept, room);
        if (!grown) {
            return false;
        }
        exchange->kept = grown;
        exchange->room = room;
    }
    if (size > 0) {
        memcpy(exchange->kept + exchange->size, bytes, size);
        exchange->size += size;
    }
    return true;
}

int tb__exchange_answer(struct tb__exchange *exchange, const tb_listen_response *given)
{
    assert(exchange->state == TB__REPORTED);
    exchange->state = TB__ANSWERED;
    exchange->status = (unsigned)given->status;
    exchange->is_stream = given->flags & TB_LISTEN_STREAM;
    exchange->response = new_response(exchange, given);
    exchange->peer->deadline_us =
        tb__clock_us() + (int64_t)(exchange->is_stream ? STREAM_S : ANSWER_S) * TB__US_PER_S;
    bool is_made = exchange->response && add_headers(exchange->response, given->headers) &&
                   (!exchange->is_stream || keep(exchange, given->body, given->body_size));
    if (!is_made && exchange->response) {
        MHD_destroy_response(exchange->response);
        exchange->response = NULL; /* the handler closes the connection */
    }
    tb__exchange_resume(exchange);
    return is_made ? 0 : TB_LISTEN_EMEMORY;
}

int tb__exchange_send(struct tb__exchange *exchange, const char *bytes, size_t size)
{
    size_t pending = exchange->size - exchange->done;
    if (size > TB_LISTEN_STREAM_BYTES || pending + size > TB_LISTEN_STREAM_BYTES) {
        return TB_LISTEN_EFULL;
    }
    if (exchange->done > 0 && pending > 0) {
        memmove(exchange->kept, exchange->kept + exchange->done, pending);
        exchange->size = pending;
        exchange->done = 0;
    }
    if (!keep(exchange, bytes, size)) {
        return TB_LISTEN_EMEMORY;
    }
    if (pending == 0 && exchange->is_suspended) {
        exchange->peer->deadline_us = tb__clock_us() + (int64_t)STREAM_S * TB__US_PER_S;
    }
    tb__exchange_resume(exchange);
    return 0;
}

void tb__exchange_over(struct tb__exchange *exchange)
{
    tb_listen *listen = exchange->listen;
    if (exchange->state == TB__ASKED) {
        leave_line(listen, exchange);
    }
    if (exchange->response) {
        MHD_destroy_response(exchange->response);
    }
    free(exchange->body);
    free(exchange->kept);
    exchange->body = exchange->kept = NULL;
    exchange->response = NULL;
    exchange->peer->exchange = NULL;
    tb__slots_give(&listen->exchanges, exchange);
}
