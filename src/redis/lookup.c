/* lookup.c - a host becomes addresses: a number at once, a name in a thread that ends with the
 * look-up. Whoever asked may leave before that: the last of the two frees.
 */
#include "client.h"

#include <assert.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct tb__redis_lookup {
    atomic_uint users; /* the thread, and whoever asked */
    atomic_bool is_done; /* what follows is written before it, and read after it */
    int fd;
    int error; /* of getaddrinfo */
    struct tb__redis_address found[TB__REDIS_ADDRESSES];
    uint32_t count;
    char port[8];
    char host[];
};

static uint32_t addresses(const char *host, const char *port, int flags, struct tb__redis_address *out, int *error)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags}, *list = NULL;
    uint32_t n = 0;
    *error = getaddrinfo(host, port, &hints, &list);
    for (const struct addrinfo *at = list; at && n < TB__REDIS_ADDRESSES; at = at->ai_next) {
        if (at->ai_addrlen <= sizeof out->at) {
            memcpy(&out[n].at, at->ai_addr, at->ai_addrlen);
            out[n++].size = at->ai_addrlen;
        }
    }
    if (list) {
        freeaddrinfo(list);
    }
    return n;
}

uint32_t tb__redis_address_of(const char *host, int32_t port, struct tb__redis_address *out)
{
    char text[16];
    int error;
    snprintf(text, sizeof text, "%d", port);
    return addresses(host, text, AI_NUMERICHOST | AI_NUMERICSERV, out, &error) > 0 ? 1 : 0;
}

static void leave(struct tb__redis_lookup *lookup)
{
    if (atomic_fetch_sub(&lookup->users, 1) == 1) {
        close(lookup->fd);
        free(lookup);
    }
}

static void *look_up(void *data)
{
    struct tb__redis_lookup *lookup = data;
    uint64_t one = 1;
    lookup->count = addresses(lookup->host, lookup->port, AI_NUMERICSERV, lookup->found, &lookup->error);
    atomic_store(&lookup->is_done, true);
    ssize_t written = write(lookup->fd, &one, sizeof one);
    assert(written == sizeof one);
    (void)written;
    leave(lookup);
    return NULL;
}

/* Signals are for the program's own threads. */
static bool start(struct tb__redis_lookup *lookup)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool is_started = pthread_create(&thread, NULL, look_up, lookup) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (is_started) {
        pthread_detach(thread);
    }
    return is_started;
}

struct tb__redis_lookup *tb__redis_lookup_new(const char *host, int32_t port)
{
    size_t size = strlen(host) + 1;
    struct tb__redis_lookup *lookup = calloc(1, sizeof *lookup + size);
    if (!lookup) {
        return NULL;
    }
    memcpy(lookup->host, host, size);
    snprintf(lookup->port, sizeof lookup->port, "%d", port);
    atomic_init(&lookup->users, 2);
    lookup->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (lookup->fd >= 0 && start(lookup)) {
        return lookup;
    }
    if (lookup->fd >= 0) {
        close(lookup->fd);
    }
    free(lookup);
    return NULL;
}

int tb__redis_lookup_fd(const struct tb__redis_lookup *lookup)
{
    return lookup->fd;
}

uint32_t tb__redis_lookup_take(struct tb__redis_lookup *lookup, struct tb__redis_address *out, const char **error)
{
    bool is_done = atomic_load(&lookup->is_done);
    assert(is_done);
    (void)is_done;
    memcpy(out, lookup->found, sizeof lookup->found);
    *error = lookup->error ? gai_strerror(lookup->error) : "it has no address";
    return lookup->count;
}

void tb__redis_lookup_leave(struct tb__redis_lookup *lookup)
{
    leave(lookup);
}
