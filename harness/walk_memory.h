/*
 * The memory of an explained walk: a guest's tables for one address, scattered
 * over its memory as an operating system's are, and the host's tables and
 * pages behind them. For walk_*.c only.
 */
#ifndef HARNESS_WALK_MEMORY_H
#define HARNESS_WALK_MEMORY_H

#include "ept/map.h"
#include "harness/walk_explain.h"

/* The host's tables: one at the top and one a level for each page of the
 * guest's that is used. */
#define WALK_ARENA_FRAMES      32u
#define WALK_BACKINGS_MAX      16u
#define WALK_SHADOW_TABLES_MAX 64u
#define WALK_ARENA_PA          (1ull << 32)
#define WALK_GUEST_BYTES       (2 * PAGE_1G)
#define WALK_LOG_MAX           2048u

/* A page of the host's and the guest memory in it. */
struct walk_backing {
    uint64_t gpa, pa;
};

/* Entries read and flags set, in order. */
struct walk_log {
    unsigned count;
    struct {
        uint64_t pa, entry, sets;
    } item[WALK_LOG_MAX];
};

struct walk_memory {
    const struct walk_question *question;
    struct mmu_state guest;
    struct ept_state nested;
    struct ept_arena arena;
    struct ept_pml pml;
    uint64_t pml_log[EPT_PML_ENTRIES];
    uint64_t page_gpa; /* of the access */
    unsigned leaf;     /* level of the guest's */
    unsigned backings;
    struct walk_backing backing[WALK_BACKINGS_MAX];
    uint64_t guest_frames[MMU_LEVELS_MAX + 1][PT_ENTRIES]; /* by level */
    uint64_t arena_frames[WALK_ARENA_FRAMES][PT_ENTRIES];
    void *shadow_arena; /* WALK_SHADOW: tables first */
    struct walk_log log;
};

/* Builds everything and applies the question's changes; the arena of the
 * shadow MMU is not made here. Errors as walk_explain. */
int walk_memory_build(struct walk_memory *memory,
                      const struct walk_question *question, struct why *why);

/* Where a guest-physical address is in the host (native: the same); makes the
 * host's page known, but maps nothing. -EFAULT beyond the guest's memory. */
int walk_memory_host(struct walk_memory *memory, uint64_t gpa, uint64_t *pa);

/* The callbacks of the walkers, of host-physical and guest-physical memory;
 * they log. Nothing answers where no table is: -EFAULT. */
struct mmu_memory walk_memory_physical(struct walk_memory *memory);
struct mmu_memory walk_memory_guest(struct walk_memory *memory);

/* "PTE" for 1 to "PML5E" for 5. */
const char *walk_level_name(unsigned level);

#endif
