/* search.c - every interleaving of what can be done to a small batcher: submit, cancel, expire, complete, fail, time
 * out, retry, set, flush, stop, start, between the calls of a turn as well, until no state is new. In every state
 * tb_verify() and the model must agree with the core, in every one the order of arrival and conservation must hold,
 * each batch that goes must keep to budget, group, size and slots (F1, F6), and from every one stop must end
 * with all records settled (S3). Breadth first: the way to a fault that is printed is a shortest one.
 *
 * usage: search [RECORDS]   at most so many records live at once (4)
 */
#include "plans.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TABLE_FIRST = 1 << 16 };

/* What states are known by, two numbers of 64 bits that are not both 0. */
typedef struct {
    uint64_t a, b;
} print;

/* How a state was come to, and where it is to be gone on from. */
typedef struct {
    uint32_t from;
    uint16_t step;
    char *saved; /* until that has been done */
} state;

static struct {
    world w;
    print *known;
    uint32_t capacity; /* of `known`, a power of two */
    state *states;
    uint32_t count, allocated;
    uint64_t steps;
    uint32_t at;   /* the state whose steps are taken */
    uint16_t step;        /* the one that is taken, or none */
    int is_stepping;
} s;

static void *some(void *memory)
{
    if (memory) return memory;
    fputs("search: out of memory\n", stderr);
    exit(2);
}

/* --- what is known ---------------------------------------------------------------- */

static uint64_t mixed(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static print print_of(const char *bytes, size_t size)
{
    print p = {0x9E3779B97F4A7C15u, 0xD1342543DE82EF95u + size};
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = 0;
        memcpy(&word, bytes + i, size - i < 8 ? size - i : 8);
        p.a = mixed(p.a ^ word);
        p.b = mixed(p.b + word * 0x2545F4914F6CDD1Du);
    }
    return p;
}

static int put_print(print *known, uint32_t capacity, print p)
{
    uint32_t at = (uint32_t)p.a & (capacity - 1);
    for (; known[at].a || known[at].b; at = (at + 1) & (capacity - 1))
        if (known[at].a == p.a && known[at].b == p.b) return 0;
    known[at] = p;
    return 1;
}

static void grow_known(void)
{
    uint32_t capacity = s.capacity ? 2 * s.capacity : TABLE_FIRST;
    print *known = some(calloc(capacity, sizeof *known));
    for (uint32_t i = 0; i < s.capacity; i++)
        if (s.known[i].a || s.known[i].b) put_print(known, capacity, s.known[i]);
    free(s.known);
    s.known = known;
    s.capacity = capacity;
}

/* --- the search ----------------------------------------------------------------------- */

static void print_way(uint32_t to)
{
    char text[STEP_TEXT];
    if (to == 0) return;
    print_way(s.states[to].from);
    step_name(&s.w, s.states[to].step, text);
    fprintf(stderr, "    %s\n", text);
}

/* drive_fail() has said what is wrong. */
static void on_abort(int signum)
{
    (void)signum;
    char text[STEP_TEXT] = "(stop, and go on until it has stopped)";
    fprintf(stderr, "the way there, in '%s':\n", s.w.plan->name);
    print_way(s.at);
    if (s.is_stepping) step_name(&s.w, s.step, text);
    fprintf(stderr, "    %s\n", text);
    _Exit(1);
}

/* The world as it is, if it is new. */
static void remember(uint32_t from, uint16_t step)
{
    char bytes[WORLD_BYTES_MAX];
    size_t size = world_form(&s.w, bytes);
    if (2 * s.count >= s.capacity) grow_known();
    if (!put_print(s.known, s.capacity, print_of(bytes, size))) return;
    if (s.count == s.allocated) {
        s.allocated = s.allocated ? 2 * s.allocated : TABLE_FIRST;
        s.states = some(realloc(s.states, s.allocated * sizeof *s.states));
    }
    size = world_save(&s.w, bytes);
    char *saved = some(malloc(size));
    memcpy(saved, bytes, size);
    s.states[s.count++] = (state){from, step, saved};
}

static uint32_t depth_of(uint32_t at)
{
    uint32_t depth = 0;
    for (; at != 0; at = s.states[at].from) depth++;
    return depth;
}

static void expand(uint32_t at)
{
    uint16_t steps[STEPS_MAX];
    char *saved = s.states[at].saved;
    s.at = at;
    world_restore(&s.w, saved);
    uint32_t n = steps_of(&s.w, steps);
    for (uint32_t i = 0; i < n; i++) {
        s.step = steps[i];
        s.is_stepping = 1;
        world_restore(&s.w, saved);
        step_do(&s.w, steps[i]);
        step_check(&s.w);
        remember(at, steps[i]);
    }
    s.is_stepping = 0;
    s.steps += n;
    world_restore(&s.w, saved);
    step_drain(&s.w);
    free(saved);
    s.states[at].saved = NULL;
}

static void search(const plan *p)
{
    s.count = 0;
    s.steps = 0;
    if (s.known) memset(s.known, 0, s.capacity * sizeof *s.known);
    else grow_known();
    world_begin(&s.w, p);
    remember(0, 0);
    for (uint32_t at = 0; at < s.count; at++) expand(at);
    world_end(&s.w);
    printf("   %-32s %8u states, %9llu steps, at most %u from the beginning\n", p->name, s.count,
           (unsigned long long)s.steps, depth_of(s.count - 1));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static plan all[PLANS];
    uint32_t n = plans(all), records = argc > 1 ? (uint32_t)atoi(argv[1]) : WORLD_RECORDS;
    if (records < 1 || records > WORLD_RECORDS) {
        fprintf(stderr, "search: RECORDS is 1 to %d\n", WORLD_RECORDS);
        return 2;
    }
    signal(SIGABRT, on_abort);
    double states = 0, steps = 0;
    for (uint32_t i = 0; i < n; i++) {
        all[i].records = records;
        search(&all[i]);
        states += s.count;
        steps += (double)s.steps;
    }
    printf("   %.0f states by %.0f steps, all there are\n", states, steps);
    free(s.known);
    free(s.states);
    return 0;
}
