/* listen.c - a listener's life, and its turn: the public functions.
 */
#include "server.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { CONNECTION_BITS = 6 };
_Static_assert(TB_LISTEN_CONNECTIONS == 1 << CONNECTION_BITS, "an id's place");
_Static_assert((int)TB__SLOTS_FIRST >= (int)TB_LISTEN_CONNECTIONS, "places do not move");

int tb_listen_abi(void)
{
    return TB_LISTEN_ABI;
}

static int no_memory(char *err, size_t err_size)
{
    if (err) {
        snprintf(err, err_size, "out of memory, or of descriptors");
    }
    return TB_LISTEN_EMEMORY;
}

int tb_listen_open(tb_listen **out, const tb_listen_options *options, char *err, size_t err_size)
{
    assert(out && options);
    assert(options->host || options->path);
    *out = NULL;
    tb_listen *listen = calloc(1, sizeof *listen);
    if (!listen) {
        return no_memory(err, err_size);
    }
    listen->epoll_fd = -1;
    listen->last_asked = &listen->first_asked;
    tb__slots_open(&listen->peers, sizeof(struct tb__peer), CONNECTION_BITS);
    tb__slots_open(&listen->exchanges, sizeof(struct tb__exchange), CONNECTION_BITS);
    int refusal = tb__listen_socket_open(&listen->socket, options, err, err_size);
    if (!refusal && !tb__daemon_open(listen)) {
        refusal = no_memory(err, err_size);
    }
    if (refusal) {
        tb_listen_free(listen);
        return refusal;
    }
    *out = listen;
    return 0;
}

void tb_listen_free(tb_listen *listen)
{
    if (!listen) {
        return;
    }
    tb__daemon_close(listen);
    tb__listen_socket_close(&listen->socket);
    assert(listen->exchanges.taken == 0 && listen->peers.taken == 0);
    tb__slots_close(&listen->exchanges);
    tb__slots_close(&listen->peers);
    free(listen);
}

const char *tb_listen_address(const tb_listen *listen)
{
    assert(listen);
    return listen->socket.address;
}

int tb_listen_fd(const tb_listen *listen)
{
    assert(listen);
    return listen->epoll_fd;
}

int64_t tb_listen_next(tb_listen *listen)
{
    assert(listen);
    return listen->first_asked ? 0 : tb__daemon_next(listen);
}

uint32_t tb_listen_turn(tb_listen *listen, double *ids, uint32_t max)
{
    assert(listen);
    assert(ids || max == 0);
    tb__daemon_turn(listen);
    return tb__exchanges_report(listen, ids, max);
}

int tb_listen_read(tb_listen *listen, double id, tb_listen_request *request)
{
    assert(listen);
    const struct tb__exchange *exchange = tb__exchange_find(listen, id);
    if (!exchange || exchange->state != TB__REPORTED) {
        return 0;
    }
    assert(request);
    *request = (tb_listen_request){
        .method = exchange->method,
        .path = exchange->path,
        .host = exchange->host,
        .local = exchange->peer->local,
        .body = exchange->body,
        .body_size = exchange->body_size,
        .is_too_large = exchange->is_too_large,
    };
    return 1;
}

const char *tb_listen_argument(tb_listen *listen, double id, const char *name)
{
    assert(listen && name);
    const struct tb__exchange *exchange = tb__exchange_find(listen, id);
    if (!exchange || exchange->state != TB__REPORTED) {
        return NULL;
    }
    return MHD_lookup_connection_value(exchange->connection, MHD_GET_ARGUMENT_KIND, name);
}

int tb_listen_answer(tb_listen *listen, double id, const tb_listen_response *response)
{
    assert(listen && response);
    assert(response->status >= 200 && response->status <= 599);
    assert(response->body || response->body_size == 0);
    struct tb__exchange *exchange = tb__exchange_find(listen, id);
    if (!exchange || exchange->state != TB__REPORTED) {
        return TB_LISTEN_EGONE;
    }
    return tb__exchange_answer(exchange, response);
}

/* A stream that still goes on, or NULL. */
static struct tb__exchange *find_stream(const tb_listen *listen, double id)
{
    assert(listen);
    struct tb__exchange *exchange = tb__exchange_find(listen, id);
    bool is_open = exchange && exchange->is_stream && !exchange->is_ended && !exchange->peer->is_ended;
    return is_open ? exchange : NULL;
}

int tb_listen_send(tb_listen *listen, double id, const char *bytes, size_t size)
{
    struct tb__exchange *exchange = find_stream(listen, id);
    assert(bytes || size == 0);
    return exchange ? tb__exchange_send(exchange, bytes, size) : TB_LISTEN_EGONE;
}

int64_t tb_listen_pending(tb_listen *listen, double id)
{
    const struct tb__exchange *exchange = find_stream(listen, id);
    return exchange ? (int64_t)(exchange->size - exchange->done) : TB_LISTEN_EGONE;
}

int tb_listen_end(tb_listen *listen, double id)
{
    struct tb__exchange *exchange = find_stream(listen, id);
    if (!exchange) {
        return TB_LISTEN_EGONE;
    }
    exchange->is_ended = true;
    tb__exchange_resume(exchange);
    return 0;
}
