/*
 * Every kind of machine follows a tiny operating system that does at random
 * what operating systems do, and must say what the architectural walk of the
 * system's own memory says: which accesses fault and how, where the others
 * arrive, with which rights they are cached, and which accessed and dirty bits
 * are set. Flushes are given where the architecture asks for them, and left out
 * where it does not (SDM vol. 3A, 4.10.4.3).
 */
#include "model/core.h"
#include "tests/model_guest.h"
#include "tests/test.h"
#include "workloads/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define USER_VA     0x400000000000ull
#define SHARED_VA   0x480000000000ull /* the same tables in every space */
#define LARGE_PA    (32ull << 20)     /* memory of 2-MiB pages from here */
#define RAM         (64ull << 20)
#define DIRECTORIES 6u /* entries of page directories in use, in each half */
#define PAGES       6u
#define SPACES      3u
#define FLAGS       (PTE_RW | PTE_US | PTE_XD)

#ifdef __SANITIZE_ADDRESS__
#define STEPS 6000u
#else
#define STEPS 12000u
#endif

struct variant {
    const char *name;
    struct machine_config config;
    unsigned profile;
};

#define COMMON                                                     \
    .costs = NULL, .nested_levels = 4, .host_page_bytes = PAGE_4K, \
    .host_large_ppm = 1000000
static const struct variant variants[] = {
    {"native", {COMMON, .technique = MODEL_NATIVE}, 0},
    {"native, large caches", {COMMON, .technique = MODEL_NATIVE}, 1},
    {"nested", {COMMON, .technique = MODEL_NESTED}, 0},
    {"nested, large caches", {COMMON, .technique = MODEL_NESTED}, 1},
    {"nested, NPT, 2M",
     {COMMON, .technique = MODEL_NESTED, .nested_format = EPT_FORMAT_NPT},
     2},
    {"flat", {COMMON, .technique = MODEL_FLAT}, 2},
    {"shadow, traced",
     {COMMON, .technique = MODEL_SHADOW, .shadow_policy = SHADOW_TRACED},
     0},
    {"shadow, unsync",
     {COMMON, .technique = MODEL_SHADOW, .shadow_policy = SHADOW_UNSYNC},
     1},
    {"shadow, unsync, no room",
     {COMMON, .technique = MODEL_SHADOW, .shadow_policy = SHADOW_UNSYNC,
      .shadow_tables = 20, .shadow_roots = 2},
     2},
    {"shadow, vtlb",
     {COMMON, .technique = MODEL_SHADOW, .shadow_policy = SHADOW_VTLB},
     1},
    {"agile", {COMMON, .technique = MODEL_AGILE, .agile_interval = 900}, 1},
    {"agile, often",
     {COMMON, .technique = MODEL_AGILE, .agile_interval = 60, .agile_writes = 1,
      .shadow_tables = 30},
     0},
    {"agile, nested",
     {COMMON, .technique = MODEL_AGILE, .agile_nested = true},
     2},
};
#define VARIANTS (sizeof variants / sizeof variants[0])

struct world {
    struct model_os os;
    uint64_t random;
    uint64_t root[SPACES];
    bool stale[SPACES]; /* its PCID must be flushed when it comes */
    unsigned current;
    struct mmu_profile profile[3];
    struct machine *machine[VARIANTS];
    uint64_t done[8]; /* by what was done: nothing may be left out */
    bool wrong;
};

/* ---- Machines ------------------------------------------------------------ */

static void make_profiles(struct world *w)
{
    /* A TLB that hardly holds anything; one that holds all; and 2 MiB in
     * pieces. */
    w->profile[0] = cpu_bare(3, 3, 0, 0);
    w->profile[1] = cpu_bare(8, 2, 128, 8);
    w->profile[2] = cpu_bare(6, 2, 30, 5);
    w->profile[2].tlb.structure[0].sizes = 1;
    w->profile[2].tlb.structure[1].sizes = 3;
    w->profile[2].tlb.splinters[0] = true;
    for (unsigned level = 2; level <= 5; level++) {
        w->profile[0].psc.level[level].entries = 2;
        w->profile[0].psc.level[level].ways = 1;
        w->profile[1].psc_nested.level[level].entries = 3;
        w->profile[1].psc_nested.level[level].ways = 3;
    }
    w->profile[1].psc.unified.entries = w->profile[1].psc.unified.ways = 24;
    w->profile[1].nested_tlb.entries = w->profile[1].nested_tlb.ways = 16;
    w->profile[2].psc.level[3].entries = w->profile[2].psc.level[3].ways = 4;
    w->profile[2].nested_tlb.entries = w->profile[2].nested_tlb.ways = 4;
}

static void make_machines(struct world *w)
{
    for (size_t i = 0; i < VARIANTS; i++) {
        struct machine_config config = variants[i].config;
        struct why why;

        config.profile = &w->profile[variants[i].profile];
        config.costs = cpu_costs();
        config.seed = 7;
        if (variants[i].profile == 2) {
            config.host_page_bytes = PAGE_2M;
            config.host_large_ppm = 500000;
        }
        CU_ASSERT_EQUAL_FATAL(
            machine_create(&w->machine[i], &config, &w->os.guest, &why), 0);
    }
}

/* What a TLB has for an address, whatever the order. */
static bool peek(const struct machine *m, uint64_t va, uint64_t *value,
                 uint64_t *pa)
{
    const struct tlb *tlb = &m->tlb;

    for (unsigned at = 0; at < tlb->config.count; at++)
        for (unsigned size = 0; size < TLB_SIZES; size++) {
            uint64_t bytes = PAGE_4K << 9 * size;
            uint32_t slot =
                cache_peek(&tlb->cache[at], tlb_page_number(va, size),
                           tlb_key(va, size), tlb->tag, tlb->tag_global);

            if (slot == CACHE_MISS)
                continue;
            *value = tlb->cache[at].values[slot];
            *pa = (*value & PTE_ADDR) | (va & (bytes - 1));
            return true;
        }
    return false;
}

static void wrong(struct world *w, unsigned machine, const char *what,
                  uint64_t va)
{
    if (!w->wrong)
        printf("%s: %s, at %#llx\n", variants[machine].name, what,
               (unsigned long long)va);
    w->wrong = true;
}

/* After an access that the oracle allowed. A write that was emulated leaves
 * nothing in the TLB. */
static void check_cached(struct world *w, unsigned machine, uint64_t va,
                         enum event_kind kind, const struct mmu_walk *walk)
{
    const struct machine *m = w->machine[machine];
    uint64_t value, pa;

    if (!peek(m, va, &value, &pa)) {
        if (kind != EVENT_KERNEL_WRITE || !m->shadowing.shadow)
            wrong(w, machine, "nothing is cached", va);
        return;
    }
    if (pa - m->host_base != walk->pa)
        wrong(w, machine, "arrives elsewhere", va);
    if ((value & PTE_RW && value & PTE_D && !(walk->writable && walk->dirty)) ||
        (value & PTE_US && !walk->user) ||
        (!(value & PTE_XD) && !walk->executable))
        wrong(w, machine, "has rights that the tables deny", va);
}

/* Accessed and dirty bits, and all else. */
static void check_memory(struct world *w)
{
    for (unsigned i = 0; i < VARIANTS; i++)
        for (uint64_t pa = 0; pa < w->os.next; pa += 8) {
            uint64_t entry = 0;

            (void)tables_read(&w->machine[i]->tables, pa, &entry);
            if (entry != os_read(&w->os, pa))
                wrong(w, i, "has other contents of memory", pa);
        }
}

/* ---- Events -------------------------------------------------------------- */

static void run(struct world *w)
{
    for (unsigned i = 0; i < VARIANTS; i++) {
        struct why why;

        if (os_run(&w->os, w->machine[i], &why))
            wrong(w, i, why.text, 0);
    }
    w->os.count = 0;
}

static void access_at(struct world *w, enum event_kind kind, uint64_t va)
{
    struct mmu_walk walk;

    os_walk(&w->os, kind, va, &walk);
    if (walk.outcome == MMU_PAGE_FAULT) {
        os_fault(&w->os, va, (unsigned)walk.error);
        run(w);
        w->done[0]++;
        return;
    }
    os_event(&w->os, event_word(kind, va));
    run(w);
    for (unsigned i = 0; i < VARIANTS && !w->wrong; i++)
        check_cached(w, i, va, kind, &walk);
    w->done[1]++;
}

/* Data that the kernel writes through the user's address; the machines compare
 * where it arrives. */
static void store_at(struct world *w, uint64_t va)
{
    struct mmu_walk walk;

    os_walk(&w->os, EVENT_KERNEL_WRITE, va, &walk);
    if (walk.outcome != MMU_OK)
        return;
    w->os.ram[walk.pa / 8] = wl_random(&w->random);
    os_event(&w->os, event_word(EVENT_STORE, va));
    os_event(&w->os, walk.pa);
    os_event(&w->os, w->os.ram[walk.pa / 8]);
    run(w);
    w->done[2]++;
}

static void switch_to(struct world *w, unsigned space)
{
    bool pcid = w->os.guest.pcid;

    os_cr3(&w->os, w->root[space], pcid ? space + 1 : 0,
           pcid && !w->stale[space]);
    w->stale[space] = false;
    w->current = space;
    run(w);
}

/* The translations of an address in one space, or of a shared one in all. */
static void flush(struct world *w, unsigned space, uint64_t va)
{
    bool shared = va >= SHARED_VA;

    for (unsigned i = 0; i < SPACES; i++)
        if (i != w->current && (shared || i == space))
            w->stale[i] = true;
    if (shared || space == w->current)
        os_event(&w->os, event_word(EVENT_INVLPG, va));
    run(w);
}

/* Everything of a space. */
static void flush_space(struct world *w, unsigned space, bool shared)
{
    for (unsigned i = 0; i < SPACES; i++)
        w->stale[i] |= shared || i == space;
    if (w->stale[w->current])
        switch_to(w, w->current);
}

/* ---- What an operating system does --------------------------------------- */

static const unsigned page_index[PAGES] = {0, 1, 2, 7, 100, 511};

static uint64_t random_va(struct world *w)
{
    uint64_t d = wl_below(&w->random, DIRECTORIES);
    uint64_t va = wl_below(&w->random, 2) ? USER_VA : SHARED_VA;

    va += (d & 1) * PAGE_1G + (d >> 1) * PAGE_2M;
    return va + page_index[wl_below(&w->random, PAGES)] * PAGE_4K +
           wl_below(&w->random, 512) * 8;
}

static uint64_t random_flags(struct world *w)
{
    uint64_t random = wl_random(&w->random);

    return PTE_P | (random & 3 ? PTE_RW : 0) | (random & 0x1c ? PTE_US : 0) |
           (random & 0x60 ? 0 : PTE_XD);
}

static bool gains_only(uint64_t old, uint64_t new)
{
    return !((old ^ PTE_XD) & ~(new ^ PTE_XD) & FLAGS);
}

/* New rights for an entry; those that only add to the old ones need no flush.
 */
static void change_rights(struct world *w, unsigned space, uint64_t va,
                          uint64_t entry, bool table)
{
    uint64_t old = os_read(&w->os, entry);
    uint64_t new = (old & ~FLAGS) | random_flags(w);

    os_store(&w->os, entry, new);
    run(w);
    if (gains_only(old, new) && wl_below(&w->random, 2)) {
        w->done[3]++;
        return;
    }
    if (table)
        flush_space(w, space, va >= SHARED_VA);
    else
        flush(w, space, va);
}

static void change_page(struct world *w, unsigned space, uint64_t va,
                        uint64_t entry)
{
    uint64_t old = os_read(&w->os, entry);
    bool large =
        old & PTE_PS && entry % PAGE_4K && (old & PTE_ADDR) >= LARGE_PA;

    switch (wl_below(&w->random, 4)) {
    case 0: /* unmap */
        os_store(&w->os, entry, 0);
        if (!large)
            os_give_back(&w->os, old & PTE_ADDR);
        break;
    case 1: /* as a swapper does */
        os_store(&w->os, entry, old & ~(PTE_A | PTE_D));
        break;
    case 2: /* another frame: copy on write */
        if (large)
            return;
        os_store(&w->os, entry,
                 (old & ~PTE_ADDR & ~(PTE_A | PTE_D)) | os_frame(&w->os));
        break;
    default:
        change_rights(w, space, va, entry, false);
        return;
    }
    flush(w, space, va);
    w->done[4]++;
}

/* Each of a table's pages by itself, which takes partial translations with it.
 */
static void flush_pages(struct world *w, uint64_t va)
{
    for (unsigned i = 0; i < PAGES; i++)
        os_event(&w->os, event_word(EVENT_INVLPG, (va & ~(PAGE_2M - 1)) +
                                                      page_index[i] * PAGE_4K));
    run(w);
}

/* A whole table goes, and its frame becomes another's; or it stays and is
 * empty. */
static void free_table(struct world *w, unsigned space, uint64_t va,
                       uint64_t entry)
{
    uint64_t table = os_read(&w->os, entry) & PTE_ADDR;

    if (space == w->current)
        access_at(w, EVENT_KERNEL_READ, va);
    if (wl_below(&w->random, 2)) {
        os_store(&w->os, entry, 0);
        os_give_back(&w->os, table);
    } else {
        memset(&w->os.ram[table / 8], 0, PAGE_4K);
        os_event(&w->os, event_word(EVENT_CLEAR, table));
    }
    run(w);
    if (space == w->current && va < SHARED_VA && wl_below(&w->random, 2))
        flush_pages(w, va);
    else
        flush_space(w, space, va >= SHARED_VA);
    if (space == w->current)
        access_at(w, EVENT_KERNEL_READ, va);
    w->done[5]++;
}

static void map_page(struct world *w, unsigned space, uint64_t va,
                     uint64_t directory)
{
    uint64_t flags = random_flags(w);

    if (!os_read(&w->os, directory) && !wl_below(&w->random, 4)) {
        os_store(&w->os, directory,
                 (LARGE_PA + wl_below(&w->random, 16) * PAGE_2M) | flags |
                     PTE_PS);
        w->done[6]++;
    } else {
        os_map(&w->os, w->root[space], va, os_frame(&w->os), PAGE_4K, flags);
    }
    run(w);
}

static void manage(struct world *w)
{
    unsigned space = wl_below(&w->random, 4)
                         ? w->current
                         : (unsigned)wl_below(&w->random, SPACES);
    uint64_t va = random_va(w);
    uint64_t directory = os_entry(&w->os, w->root[space], va, 2,
                                  PTE_P | PTE_RW | PTE_US | PTE_A);
    uint64_t old = os_read(&w->os, directory), entry;

    run(w);
    if (old & PTE_PS) {
        change_page(w, space, va, directory);
        return;
    }
    if (old && !wl_below(&w->random, 20)) {
        free_table(w, space, va, directory);
        return;
    }
    if (old && !wl_below(&w->random, 10)) {
        change_rights(w, space, va, directory, true);
        return;
    }
    entry = old ? (old & PTE_ADDR) + 8ull * pt_index(va, 1) : 0;
    if (!entry || !os_read(&w->os, entry))
        map_page(w, space, va, directory);
    else if (!wl_below(&w->random, 3))
        change_page(w, space, va, entry);
}

static void step(struct world *w)
{
    uint64_t what = wl_below(&w->random, 100);
    enum event_kind kind =
        (enum event_kind)wl_below(&w->random, EVENT_KERNEL_FETCH + 1);

    if (what < 2)
        switch_to(w, (unsigned)wl_below(&w->random, SPACES));
    else if (what < 22)
        manage(w);
    else if (what < 30)
        store_at(w, random_va(w) & ~7ull);
    else if (what < 35)
        access_at(w, kind, GUEST_DIRECT + wl_below(&w->random, w->os.next));
    else
        access_at(w, kind, random_va(w));
}

/* -------------------------------------------------------------------------- */

static struct world *world_of(const struct event_guest *guest, uint64_t direct,
                              uint64_t seed)
{
    struct world *w = calloc(1, sizeof *w);

    CU_ASSERT_FATAL(w && !os_init(&w->os, guest, direct));
    w->random = seed;
    make_profiles(w);
    make_machines(w);
    run(w);
    for (unsigned i = 0; i < SPACES; i++) {
        w->root[i] = os_space(&w->os);
        w->stale[i] = true;
    }
    /* Made in one, seen in all. */
    (void)os_entry(&w->os, w->root[0], SHARED_VA, 2,
                   PTE_P | PTE_RW | PTE_US | PTE_A);
    for (unsigned i = 1; i < SPACES; i++) {
        unsigned top = pt_index(SHARED_VA, guest->levels) * 8;

        if (guest->levels == 4)
            os_store(&w->os, w->root[i] + top,
                     os_read(&w->os, w->root[0] + top));
    }
    run(w);
    switch_to(w, 0);
    return w;
}

static void world_free(struct world *w)
{
    for (unsigned i = 0; i < VARIANTS; i++)
        machine_destroy(w->machine[i]);
    os_free(&w->os);
    free(w);
}

static void follow(unsigned levels, bool pcid, uint64_t direct, uint64_t seed)
{
    const struct event_guest guest = {.levels = levels,
                                      .physical_bits = 46,
                                      .pages_1g = true,
                                      .pcid = pcid,
                                      .ram_bytes = RAM};
    struct world *w = world_of(&guest, direct, seed);
    unsigned i;

    for (i = 0; i < STEPS && !w->wrong; i++) {
        step(w);
        if (i % 1000 == 999)
            check_memory(w);
    }
    if (w->wrong)
        printf("%u levels, step %u\n", levels, i);
    CU_ASSERT(!w->wrong);
    for (unsigned what = 0; what < 7; what++)
        CU_ASSERT(w->done[what] > 10);
    world_free(w);
}

static void four_levels(void)
{
    follow(4, false, PAGE_2M, 1);
}

static void with_pcids(void)
{
    follow(4, true, PAGE_2M, 2);
}

static void small_kernel_pages(void)
{
    follow(4, true, PAGE_4K, 3);
}

static void five_levels(void)
{
    follow(5, true, PAGE_1G, 4);
}

/* The same stream, the same counts. */
static void repeats(void)
{
    const struct event_guest guest = {
        .levels = 4, .physical_bits = 46, .pages_1g = true, .ram_bytes = RAM};
    struct machine_counts *counts = calloc(2 * VARIANTS, sizeof *counts);

    CU_ASSERT_PTR_NOT_NULL_FATAL(counts);
    for (unsigned round = 0; round < 2; round++) {
        struct world *w = world_of(&guest, PAGE_2M, 5);

        for (unsigned i = 0; i < 1000; i++)
            step(w);
        for (unsigned i = 0; i < VARIANTS; i++)
            machine_counts(w->machine[i], &counts[2 * i + round]);
        world_free(w);
    }
    for (unsigned i = 0; i < VARIANTS; i++)
        CU_ASSERT(!memcmp(&counts[2 * i], &counts[2 * i + 1], sizeof *counts));
    free(counts);
}

/* Names are unique, and there is room for all of them. */
static void names(void)
{
    const struct event_guest guest = {
        .levels = 5, .physical_bits = 46, .pages_1g = true, .ram_bytes = RAM};
    struct world *w = world_of(&guest, PAGE_2M, 6);
    struct machine_counts *c = calloc(1, sizeof *c);

    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    for (unsigned i = 0; i < VARIANTS; i++) {
        machine_counts(w->machine[i], c);
        CU_ASSERT(c->counters > 30 && c->counters < MACHINE_COUNTERS_MAX);
        for (unsigned a = 0; a < c->counters; a++)
            for (unsigned b = 0; b < a; b++)
                CU_ASSERT(strcmp(c->counter[a].name, c->counter[b].name) != 0);
    }
    free(c);
    world_free(w);
}

TEST_SUITE(model_oracle, {"random guest, 4 levels", four_levels},
           {"random guest, PCIDs", with_pcids},
           {"random guest, small kernel pages", small_kernel_pages},
           {"random guest, 5 levels", five_levels},
           {"the same stream, the same counts", repeats},
           {"names of counters", names});
