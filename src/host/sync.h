/* sync.h - a file to the disk, without anybody waiting for it. */
#ifndef TB_HOST_SYNC_H
#define TB_HOST_SYNC_H

#include <stdbool.h>

/* Have a thread call fsync on what `fd` has open; the caller may close `fd` meanwhile.
 * One at a time: false, and nothing happens, while the last one has not ended. False, with its error left
 * to tb__sync_error(), too, where there is no descriptor or thread. */
bool tb__sync_begin(int fd);

/* The errno of the first that failed and was not asked for yet, or 0. */
int tb__sync_error(void);

#endif
