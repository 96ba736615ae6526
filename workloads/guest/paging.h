/*
 * The paging test: the guest builds page tables, asks the architectural walker
 * (mmu/walk.h) what an access through them must do, performs the access for
 * real, and compares. See docs/paging.md.
 *
 * paging_cases.c   which cases there are
 * paging.c         building, performing and comparing them
 * paging_access.S  one access, and the way back from its trap
 */
#ifndef WORKLOADS_GUEST_PAGING_H
#define WORKLOADS_GUEST_PAGING_H

#include "workloads/guest/kernel.h"
#include "workloads/guest/paging_cases.h"

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
/* Loads FS with the first descriptor of the LDT, and then as above. */
extern const uint8_t paging_segment[];
extern const uint8_t paging_stubs[], paging_stubs_end[];
/* What pages hold: puts its number in EAX, divides by CL. */
extern const uint8_t paging_page[], paging_page_end[];

#endif
