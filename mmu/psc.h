/*
 * Paging-structure caches (SDM vol. 3A, 4.10.3; APM vol. 2, 5.5.4's page-walk
 * cache): upper entries of recent walks, so that the next walk starts below
 * them. One cache for each level, or one for all. Freestanding; the caller
 * owns the storage.
 */
#ifndef MMU_PSC_H
#define MMU_PSC_H

#include "mmu/cache.h"
#include "mmu/space.h"
#include "mmu/walk.h"

#define PSC_LEVEL_MIN 2 /* PDEs that refer to a page table */

struct psc_config {
    /* By level of the entry cached: [2] PDE, [3] PDPTE, [4] PML4E, [5] PML5E.
     * No entries: no such cache. */
    struct {
        uint32_t entries, ways;
    } level[MMU_LEVELS_MAX + 1];
    /* All levels in one; `level` is then ignored. */
    struct {
        uint32_t entries, ways;
    } unified;
    unsigned cycles; /* of a lookup that hits */
};

struct psc {
    struct psc_config config;
    uint32_t tag; /* of the current VPID and PCID; never global */
    bool has[MMU_LEVELS_MAX + 1];
    struct cache cache[MMU_LEVELS_MAX + 1]; /* [0]: unified */
    uint64_t lookups, misses;               /* misses: walks from the root */
    uint64_t hits[MMU_LEVELS_MAX + 1];      /* by level of the entry that hit */
    uint64_t evictions, invalidated;
};

/* Bytes of storage, 8-byte aligned, 0 when nothing is cached. Errors as
 * cache_bytes; `*at`, which may be NULL, is then the level to blame, 0 for
 * the unified cache. */
int psc_bytes(const struct psc_config *config, size_t *bytes, unsigned *at);

/* Empty caches for a valid description, VPID 0 and PCID 0. */
void psc_init(struct psc *psc, const struct psc_config *config, void *storage);

/*
 * The lowest level, 2 to 5, whose entry for `va` is cached under the current
 * tag, and its value; 0 when none is, and the walk starts at the root.
 * Entries that only lead there are not touched.
 */
unsigned psc_lookup(struct psc *psc, uint64_t va, uint64_t *value);

/* Caches what a walk found at a level that refers to another table: `value`
 * is the caller's, in general that table's address and the rights so far.
 * Entries that map a page are never here (4.10.3.1). */
void psc_insert(struct psc *psc, uint64_t va, unsigned level, uint64_t value);

/* The tag of what follows, as tlb_load_cr3 and tlb_set_vpid. */
void psc_load_cr3(struct psc *psc, uint16_t pcid, bool keep);
void psc_set_vpid(struct psc *psc, uint16_t vpid);

/* Every entry of the current PCID, whatever its address (4.10.4.1). */
void psc_invlpg(struct psc *psc);

/* As tlb_invpcid and tlb_invvpid; nothing here is global, so that types 2 and
 * 3 do the same. One address: the entries a walk to it would use. */
int psc_invpcid(struct psc *psc, enum mmu_invpcid type, uint16_t pcid,
                uint64_t va);
int psc_invvpid(struct psc *psc, enum mmu_invvpid type, uint16_t vpid,
                uint64_t va);

void psc_flush(struct psc *psc);
void psc_reset_counts(struct psc *psc);

#endif
