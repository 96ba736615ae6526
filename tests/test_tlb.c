/*
 * TLBs, paging-structure caches and data caches: the array they share against
 * lists that are searched from end to end, miss rates against closed forms,
 * and each instruction that invalidates against the SDM's words.
 */
#include "mmu/dcache.h"
#include "mmu/psc.h"
#include "mmu/tlb.h"
#include "tests/test.h"
#include "workloads/api.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The array against an oracle -----------------------------------------*/

/* A set is a list, most recent first. */
struct oracle {
    struct cache_shape shape;
    struct cache_entry *list; /* shape.ways for each set */
    uint32_t *length;
};

static struct cache_entry *oracle_set(struct oracle *oracle, uint64_t index,
                                      uint32_t **length)
{
    uint32_t set =
        (uint32_t)(index % (oracle->shape.entries / oracle->shape.ways));

    *length = &oracle->length[set];
    return oracle->list + (size_t)set * oracle->shape.ways;
}

static int oracle_find(struct oracle *oracle, uint64_t index, uint64_t key,
                       uint32_t tag, uint32_t other)
{
    uint32_t *length;
    struct cache_entry *list = oracle_set(oracle, index, &length);

    for (uint32_t i = 0; i < *length; i++)
        if (list[i].key == key && (list[i].tag == tag || list[i].tag == other))
            return (int)i;
    return -1;
}

static void oracle_remove(struct oracle *oracle, uint64_t index, int at)
{
    uint32_t *length;
    struct cache_entry *list = oracle_set(oracle, index, &length);

    --*length;
    memmove(list + at, list + at + 1, (*length - at) * sizeof *list);
}

static void oracle_push(struct oracle *oracle, uint64_t index,
                        struct cache_entry entry)
{
    uint32_t *length;
    struct cache_entry *list = oracle_set(oracle, index, &length);

    memmove(list + 1, list, *length * sizeof *list);
    list[0] = entry;
    ++*length;
}

/* True when something was pushed out. */
static bool oracle_insert(struct oracle *oracle, uint64_t index,
                          struct cache_entry entry, struct cache_entry *evicted)
{
    int at = oracle_find(oracle, index, entry.key, entry.tag, entry.tag);
    uint32_t *length;
    struct cache_entry *list = oracle_set(oracle, index, &length);
    bool full = at < 0 && *length == oracle->shape.ways;

    if (full)
        *evicted = list[*length - 1];
    if (full || at >= 0)
        oracle_remove(oracle, index, full ? (int)*length - 1 : at);
    oracle_push(oracle, index, entry);
    return full;
}

struct pair {
    struct cache cache;
    void *storage;
    struct oracle oracle;
    uint64_t random, wrong;
};

static void pair_make(struct pair *pair, uint32_t entries, uint32_t ways)
{
    struct cache_shape shape = {entries, ways, true, true};
    size_t bytes = 0;

    *pair = (struct pair){.random = entries + ways, .oracle.shape = shape};
    CU_ASSERT_EQUAL_FATAL(cache_bytes(&shape, &bytes), 0);
    pair->storage = malloc(bytes);
    memset(pair->storage, 0xa5, bytes);
    cache_init(&pair->cache, &shape, pair->storage);
    pair->oracle.list = calloc(entries, sizeof *pair->oracle.list);
    pair->oracle.length = calloc(entries / ways, sizeof(uint32_t));
}

static void pair_free(struct pair *pair)
{
    free(pair->storage);
    free(pair->oracle.list);
    free(pair->oracle.length);
}

/* A key belongs to one index. */
static uint64_t index_of(uint64_t key)
{
    return key * 3;
}

static void step_lookup(struct pair *pair, uint64_t key, uint32_t tag)
{
    uint32_t slot = cache_lookup(&pair->cache, index_of(key), key, tag, 9);
    int at = oracle_find(&pair->oracle, index_of(key), key, tag, 9);
    struct cache_entry *list, entry;
    uint32_t *length;

    pair->wrong += (slot == CACHE_MISS) != (at < 0);
    if (slot == CACHE_MISS || at < 0)
        return;
    /* The same key under `tag` and under 9: either is right; follow. */
    at = oracle_find(&pair->oracle, index_of(key), key, pair->cache.tags[slot],
                     pair->cache.tags[slot]);
    pair->wrong += at < 0;
    if (at < 0)
        return;
    list = oracle_set(&pair->oracle, index_of(key), &length);
    entry = list[at];
    pair->wrong += pair->cache.values[slot] != entry.value;
    oracle_remove(&pair->oracle, index_of(key), at);
    oracle_push(&pair->oracle, index_of(key), entry);
}

static void step_insert(struct pair *pair, uint64_t key, uint32_t tag)
{
    struct cache_entry entry = {key, wl_random(&pair->random), tag};
    struct cache_entry a = {0, 0, 0}, b = {0, 0, 0};
    bool full = cache_insert(&pair->cache, index_of(key), &entry, &a);

    pair->wrong +=
        full != oracle_insert(&pair->oracle, index_of(key), entry, &b);
    pair->wrong += a.key != b.key || a.value != b.value || a.tag != b.tag;
}

static void step_drop(struct pair *pair, uint64_t key, uint32_t tag)
{
    uint32_t slot = cache_peek(&pair->cache, index_of(key), key, tag, tag);
    int at = oracle_find(&pair->oracle, index_of(key), key, tag, tag);

    pair->wrong += (slot == CACHE_MISS) != (at < 0);
    if (slot == CACHE_MISS || at < 0)
        return;
    cache_drop(&pair->cache, slot);
    oracle_remove(&pair->oracle, index_of(key), at);
}

static bool key_is_odd(const struct cache_entry *entry, void *arg)
{
    ++*(unsigned *)arg;
    return entry->key & 1;
}

static void step_sweep(struct pair *pair)
{
    struct oracle *oracle = &pair->oracle;
    unsigned seen = 0, dropped = 0, live = pair->cache.live;
    uint32_t got = cache_invalidate(&pair->cache, key_is_odd, &seen);

    for (uint32_t set = 0; set < pair->cache.sets; set++)
        for (uint32_t i = oracle->length[set]; i-- > 0;) {
            struct cache_entry *list =
                oracle->list + (size_t)set * oracle->shape.ways;

            if (!(list[i].key & 1))
                continue;
            oracle_remove(oracle, set, (int)i);
            dropped++;
        }
    pair->wrong += got != dropped || pair->cache.live != live - dropped;
}

static uint64_t compare(uint32_t entries, uint32_t ways)
{
    uint64_t wrong;
    struct pair pair;

    pair_make(&pair, entries, ways);
    for (unsigned i = 0; i < 40000; i++) {
        uint64_t key = 1 + wl_below(&pair.random, 2ull * entries);
        uint32_t tag = (uint32_t)wl_below(&pair.random, 20) ? 7 : 9;
        uint64_t what = wl_below(&pair.random, 1000);

        if (what < 500)
            step_lookup(&pair, key, tag);
        else if (what < 950)
            step_insert(&pair, key, tag);
        else if (what < 999)
            step_drop(&pair, key, tag);
        else
            step_sweep(&pair);
    }
    wrong = pair.wrong;
    pair_free(&pair);
    return wrong;
}

static void against_lists(void)
{
    static const uint32_t shapes[][2] = {
        {1, 1},   {7, 1},    {2, 2},   {6, 3},   {64, 4},   {60, 5},
        {84, 12}, {48, 16},  {16, 16}, {17, 17}, {340, 20}, {72, 72},
        {64, 64}, {129, 43}, {30, 15}, {13, 13}, {33, 11},
    };

    for (unsigned i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        uint64_t wrong = compare(shapes[i][0], shapes[i][1]);

        if (wrong)
            printf("\n    %u entries, %u ways: %llu wrong", shapes[i][0],
                   shapes[i][1], (unsigned long long)wrong);
        CU_ASSERT_EQUAL(wrong, 0);
    }
}

static void shapes_that_cannot_be(void)
{
    static const struct {
        uint32_t entries, ways;
        int err;
    } shapes[] = {
        {0, 0, -EINVAL},         {0, 4, -EINVAL},  {4, 0, -EINVAL},
        {13, 3, -EINVAL},        {4, 8, -EINVAL},  {UINT32_MAX, 1, -E2BIG},
        {1u << 28, 1u << 28, 0}, {1u << 28, 1, 0}, {1536, 12, 0},
    };

    for (unsigned i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct cache_shape shape = {shapes[i].entries, shapes[i].ways, true,
                                    true};
        size_t bytes = 0;

        CU_ASSERT_EQUAL(cache_bytes(&shape, &bytes), shapes[i].err);
        CU_ASSERT(shapes[i].err ? bytes == 0
                                : bytes >= 20ull * shapes[i].entries);
    }
}

/* ---- A TLB to test with --------------------------------------------------*/

struct tlb_owner {
    struct tlb tlb;
    void *storage;
};

static struct tlb *tlb_make(const struct tlb_config *config,
                            struct tlb_owner *owner)
{
    size_t bytes = 0;

    CU_ASSERT_EQUAL_FATAL(tlb_bytes(config, &bytes, NULL), 0);
    owner->storage = malloc(bytes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(owner->storage);
    tlb_init(&owner->tlb, config, owner->storage);
    return &owner->tlb;
}

static struct tlb_structure part(unsigned level, unsigned sizes,
                                 uint32_t entries, uint32_t ways)
{
    return (struct tlb_structure){.entries = entries,
                                  .ways = ways,
                                  .level = level,
                                  .accesses = 7,
                                  .sizes = sizes};
}

static bool hits(struct tlb *tlb, uint64_t va)
{
    struct tlb_hit hit;

    return tlb_lookup(tlb, va, MMU_READ, &hit);
}

/* What a program's access does: look up, walk on a miss. */
static bool touch(struct tlb *tlb, uint64_t page)
{
    if (hits(tlb, page << 12))
        return true;
    tlb_insert(tlb, page << 12, PAGE_4K, MMU_READ, page << 12 | PTE_P, false);
    return false;
}

/* ---- Closed forms --------------------------------------------------------*/

#define SAMPLES 200000
#define SIGMAS  4.5 /* one run in 150,000 is further off; seeds are fixed */

/* Pages 0 .. pages - 1 that fall into the set. */
static uint32_t pages_in(uint32_t pages, uint32_t sets, uint32_t set)
{
    return pages / sets + (set < pages % sets);
}

/*
 * Uniform random pages: each set always holds the last `ways` distinct pages
 * of its own, whichever they are, so that a hit has the same probability at
 * every access and the hits are binomial. With pages spread evenly it is T/P.
 */
static double uniform_hit_rate(uint32_t entries, uint32_t ways, uint32_t pages)
{
    uint32_t sets = entries / ways;
    double held = 0;

    for (uint32_t set = 0; set < sets; set++) {
        uint32_t own = pages_in(pages, sets, set);

        held += own < ways ? own : ways;
    }
    return held / pages;
}

static double measured_uniform(uint32_t entries, uint32_t ways, uint32_t pages)
{
    struct tlb_config config = {.count = 1,
                                .structure = {part(1, 1, entries, ways)}};
    struct tlb_owner owner;
    struct tlb *tlb = tlb_make(&config, &owner);
    uint64_t random = pages, count = 0;

    /* Each set full, then: every page once. */
    for (uint32_t page = 0; page < pages; page++)
        touch(tlb, page);
    tlb_reset_counts(tlb);
    for (unsigned i = 0; i < SAMPLES; i++)
        touch(tlb, wl_below(&random, pages));
    CU_ASSERT_EQUAL(tlb->lookups[MMU_READ], SAMPLES);
    CU_ASSERT_EQUAL(tlb->counts[0].hits[0] + tlb->counts[0].misses[0], SAMPLES);
    CU_ASSERT_EQUAL(tlb->misses[0], tlb->counts[0].misses[0]);
    count = tlb->counts[0].hits[0];
    free(owner.storage);
    return (double)count / SAMPLES;
}

static void uniform_pages(void)
{
    static const uint32_t cases[][3] = {
        {64, 64, 512},     {64, 4, 512},       {64, 64, 100},
        {72, 72, 512},     {48, 3, 1000},      {1536, 12, 4096},
        {1536, 12, 16384}, {1536, 1536, 4096}, {1000, 10, 1234},
        {3072, 8, 10000},  {1, 1, 2},          {2048, 8, 65536},
        {120, 20, 777},    {384, 6, 400},
    };

    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint32_t *c = cases[i];
        double expected = uniform_hit_rate(c[0], c[1], c[2]);
        double sigma = sqrt(expected * (1 - expected) / SAMPLES);
        double found = measured_uniform(c[0], c[1], c[2]);

        if (fabs(found - expected) > SIGMAS * sigma)
            printf("\n    %u entries, %u ways, %u pages: %g, not %g", c[0],
                   c[1], c[2], found, expected);
        CU_ASSERT(fabs(found - expected) <= SIGMAS * sigma);
    }
    /* The plain form, where it is exact. */
    CU_ASSERT_DOUBLE_EQUAL(uniform_hit_rate(64, 64, 512), 64. / 512, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(uniform_hit_rate(1536, 12, 16384), 1536. / 16384,
                           1e-12);
}

/* One page after the other, over and over: a set that holds all of its own
 * always hits, one that does not never. */
static void cyclic_pages(void)
{
    static const uint32_t cases[][3] = {
        {64, 64, 64}, {64, 64, 65},     {64, 4, 64},     {64, 4, 65},
        {72, 72, 72}, {72, 72, 73},     {48, 3, 50},     {1000, 10, 1000},
        {84, 12, 90}, {1536, 12, 1537}, {3072, 8, 3072}, {60, 20, 61},
    };

    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t ways = cases[i][1], pages = cases[i][2];
        uint32_t sets = cases[i][0] / ways;
        struct tlb_config config = {
            .count = 1, .structure = {part(1, 1, cases[i][0], ways)}};
        struct tlb_owner owner;
        struct tlb *tlb = tlb_make(&config, &owner);
        uint64_t wrong = 0;

        for (uint32_t page = 0; page < pages; page++)
            CU_ASSERT(!touch(tlb, page));
        for (uint32_t at = 0; at < 3 * pages; at++) {
            uint32_t page = at % pages;

            wrong += touch(tlb, page) !=
                     (pages_in(pages, sets, page % sets) <= ways);
        }
        CU_ASSERT_EQUAL(wrong, 0);
        free(owner.storage);
    }
}

/* Two levels: what misses both is not in their union, which is level 2 and up
 * to all of level 1. */
static void second_level(void)
{
    static const uint32_t pages[] = {4096, 16384};
    struct tlb_config config = {
        .count = 2, .structure = {part(1, 1, 64, 4), part(2, 1, 1536, 12)}};

    for (unsigned i = 0; i < 2; i++) {
        struct tlb_owner owner;
        struct tlb *tlb = tlb_make(&config, &owner);
        double most = 1 - 1536. / pages[i], least = 1 - 1600. / pages[i], found;
        double error = SIGMAS * sqrt(most * (1 - most) / SAMPLES);
        uint64_t random = 1;

        for (unsigned page = 0; page < pages[i]; page++)
            touch(tlb, page);
        tlb_reset_counts(tlb);
        for (unsigned n = 0; n < SAMPLES; n++)
            touch(tlb, wl_below(&random, pages[i]));
        found = (double)tlb->misses[1] / SAMPLES;
        CU_ASSERT(found <= most + error);
        CU_ASSERT(found >= least - error);
        free(owner.storage);
    }
}

/* ---- Page sizes, sides, pieces -------------------------------------------*/

#define ALL 7u

static void page_sizes(void)
{
    struct tlb_config config = {
        .count = 4,
        .structure = {part(1, 1, 8, 4), part(1, 2, 4, 4), part(1, 4, 2, 2),
                      part(2, 3, 24, 6)}};
    struct tlb_owner owner;
    struct tlb *tlb = tlb_make(&config, &owner);
    uint64_t va = 0xffff888123456789;
    struct tlb_hit hit;

    tlb_insert(tlb, va, PAGE_4K, MMU_READ, 0x1000 | PTE_P, false);
    CU_ASSERT(tlb_lookup(tlb, va ^ 0xfff, MMU_WRITE, &hit));
    CU_ASSERT_EQUAL(hit.value & PTE_ADDR, 0x1000);
    CU_ASSERT_EQUAL(hit.held_bytes, PAGE_4K);
    CU_ASSERT(!hits(tlb, va ^ 0x1000));
    tlb_insert(tlb, va + PAGE_1G, PAGE_2M, MMU_READ, PAGE_2M | PTE_P, false);
    CU_ASSERT(tlb_lookup(tlb, (va + PAGE_1G) ^ 0x1ff000, MMU_READ, &hit));
    CU_ASSERT_EQUAL(hit.page_bytes, PAGE_2M);
    CU_ASSERT_EQUAL(hit.structure, 1);
    CU_ASSERT(!hits(tlb, (va + PAGE_1G) ^ PAGE_2M));
    tlb_insert(tlb, va + 4 * PAGE_1G, PAGE_1G, MMU_READ, PTE_P, false);
    CU_ASSERT(tlb_lookup(tlb, (va + 4 * PAGE_1G) ^ 0x3ffff000, MMU_READ, &hit));
    CU_ASSERT_EQUAL(hit.structure, 2);
    CU_ASSERT_EQUAL(tlb->counts[2].hits[2], 1);
    CU_ASSERT_EQUAL(tlb->counts[2].misses[2], 1);
    CU_ASSERT_EQUAL(tlb->counts[3].misses[2], 0); /* has no place for it */
    CU_ASSERT_EQUAL(tlb->counts[3].misses[0], 1);
    CU_ASSERT_EQUAL(tlb->counts[3].misses[1], 1);
    free(owner.storage);
}

/* A fetch and a store fill structures of their own; level 2 is shared. */
static void sides(void)
{
    struct tlb_config config = {
        .count = 4,
        .structure = {part(1, ALL, 4, 4), part(1, ALL, 4, 4),
                      part(1, ALL, 4, 4), part(2, ALL, 16, 4)}};
    struct tlb_owner owner;
    struct tlb_hit hit;
    struct tlb *tlb;

    for (unsigned i = 0; i < 3; i++)
        config.structure[i].accesses = 1u << i;
    tlb = tlb_make(&config, &owner);
    tlb_insert(tlb, 0x5000, PAGE_4K, MMU_FETCH, PTE_P, false);
    CU_ASSERT(tlb_lookup(tlb, 0x5000, MMU_FETCH, &hit));
    CU_ASSERT_EQUAL(hit.level, 1);
    CU_ASSERT(tlb_lookup(tlb, 0x5000, MMU_WRITE, &hit));
    CU_ASSERT_EQUAL(hit.level, 2);
    CU_ASSERT(tlb_lookup(tlb, 0x5000, MMU_WRITE, &hit));
    CU_ASSERT_EQUAL(hit.level, 1);
    CU_ASSERT_EQUAL(hit.structure, MMU_WRITE);
    CU_ASSERT_EQUAL(tlb->misses[0], 1);
    CU_ASSERT_EQUAL(tlb->misses[1], 0);
    free(owner.storage);
}

/* No place for 1 GiB: 2-MiB pieces with their own frames, and INVLPG of any
 * address in the page takes all of them (SDM 4.10.2.3, 4.10.4.1). */
static void pieces(void)
{
    struct tlb_config config = {.count = 1,
                                .structure = {part(1, 3, 16, 16)},
                                .splinters = {true, false}};
    struct tlb_owner owner;
    struct tlb *tlb = tlb_make(&config, &owner);
    struct tlb_hit hit;

    for (unsigned i = 0; i < 3; i++)
        tlb_insert(tlb, PAGE_1G + i * PAGE_2M, PAGE_1G, MMU_READ,
                   7 * PAGE_1G | PTE_P, false);
    CU_ASSERT(tlb_lookup(tlb, PAGE_1G + 2 * PAGE_2M + 5, MMU_READ, &hit));
    CU_ASSERT_EQUAL(hit.value & PTE_ADDR, 7 * PAGE_1G + 2 * PAGE_2M);
    CU_ASSERT_EQUAL(hit.held_bytes, PAGE_2M);
    CU_ASSERT_EQUAL(hit.page_bytes, PAGE_1G);
    CU_ASSERT(!hits(tlb, PAGE_1G + 3 * PAGE_2M));
    tlb_insert(tlb, 0x1000, PAGE_4K, MMU_READ, PTE_P, false);
    tlb_invlpg(tlb, PAGE_1G + 100 * PAGE_2M);
    for (unsigned i = 0; i < 3; i++)
        CU_ASSERT(!hits(tlb, PAGE_1G + i * PAGE_2M));
    CU_ASSERT(hits(tlb, 0x1000));
    free(owner.storage);
}

/* Two structures for one size share its pages out: both together hold as many
 * as their entries. */
static void shared_out(void)
{
    struct tlb_config config = {
        .count = 3,
        .structure = {part(1, 1, 1, 1), part(2, 3, 32, 4), part(2, 5, 32, 4)}};
    struct tlb_owner owner;
    struct tlb *tlb = tlb_make(&config, &owner);

    for (unsigned page = 0; page < 64; page++)
        CU_ASSERT(!touch(tlb, page));
    for (unsigned page = 0; page < 64; page++)
        CU_ASSERT(touch(tlb, page));
    CU_ASSERT_EQUAL(tlb->cache[1].live, 32);
    CU_ASSERT_EQUAL(tlb->cache[2].live, 32);
    free(owner.storage);
}

static void dirty_bit(void)
{
    struct tlb_config config = {
        .count = 2, .structure = {part(1, ALL, 4, 4), part(2, ALL, 16, 4)}};
    struct tlb_owner owner;
    struct tlb *tlb = tlb_make(&config, &owner);
    struct tlb_hit hit = {.value = 0};

    touch(tlb, 1);
    tlb_set_bits(tlb, 1 << 12, PTE_D);
    CU_ASSERT(tlb_lookup(tlb, 1 << 12, MMU_WRITE, &hit));
    CU_ASSERT(hit.value & PTE_D);
    for (unsigned page = 2; page < 6; page++)
        touch(tlb, page);
    CU_ASSERT(tlb_lookup(tlb, 1 << 12, MMU_WRITE, &hit));
    CU_ASSERT_EQUAL(hit.level, 2);
    CU_ASSERT(hit.value & PTE_D);
    free(owner.storage);
}

/* ---- What each instruction drops -----------------------------------------*/

#define VA_A 0x400000000000ull
#define VA_B 0x400000001000ull
#define VA_G 0xffff800000000000ull

/* VPID 1: PCIDs 1 and 2 with pages A and B each, and global G, filled under
 * PCID 1; VPID 2 the same. It ends in VPID 1, PCID 1. */
static struct tlb *tlb_full(struct tlb_owner *owner)
{
    struct tlb_config config = {
        .count = 2, .structure = {part(1, ALL, 32, 32), part(2, ALL, 64, 8)}};
    struct tlb *tlb = tlb_make(&config, owner);

    for (uint16_t vpid = 2; vpid >= 1; vpid--)
        for (uint16_t pcid = 2; pcid >= 1; pcid--) {
            tlb_set_vpid(tlb, vpid);
            tlb_load_cr3(tlb, pcid, true);
            tlb_insert(tlb, VA_A, PAGE_4K, MMU_READ, PTE_P, false);
            tlb_insert(tlb, VA_B, PAGE_4K, MMU_READ, PTE_P, false);
            tlb_insert(tlb, VA_G, PAGE_2M, MMU_READ, PTE_P, true);
        }
    return tlb;
}

/* What is left, as a bit for each: in VPID 1 A1 B1 A2 B2 G, in VPID 2 the
 * same five. Leaves the TLB where it was. */
static unsigned left(struct tlb *tlb)
{
    uint32_t tag = tlb->tag;
    unsigned found = 0;

    for (uint16_t vpid = 1; vpid <= 2; vpid++) {
        unsigned base = vpid == 1 ? 0 : 5;

        tlb_set_vpid(tlb, vpid);
        for (uint16_t pcid = 1; pcid <= 2; pcid++) {
            tlb_load_cr3(tlb, pcid, true);
            found |= (unsigned)hits(tlb, VA_A) << (base + 2 * (pcid - 1));
            found |= (unsigned)hits(tlb, VA_B) << (base + 2 * (pcid - 1) + 1);
        }
        tlb_load_cr3(tlb, 77, true); /* globals match under every PCID */
        found |= (unsigned)hits(tlb, VA_G) << (base + 4);
    }
    tlb_set_vpid(tlb, (uint16_t)(tag >> 16));
    tlb_load_cr3(tlb, (uint16_t)tag & 0xfff, true);
    return found;
}

#define A1     1u
#define B1     2u
#define A2     4u
#define B2     8u
#define G      16u
#define V1     (A1 | B1 | A2 | B2 | G)
#define OF2(x) ((x) << 5)

enum operation {
    CR3_FLUSH,
    CR3_KEEP,
    CR3_OTHER,
    INVLPG_A,
    INVLPG_G,
    INVLPG_UNHELD,
    INVPCID,
    INVVPID,
    FLUSH
};

static int operate(struct tlb *tlb, enum operation operation, unsigned type,
                   uint16_t number, uint64_t va)
{
    switch (operation) {
    case CR3_FLUSH:
        tlb_load_cr3(tlb, 1, false);
        return 0;
    case CR3_KEEP:
        tlb_load_cr3(tlb, 2, true);
        return 0;
    case CR3_OTHER:
        tlb_load_cr3(tlb, 2, false);
        return 0;
    case INVLPG_A:
    case INVLPG_G:
    case INVLPG_UNHELD:
        tlb_invlpg(tlb, va);
        return 0;
    case INVPCID:
        return tlb_invpcid(tlb, type, number, va);
    case INVVPID:
        return tlb_invvpid(tlb, type, number, va);
    case FLUSH:
        tlb_flush(tlb);
        return 0;
    }
    return -EINVAL;
}

static void invalidations(void)
{
    static const struct {
        enum operation operation;
        unsigned type;
        uint16_t number;
        uint64_t va;
        unsigned gone;
    } cases[] = {
        {CR3_FLUSH, 0, 0, 0, A1 | B1},
        {CR3_KEEP, 0, 0, 0, 0},
        {CR3_OTHER, 0, 0, 0, A2 | B2},
        {INVLPG_A, 0, 0, VA_A + 5, A1},
        {INVLPG_G, 0, 0, VA_G + 0x12345, G},
        {INVLPG_UNHELD, 0, 0, 0x1000, 0},
        {INVPCID, INVPCID_ADDRESS, 2, VA_B, B2},
        {INVPCID, INVPCID_ADDRESS, 1, VA_G, 0},
        {INVPCID, INVPCID_CONTEXT, 2, 0, A2 | B2},
        {INVPCID, INVPCID_CONTEXT, 9, 0, 0},
        {INVPCID, INVPCID_ALL, 0, 0, V1},
        {INVPCID, INVPCID_ALL_NON_GLOBAL, 0, 0, V1 & ~G},
        {INVVPID, INVVPID_ADDRESS, 2, VA_A, OF2(A1 | A2)},
        {INVVPID, INVVPID_ADDRESS, 1, VA_G, G},
        {INVVPID, INVVPID_CONTEXT, 2, 0, OF2(V1)},
        {INVVPID, INVVPID_CONTEXT_NON_GLOBAL, 2, 0, OF2(V1 & ~G)},
        {INVVPID, INVVPID_ALL, 0, 0, V1 | OF2(V1)},
        {FLUSH, 0, 0, 0, V1 | OF2(V1)},
    };

    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tlb_owner owner;
        struct tlb *tlb = tlb_full(&owner);
        unsigned found;

        CU_ASSERT_EQUAL(left(tlb), V1 | OF2(V1));
        CU_ASSERT_EQUAL(operate(tlb, cases[i].operation, cases[i].type,
                                cases[i].number, cases[i].va),
                        0);
        found = (V1 | OF2(V1)) & ~left(tlb);
        if (found != cases[i].gone)
            printf("\n    case %u: %#x gone, not %#x", i, found, cases[i].gone);
        CU_ASSERT_EQUAL(found, cases[i].gone);
        /* In level 1 and in level 2. */
        CU_ASSERT_EQUAL(tlb->counts[1].invalidated,
                        (unsigned)__builtin_popcount(cases[i].gone));
        free(owner.storage);
    }
}

static void wrong_types(void)
{
    struct tlb_owner owner;
    struct tlb *tlb = tlb_full(&owner);

    CU_ASSERT_EQUAL(tlb_invpcid(tlb, 4, 1, 0), -EINVAL);
    CU_ASSERT_EQUAL(tlb_invpcid(tlb, INVPCID_CONTEXT, 4096, 0), -EINVAL);
    CU_ASSERT_EQUAL(tlb_invvpid(tlb, 4, 1, 0), -EINVAL);
    CU_ASSERT_EQUAL(tlb_invvpid(tlb, INVVPID_CONTEXT, 0, 0), -EINVAL);
    CU_ASSERT_EQUAL(left(tlb), V1 | OF2(V1));
    free(owner.storage);
}

/* INVVPID of all contexts leaves VPID 0 alone (SDM vol. 3C, INVVPID). */
static void vpid_0_stays(void)
{
    struct tlb_owner owner;
    struct tlb *tlb = tlb_full(&owner);

    tlb_set_vpid(tlb, 0);
    tlb_load_cr3(tlb, 0, true);
    touch(tlb, 3);
    CU_ASSERT_EQUAL(tlb_invvpid(tlb, INVVPID_ALL, 0, 0), 0);
    CU_ASSERT(hits(tlb, 3 << 12));
    CU_ASSERT_EQUAL(left(tlb), 0);
    free(owner.storage);
}

static void impossible_tlbs(void)
{
    struct tlb_config good = {
        .count = 2, .structure = {part(1, 1, 8, 4), part(2, 1, 8, 4)}};
    struct tlb_config config = good;
    size_t bytes;
    unsigned at;

    config.structure[1].ways = 3;
    CU_ASSERT_EQUAL(tlb_bytes(&config, &bytes, &at), -EINVAL);
    CU_ASSERT_EQUAL(at, 1);
    config = good;
    config.structure[1].level = 3;
    CU_ASSERT_EQUAL(tlb_bytes(&config, &bytes, &at), -EINVAL);
    config = good;
    config.structure[0].accesses = 3; /* no place for a fetch */
    CU_ASSERT_EQUAL(tlb_bytes(&config, &bytes, &at), -EINVAL);
    CU_ASSERT_EQUAL(at, 2);
    config = good;
    config.count = TLB_STRUCTURES_MAX + 1;
    CU_ASSERT_EQUAL(tlb_bytes(&config, &bytes, &at), -EINVAL);
}

/* ---- Paging-structure caches ---------------------------------------------*/

static struct psc *psc_make(const struct psc_config *config, struct psc *psc,
                            void **storage)
{
    size_t bytes = 0;

    CU_ASSERT_EQUAL_FATAL(psc_bytes(config, &bytes, NULL), 0);
    *storage = malloc(bytes + 1);
    psc_init(psc, config, *storage);
    return psc;
}

static unsigned psc_level(struct psc *psc, uint64_t va)
{
    uint64_t value;

    return psc_lookup(psc, va, &value);
}

static void psc_walk(struct psc *psc, uint64_t va, unsigned from)
{
    for (unsigned level = from; level >= PSC_LEVEL_MIN; level--)
        psc_insert(psc, va, level, va >> pt_shift(level) << 12);
}

static void psc_deepest(struct psc *psc)
{
    uint64_t va = 0xff7f123456789000, value = 0;

    CU_ASSERT_EQUAL(psc_level(psc, va), 0);
    psc_walk(psc, va, 5);
    CU_ASSERT_EQUAL(psc_lookup(psc, va ^ 0x1ff000, &value), 2);
    CU_ASSERT_EQUAL(value, va >> 21 << 12);
    CU_ASSERT_EQUAL(psc_level(psc, va ^ PAGE_2M), 3);
    CU_ASSERT_EQUAL(psc_level(psc, va ^ PAGE_1G), 4);
    CU_ASSERT_EQUAL(psc_level(psc, va ^ 1ull << 39), 5);
    CU_ASSERT_EQUAL(psc_level(psc, va ^ 1ull << 48), 0);
    CU_ASSERT_EQUAL(psc->lookups, 6);
    CU_ASSERT_EQUAL(psc->misses, 2);
    /* No leaf, and no level that is none, is ever cached. */
    psc_insert(psc, 0, 1, 1);
    psc_insert(psc, 0, 6, 1);
    CU_ASSERT_EQUAL(psc_level(psc, 0), 0);
}

static void psc_tags(struct psc *psc)
{
    psc_flush(psc);
    for (uint16_t pcid = 1; pcid <= 2; pcid++) {
        psc_load_cr3(psc, pcid, true);
        psc_walk(psc, VA_A, 4);
        psc_walk(psc, VA_G, 4);
    }
    /* INVLPG: all of the current PCID, whatever the address; only of it. */
    psc_invlpg(psc);
    CU_ASSERT_EQUAL(psc_level(psc, VA_A), 0);
    CU_ASSERT_EQUAL(psc_level(psc, VA_G), 0);
    psc_load_cr3(psc, 1, true);
    CU_ASSERT_EQUAL(psc_level(psc, VA_A), 2);
    CU_ASSERT_EQUAL(psc_invpcid(psc, INVPCID_ADDRESS, 1, VA_A), 0);
    CU_ASSERT_EQUAL(psc_level(psc, VA_A), 0);
    CU_ASSERT_EQUAL(psc_level(psc, VA_G), 2);
    psc_set_vpid(psc, 5);
    CU_ASSERT_EQUAL(psc_level(psc, VA_G), 0);
    psc_walk(psc, VA_G, 4);
    CU_ASSERT_EQUAL(psc_invpcid(psc, INVPCID_ALL_NON_GLOBAL, 0, 0), 0);
    CU_ASSERT_EQUAL(psc_level(psc, VA_G), 0);
    psc_set_vpid(psc, 0);
    CU_ASSERT_EQUAL(psc_level(psc, VA_G), 2);
    CU_ASSERT_EQUAL(psc_invvpid(psc, INVVPID_ALL, 0, 0), 0);
    CU_ASSERT_EQUAL(psc_level(psc, VA_G), 2);
    psc_load_cr3(psc, 1, false);
    CU_ASSERT_EQUAL(psc_level(psc, VA_G), 0);
    CU_ASSERT_EQUAL(psc_invpcid(psc, 4, 0, 0), -EINVAL);
    CU_ASSERT_EQUAL(psc_invvpid(psc, INVVPID_CONTEXT, 0, 0), -EINVAL);
}

static void paging_structures(void)
{
    struct psc_config split = {
        .level = {[2] = {32, 4}, [3] = {4, 4}, [4] = {2, 1}, [5] = {3, 3}}};
    struct psc_config unified = {.unified = {24, 24}};
    struct psc psc;
    void *storage;

    psc_deepest(psc_make(&split, &psc, &storage));
    psc_tags(&psc);
    free(storage);
    psc_deepest(psc_make(&unified, &psc, &storage));
    psc_tags(&psc);
    free(storage);
}

/* Each level has the hit rate of an LRU array of its own regions: with 32 PDEs
 * for 100 uniform 2-MiB regions, 0.32. */
static void psc_uniform(void)
{
    struct psc_config config = {.level = {[2] = {32, 32}}};
    double expected = 0.32, sigma = sqrt(0.32 * 0.68 / SAMPLES);
    uint64_t random = 7, value;
    struct psc psc;
    void *storage;

    psc_make(&config, &psc, &storage);
    for (unsigned i = 0; i < 100; i++)
        psc_walk(&psc, i * PAGE_2M, 4);
    for (unsigned i = 0; i < SAMPLES; i++) {
        uint64_t va = wl_below(&random, 100) * PAGE_2M;

        if (!psc_lookup(&psc, va, &value))
            psc_walk(&psc, va, 4);
    }
    CU_ASSERT(fabs((double)psc.hits[2] / SAMPLES - expected) < SIGMAS * sigma);
    free(storage);
}

static void no_paging_structures(void)
{
    struct psc_config none = {.cycles = 0}, wrong = {.level = {[3] = {4, 3}}};
    size_t bytes = 1;
    struct psc psc;
    unsigned at = 0;

    CU_ASSERT_EQUAL(psc_bytes(&none, &bytes, NULL), 0);
    CU_ASSERT_EQUAL(bytes, 0);
    psc_init(&psc, &none, NULL);
    psc_walk(&psc, VA_A, 4);
    CU_ASSERT_EQUAL(psc_level(&psc, VA_A), 0);
    CU_ASSERT_EQUAL(psc_bytes(&wrong, &bytes, &at), -EINVAL);
    CU_ASSERT_EQUAL(at, 3);
}

/* ---- Data caches ---------------------------------------------------------*/

static void data_caches(void)
{
    struct dcache_config config = {
        .levels = 2,
        .line_bytes = 64,
        .level = {{512, 2, 4}, {3072, 3, 14}},
        .memory_cycles = 200,
    };
    struct dcache dcache;
    unsigned level = 9;
    size_t bytes = 0;
    void *storage;

    CU_ASSERT_EQUAL_FATAL(dcache_bytes(&config, &bytes, NULL), 0);
    storage = malloc(bytes);
    dcache_init(&dcache, &config, storage);
    CU_ASSERT_EQUAL(dcache_read(&dcache, 0, &level), 200);
    CU_ASSERT_EQUAL(level, 2);
    CU_ASSERT_EQUAL(dcache_read(&dcache, 63, &level), 4);
    CU_ASSERT_EQUAL(dcache_read(&dcache, 64, &level), 200);
    /* 4 sets of 2 ways: two more lines of set 0 push line 0 to level 2. */
    dcache_read(&dcache, 256, NULL);
    dcache_read(&dcache, 512, NULL);
    CU_ASSERT_EQUAL(dcache_read(&dcache, 0, &level), 14);
    CU_ASSERT_EQUAL(level, 1);
    CU_ASSERT_EQUAL(dcache_read(&dcache, 0, &level), 4);
    CU_ASSERT_EQUAL(dcache.reads, 7);
    CU_ASSERT_EQUAL(dcache.hits[0], 2);
    CU_ASSERT_EQUAL(dcache.hits[1], 1);
    CU_ASSERT_EQUAL(dcache.hits[DCACHE_LEVELS_MAX], 4);
    CU_ASSERT_EQUAL(dcache.cycles, 4 * 200 + 14 + 2 * 4);
    dcache_flush(&dcache);
    CU_ASSERT_EQUAL(dcache_read(&dcache, 0, &level), 200);
    free(storage);
    config.level[1].bytes = 3073;
    CU_ASSERT_EQUAL(dcache_bytes(&config, &bytes, &level), -EINVAL);
    CU_ASSERT_EQUAL(level, 1);
    config.level[1].bytes = 1ull << 60;
    CU_ASSERT_EQUAL(dcache_bytes(&config, &bytes, &level), -E2BIG);
    config.line_bytes = 48;
    CU_ASSERT_EQUAL(dcache_bytes(&config, &bytes, &level), -EINVAL);
}

TEST_SUITE(tlb, {"LRU against lists", against_lists},
           {"impossible shapes", shapes_that_cannot_be},
           {"uniform pages", uniform_pages}, {"cyclic pages", cyclic_pages},
           {"two levels", second_level}, {"page sizes", page_sizes},
           {"fetches and stores", sides}, {"pieces of pages", pieces},
           {"two structures for a size", shared_out},
           {"dirty bit in both levels", dirty_bit},
           {"what is invalidated", invalidations},
           {"types that do not exist", wrong_types},
           {"VPID 0 stays", vpid_0_stays}, {"impossible TLBs", impossible_tlbs},
           {"paging-structure caches", paging_structures},
           {"PDE cache, uniform", psc_uniform},
           {"no paging-structure caches", no_paging_structures},
           {"data caches", data_caches});
