/* bytes.c - a buffer that grows at its end and is used up at its beginning.
 */
#include "client.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 4096, KEPT_ROOM = 1048576 };

static bool make_room(struct tb__redis_bytes *bytes, size_t size)
{
    if (bytes->done > 0 && bytes->done >= bytes->size / 2) {
        memmove(bytes->data, bytes->data + bytes->done, bytes->size - bytes->done);
        bytes->size -= bytes->done;
        bytes->done = 0;
    }
    if (size <= bytes->room - bytes->size) {
        return true;
    }
    size_t room = bytes->room ? bytes->room : FIRST_ROOM;
    while (room - bytes->size < size) {
        room *= 2;
    }
    char *grown = realloc(bytes->data, room);
    if (!grown) {
        return false;
    }
    bytes->data = grown;
    bytes->room = room;
    return true;
}

bool tb__redis_append(struct tb__redis_bytes *bytes, const void *data, size_t size)
{
    assert(bytes->done <= bytes->size && bytes->size <= bytes->room);
    if (size > bytes->room - bytes->size && !make_room(bytes, size)) {
        return false;
    }
    if (size > 0) {
        memcpy(bytes->data + bytes->size, data, size);
    }
    bytes->size += size;
    return true;
}

void tb__redis_drop(struct tb__redis_bytes *bytes, size_t count)
{
    assert(count <= bytes->size - bytes->done);
    bytes->done += count;
    if (bytes->done == bytes->size) {
        tb__redis_empty(bytes);
    }
}

void tb__redis_empty(struct tb__redis_bytes *bytes)
{
    if (bytes->room > KEPT_ROOM) {
        tb__redis_free_bytes(bytes);
    }
    bytes->done = bytes->size = 0;
}

void tb__redis_free_bytes(struct tb__redis_bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct tb__redis_bytes){0};
}
