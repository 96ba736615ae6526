/*
 * The fuzz targets on their corpora and on mutations of them: a bounded,
 * repeatable part of what `make fuzz` does without end. It fails by crashing,
 * and under the sanitizers by anything they see.
 */
#include "tests/fuzz/targets.h"
#include "tests/test.h"
#include "workloads/api.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX 65536
#define MUTATIONS 3000
#ifdef __SANITIZE_ADDRESS__
#define MUTATIONS_SLOW 500 /* of what takes a MiB for each input */
#else
#define MUTATIONS_SLOW MUTATIONS
#endif

typedef int fuzz_target(const uint8_t *bytes, size_t count);

struct input {
    uint8_t bytes[INPUT_MAX];
    size_t count;
};

/* A heap copy of exactly the input's size, so that a sanitizer sees one byte
 * too far. */
static void feed(fuzz_target *target, const struct input *input)
{
    uint8_t *exact = malloc(input->count ? input->count : 1);

    memcpy(exact, input->bytes, input->count);
    target(exact, input->count);
    free(exact);
}

static void mutate(struct input *input, uint64_t *random)
{
    static const uint8_t interesting[] = {0,    1,   0x7f, 0x80,
                                          0xff, ',', '"',  '{'};
    unsigned changes = 1 + (unsigned)wl_below(random, 8);

    if (!wl_below(random, 4))
        input->count = wl_below(random, input->count + 1);
    for (unsigned i = 0; i < changes && input->count; i++) {
        size_t at = wl_below(random, input->count);

        switch (wl_below(random, 3)) {
        case 0:
            input->bytes[at] ^= (uint8_t)(1u << wl_below(random, 8));
            break;
        case 1:
            input->bytes[at] =
                interesting[wl_below(random, sizeof interesting)];
            break;
        default: /* a whole word, where lengths and offsets are */
            at &= ~(size_t)7;
            if (at + 8 <= input->count)
                memset(input->bytes + at, interesting[wl_below(random, 5)], 8);
        }
    }
}

static bool read_input(const char *path, struct input *input)
{
    FILE *file = fopen(path, "re");

    if (!file)
        return false;
    input->count = fread(input->bytes, 1, INPUT_MAX, file);
    fclose(file);
    return true;
}

static void replay_some(const char *name, fuzz_target *target,
                        unsigned mutations)
{
    char folder[512], path[1024];
    struct input *seed = malloc(sizeof *seed), *mutant = malloc(sizeof *mutant);
    unsigned seeds = 0;
    uint64_t random = 1;
    struct dirent *entry;
    DIR *dir;

    snprintf(folder, sizeof folder, MEMVIRT_ROOT "/tests/corpus/%s", name);
    dir = opendir(folder);
    CU_ASSERT_PTR_NOT_NULL(dir);
    while (dir && (entry = readdir(dir))) {
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] == '.' || !read_input(path, seed))
            continue;
        seeds++;
        feed(target, seed);
        for (unsigned i = 0; i < mutations; i++) {
            *mutant = *seed;
            mutate(mutant, &random);
            feed(target, mutant);
        }
    }
    if (dir)
        closedir(dir);
    free(seed);
    free(mutant);
    CU_ASSERT(seeds > 0);
}

static void replay(const char *name, fuzz_target *target)
{
    replay_some(name, target, MUTATIONS);
}

static void elf(void)
{
    replay("elf", fuzz_elf);
}

static void results(void)
{
    replay("results", fuzz_results);
}

static void record(void)
{
    replay("record", fuzz_record);
}

static void csv(void)
{
    replay("csv", fuzz_csv);
}

static void profile(void)
{
    replay("profile", fuzz_profile);
}

static void trace(void)
{
    replay_some("trace", fuzz_trace, MUTATIONS_SLOW);
}

static void block(void)
{
    replay_some("block", fuzz_block, MUTATIONS_SLOW);
}

static void lackey(void)
{
    replay("lackey", fuzz_lackey);
}

static void champsim(void)
{
    replay("champsim", fuzz_champsim);
}

static void memtrace(void)
{
    replay("memtrace", fuzz_memtrace);
}

static void decode(void)
{
    replay("decode", fuzz_decode);
}

static void patch(void)
{
    replay("patch", fuzz_patch);
}

static void direct(void)
{
    replay_some("direct", fuzz_direct, MUTATIONS_SLOW / 10);
}

static void bt(void)
{
    replay_some("bt", fuzz_bt, MUTATIONS_SLOW / 10);
}

TEST_SUITE(fuzz, {"ELF loader", elf}, {"results page", results},
           {"run record", record}, {"CSV reader", csv},
           {"CPU profile", profile}, {"trace", trace},
           {"block of a trace", block}, {"lackey", lackey},
           {"ChampSim", champsim}, {"memtrace", memtrace}, {"decode", decode},
           {"patch", patch}, {"direct paging", direct},
           {"binary translator", bt});
