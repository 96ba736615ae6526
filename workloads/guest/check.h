/* One check of the self-test, as its kernel part and its user program make
 * them (selftest.h). */
#ifndef WORKLOADS_GUEST_CHECK_H
#define WORKLOADS_GUEST_CHECK_H

#include <stdint.h>

/* Errors of platforms that docs/platforms.md lists. A check that fails is one
 * of them only on such a platform, and only with the value it gives. */
enum deviation {
    DEVIATION_NONE,
    DEVIATION_PVM_INT,     /* INT n from CPL3 raises #UD */
    DEVIATION_PVM_SYSCALL, /* SYSCALL arrives by a page fault */
    DEVIATION_PVM_INT3,    /* INT3 at CPL0 ends the VM: not tried */
    DEVIATION_TCG_PAGING,  /* CR0.PG and CR4.PAE can be cleared in 64-bit
                              mode: likewise */
    DEVIATIONS
};

struct check {
    const char *name, *part; /* what is checked, and what of it */
    uint64_t seen, expected;
    enum deviation deviation; /* that would give `deviant` instead */
    uint64_t deviant;
};

/* A trap that a user program is to get back: everything but vector, error and
 * cr2 is as it stood on the kernel's stack. */
struct user_trap {
    uint64_t resume_rsp, resume_rip; /* where the program goes on */
    uint64_t vector, error, cr2;
    uint64_t rip, cs, rflags, rsp, ss;
    uint64_t handler_ss;
};

#define VECTOR_NONE 0xffff /* no trap came */

#endif
