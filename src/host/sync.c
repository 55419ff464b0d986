/* sync.c - fsync in a thread of its own.
 *
 * A disk may take seconds for it, and answers to come in are not to wait for a disk. There is one thread at
 * most, for one call each; it shares nothing with anybody but two flags. Signals are not its own: it blocks
 * them all.
 */
#include "sync.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

static atomic_bool is_running;
static atomic_int first_error;

static void note_error(int error)
{
    int none = 0;
    atomic_compare_exchange_strong(&first_error, &none, error);
}

/* What is no file on a disk (EINVAL) has nothing to be waited for. */
static void *sync_and_close(void *argument)
{
    int fd = (int)(intptr_t)argument;
    if (fsync(fd) != 0 && errno != EINVAL && errno != EROFS) {
        note_error(errno);
    }
    close(fd);
    atomic_store(&is_running, false);
    return NULL;
}

/* 0, or an errno. */
static int start_thread(int fd)
{
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, kept;
    int error = pthread_attr_init(&attributes);
    if (error) {
        return error;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &kept);
    error = pthread_create(&thread, &attributes, sync_and_close, (void *)(intptr_t)fd);
    pthread_sigmask(SIG_SETMASK, &kept, NULL);
    pthread_attr_destroy(&attributes);
    return error;
}

bool tb__sync_begin(int fd)
{
    assert(fd >= 0);
    if (atomic_exchange(&is_running, true)) {
        return false;
    }
    int twin = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    int error = twin < 0 ? errno : start_thread(twin);
    if (!error) {
        return true;
    }
    if (twin >= 0) {
        close(twin);
    }
    note_error(error);
    atomic_store(&is_running, false);
    return false;
}

int tb__sync_error(void)
{
    return atomic_exchange(&first_error, 0);
}
