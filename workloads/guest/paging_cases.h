/*
 * Which accesses the paging test makes (paging.h). Freestanding.
 *
 * A batch of cases shares four tables, one a level. Each case owns the same
 * entry in all of them, and the virtual address whose index is that entry at
 * every level; so every case has a path of its own, and the CPU's state is set
 * once a batch.
 */
#ifndef WORKLOADS_GUEST_PAGING_CASES_H
#define WORKLOADS_GUEST_PAGING_CASES_H

#include "mmu/walk.h"

#define CASE_LEVELS 4

/* Entries of a table that no case owns: the accessing user code's, and the
 * kernel's. */
#define PAGING_SLOT_USER   1
#define PAGING_SLOT_KERNEL 511
#define PAGING_BATCH       (PT_ENTRIES - 2)

/* What the CPU has, and so what a case can ask of it. */
struct paging_features {
    bool smep, smap, pku, pages_1g;
    bool amd; /* AMD reserves G in a PML4E: APM vol. 2, 5.3.3 */
    unsigned physical_bits;
};

/* The state that a batch runs in. */
struct paging_control {
    bool wp, nxe, smep, smap, ac, pke, pge;
    uint32_t pkru;
};

struct paging_case {
    /* By level, 1 to 4: the entry but for the address of the next table or of
     * the page; reserved bits of the address included. */
    uint64_t flags[CASE_LEVELS + 1];
    enum mmu_access access;
    bool user;
    bool implicit; /* reads a descriptor, of a segment that code loads */
};

/* Which cases a run consists of: three batches in four go through the
 * systematic ones, in an order in which any part of them is spread over the
 * whole, the others are random; when the systematic ones are exhausted, all
 * are random. */
struct paging_plan {
    struct paging_features features;
    uint64_t seed;
    uint64_t items;    /* systematic cases in one state */
    uint64_t stride;   /* coprime to items */
    unsigned controls; /* states */
};

void paging_plan_init(struct paging_plan *plan,
                      const struct paging_features *features, uint64_t seed);
/* Batches after which every systematic case has been in every state. */
uint64_t paging_plan_batches(const struct paging_plan *plan);
void paging_plan_control(const struct paging_plan *plan, uint64_t batch,
                         struct paging_control *control);
/* Case `index` of the batch, 0 .. PAGING_BATCH - 1, for the batch's state. */
void paging_plan_case(const struct paging_plan *plan, uint64_t batch,
                      const struct paging_control *control, unsigned index,
                      struct paging_case *c);

#endif
