/*
 * The model's machines where arithmetic says what they must count: references
 * of cold walks, hit ratios of every structure, exits of shadow policies,
 * cycles.
 *
 * Tolerances. Under LRU, what a structure of E entries holds of N pages drawn
 * uniformly does not depend on the next draw, so that hits are independent
 * trials with one probability, and their number is binomial: it must be within
 * 5 standard deviations, which chance alone exceeds once in 1.7 million.
 */
#include "tests/model_guest.h"
#include "tests/test.h"
#include "workloads/api.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define USER_VA 0x400000000000ull
#define USER    (PTE_P | PTE_RW | PTE_US)
#define RAM     (64ull << 20)
/* A constant, where event_word() is none. */
#define KIND(kind) ((uint64_t)(kind) << EVENT_SHIFT)

#ifdef __SANITIZE_ADDRESS__
#define FEWER 8
#else
#define FEWER 1
#endif

static const struct event_guest guest4 = {
    .levels = 4, .physical_bits = 46, .pages_1g = true, .ram_bytes = RAM};

static struct machine_config config_of(enum model_technique technique,
                                       const struct mmu_profile *profile)
{
    return (struct machine_config){.technique = technique,
                                   .profile = profile,
                                   .costs = cpu_costs(),
                                   .nested_levels = 4,
                                   .host_page_bytes = PAGE_4K,
                                   .host_large_ppm = 1000000,
                                   .seed = 1};
}

/* One machine that follows one tiny operating system. */
struct bench {
    struct model_os os;
    struct machine *m;
    uint64_t root;
};

static void follow(struct bench *b)
{
    struct why why;

    if (os_run(&b->os, b->m, &why)) {
        printf("%s\n", why.text);
        fflush(stdout);
        CU_FAIL_FATAL("the machine does not follow");
    }
    b->os.count = 0;
}

static struct bench *bench_of(const struct machine_config *config,
                              const struct event_guest *guest)
{
    struct bench *b = malloc(sizeof *b);
    struct why why;

    CU_ASSERT_FATAL(b && !os_init(&b->os, guest, PAGE_2M));
    if (machine_create(&b->m, config, guest, &why)) {
        printf("%s\n", why.text);
        CU_FAIL_FATAL("no machine");
    }
    b->root = os_space(&b->os);
    os_cr3(&b->os, b->root, 0, false);
    follow(b);
    return b;
}

static void bench_free(struct bench *b)
{
    machine_destroy(b->m);
    os_free(&b->os);
    free(b);
}

static void flush(struct bench *b)
{
    os_cr3(&b->os, b->root, 0, false);
    follow(b);
}

/* ---- Cold walks ---------------------------------------------------------- */

/* References of one access with nothing cached but what memory holds. */
static uint64_t cold_references(struct bench *b, uint64_t va)
{
    os_access(&b->os, EVENT_READ, va);
    flush(b);
    machine_reset_counts(b->m);
    os_access(&b->os, EVENT_READ, va);
    follow(b);
    CU_ASSERT_EQUAL(count_of(b->m, "walks"), 1);
    CU_ASSERT_EQUAL(count_of(b->m, "walks_aborted"), 0);
    CU_ASSERT_EQUAL(count_of(b->m, "cycles_walk"),
                    100 * count_of(b->m, "references"));
    return count_of(b->m, "references");
}

static void cold_walks(void)
{
    static const struct {
        enum model_technique technique;
        unsigned guest, nested;
        uint64_t guest_page, host_page;
        unsigned references;
    } rows[] = {
        {MODEL_NATIVE, 4, 0, PAGE_4K, PAGE_4K, 4},
        {MODEL_NATIVE, 5, 0, PAGE_4K, PAGE_4K, 5},
        {MODEL_NATIVE, 4, 0, PAGE_2M, PAGE_4K, 3},
        {MODEL_NATIVE, 4, 0, PAGE_1G, PAGE_4K, 2},
        {MODEL_SHADOW, 4, 0, PAGE_4K, PAGE_4K, 4},
        {MODEL_SHADOW, 5, 0, PAGE_4K, PAGE_4K, 5},
        {MODEL_SHADOW, 4, 0, PAGE_2M, PAGE_2M, 3},
        {MODEL_SHADOW, 4, 0, PAGE_2M, PAGE_4K, 4}, /* splintered */
        {MODEL_SHADOW, 4, 0, PAGE_4K, PAGE_2M, 4},
        {MODEL_NESTED, 4, 4, PAGE_4K, PAGE_4K, 24},
        {MODEL_NESTED, 5, 5, PAGE_4K, PAGE_4K, 35},
        {MODEL_NESTED, 4, 5, PAGE_4K, PAGE_4K, 29},
        {MODEL_NESTED, 5, 4, PAGE_4K, PAGE_4K, 29},
        {MODEL_NESTED, 4, 4, PAGE_2M, PAGE_4K, 19},
        {MODEL_NESTED, 4, 4, PAGE_4K, PAGE_2M, 19},
        {MODEL_NESTED, 4, 4, PAGE_2M, PAGE_2M, 15},
        {MODEL_NESTED, 4, 4, PAGE_1G, PAGE_1G, 8},
        {MODEL_FLAT, 4, 4, PAGE_4K, PAGE_4K, 9},
        {MODEL_FLAT, 4, 4, PAGE_2M, PAGE_2M, 7},
        {MODEL_FLAT, 5, 4, PAGE_4K, PAGE_4K, 11},
        {MODEL_AGILE, 4, 4, PAGE_4K, PAGE_4K, 4},
    };
    const struct mmu_profile profile = cpu_bare(4, 4, 0, 0);

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct machine_config config = config_of(rows[i].technique, &profile);
        struct event_guest guest = guest4;
        struct bench *b;
        uint64_t got;

        guest.levels = rows[i].guest;
        config.nested_levels = rows[i].nested;
        config.host_page_bytes = rows[i].host_page;
        b = bench_of(&config, &guest);
        os_map(&b->os, b->root, USER_VA,
               rows[i].guest_page < PAGE_1G ? PAGE_2M * 20 : 0,
               rows[i].guest_page, USER);
        got = cold_references(b, USER_VA + 0x238);
        CU_ASSERT_EQUAL(got, rows[i].references);
        if (got != rows[i].references)
            printf("row %zu: %llu references\n", i, (unsigned long long)got);
        bench_free(b);
    }
}

/* The table of each level in turn goes to nested mode. */
static void cold_agile_walks(void)
{
    const struct mmu_profile profile = cpu_bare(4, 4, 0, 0);

    for (unsigned level = 0; level <= 5; level++) {
        struct machine_config config = config_of(MODEL_AGILE, &profile);
        struct bench *b;
        uint64_t spare, exits;
        /* The root had its first write when the page was mapped. */
        unsigned before = level == 4 ? 1 : 2;

        config.agile_nested = level == 5;
        b = bench_of(&config, &guest4);
        os_map(&b->os, b->root, USER_VA, PAGE_2M * 20, PAGE_4K, USER);
        os_access(&b->os, EVENT_READ, USER_VA);
        follow(b);
        exits = exits_of(b->m, "traced_write");
        if (level && level < 5) {
            /* An entry of the same table that nothing uses. */
            spare = os_entry(&b->os, b->root, USER_VA, level, 0) ^ 0x7f8;
            for (unsigned writes = 1; writes <= 3; writes++) {
                os_store(&b->os, spare, 0);
                follow(b);
                CU_ASSERT_EQUAL(count_of(b->m, "agile_tables_to_nested"),
                                writes >= before);
                CU_ASSERT_EQUAL(exits_of(b->m, "traced_write") - exits,
                                writes < before ? writes : before);
            }
        }
        CU_ASSERT_EQUAL(cold_references(b, USER_VA), 4 + 4 * level);
        bench_free(b);
    }
}

/* Nobody writes to the table for an interval: it goes back. */
static void agile_goes_back(void)
{
    const struct mmu_profile profile = cpu_bare(4, 4, 0, 0);
    struct machine_config config = config_of(MODEL_AGILE, &profile);
    struct bench *b;
    uint64_t entry;

    config.agile_interval = 1000;
    b = bench_of(&config, &guest4);
    os_map(&b->os, b->root, USER_VA, PAGE_2M * 20, PAGE_4K, USER);
    os_access(&b->os, EVENT_READ, USER_VA);
    entry = os_entry(&b->os, b->root, USER_VA, 1, 0);
    for (unsigned i = 0; i < 3; i++)
        os_store(&b->os, entry ^ 0x800, 0);
    CU_ASSERT_EQUAL(cold_references(b, USER_VA), 8);
    for (unsigned i = 0; i < 2100; i++) {
        os_access(&b->os, EVENT_READ, USER_VA + i % 2 * 8);
        if (i % 1000 == 999)
            os_event(&b->os, event_word(EVENT_INVLPG, USER_VA));
    }
    follow(b);
    CU_ASSERT_EQUAL(count_of(b->m, "agile_tables_to_shadow"), 1);
    CU_ASSERT_EQUAL(count_of(b->m, "agile_tables_nested"), 0);
    CU_ASSERT_EQUAL(cold_references(b, USER_VA), 4);
    bench_free(b);
}

/* The kernel's own directory is in nested mode, a table of the user's is not:
 * writes to it are traced however the kernel comes to it, and whatever its TLB
 * had before. */
static void agile_traces(void)
{
    const struct mmu_profile profile = cpu_bare(64, 64, 0, 0);
    const struct machine_config config = config_of(MODEL_AGILE, &profile);

    for (unsigned first = 0; first < 2; first++) {
        struct bench *b = bench_of(&config, &guest4);
        uint64_t entry, kernel, exits;

        os_map(&b->os, b->root, USER_VA, PAGE_2M * 20, PAGE_4K, USER);
        entry = os_entry(&b->os, b->root, USER_VA, 1, 0);
        kernel = os_entry(&b->os, b->root, GUEST_DIRECT, 2, 0);
        os_store(&b->os, kernel | 0xff8, 0);
        os_store(&b->os, kernel | 0xff8, 0);
        os_access(&b->os, EVENT_READ, USER_VA + (first ? 0 : 8));
        follow(b);
        CU_ASSERT_EQUAL(count_of(b->m, "agile_tables_nested"), 1);
        exits = exits_of(b->m, "traced_write");
        flush(b);
        if (first)
            os_access(&b->os, EVENT_KERNEL_READ, GUEST_DIRECT + entry);
        os_store(&b->os, entry ^ 0x800, 0);
        follow(b);
        CU_ASSERT_EQUAL(exits_of(b->m, "traced_write"), exits + 1);
        bench_free(b);
    }
}

/* A table in nested mode becomes zero while a walk could begin at it: in shadow
 * mode again, it has nothing. */
static void agile_clears(void)
{
    struct mmu_profile profile = cpu_bare(1, 1, 0, 0);
    const struct machine_config config = config_of(MODEL_AGILE, &profile);
    struct bench *b;
    uint64_t entry;

    profile.psc.unified.entries = profile.psc.unified.ways = 24;
    b = bench_of(&config, &guest4);
    os_map(&b->os, b->root, USER_VA, PAGE_2M * 20, PAGE_4K, USER);
    entry = os_entry(&b->os, b->root, USER_VA, 1, 0);
    os_access(&b->os, EVENT_READ, USER_VA);
    os_store(&b->os, entry ^ 0x800, 0);
    os_store(&b->os, entry ^ 0x800, 0);
    os_access(&b->os, EVENT_READ, USER_VA);
    os_access(&b->os, EVENT_KERNEL_READ, GUEST_DIRECT);
    follow(b);
    CU_ASSERT_EQUAL(count_of(b->m, "agile_tables_nested"), 1);
    os_event(&b->os, event_word(EVENT_CLEAR, entry & ~0xfffull));
    os_fault(&b->os, USER_VA, PF_U);
    follow(b);
    CU_ASSERT_EQUAL(count_of(b->m, "agile_tables_nested"), 0);
    bench_free(b);
}

/* A table has no shadow yet when the kernel writes to it. */
static void agile_begins_to_trace(void)
{
    const struct mmu_profile profile = cpu_bare(64, 64, 0, 0);
    const struct machine_config config = config_of(MODEL_AGILE, &profile);
    struct bench *b = bench_of(&config, &guest4);
    uint64_t entry, kernel, exits;

    kernel = os_entry(&b->os, b->root, GUEST_DIRECT, 2, 0);
    os_access(&b->os, EVENT_KERNEL_READ, GUEST_DIRECT);
    os_store(&b->os, kernel | 0xff8, 0);
    os_store(&b->os, kernel | 0xff8, 0);
    os_map(&b->os, b->root, USER_VA, PAGE_2M * 20, PAGE_4K, USER);
    entry = os_entry(&b->os, b->root, USER_VA, 1, 0);
    os_store(&b->os, entry ^ 0x800, 0);
    follow(b);
    exits = exits_of(b->m, "traced_write");
    os_access(&b->os, EVENT_READ, USER_VA);
    os_store(&b->os, entry ^ 0x800, 0);
    follow(b);
    CU_ASSERT_EQUAL(exits_of(b->m, "traced_write"), exits + 1);
    bench_free(b);
}

/* ---- Hit ratios ---------------------------------------------------------- */

static void expect_ratio(const char *what, uint64_t hits, uint64_t trials,
                         double p)
{
    double sigma = sqrt((double)trials * p * (1 - p));
    double off = fabs((double)hits - (double)trials * p);

    CU_ASSERT(off <= 5 * sigma + 1e-9);
    if (off > 5 * sigma + 1e-9)
        printf("%s: %llu hits of %llu, expected %.4f\n", what,
               (unsigned long long)hits, (unsigned long long)trials, p);
}

/* Accesses to pages chosen by `random`, or in turn when it is NULL, a page
 * each `stride`. */
static void touch(struct bench *b, uint64_t pages, uint64_t stride,
                  uint64_t count, uint64_t *random)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page = random ? wl_below(random, pages) : i % pages;

        os_event(&b->os, event_word(EVENT_READ, USER_VA + page * stride));
        if (b->os.count == GUEST_WORDS)
            follow(b);
    }
    follow(b);
}

/* All of them lead to one frame; only translations matter. */
static struct bench *bench_with_pages(const struct mmu_profile *profile,
                                      enum model_technique technique,
                                      uint64_t pages, uint64_t stride)
{
    struct machine_config config = config_of(technique, profile);
    struct event_guest guest = guest4;
    struct bench *b;
    uint64_t frame;

    guest.ram_bytes = 256ull << 20;
    b = bench_of(&config, &guest);
    frame = os_frame(&b->os);
    for (uint64_t i = 0; i < pages; i++) {
        os_map(&b->os, b->root, USER_VA + i * stride, frame, PAGE_4K, USER);
        if (b->os.count > GUEST_WORDS / 2)
            follow(b);
    }
    touch(b, pages, stride, 2 * pages, NULL);
    machine_reset_counts(b->m);
    return b;
}

struct geometry {
    uint32_t entries, ways, pages;
};

/* Pages that fit: those of each set, as many as it has ways. */
static double resident(const struct geometry *g)
{
    uint32_t sets = g->entries / g->ways;
    double fit = 0;

    for (uint32_t set = 0; set < sets; set++) {
        uint32_t here = g->pages / sets + (set < g->pages % sets);

        fit += here < g->ways ? here : g->ways;
    }
    return fit;
}

static const struct geometry geometries[] = {
    {64, 64, 512},  {64, 4, 512},  {48, 48, 100},    {35, 5, 90},
    {72, 72, 73},   {96, 6, 1000}, {1536, 12, 4096}, {1536, 1536, 4096},
    {100, 20, 250}, {30, 3, 20},   {1024, 8, 16384}, {2048, 16, 2047},
};
#define GEOMETRIES (sizeof geometries / sizeof geometries[0])

static void first_level_uniform(void)
{
    const uint64_t count = 200000 / FEWER;
    uint64_t random = 1;

    for (size_t i = 0; i < GEOMETRIES; i++) {
        const struct geometry *g = &geometries[i];
        const struct mmu_profile profile = cpu_bare(g->entries, g->ways, 0, 0);
        struct bench *b =
            bench_with_pages(&profile, MODEL_NATIVE, g->pages, PAGE_4K);

        touch(b, g->pages, PAGE_4K, count, &random);
        expect_ratio("level 1", count_of(b->m, "tlb_l1_hits_4k"), count,
                     resident(g) / g->pages);
        CU_ASSERT_EQUAL(
            count_of(b->m, "tlb_l1_hits_4k") + count_of(b->m, "walks"), count);
        bench_free(b);
    }
}

/* With one entry above it, which is the most recent of its set, a level 2
 * that misses there is asked for one of the other pages. */
static void second_level_uniform(void)
{
    const uint64_t count = 200000 / FEWER;
    uint64_t random = 2;

    for (size_t i = 0; i < GEOMETRIES; i++) {
        const struct geometry *g = &geometries[i];
        const struct mmu_profile profile = cpu_bare(1, 1, g->entries, g->ways);
        struct bench *b =
            bench_with_pages(&profile, MODEL_NATIVE, g->pages, PAGE_4K);
        uint64_t misses;

        touch(b, g->pages, PAGE_4K, count, &random);
        misses = count_of(b->m, "tlb_l1_misses");
        expect_ratio("level 1", misses, count, 1 - 1. / g->pages);
        expect_ratio("level 2", count_of(b->m, "tlb_l2_hits_4k"), misses,
                     (resident(g) - 1) / (g->pages - 1));
        CU_ASSERT_EQUAL(count_of(b->m, "cycles_tlb"),
                        7 * count_of(b->m, "tlb_l2_hits_4k"));
        bench_free(b);
    }
}

/* The same of a paging-structure cache, whose entries cover 2 MiB and more. */
static void caches_uniform(void)
{
    static const struct {
        unsigned level;
        uint32_t entries, ways, pages;
        const char *hits;
    } rows[] = {
        {2, 32, 4, 64, "psc_pde_hits"},   {2, 24, 24, 40, "psc_pde_hits"},
        {2, 7, 7, 100, "psc_pde_hits"},   {3, 4, 4, 20, "psc_pdpte_hits"},
        {3, 12, 3, 30, "psc_pdpte_hits"}, {4, 2, 1, 5, "psc_pml4e_hits"},
        {4, 5, 5, 12, "psc_pml4e_hits"},
    };
    const uint64_t count = 200000 / FEWER;
    uint64_t random = 3;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct geometry g = {rows[i].entries, rows[i].ways,
                                   rows[i].pages};
        struct mmu_profile profile = cpu_bare(1, 1, 0, 0);
        uint64_t stride = 1ull << pt_shift(rows[i].level), misses;
        struct bench *b;

        profile.psc.level[rows[i].level].entries = rows[i].entries;
        profile.psc.level[rows[i].level].ways = rows[i].ways;
        profile.psc.cycles = 3;
        b = bench_with_pages(&profile, MODEL_NATIVE, rows[i].pages, stride);
        touch(b, rows[i].pages, stride, count, &random);
        misses = count_of(b->m, "walks");
        expect_ratio(rows[i].hits, count_of(b->m, rows[i].hits), misses,
                     (resident(&g) - 1) / (rows[i].pages - 1));
        /* What a hit saves. */
        CU_ASSERT_EQUAL(count_of(b->m, "references"),
                        4 * misses -
                            (5 - rows[i].level) * count_of(b->m, rows[i].hits));
        CU_ASSERT_EQUAL(count_of(b->m, "cycles_walk"),
                        100 * count_of(b->m, "references") +
                            3 * count_of(b->m, rows[i].hits));
        bench_free(b);
    }
}

/* Round and round: LRU keeps all or nothing. */
static void cyclic(void)
{
    for (size_t i = 0; i < GEOMETRIES; i++)
        for (unsigned more = 0; more < 2; more++) {
            const struct geometry *g = &geometries[i];
            const struct mmu_profile profile =
                cpu_bare(g->entries, g->ways, 0, 0);
            /* One page more for every set, or none. */
            uint32_t pages = g->entries + more * (g->entries / g->ways);
            struct bench *b =
                bench_with_pages(&profile, MODEL_NESTED, pages, PAGE_4K);

            touch(b, pages, PAGE_4K, 3ull * pages, NULL);
            CU_ASSERT_EQUAL(count_of(b->m, "tlb_l1_hits_4k"),
                            more ? 0 : 3ull * pages);
            CU_ASSERT_EQUAL(count_of(b->m, "walks"), more ? 3ull * pages : 0);
            bench_free(b);
        }
}

static void cyclic_second_level(void)
{
    for (size_t i = 0; i < GEOMETRIES; i++)
        for (unsigned more = 0; more < 2; more++) {
            const struct geometry *g = &geometries[i];
            const struct mmu_profile profile =
                cpu_bare(1, 1, g->entries, g->ways);
            uint32_t pages = g->entries + more * (g->entries / g->ways);
            struct bench *b =
                bench_with_pages(&profile, MODEL_NATIVE, pages, PAGE_4K);

            touch(b, pages, PAGE_4K, 3ull * pages, NULL);
            CU_ASSERT_EQUAL(count_of(b->m, "tlb_l1_misses"), 3ull * pages);
            CU_ASSERT_EQUAL(count_of(b->m, "tlb_l2_hits_4k"),
                            more ? 0 : 3ull * pages);
            bench_free(b);
        }
}

static void cyclic_caches(void)
{
    static const struct {
        unsigned level;
        uint32_t entries, ways;
        const char *hits;
    } rows[] = {{2, 32, 4, "psc_pde_hits"},  {2, 21, 7, "psc_pde_hits"},
                {3, 4, 4, "psc_pdpte_hits"}, {3, 10, 5, "psc_pdpte_hits"},
                {4, 2, 1, "psc_pml4e_hits"}, {4, 6, 3, "psc_pml4e_hits"}};

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (unsigned more = 0; more < 2; more++) {
            struct mmu_profile profile = cpu_bare(1, 1, 0, 0);
            uint64_t stride = 1ull << pt_shift(rows[i].level);
            uint32_t pages =
                rows[i].entries + more * (rows[i].entries / rows[i].ways);
            struct bench *b;

            profile.psc.level[rows[i].level].entries = rows[i].entries;
            profile.psc.level[rows[i].level].ways = rows[i].ways;
            b = bench_with_pages(&profile, MODEL_NATIVE, pages, stride);
            touch(b, pages, stride, 3ull * pages, NULL);
            CU_ASSERT_EQUAL(count_of(b->m, rows[i].hits),
                            more ? 0 : 3ull * pages);
            CU_ASSERT_EQUAL(count_of(b->m, "psc_misses"),
                            more ? 3ull * pages : 0);
            bench_free(b);
        }
}

/* Two dimensions: the tables' pages are few, and a nested TLB that holds them
 * and all pages of data leaves the guest's 4 references; one entry less, used
 * in turn, and every lookup misses. */
static void nested_tlb_cyclic(void)
{
    for (unsigned less = 0; less < 2; less++) {
        struct mmu_profile profile = cpu_bare(1, 1, 0, 0);
        struct bench *b;

        /* 4 tables and the frame of data. */
        profile.nested_tlb.entries = profile.nested_tlb.ways = 5 - less;
        profile.nested_tlb.cycles = 9;
        b = bench_with_pages(&profile, MODEL_NESTED, 3, PAGE_4K);
        touch(b, 3, PAGE_4K, 300, NULL);
        CU_ASSERT_EQUAL(count_of(b->m, "walks"), 300);
        CU_ASSERT_EQUAL(count_of(b->m, "nested_tlb_hits"), less ? 0 : 1500);
        CU_ASSERT_EQUAL(count_of(b->m, "nested_tlb_misses"), less ? 1500 : 0);
        CU_ASSERT_EQUAL(count_of(b->m, "references"), less ? 7200 : 1200);
        CU_ASSERT_EQUAL(count_of(b->m, "cycles_walk"),
                        less ? 720000 : 120000 + 9 * 1500);
        bench_free(b);
    }
}

/* Nested paging-structure caches: with PDEs cached, each of the five nested
 * walks of a miss reads one entry. */
static void nested_psc(void)
{
    struct mmu_profile profile = cpu_bare(1, 1, 0, 0);
    struct bench *b;

    profile.psc_nested.level[2].entries = profile.psc_nested.level[2].ways = 8;
    profile.psc_nested.cycles = 2;
    b = bench_with_pages(&profile, MODEL_NESTED, 3, PAGE_4K);
    touch(b, 3, PAGE_4K, 300, NULL);
    CU_ASSERT_EQUAL(count_of(b->m, "psc_nested_pde_hits"), 1500);
    CU_ASSERT_EQUAL(count_of(b->m, "references_nested_1"), 1500);
    CU_ASSERT_EQUAL(count_of(b->m, "references_nested_2"), 0);
    CU_ASSERT_EQUAL(count_of(b->m, "references_nested_for_access"), 300);
    CU_ASSERT_EQUAL(count_of(b->m, "references"), 2700);
    CU_ASSERT_EQUAL(count_of(b->m, "cycles_walk"), 270000 + 2 * 1500);
    bench_free(b);
}

/* ---- What caches keep ---------------------------------------------------- */

static void address_spaces(void)
{
    const struct mmu_profile profile = cpu_bare(64, 64, 0, 0);

    for (unsigned pcid = 0; pcid < 2; pcid++) {
        struct machine_config config = config_of(MODEL_NESTED, &profile);
        struct event_guest guest = guest4;
        struct bench *b;
        uint64_t other;

        guest.pcid = pcid;
        b = bench_of(&config, &guest);
        other = os_space(&b->os);
        os_map(&b->os, b->root, USER_VA, PAGE_2M * 20, PAGE_4K, USER);
        os_map(&b->os, other, USER_VA, PAGE_2M * 21, PAGE_4K, USER);
        follow(b);
        machine_reset_counts(b->m);
        for (unsigned i = 0; i < 20; i++) {
            os_cr3(&b->os, i % 2 ? other : b->root, pcid * (i % 2), pcid);
            os_access(&b->os, EVENT_READ, USER_VA);
            os_access(&b->os, EVENT_KERNEL_READ, GUEST_DIRECT);
        }
        follow(b);
        /* The kernel's page is global. */
        CU_ASSERT_EQUAL(count_of(b->m, "walks"), 1 + (pcid ? 2 : 20));
        bench_free(b);
    }
}

/* A fault fills nothing, and drops what there was for its address. */
static void faults(void)
{
    struct mmu_profile profile = cpu_bare(64, 64, 0, 0);
    struct machine_config config = config_of(MODEL_NATIVE, &profile);
    struct bench *b;

    profile.psc.level[2].entries = profile.psc.level[2].ways = 4;
    b = bench_of(&config, &guest4);
    os_map(&b->os, b->root, USER_VA, PAGE_2M * 20, PAGE_4K, USER & ~PTE_RW);
    os_access(&b->os, EVENT_READ, USER_VA);
    follow(b);
    machine_reset_counts(b->m);
    os_fault(&b->os, USER_VA, PF_P | PF_W | PF_U);
    os_fault(&b->os, USER_VA + PAGE_4K, PF_U);
    follow(b);
    CU_ASSERT_EQUAL(count_of(b->m, "guest_page_faults"), 2);
    CU_ASSERT_EQUAL(count_of(b->m, "cycles_guest_faults"), 22);
    /* Through the cached PDE, and, for rights, once more from the root; the
     * second finds no PDE, as the first fault dropped it. */
    CU_ASSERT_EQUAL(count_of(b->m, "references_guest_1"), 3);
    CU_ASSERT_EQUAL(count_of(b->m, "references_guest_4"), 2);
    CU_ASSERT_EQUAL(count_of(b->m, "walks_faulted"), 2);
    os_access(&b->os, EVENT_READ, USER_VA);
    follow(b);
    CU_ASSERT_EQUAL(count_of(b->m, "walks"), 1);
    CU_ASSERT_EQUAL(count_of(b->m, "tlb_l1_misses"), 2);
    bench_free(b);
}

/* ---- Exits --------------------------------------------------------------- */

struct exits {
    uint64_t hidden, true_faults, traced, invlpg, cr3;
};

static void expect_exits(struct bench *b, const struct exits *want)
{

    const struct model_costs *c = cpu_costs();
    uint64_t cycles;

    CU_ASSERT_EQUAL(exits_of(b->m, "hidden_fault"), want->hidden);
    CU_ASSERT_EQUAL(exits_of(b->m, "true_fault"), want->true_faults);
    CU_ASSERT_EQUAL(exits_of(b->m, "traced_write"), want->traced);
    CU_ASSERT_EQUAL(exits_of(b->m, "invlpg"), want->invlpg);
    CU_ASSERT_EQUAL(exits_of(b->m, "write_cr3"), want->cr3);
    CU_ASSERT_EQUAL(count_of(b->m, "shadow_hidden_missing") +
                        count_of(b->m, "shadow_hidden_protection"),
                    want->hidden);
    CU_ASSERT_EQUAL(count_of(b->m, "shadow_true_faults"), want->true_faults);
    CU_ASSERT_EQUAL(count_of(b->m, "shadow_traced_writes"), want->traced);
    cycles = want->hidden * (c->vm_exit + c->hidden_fault) +
             want->true_faults * (c->vm_exit + c->true_fault) +
             want->traced * (c->vm_exit + c->traced_write) +
             want->invlpg * (c->vm_exit + c->invlpg) +
             want->cr3 * (c->vm_exit + c->cr3_load);
    cycles += (count_of(b->m, "shadow_resyncs") * PT_ENTRIES +
               count_of(b->m, "shadow_resync_entries")) *
              c->resync_entry;
    CU_ASSERT_EQUAL(count_of(b->m, "cycles_exits"), cycles);
}

/* Demand paging of 16 pages of one table, as kernels do it: a fault, the
 * entry, the access again. Then all are unmapped, and CR3 is loaded. */
static void demand_paging(struct bench *b, unsigned pages)
{
    uint64_t frame = PAGE_2M * 20, entry;

    for (unsigned i = 0; i < pages; i++) {
        uint64_t va = USER_VA + i * PAGE_4K;

        os_fault(&b->os, va, PF_U | PF_W);
        os_map(&b->os, b->root, va, frame + i * PAGE_4K, PAGE_4K, USER);
        os_access(&b->os, EVENT_WRITE, va);
    }
    for (unsigned i = 0; i < pages; i++) {
        entry = os_entry(&b->os, b->root, USER_VA + i * PAGE_4K, 1, 0);
        os_store(&b->os, entry, 0);
        os_event(&b->os, event_word(EVENT_INVLPG, USER_VA + i * PAGE_4K));
    }
    os_cr3(&b->os, b->root, 0, false);
    follow(b);
}

static void shadow_policies(void)
{
    /*
     * Every page has a true fault and a hidden one, and the kernel's own pages
     * of the three new tables a hidden one each. The rest is the policy's.
     * traced: the root has a shadow since MOV CR3, so that its new entry is a
     *   traced write; so are 15 entries of the page table, which has a shadow
     *   from the first page on. Of the 16 that are taken away again, two: at
     *   the third write with no fault in between, the shadow is given up, by a
     *   hidden fault.
     * unsync: the root's entry. The first write to the page table's shadow
     *   lets it go, by a hidden fault.
     * vtlb: nothing is traced; the kernel's page of the root is one more to
     *   be filled.
     */
    static const struct exits want[] = {
        [SHADOW_TRACED] = {16 + 3 + 1, 16, 1 + 15 + 2, 16, 1},
        [SHADOW_UNSYNC] = {16 + 3 + 1, 16, 1, 16, 1},
        [SHADOW_VTLB] = {16 + 3 + 1, 16, 0, 16, 1},
    };
    const struct mmu_profile profile = cpu_bare(64, 64, 0, 0);

    for (unsigned policy = SHADOW_TRACED; policy <= SHADOW_VTLB; policy++) {
        struct machine_config config = config_of(MODEL_SHADOW, &profile);
        struct bench *b;

        config.shadow_policy = (enum shadow_policy)policy;
        b = bench_of(&config, &guest4);
        machine_reset_counts(b->m);
        demand_paging(b, 16);
        expect_exits(b, &want[policy]);
        bench_free(b);
    }
}

/* Under nested paging none of that exits, but each page of memory is mapped
 * once by the host, of its size. */
static void violations(void)
{
    static const enum model_technique techniques[] = {MODEL_NESTED, MODEL_FLAT};
    const struct mmu_profile profile = cpu_bare(64, 64, 0, 0);

    for (unsigned i = 0; i < 4; i++) {
        struct machine_config config = config_of(techniques[i % 2], &profile);
        struct bench *b;

        config.host_page_bytes = i < 2 ? PAGE_4K : PAGE_2M;
        b = bench_of(&config, &guest4);
        demand_paging(b, 16);
        demand_paging(b, 16);
        /* Tables and pages: the root, the kernel's 2, the user's 3; 16. Or two
         * of 2 MiB. */
        CU_ASSERT_EQUAL(exits_of(b->m, "ept_violation"),
                        i < 2 ? 1 + 2 + 3 + 16 : 2);
        CU_ASSERT_EQUAL(count_of(b->m, i < 2 ? "host_pages_mapped_4k"
                                             : "host_pages_mapped_2m"),
                        exits_of(b->m, "ept_violation"));
        CU_ASSERT_EQUAL(exits_of(b->m, "hidden_fault"), UINT64_MAX);
        CU_ASSERT_EQUAL(count_of(b->m, "guest_page_faults"), 32);
        bench_free(b);
    }
}

/* ---- Cycles -------------------------------------------------------------- */

static void cycles(void)
{
    struct mmu_profile profile = cpu_bare(1, 1, 0, 0);
    struct machine_config config = config_of(MODEL_NATIVE, &profile);
    struct bench *b;

    profile.dcache.levels = 1;
    profile.dcache.level[0].bytes = 64 * 64;
    profile.dcache.level[0].ways = 64;
    profile.dcache.level[0].cycles = 4;
    config.data_in_caches = true;
    b = bench_of(&config, &guest4);
    os_map(&b->os, b->root, USER_VA, PAGE_2M * 20, PAGE_4K, USER);
    os_map(&b->os, b->root, USER_VA + PAGE_4K, PAGE_2M * 21, PAGE_4K, USER);
    follow(b);
    os_access(&b->os, EVENT_READ, USER_VA);
    os_access(&b->os, EVENT_READ, USER_VA + PAGE_4K);
    follow(b);
    machine_reset_counts(b->m);
    /* Entries of both pages share their lines. */
    os_access(&b->os, EVENT_READ, USER_VA);
    os_access(&b->os, EVENT_READ, USER_VA + 0x40);
    os_access(&b->os, EVENT_READ, USER_VA + PAGE_4K);
    follow(b);
    CU_ASSERT_EQUAL(count_of(b->m, "cycles_walk"), 2 * 4 * 4);
    CU_ASSERT_EQUAL(count_of(b->m, "cycles_data"), 4 + 100 + 4);
    CU_ASSERT_EQUAL(count_of(b->m, "cycles_total"), 32 + 108);
    CU_ASSERT_EQUAL(count_of(b->m, "cache_l1_hits"), 10);
    CU_ASSERT_EQUAL(count_of(b->m, "cache_misses"), 1);
    bench_free(b);
}

/* ---- Memory -------------------------------------------------------------- */

/* 1 TiB: what is taken depends on the tables that there are, not on accesses
 * nor on what was a table once. */
static void flat_memory(void)
{
    static const enum model_technique techniques[] = {
        MODEL_NATIVE, MODEL_NESTED, MODEL_SHADOW, MODEL_AGILE};
    const struct event_guest guest = {.levels = 4,
                                      .physical_bits = 46,
                                      .pages_1g = true,
                                      .ram_bytes = 1ull << 40};
    const struct mmu_profile profile = cpu_bare(64, 4, 0, 0);

    for (unsigned t = 0; t < 4; t++) {
        struct machine_config config = config_of(techniques[t], &profile);
        struct machine *m;
        uint64_t after[2], words[8];
        struct why why;

        config.shadow_tables = 1000;
        CU_ASSERT_EQUAL_FATAL(machine_create(&m, &config, &guest, &why), 0);
        for (unsigned round = 0; round < 2; round++) {
            for (uint64_t i = 0; i < 2000; i++) {
                uint64_t pa = i * 0x1fff3000 % guest.ram_bytes & ~0xfffull;

                words[0] = event_word(EVENT_STORE, 0);
                words[1] = pa;
                words[2] = 1;
                words[3] = event_word(EVENT_CLEAR, pa);
                CU_ASSERT_EQUAL_FATAL(
                    machine_run(m, words, i % 100 ? 4 : 3, &why), 0);
            }
            after[round] = machine_bytes(m);
        }
        CU_ASSERT_EQUAL(after[0], after[1]);
        CU_ASSERT(after[0] < 80ull << 20);
        machine_destroy(m);
    }
}

/* ---- What cannot be ------------------------------------------------------ */

static void expect_refused(struct bench *b, const char *sentence)
{
    struct why why;

    CU_ASSERT_EQUAL(os_run(&b->os, b->m, &why), -EPROTO);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, sentence));
    if (!strstr(why.text, sentence))
        printf("'%s' instead of '%s'\n", why.text, sentence);
}

static void hostile_events(void)
{
    static const struct {
        uint64_t words[3];
        unsigned count;
        const char *sentence;
    } rows[] = {
        {{KIND(EVENT_KINDS)}, 1, "no event begins"},
        {{UINT64_MAX}, 1, "no event begins"},
        {{KIND(EVENT_STORE), 0}, 2, "no event begins"},
        {{KIND(EVENT_STORE), RAM, 1}, 3, "deny"},
        {{KIND(EVENT_STORE) | (GUEST_DIRECT & EVENT_ARGUMENT), RAM, 1},
         3,
         "goes to"},
        {{KIND(EVENT_STORE), 4, 1}, 3, "not aligned"},
        {{KIND(EVENT_CLEAR) | RAM}, 1, "beyond"},
        {{KIND(EVENT_CLEAR) | 8}, 1, "not aligned"},
        {{KIND(EVENT_CR3), RAM}, 2, "beyond"},
        {{KIND(EVENT_READ) | 0x1000}, 1, "deny an access"},
        {{KIND(EVENT_READ) | 1ull << 50}, 1, "not canonical"},
        {{KIND(EVENT_FAULT) | 0x1000, PF_U | PF_P}, 2, "deny"},
        {{KIND(EVENT_FAULT) | 0x1000, PF_U | 1ull << 32}, 2, "deny"},
        {{KIND(EVENT_FAULT) | 0x400000000000, PF_U}, 2, "allow"},
    };
    static const enum model_technique techniques[] = {
        MODEL_NATIVE, MODEL_SHADOW, MODEL_NESTED, MODEL_AGILE, MODEL_FLAT};
    const struct mmu_profile profile = cpu_bare(4, 4, 0, 0);

    for (unsigned t = 0; t < 5; t++)
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            struct machine_config config = config_of(techniques[t], &profile);
            struct bench *b = bench_of(&config, &guest4);

            os_map(&b->os, b->root, USER_VA, PAGE_2M * 20, PAGE_4K, USER);
            os_access(&b->os, EVENT_READ, USER_VA);
            follow(b);
            for (unsigned w = 0; w < rows[i].count; w++)
                os_event(&b->os, rows[i].words[w]);
            expect_refused(b, rows[i].sentence);
            bench_free(b);
        }
}

/* An entry leads out of memory. */
static void tables_outside(void)
{
    static const enum model_technique techniques[] = {
        MODEL_NATIVE, MODEL_SHADOW, MODEL_NESTED, MODEL_AGILE, MODEL_FLAT};
    const struct mmu_profile profile = cpu_bare(4, 4, 0, 0);

    for (unsigned t = 0; t < 5; t++) {
        struct machine_config config = config_of(techniques[t], &profile);
        struct bench *b = bench_of(&config, &guest4);

        os_store(&b->os, b->root + 8ull * pt_index(USER_VA, 4),
                 (RAM + PAGE_4K) | USER | PTE_A);
        os_event(&b->os, event_word(EVENT_READ, USER_VA));
        expect_refused(b, techniques[t] == MODEL_NESTED ||
                                  techniques[t] == MODEL_FLAT
                              ? "beyond the guest's memory"
                              : "lead out of its memory");
        bench_free(b);
    }
}

static void before_paging(void)
{
    static const struct {
        uint64_t words[2];
        unsigned count;
    } rows[] = {{{KIND(EVENT_READ)}, 1}, {{KIND(EVENT_FAULT), PF_U}, 2}};
    const struct mmu_profile profile = cpu_bare(4, 4, 0, 0);
    const struct machine_config config = config_of(MODEL_NESTED, &profile);
    struct machine *m;
    struct why why;

    for (unsigned i = 0; i < 2; i++) {
        CU_ASSERT_EQUAL_FATAL(machine_create(&m, &config, &guest4, &why), 0);
        CU_ASSERT_EQUAL(machine_run(m, rows[i].words, rows[i].count, &why),
                        -EPROTO);
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "before the guest has page"));
        machine_destroy(m);
    }
}

/* Random words and words that look like events: an error or none, and never
 * more. */
static void random_events(void)
{
    const struct mmu_profile profile = cpu_bare(4, 2, 8, 4);
    uint64_t random = 9, words[64];
    struct why why;

    for (unsigned i = 0; i < 4000 / FEWER; i++) {
        struct machine_config config =
            config_of((enum model_technique)(i % MODEL_TECHNIQUES), &profile);
        struct machine *m;

        config.shadow_policy = (enum shadow_policy)(i % 3);
        config.shadow_tables = 16;
        CU_ASSERT_EQUAL_FATAL(machine_create(&m, &config, &guest4, &why), 0);
        for (unsigned w = 0; w < 64; w++) {
            uint64_t value = wl_random(&random);

            /* Tables in few frames that lead to each other. */
            words[w] = wl_below(&random, 3)
                           ? event_word((enum event_kind)(value % EVENT_KINDS),
                                        (value >> 8 & 7) * PAGE_4K +
                                            (value >> 16 & 3) * 8)
                           : (value & 7) * PAGE_4K + (value >> 8 & 3) * 8 +
                                 (value >> 16 & 0xe7);
        }
        if (machine_run(m, words, 64, &why))
            CU_ASSERT(why.text[0] != '\0');
        machine_destroy(m);
    }
}

static void impossible_machines(void)
{
    struct mmu_profile profile = cpu_bare(4, 4, 0, 0);
    struct event_guest guest = guest4;
    struct machine_config config;
    struct machine *m;
    struct why why;

#define REFUSED(sentence)                                         \
    do {                                                          \
        CU_ASSERT(machine_create(&m, &config, &guest, &why) < 0); \
        CU_ASSERT_PTR_NULL(m);                                    \
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, sentence));       \
        config = config_of(MODEL_NESTED, &profile);               \
        guest = guest4;                                           \
        profile = cpu_bare(4, 4, 0, 0);                           \
    } while (0)

    config = config_of(MODEL_NESTED, &profile);
    config.nested_levels = 3;
    REFUSED("4 or 5 levels");
    config.host_page_bytes = 8192;
    REFUSED("host pages");
    config.host_large_ppm = 1000001;
    REFUSED("more large pages");
    config.technique = MODEL_TECHNIQUES;
    REFUSED("no such technique");
    config.shadow_tables = 3;
    REFUSED("16 to");
    config.shadow_roots = 1000;
    REFUSED("roots");
    guest.levels = 3;
    REFUSED("levels");
    guest.physical_bits = 64;
    REFUSED("36 to 52");
    guest.ram_bytes = 4097;
    REFUSED("whole pages");
    guest.ram_bytes = 1ull << 49;
    guest.physical_bits = 52;
    REFUSED("do not reach");
    guest.ram_bytes = 1ull << 47;
    REFUSED("within its physical");
    profile.tlb.structure[0].ways = 3;
    REFUSED("cannot be");
    profile.dcache.line_bytes = 3;
    REFUSED("cannot be");
    config.technique = MODEL_AGILE;
    config.agile_writes = 1000;
    REFUSED("255 writes");
#undef REFUSED
}

TEST_SUITE(model, {"references of cold walks", cold_walks},
           {"references of cold agile walks", cold_agile_walks},
           {"agile: back to shadow mode", agile_goes_back},
           {"agile: traces beside nested mode", agile_traces},
           {"agile: tables that become zero", agile_clears},
           {"agile: traces that begin", agile_begins_to_trace},
           {"uniform pages, first level", first_level_uniform},
           {"uniform pages, second level", second_level_uniform},
           {"uniform regions, paging-structure caches", caches_uniform},
           {"pages in turn", cyclic},
           {"pages in turn, second level", cyclic_second_level},
           {"regions in turn, paging-structure caches", cyclic_caches},
           {"pages in turn, nested TLB", nested_tlb_cyclic},
           {"nested paging-structure caches", nested_psc},
           {"address spaces, PCIDs, global pages", address_spaces},
           {"faults", faults}, {"exits of shadow policies", shadow_policies},
           {"host pages, one violation each", violations},
           {"cycles and data caches", cycles},
           {"memory of a 1 TiB guest", flat_memory},
           {"hostile events", hostile_events},
           {"tables outside memory", tables_outside},
           {"events before there are tables", before_paging},
           {"random events", random_events},
           {"impossible machines", impossible_machines});
