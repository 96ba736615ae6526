/*
 * The architectural page walk: what a CPU does to translate one access
 * (SDM vol. 3A, chapter 4; APM vol. 2, chapter 5). Freestanding, no state.
 */
#ifndef MMU_WALK_H
#define MMU_WALK_H

#include "mmu/entry.h"

#include <stdbool.h>
#include <stdint.h>

#define MMU_LEVELS_MAX 5
/* Passes over the tables while other CPUs change them underneath. */
#define MMU_ATTEMPTS_MAX 32

/* Paging-structure entries as the walker reaches them. `pa` is 8-byte
 * aligned. A walk in a guest passes guest-physical addresses here; what is
 * behind them (RAM, another dimension) is the callback's business. */
struct mmu_memory {
    /* 0 and the entry, or a negative errno, which ends the walk as such
     * (MMU_NO_MEMORY): an address nothing answers, or a fault of the other
     * dimension. */
    int (*read)(void *arg, uint64_t pa, uint64_t *entry);
    /* Sets `bits` in the entry, if it still is `old`: 0, -EAGAIN when it
     * changed (the walk starts over), or as above. Never called for bits that
     * are set already. */
    int (*set)(void *arg, uint64_t pa, uint64_t old, uint64_t bits);
    void *arg;
};

/* What of the CPU's state the walk depends on. */
struct mmu_state {
    uint64_t cr3;
    unsigned levels;        /* 4 or 5 */
    unsigned physical_bits; /* MAXPHYADDR, 36 to 52 */
    bool wp;                /* CR0.WP */
    bool nxe;               /* EFER.NXE */
    bool smep, smap, pke;   /* CR4 */
    bool ac;                /* EFLAGS.AC */
    bool pages_1g;          /* CPUID.80000001H:EDX[26] */
    bool g_reserved; /* G in a PML4E or PML5E: AMD reserves it (APM vol. 2,
                      * 5.3.3), Intel ignores it */
    uint32_t pkru;
};

enum mmu_access { MMU_READ, MMU_WRITE, MMU_FETCH };

struct mmu_request {
    uint64_t va;
    enum mmu_access access;
    bool user;     /* CPL 3 */
    bool implicit; /* an implicit supervisor access: of the GDT, a TSS, ... */
};

enum mmu_outcome {
    MMU_OK,
    MMU_PAGE_FAULT,
    MMU_NOT_CANONICAL, /* #GP or #SS, never a page fault */
    MMU_NO_MEMORY,     /* the callback failed: `error` is its errno */
};

/* One read of the walk, the root's first. */
struct mmu_reference {
    unsigned level; /* 5 .. 1, of the entry read */
    uint64_t pa;    /* of the entry */
    uint64_t entry; /* as read, before accessed and dirty were set */
};

/* What describes the page (page_bytes to key) is complete when page_bytes is
 * not 0: in MMU_OK and in a page fault of a mapped page. */
struct mmu_walk {
    enum mmu_outcome outcome;
    int error;           /* PF_* of the page fault, or a negative errno */
    uint64_t pa;         /* of the access, when MMU_OK */
    uint64_t page_bytes; /* 4 KiB, 2 MiB or 1 GiB */
    bool writable, user, executable; /* the rights of the whole path */
    bool global, dirty;              /* of the leaf, after the walk */
    unsigned key;                    /* protection key of the leaf */
    unsigned references;
    struct mmu_reference reference[MMU_LEVELS_MAX];
};

/* Where a walk begins that found an upper entry in a paging-structure cache
 * (SDM vol. 3A, 4.10.3.2): the table that entry refers to, and the rights of
 * the path down to it. */
struct mmu_resume {
    unsigned level; /* of the first entry read */
    uint64_t table; /* physical address */
    bool writable, user, executable;
};

/*
 * Walks once. Accessed and dirty bits are set only when the access is
 * allowed, and then on the whole path, as the SDM's 4.8 says a walk that ends
 * in a translation does. Reserved bits are checked in every present entry
 * read (4.7: error code bit 3). An access that is `implicit` is a supervisor's
 * whatever `user` says. A walk that lost MMU_ATTEMPTS_MAX races ends as
 * MMU_NO_MEMORY with -EAGAIN. Bits of `cr3` outside 51:12 are ignored.
 */
void mmu_walk(const struct mmu_state *state, const struct mmu_memory *memory,
              const struct mmu_request *request, struct mmu_walk *walk);

/* The same from `resume` on, whose entries above had their accessed bits set
 * when they were cached. `reference` has what was read. */
void mmu_walk_from(const struct mmu_state *state,
                   const struct mmu_memory *memory,
                   const struct mmu_request *request,
                   const struct mmu_resume *resume, struct mmu_walk *walk);

#endif
