/*
 * The paging test: the guest builds page tables, asks the architectural walker
 * (mmu/walk.h) what an access through them must do, performs the access for
 * real, and compares. See docs/paging.md.
 *
 * paging_cases.c   which cases there are
 * paging.c         building, performing and comparing them
 * paging_access.S  one access, and the way back from its trap
 *
 * A batch of cases shares four tables, one a level. Case i owns entry i of
 * each of them, and the virtual address whose indexes are i at every level; so
 * every case has a path of its own, and the CPU's state is set once a batch.
 */
#ifndef WORKLOADS_GUEST_PAGING_H
#define WORKLOADS_GUEST_PAGING_H

#include "mmu/walk.h"
#include "workloads/guest/kernel.h"

#define PAGING_LEVELS 4

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
    uint64_t flags[PAGING_LEVELS + 1];
    enum mmu_access access;
    bool user;
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

/* What came of an access, and how trap() gets back to who waits for it. */
struct paging_trap {
    uint64_t resume_rsp;
    uint64_t vector, error, cr2, rax;
};

/* Runs the test when the configuration asks for it. */
bool paging_run(struct cpu *cpu, const char *name);
/* trap(): what the access ended in. */
void paging_trapped(struct cpu *cpu, struct trap_frame *frame);

/* paging_access.S. Continues with `frame`, on the stack that is in use, and
 * returns when paging_trapped() has sent the trap to paging_resume. */
void paging_access(struct trap_frame *frame, uint64_t *resume_rsp);
extern const uint8_t paging_resume[];
/* Each makes its access to (RDI) and then divides by CL. */
extern const uint8_t paging_read[], paging_write[], paging_fetch[];
extern const uint8_t paging_stubs[], paging_stubs_end[];
/* What pages hold: puts its number in EAX, divides by CL. */
extern const uint8_t paging_page[], paging_page_end[];

#endif
