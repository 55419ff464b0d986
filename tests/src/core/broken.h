/* broken.h - breaking one thing in a copy of a batcher, and the sentence that tb_verify() has for it.
 *
 * What is said is kept: in the end every sentence of a source file was.
 */
#ifndef TB_TEST_BROKEN_H
#define TB_TEST_BROKEN_H

#include "../../../src/core/core.h"
#include "rig.h"

enum { MOST_SENTENCES = 200, T0 = 1000000000 };

static char said[MOST_SENTENCES][128];
static uint32_t said_count;

static void *copy_of(const void *array, size_t size)
{
    if (!array) return NULL;
    void *copy = malloc(size);
    assert_non_null(copy);
    return memcpy(copy, array, size);
}

#define COPY(array, count) ((array) = copy_of(array, (count) * sizeof *(array)))

static void copy_lanes(tb_lanes *l)
{
    COPY(l->link, l->links);
    COPY(l->lane, l->lanes);
}

static tb_batcher *copy_batcher(const tb_batcher *from)
{
    tb_batcher *b = copy_of(from, sizeof *from);
    COPY(b->slot, b->slots);
    COPY(b->heap.entry, b->heap.capacity);
    COPY(b->group, b->groups);
    COPY(b->lone, b->lone_capacity / 8);
    COPY(b->cut, b->cut_capacity);
    COPY(b->batch, b->batches);
    COPY(b->call, b->calls_capacity);
    for (uint32_t i = 0; i < TB_VIEW_KEYS; i++) COPY(b->view[i].node, b->view[i].capacity);
    copy_lanes(&b->by_key);
    copy_lanes(&b->by_group);
    COPY(b->account, b->by_group.lanes);
    COPY(b->choice.index, 2 * b->choice.capacity);
    COPY(b->choice.position, b->choice.capacity);
    COPY(b->choice.member, b->choice.capacity);
    return b;
}

static void names(const tb_batcher *b, const char *sentence, int line)
{
    const char *broken = tb_verify(b);
    if (!broken) fail_msg("line %d breaks nothing; expected: %s", line, sentence);
    if (strcmp(broken, sentence) != 0) fail_msg("line %d: \"%s\", expected: \"%s\"", line, broken, sentence);
    assert_true(said_count < MOST_SENTENCES);
    snprintf(said[said_count++], sizeof *said, "%s", sentence);
}

/* In a copy, `b`, of a batcher: what breaks it. */
#define BREAK(batcher, sentence, ...)          \
    do {                                       \
        tb_batcher *b = copy_batcher(batcher); \
        assert_null(tb_verify(b));             \
        __VA_ARGS__;                           \
        names(b, sentence, __LINE__);          \
        tb_free(b);                            \
    } while (0)

static bool was_said(const char *sentence)
{
    for (uint32_t i = 0; i < said_count; i++)
        if (strcmp(said[i], sentence) == 0) return true;
    return false;
}

/* Sentences are the strings of verify*.c that are not names of files. The tests run where src is. */
static void every_sentence_was_said(const char *path, uint32_t least)
{
    char line[256];
    uint32_t sentences = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        char *begin = line[0] == '#' ? NULL : strchr(line, '"');
        char *end = begin ? strchr(begin + 1, '"') : NULL;
        if (!end) continue;
        *end = 0;
        sentences++;
        if (!was_said(begin + 1)) fail_msg("%s: nothing breaks \"%s\"", path, begin + 1);
    }
    fclose(file);
    assert_true(sentences >= least);
}

static inline void drain_events(tb_batcher *b, int64_t now_us)
{
    tb_event event;
    while (tb_poll(b, &event, 1, now_us) == 1) {}
}

static tb_id hand_in(tb_batcher *b, tb_submission record)
{
    record.cost = record.cost > 0 ? record.cost : 1;
    tb_id id = tb_submit(b, &record, T0);
    assert_true(id > 0);
    return id;
}

#define FIRST(list) b->slot[(list).first]
#define SECOND(list) b->slot[FIRST(list).next]
#define LAST(list) b->slot[(list).last]

#endif
