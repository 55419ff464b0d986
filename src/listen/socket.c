/* socket.c - the socket that listens: its address, its file, who may reach it.
 */
#include "server.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BACKLOG = 1024, HIGHEST_PORT = 65535, LOOPBACK_NET = 127 };

static int refuse(int refusal, const char *text, char *err, size_t err_size)
{
    if (err) {
        snprintf(err, err_size, "%s", text);
    }
    return refusal;
}

static int refuse_by_system(const char *what, char *err, size_t err_size)
{
    char text[TB__LISTEN_TEXT_SIZE];
    snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
    return refuse(TB_LISTEN_ESYSTEM, text, err, err_size);
}

/* --- addresses ----------------------------------------------------------------- */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* 0: it is no number of an address. */
static socklen_t read_address(union address *out, const char *host, int32_t port)
{
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, host, &out->v4.sin_addr) == 1) {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons((uint16_t)port);
        return sizeof out->v4;
    }
    if (inet_pton(AF_INET6, host, &out->v6.sin6_addr) == 1) {
        out->v6.sin6_family = AF_INET6;
        out->v6.sin6_port = htons((uint16_t)port);
        return sizeof out->v6;
    }
    return 0;
}

static bool is_loopback(const union address *address)
{
    if (address->any.sa_family == AF_INET) {
        return ntohl(address->v4.sin_addr.s_addr) >> 24 == LOOPBACK_NET;
    }
    return IN6_IS_ADDR_LOOPBACK(&address->v6.sin6_addr);
}

/* An IPv4 address that has come by way of IPv6 is shown as what it is. */
static void show_host(const union address *address, char *out, size_t size)
{
    out[0] = '\0';
    if (address->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &address->v4.sin_addr, out, (socklen_t)size);
    } else if (address->any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&address->v6.sin6_addr)) {
        inet_ntop(AF_INET, &address->v6.sin6_addr.s6_addr[12], out, (socklen_t)size);
    } else if (address->any.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &address->v6.sin6_addr, out, (socklen_t)size);
    }
}

void tb__listen_local(int fd, char *out, size_t size)
{
    union address address = {.any.sa_family = AF_UNSPEC};
    socklen_t length = sizeof address;
    if (getsockname(fd, &address.any, &length) != 0) {
        address.any.sa_family = AF_UNSPEC;
    }
    show_host(&address, out, size);
}

/* --- TCP ----------------------------------------------------------------------- */

static int bind_error(char *err, size_t err_size)
{
    if (errno == EADDRINUSE) {
        return refuse(TB_LISTEN_EINUSE, "somebody listens there already", err, err_size);
    }
    return refuse_by_system("cannot bind", err, err_size);
}

static int open_tcp(struct tb__listen_socket *out, const tb_listen_options *options, char *err, size_t err_size)
{
    union address address;
    socklen_t size = 0;
    int on = 1;
    if (options->host && options->port >= 0 && options->port <= HIGHEST_PORT) {
        size = read_address(&address, options->host, options->port);
    }
    if (!size) {
        return refuse(TB_LISTEN_EADDRESS, "not the number of an address with a port from 0 to 65535", err, err_size);
    }
    if (!is_loopback(&address) && !(options->flags & TB_LISTEN_REMOTE)) {
        return refuse(TB_LISTEN_EREMOTE, "other machines could reach this address", err, err_size);
    }
    out->fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (out->fd < 0) {
        return refuse_by_system("no socket", err, err_size);
    }
    setsockopt(out->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(out->fd, &address.any, size) != 0 || listen(out->fd, BACKLOG) != 0) {
        return bind_error(err, err_size);
    }
    getsockname(out->fd, &address.any, &size);
    char host[INET6_ADDRSTRLEN];
    bool is_v4 = address.any.sa_family == AF_INET;
    inet_ntop(address.any.sa_family, is_v4 ? (void *)&address.v4.sin_addr : (void *)&address.v6.sin6_addr, host,
              sizeof host);
    snprintf(out->address, sizeof out->address, is_v4 ? "%s:%d" : "[%s]:%d", host,
             ntohs(is_v4 ? address.v4.sin_port : address.v6.sin6_port));
    return 0;
}

/* --- unix sockets -------------------------------------------------------------- */

/* Is there a socket at the path at which nobody listens? */
static bool is_stale(const struct sockaddr_un *file)
{
    struct stat there;
    if (lstat(file->sun_path, &there) != 0 || !S_ISSOCK(there.st_mode)) {
        return false;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    bool is_refused = connect(fd, (const struct sockaddr *)file, sizeof *file) != 0 && errno == ECONNREFUSED;
    close(fd);
    return is_refused;
}

static bool bind_file(struct tb__listen_socket *out)
{
    const struct sockaddr *address = (const struct sockaddr *)&out->file;
    if (bind(out->fd, address, sizeof out->file) == 0) {
        return true;
    }
    if (errno != EADDRINUSE) {
        return false;
    }
    if (!is_stale(&out->file)) {
        errno = EADDRINUSE;
        return false;
    }
    unlink(out->file.sun_path);
    return bind(out->fd, address, sizeof out->file) == 0;
}

/* The mode of a socket before bind() is that of the file that bind() makes. */
static int open_file(struct tb__listen_socket *out, const char *path, char *err, size_t err_size)
{
    size_t size = strlen(path);
    if (size == 0 || size >= sizeof out->file.sun_path) {
        return refuse(TB_LISTEN_EADDRESS, "the path of a unix socket has 1 to 107 bytes", err, err_size);
    }
    out->file.sun_family = AF_UNIX;
    memcpy(out->file.sun_path, path, size + 1);
    out->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (out->fd < 0 || fchmod(out->fd, S_IRUSR | S_IWUSR) != 0) {
        return refuse_by_system("no socket", err, err_size);
    }
    if (!bind_file(out)) {
        int why = errno;
        out->file.sun_path[0] = '\0'; /* it is not ours */
        errno = why;
        if (why == EADDRINUSE) {
            return refuse(TB_LISTEN_EINUSE, "somebody listens there already, or what is there is no socket", err,
                          err_size);
        }
        return refuse_by_system("cannot bind", err, err_size);
    }
    if (lstat(out->file.sun_path, &out->made) != 0 || listen(out->fd, BACKLOG) != 0) {
        return refuse_by_system("cannot listen", err, err_size);
    }
    snprintf(out->address, sizeof out->address, "unix:%s", path);
    return 0;
}

int tb__listen_socket_open(struct tb__listen_socket *out, const tb_listen_options *options, char *err, size_t err_size)
{
    *out = (struct tb__listen_socket){.fd = -1};
    int refusal = options->path ? open_file(out, options->path, err, err_size) : open_tcp(out, options, err, err_size);
    if (refusal) {
        tb__listen_socket_close(out);
    }
    return refusal;
}

void tb__listen_socket_close(struct tb__listen_socket *listener)
{
    struct stat there;
    if (listener->fd >= 0) {
        close(listener->fd);
        listener->fd = -1;
    }
    if (listener->file.sun_path[0] && lstat(listener->file.sun_path, &there) == 0 &&
        there.st_dev == listener->made.st_dev && there.st_ino == listener->made.st_ino) {
        unlink(listener->file.sun_path);
    }
    listener->file.sun_path[0] = '\0';
}
