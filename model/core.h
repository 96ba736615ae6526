/*
 * What the parts of a machine share; for model/ only.
 *
 * machine.c    events, accesses, the TLB
 * onedim.c     a walk through one set of tables, with the caches around it
 * nested.c     the second dimension: EPT or NPT, or one flat table
 * shadow.c     shadow tables and the exits that keep them
 * counts.c     what was counted, by name
 */
#ifndef MODEL_CORE_H
#define MODEL_CORE_H

#include "ept/map.h"
#include "model/machine.h"
#include "model/tables.h"

enum reason {
    REASON_EPT_VIOLATION,
    REASON_HIDDEN_FAULT,
    REASON_TRUE_FAULT,
    REASON_TRACED_WRITE,
    REASON_INVLPG,
    REASON_CR3,
    REASONS,
};

struct counts {
    uint64_t accesses[EVENT_KERNEL_FETCH + 1];
    uint64_t stores, invlpg, cr3, guest_faults;
    uint64_t walks, walks_faulted, walks_aborted;
    uint64_t guest[MMU_LEVELS_MAX + 1];  /* references, by level of the entry */
    uint64_t nested[MMU_LEVELS_MAX + 1]; /* the second dimension's */
    uint64_t nested_for_tables, nested_for_access;
    uint64_t flat;
    uint64_t dirty_walks; /* of writes that hit a clean entry */
    uint64_t exits[REASONS], exit_cycles[REASONS];
    uint64_t cycles_tlb, cycles_walk, cycles_guest_faults, cycles_data;
    uint64_t mapped[TLB_SIZES]; /* host pages by size */
};

/* What a walk gave. */
struct translation {
    uint64_t value; /* as a TLB keeps it: frame, rights, dirty */
    uint64_t page_bytes;
    uint64_t gpa; /* of the access */
    bool global;
    int error; /* PF_*, WALK_FAULT */
};

/* Results of a walk beside negative errnos. */
enum walk_result {
    WALK_OK,
    WALK_FAULT,    /* the guest's #PF */
    WALK_EMULATED, /* the write was done for the guest, nothing is cached */
};

/* A dimension after the guest's own tables. */
struct nested {
    struct ept_state state;
    struct ept_arena arena;
    struct ept_policy policy;
    uint64_t base;     /* host-physical address of guest-physical 0 */
    uint64_t flat;     /* of the flat table; 0: EPT or NPT */
    uint64_t *mapped;  /* flat: a bit for each host page */
    uint64_t violated; /* the GPA that ended the last walk */
    struct tlb tlb;    /* the nested TLB */
    bool has_tlb;
    struct psc psc;
};

struct shadowing {
    struct shadow *shadow;
    void *arena;
    size_t arena_bytes;
    struct shadow_stats before; /* at the last reset */
};

struct machine {
    struct machine_config config;
    struct event_guest guest;
    struct mmu_state paging; /* of the guest */
    struct tables tables;
    struct tlb tlb;
    struct psc psc;
    struct dcache dcache;
    struct counts counts;
    struct nested nested;
    struct shadowing shadowing;
    void *storage;
    uint64_t storage_bytes;
    struct why *why; /* of the call under way */

    /* A miss of every TLB; enum walk_result or a negative errno. */
    int (*walk)(struct machine *m, const struct mmu_request *request,
                struct translation *out);
    /* Memory changed otherwise than through the TLB; NULL where nobody minds.
     */
    void (*changed)(struct machine *m, uint64_t gpa, uint64_t bytes);
    int (*invlpg)(struct machine *m, uint64_t va);
    int (*load_cr3)(struct machine *m, uint64_t value);
};

/* onedim.c: what a walk of one set of tables needs beside its memory. */
struct onedim {
    const struct mmu_state *state;
    const struct mmu_memory *memory;
    struct psc *psc;
    /* Added to a table's address where a cached entry leads to it. */
    uint64_t cached_offset;
    uint64_t *references; /* counted by level */
};

/* A walk from what the paging-structure caches have, which it then fills;
 * `walk` tells how it ended. Cycles are counted by `memory`. */
void onedim_walk(struct machine *m, const struct onedim *dimension,
                 const struct mmu_request *request, struct mmu_walk *walk);
void onedim_result(const struct mmu_walk *walk, struct translation *out);

/* One read of a table's entry at a host-physical address. */
static inline void machine_refer(struct machine *m, uint64_t pa)
{
    m->counts.cycles_walk += dcache_read(&m->dcache, pa, NULL);
}

static inline void machine_exit(struct machine *m, enum reason reason,
                                uint64_t work)
{
    m->counts.exits[reason]++;
    m->counts.exit_cycles[reason] += m->config.costs->vm_exit + work;
}

/* What native and nested do at a flush. */
int machine_invlpg(struct machine *m, uint64_t va);
int machine_load_cr3(struct machine *m, uint64_t value);

int native_create(struct machine *m, struct why *why);
int nested_create(struct machine *m, struct why *why);
void nested_destroy(struct machine *m);
int shadow_create(struct machine *m, struct why *why);
void shadow_destroy(struct machine *m);

/* counts.c */
void counts_collect(const struct machine *m, struct machine_counts *counts);

#endif
