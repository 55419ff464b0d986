/* fuzz_core.c - bytes are operations on a batcher and on its model: see drive.h.
 *
 * With libFuzzer:   clang -fsanitize=fuzzer,address,undefined ...
 * Without:          cc -DTB_FUZZ_MAIN ... ; fuzz_core FILE...  (replays each file)
 *
 * Each choice takes one byte (two where there are more than 256 possibilities), the
 * first ones choose the settings. Every string of bytes is a program.
 */
#include "drive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct bytes {
    const uint8_t *at, *end;
} bytes;

static uint32_t draw(void *source, uint32_t below)
{
    bytes *b = source;
    uint32_t value = 0;
    for (uint32_t range = 1; range < below && b->at < b->end; range *= 256)
        value = value * 256 + *b->at++;
    return below > 1 ? value % below : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static drive d;
    bytes source = {data, data + size};
    tb_config config;
    memset(&d, 0, sizeof d);
    d.draw = draw;
    d.source = &source;
    d.label = "these bytes";
    d.patience = drive_draw(&d, 5);
    drive_draw_config(&d, &config);
    drive_begin(&d, &config);
    while (source.at < source.end) drive_step(&d);
    drive_end(&d);
    return 0;
}

#include "replay.h"
