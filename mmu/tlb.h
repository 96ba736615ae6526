/*
 * TLB hierarchies from a description: two levels, each of any number of
 * structures that hold some page sizes for some kinds of access (SDM vol. 3A,
 * 4.10.2; APM vol. 2, 5.5). Freestanding; the caller owns the storage.
 *
 * Looking up touches nothing but the order within sets. A miss is completed
 * by tlb_insert() once the walk has given the translation, and counted there:
 * only then is its page size known. A walk that faults caches nothing.
 */
#ifndef MMU_TLB_H
#define MMU_TLB_H

#include "mmu/cache.h"
#include "mmu/space.h"
#include "mmu/walk.h"

#define TLB_LEVELS         2
#define TLB_STRUCTURES_MAX 12
#define TLB_ACCESSES       3 /* enum mmu_access */
#define TLB_PIECE_BUCKETS  256
#define TLB_SIZES          3 /* 4 KiB, 2 MiB, 1 GiB: pt_leaf_level() - 1 */

struct tlb_structure {
    char name[16];
    uint32_t entries, ways;
    unsigned level;    /* 1 or 2 */
    unsigned accesses; /* a bit for each enum mmu_access */
    unsigned sizes;    /* bit 0: 4 KiB, 1: 2 MiB, 2: 1 GiB */
    unsigned cycles;   /* that a hit adds to the access */
};

struct tlb_config {
    unsigned count;
    struct tlb_structure structure[TLB_STRUCTURES_MAX];
    /* Per level: a page of a size that no structure takes is held as pieces
     * of the next smaller size that one does (4.10.2.3 allows it); otherwise
     * the level does not hold it. */
    bool splinters[TLB_LEVELS];
};

/* By page size; that of the page, where it is held in pieces. */
struct tlb_counts {
    uint64_t hits[TLB_SIZES];
    uint64_t misses[TLB_SIZES]; /* that ended in a translation held here */
    uint64_t evictions;
    uint64_t invalidated; /* entries dropped by instructions */
};

/* The structures that take one page size for one access at one level. Where
 * there are several (Ice Lake's second level has two for 4 KiB), each page has
 * its place in one of them, by the page number above the first one's set. */
struct tlb_route {
    uint8_t count;
    uint8_t structure[TLB_STRUCTURES_MAX];
};

struct tlb {
    struct tlb_config config;
    uint32_t tag, tag_global; /* of the current VPID and PCID */
    struct tlb_route route[TLB_LEVELS][TLB_ACCESSES][TLB_SIZES];
    struct cache cache[TLB_STRUCTURES_MAX];
    struct tlb_counts counts[TLB_STRUCTURES_MAX];
    uint32_t live[TLB_STRUCTURES_MAX][TLB_SIZES]; /* entries by their size */
    uint64_t lookups[TLB_ACCESSES];
    uint64_t misses[TLB_LEVELS]; /* lookups no structure of the level had */
    /* Entries that are pieces of their page, by a hash of the page. */
    uint32_t pieces[TLB_PIECE_BUCKETS];
};

/* What a TLB gives: as a PTE, the frame in bits 51:12 and the walk's rights
 * (of the whole path) and dirty bit in their places. Bits 11:7 are used by
 * the TLB. */
struct tlb_hit {
    uint64_t value;      /* frame of the page or of the piece held */
    uint64_t held_bytes; /* what the entry covers */
    uint64_t page_bytes; /* what was mapped; the same but for pieces */
    unsigned level;      /* 1 or 2, of the structure that had it */
    unsigned structure;  /* its index in the description */
    unsigned cycles;
};

/* Bytes of storage, 8-byte aligned. -EINVAL when a structure is impossible
 * (cache_bytes, no access, no size, no such level), there are too many, or
 * level 1 can't hold a 4-KiB page for every access; -E2BIG when it is too
 * much. `*at`, which may be NULL, is the structure to blame, or `count`. */
int tlb_bytes(const struct tlb_config *config, size_t *bytes, unsigned *at);

/* An empty TLB for a valid description, VPID 0 and PCID 0. */
void tlb_init(struct tlb *tlb, const struct tlb_config *config, void *storage);

/* Everything about a lookup in level 2, once level 1 has missed. */
bool tlb_lookup_second(struct tlb *tlb, uint64_t va, enum mmu_access access,
                       struct tlb_hit *hit);

/* Puts a walk's translation of `va` into both levels, in the structures for
 * the access and page size, and counts the miss where it is held. `global`
 * is the leaf's, with CR4.PGE. `page_bytes` is a page size. */
void tlb_insert(struct tlb *tlb, uint64_t va, uint64_t page_bytes,
                enum mmu_access access, uint64_t value, bool global);

/* A page of the guest's whose memory the host has in smaller pieces: a
 * translation is cached for one piece around `va`, whose frame `value` has,
 * and INVLPG takes all pieces of the page. Both are page sizes, `within` is
 * not the larger. */
struct tlb_page {
    uint64_t bytes, within;
};

void tlb_insert_page(struct tlb *tlb, uint64_t va, const struct tlb_page *page,
                     enum mmu_access access, uint64_t value, bool global);

/* The same for a translation that a lookup for the access has just missed in
 * both levels. */
void tlb_fill(struct tlb *tlb, uint64_t va, const struct tlb_page *page,
              enum mmu_access access, uint64_t value, bool global);

/* Replaces the bits given of every copy of the entry that translates `va`
 * now: the dirty bit, after the walk that sets it. */
void tlb_set_bits(struct tlb *tlb, uint64_t va, uint64_t bits);

/* MOV CR3: the PCID (0 without CR4.PCIDE), whose non-global translations go
 * unless bit 63 of the source asked to keep them (SDM 4.10.4.1). */
void tlb_load_cr3(struct tlb *tlb, uint16_t pcid, bool keep);

/* VM entry or exit with VPIDs: nothing goes (SDM vol. 3C, 28.3.3.1; without
 * VPIDs, use tlb_flush). */
void tlb_set_vpid(struct tlb *tlb, uint16_t vpid);

/* INVLPG: the page's translations in the current PCID, and global ones, of
 * any size and all pieces. */
void tlb_invlpg(struct tlb *tlb, uint64_t va);

/* -EINVAL for a type or PCID that does not exist (the CPU raises #GP). */
int tlb_invpcid(struct tlb *tlb, enum mmu_invpcid type, uint16_t pcid,
                uint64_t va);

/* -EINVAL for a type that does not exist, or VPID 0 where it takes one. */
int tlb_invvpid(struct tlb *tlb, enum mmu_invvpid type, uint16_t vpid,
                uint64_t va);

/* Everything, globals and all VPIDs: CR0.PG or CR4.PGE changed, or VM entry
 * and exit without VPIDs. */
void tlb_flush(struct tlb *tlb);

/* Zeroes what was counted; what is cached stays. */
void tlb_reset_counts(struct tlb *tlb);

/* A page of size class 0 to 2, as a key: the page number above, a marker of
 * the size below, so that no two pages share a key. */
static inline uint64_t tlb_key(uint64_t va, unsigned size)
{
    return (va << 7 >> 19 >> (9 * size) << (9 * size)) << 1 |
           1ull << (size ? 9 * size : 0);
}

static inline uint64_t tlb_page_number(uint64_t va, unsigned size)
{
    return va << 7 >> 19 >> (9 * size);
}

#define TLB_PIECE_SHIFT  9 /* value bits 10:9: size class of the page */
#define TLB_WITHIN_SHIFT 7 /* bits 8:7: in which it is contiguous */

static inline unsigned tlb_page_class(uint64_t value)
{
    return (unsigned)(value >> TLB_PIECE_SHIFT) & 3;
}

/* The one of the route's structures, of which there are some, for a page. */
static inline unsigned tlb_place(const struct tlb *tlb,
                                 const struct tlb_route *route, uint64_t page)
{
    if (route->count == 1)
        return route->structure[0];
    page /= tlb->cache[route->structure[0]].sets;
    return route->structure[page % route->count];
}

/* Looks in the structures of one level, counting a hit. */
static inline __attribute__((always_inline)) bool tlb_lookup_level(
    struct tlb *tlb, unsigned level, uint64_t va, enum mmu_access access,
    struct tlb_hit *hit)
{
    const struct tlb_route *route = tlb->route[level - 1][access];

    for (unsigned size = 0; size < TLB_SIZES; size++, route++) {
        uint64_t page = tlb_page_number(va, size);
        unsigned at;
        struct cache *cache;
        uint32_t slot;

        if (!route->count)
            continue;
        at = tlb_place(tlb, route, page);
        if (!tlb->live[at][size])
            continue;
        cache = &tlb->cache[at];
        slot = cache_lookup(cache, page, tlb_key(va, size), tlb->tag,
                            tlb->tag_global);
        if (slot == CACHE_MISS)
            continue;
        hit->value = cache->values[slot];
        hit->held_bytes = PAGE_4K << 9 * size;
        hit->page_bytes = PAGE_4K << 9 * tlb_page_class(hit->value);
        hit->level = level;
        hit->structure = at;
        hit->cycles = tlb->config.structure[at].cycles;
        tlb->counts[at].hits[tlb_page_class(hit->value)]++;
        return true;
    }
    return false;
}

/* True and `hit` when a structure translates `va` for the access under the
 * current VPID and PCID; a hit in level 2 is put into level 1. Rights are the
 * caller's to check: an access that the entry does not allow, or a write to
 * a clean page, walks. */
static inline __attribute__((always_inline)) bool tlb_lookup(
    struct tlb *tlb, uint64_t va, enum mmu_access access, struct tlb_hit *hit)
{
    /* One whose address others have, so that `hit` can stay in registers. */
    struct tlb_hit second = {.level = 0};
    bool found;

    tlb->lookups[access]++;
    if (tlb_lookup_level(tlb, 1, va, access, hit))
        return true;
    found = tlb_lookup_second(tlb, va, access, &second);
    *hit = second;
    return found;
}

#endif
