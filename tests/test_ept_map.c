/* Mapping policies, looked at through ept_translate. */
#include "ept/map.h"
#include "tests/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BASE   (1ull << 40)
#define FRAMES 4096u

struct host {
    struct ept_arena arena;
    struct ept_state state;
    struct mmu_memory memory;
};

static int read_memory(void *arg, uint64_t pa, uint64_t *entry)
{
    const struct host *h = arg;

    if (pa < BASE || pa >= BASE + h->arena.used * PAGE_4K)
        return -EIO;
    *entry = h->arena.frames[(pa - BASE) / 8];
    return 0;
}

static int set_memory(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    (void)arg, (void)pa, (void)old, (void)bits;
    return 0;
}

static void host_make(struct host *h, enum ept_format format, size_t frames)
{
    memset(h, 0, sizeof *h);
    h->arena.frames = calloc(frames, PAGE_4K);
    CU_ASSERT_PTR_NOT_NULL_FATAL(h->arena.frames);
    h->arena.pa = BASE;
    h->arena.frame_count = frames;
    h->state = (struct ept_state){.format = format,
                                  .levels = 4,
                                  .physical_bits = 46,
                                  .pages_1g = true,
                                  .nxe = true};
    h->memory = (struct mmu_memory){read_memory, set_memory, h};
    CU_ASSERT_EQUAL_FATAL(ept_map_root(&h->state, &h->arena), 0);
}

static void translate(struct host *h, uint64_t gpa, struct ept_translation *t)
{
    const struct ept_request request = {.gpa = gpa, .access = MMU_READ};

    ept_translate(&h->state, &h->memory, &request, t);
}

static const struct ept_policy whole = {.page_bytes = PAGE_1G,
                                        .large_ppm = 1000000,
                                        .rights = EPT_RWX,
                                        .memory_type = EPT_TYPE_WB};

/* A range that starts and ends off every boundary gets each size where it
 * fits, and nothing outside. */
static void ends_of_a_range(void)
{
    const struct ept_range range = {PAGE_1G - PAGE_2M - PAGE_4K,
                                    3 * PAGE_1G - PAGE_2M - PAGE_4K,
                                    PAGE_1G + 2 * PAGE_2M + 2 * PAGE_4K};
    const uint64_t end = range.gpa + range.bytes;
    const struct {
        uint64_t gpa, page_bytes;
    } want[] = {{range.gpa, PAGE_4K},       {PAGE_1G - PAGE_2M, PAGE_2M},
                {PAGE_1G - 1, PAGE_2M},     {PAGE_1G, PAGE_1G},
                {2 * PAGE_1G - 1, PAGE_1G}, {2 * PAGE_1G, PAGE_2M},
                {end - 1, PAGE_4K}};

    for (unsigned f = 0; f < 2; f++) {
        struct ept_translation t;
        struct host h;

        host_make(&h, f ? EPT_FORMAT_NPT : EPT_FORMAT_EPT, 16);
        CU_ASSERT_EQUAL(ept_map(&h.state, &h.arena, &range, &whole), 0);
        CU_ASSERT(h.arena.used <= ept_map_frames(4, &range));
        for (unsigned i = 0; i < sizeof want / sizeof *want; i++) {
            translate(&h, want[i].gpa, &t);
            CU_ASSERT_EQUAL(t.outcome, EPT_OK);
            CU_ASSERT_EQUAL(t.pa, want[i].gpa + 2 * PAGE_1G);
            CU_ASSERT_EQUAL(t.page_bytes, want[i].page_bytes);
        }
        translate(&h, range.gpa - 1, &t);
        CU_ASSERT_NOT_EQUAL(t.outcome, EPT_OK);
        translate(&h, end, &t);
        CU_ASSERT_NOT_EQUAL(t.outcome, EPT_OK);
        free(h.arena.frames);
    }
}

/* Bit 47 is an address bit like the others, and the last page can be had. */
static void upper_half(void)
{
    const struct ept_range range = {(1ull << 48) - PAGE_1G, PAGE_1G, PAGE_1G};

    for (unsigned f = 0; f < 2; f++) {
        struct ept_translation t;
        struct host h;

        host_make(&h, f ? EPT_FORMAT_NPT : EPT_FORMAT_EPT, 16);
        CU_ASSERT_EQUAL(ept_map(&h.state, &h.arena, &range, &whole), 0);
        translate(&h, (1ull << 48) - 1, &t);
        CU_ASSERT_EQUAL(t.outcome, EPT_OK);
        CU_ASSERT_EQUAL(t.pa, 2 * PAGE_1G - 1);
        free(h.arena.frames);
    }
}

/* Backed by memory that isn't aligned alike, a range gets small pages. */
static void unlike_alignment(void)
{
    const struct ept_range range = {PAGE_2M, PAGE_4K, PAGE_2M};
    struct ept_translation t;
    struct host h;

    host_make(&h, EPT_FORMAT_EPT, 16);
    CU_ASSERT_EQUAL(ept_map(&h.state, &h.arena, &range, &whole), 0);
    translate(&h, PAGE_2M + 7, &t);
    CU_ASSERT_EQUAL(t.pa, PAGE_4K + 7);
    CU_ASSERT_EQUAL(t.page_bytes, PAGE_4K);
    free(h.arena.frames);
}

static unsigned count_large(const struct ept_policy *policy, unsigned pages,
                            uint8_t *large)
{
    const struct ept_range range = {0, 0, pages * PAGE_2M};
    struct ept_translation t;
    unsigned count = 0;
    struct host h;

    host_make(&h, EPT_FORMAT_EPT, FRAMES);
    CU_ASSERT_EQUAL_FATAL(ept_map(&h.state, &h.arena, &range, policy), 0);
    for (unsigned i = 0; i < pages; i++) {
        translate(&h, i * PAGE_2M + 5 * PAGE_4K, &t);
        CU_ASSERT_EQUAL(t.pa, i * PAGE_2M + 5 * PAGE_4K);
        large[i] = t.page_bytes == PAGE_2M;
        count += large[i];
    }
    free(h.arena.frames);
    return count;
}

/* The fraction holds within five standard deviations; a seed repeats, another
 * differs; none and all are exact. */
static void fragments(void)
{
    enum { pages = 2000 };
    static uint8_t first[pages], again[pages], other[pages];
    struct ept_policy policy = whole;

    policy.page_bytes = PAGE_2M;
    policy.seed = 7;
    policy.large_ppm = 300000;
    CU_ASSERT(labs((long)count_large(&policy, pages, first) - 600) < 103);
    count_large(&policy, pages, again);
    CU_ASSERT_EQUAL(memcmp(first, again, pages), 0);
    policy.seed = 8;
    CU_ASSERT(labs((long)count_large(&policy, pages, other) - 600) < 103);
    CU_ASSERT_NOT_EQUAL(memcmp(first, other, pages), 0);
    policy.large_ppm = 0;
    CU_ASSERT_EQUAL(count_large(&policy, pages, first), 0);
    policy.large_ppm = 1000000;
    CU_ASSERT_EQUAL(count_large(&policy, pages, first), pages);
}

/* Broken 1 GiB pages are 2 MiB ones and 4 KiB ones, not only the latter. */
static void fragments_of_fragments(void)
{
    const struct ept_range range = {0, 0, 4 * PAGE_1G};
    struct ept_policy policy = whole;
    unsigned seen[4] = {0};
    struct ept_translation t;
    struct host h;

    policy.large_ppm = 500000;
    policy.seed = 3;
    host_make(&h, EPT_FORMAT_EPT, FRAMES);
    CU_ASSERT_EQUAL_FATAL(ept_map(&h.state, &h.arena, &range, &policy), 0);
    for (uint64_t gpa = 0; gpa < range.bytes; gpa += PAGE_2M) {
        translate(&h, gpa, &t);
        seen[pt_leaf_level(t.page_bytes)]++;
    }
    CU_ASSERT(seen[3] && seen[3] % 512 == 0);
    CU_ASSERT(seen[1] > 200 && seen[2] > 200 && !seen[0]);
    free(h.arena.frames);
}

static void nonsense(void)
{
    static const struct {
        struct ept_range range;
        struct ept_policy policy;
        int error;
    } cases[] = {
        {{1, 0, PAGE_4K}, {PAGE_4K, 0, 0, EPT_R, 6}, -EINVAL},
        {{0, 8, PAGE_4K}, {PAGE_4K, 0, 0, EPT_R, 6}, -EINVAL},
        {{0, 0, 100}, {PAGE_4K, 0, 0, EPT_R, 6}, -EINVAL},
        {{0, 0, PAGE_4K}, {8192, 0, 0, EPT_R, 6}, -EINVAL},
        {{0, 0, PAGE_4K}, {PAGE_2M, 1000001, 0, EPT_R, 6}, -EINVAL},
        {{0, 0, PAGE_4K}, {PAGE_4K, 0, 0, EPT_W, 6}, -EINVAL},
        {{0, 0, PAGE_4K}, {PAGE_4K, 0, 0, EPT_X, 6}, -EINVAL},
        {{0, 0, PAGE_4K}, {PAGE_4K, 0, 0, 0, 6}, -EINVAL},
        {{0, 0, PAGE_4K}, {PAGE_4K, 0, 0, EPT_R, 3}, -EINVAL},
        {{1ull << 48, 0, PAGE_4K}, {PAGE_4K, 0, 0, EPT_R, 6}, -EINVAL},
        {{-PAGE_4K, 0, PAGE_2M}, {PAGE_4K, 0, 0, EPT_R, 6}, -EINVAL},
        {{0, 1ull << 46, PAGE_4K}, {PAGE_4K, 0, 0, EPT_R, 6}, -EINVAL},
        {{0, 0, -PAGE_4K}, {PAGE_4K, 0, 0, EPT_R, 6}, -EINVAL},
        {{0, 0, 0}, {PAGE_4K, 0, 0, EPT_R, 6}, 0},
        {{0, 0, PAGE_4K}, {PAGE_4K, 0, 0, EPT_R, 6}, 0},
        {{0, 0, PAGE_4K}, {PAGE_4K, 0, 0, EPT_R, 6}, -EEXIST},
        {{0, 0, PAGE_2M}, {PAGE_2M, 1000000, 0, EPT_R, 6}, -EEXIST},
        {{PAGE_2M, 0, PAGE_2M}, {PAGE_2M, 1000000, 0, EPT_R, 6}, 0},
        {{PAGE_2M, 0, PAGE_4K}, {PAGE_4K, 0, 0, EPT_R, 6}, -EEXIST},
        {{PAGE_1G, 0, PAGE_4K}, {PAGE_4K, 0, 0, EPT_R, 6}, -ENOMEM},
    };
    struct host h;

    host_make(&h, EPT_FORMAT_EPT, 5);
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
        CU_ASSERT_EQUAL(
            ept_map(&h.state, &h.arena, &cases[i].range, &cases[i].policy),
            cases[i].error);
    free(h.arena.frames);
}

TEST_SUITE(ept_map, {"the ends of a range", ends_of_a_range},
           {"the upper half", upper_half},
           {"unlike alignment", unlike_alignment}, {"fragments", fragments},
           {"fragments of fragments", fragments_of_fragments},
           {"nonsense is refused", nonsense});
