/* One check of the self-test, as its kernel part and its user program make
 * them (selftest.h). */
#ifndef WORKLOADS_GUEST_CHECK_H
#define WORKLOADS_GUEST_CHECK_H

#include "workloads/abi.h"

#include <stdint.h>

/* Errors of platforms that docs/platforms.md lists. A check that fails is one
 * of them only on such a platform, and only with the value it gives. */
enum deviation {
    DEVIATION_NONE,
    DEVIATION_HOST_FLAGS,    /* IF at CPL3 is the host's */
    DEVIATION_HOST_TABLES,   /* descriptors at CPL3 are the host's */
    DEVIATION_PVM_IOPL,      /* IOPL at CPL3 is 0 */
    DEVIATION_PVM_AM,        /* CR0.AM at CPL3 is the host's */
    DEVIATION_PVM_CPUID,     /* CPUID at CPL3 is the host's */
    DEVIATION_PVM_SLOT_256,  /* PML4 entry 256 is the host's */
    DEVIATION_PVM_INT,       /* INT n at CPL3: #UD; INT3: no regard for DPL */
    DEVIATION_PVM_SYSCALL,   /* SYSCALL arrives by a page fault */
    DEVIATION_PVM_EMULATOR,  /* what it does not know at CPL0 ends the VM */
    DEVIATION_PVM_LONG,      /* instructions of 16 bytes */
    DEVIATION_PVM_AC,        /* exceptions at CPL0 clear AC */
    DEVIATION_PVM_WATCH,     /* no data breakpoints at CPL0 */
    DEVIATION_PVM_IRET,      /* IRET to CPL0 leaves IOPL, takes reserved bits */
    DEVIATION_PVM_SELECTORS, /* CS and SS at CPL3 are the host's */
    DEVIATION_PVM_TS,        /* CR0.TS at CPL3 is the host's */
    DEVIATION_PV_ROOTS,      /* the user's root does not map the kernel */
    DEVIATION_MONITOR_LDT,   /* no LDT: #GP */
    DEVIATION_MONITOR_NULL,  /* a null selector's RPL is 0 in DS and ES */
    DEVIATION_TCG_MSR,       /* bad MSRs and values: no #GP */
    DEVIATION_TCG_SS,        /* #GP where #SS is due */
    DEVIATION_TCG_GATE,      /* error codes of gates */
    DEVIATION_TCG_FAR,       /* RSP of 32 bits in 32-bit CALL, RET FAR */
    DEVIATION_TCG_RESERVED,  /* no P for reserved bits */
    DEVIATION_TCG_XM,        /* SSE raises no exceptions */
    DEVIATION_TCG_INT1,      /* #UD */
    DEVIATION_CR_VALUES,     /* bad values of CR0, CR4, CR8: no #GP */
    DEVIATION_TCG_PAGING,    /* CR0.PG and CR4.PAE clear in 64-bit mode */
    DEVIATION_TCG_CR4,       /* reserved bits of CR4: an endless loop */
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
    uint64_t handler_ss, frame_end;
};

/* A run makes all checks once, and again until it has as many as it was asked
 * for, at this many a round. */
#define CHECKS_A_ROUND 500u

static inline uint64_t check_rounds(uint64_t operations)
{
    return 1 + (operations ? operations - 1 : 0) / CHECKS_A_ROUND;
}

/* SYS_ASK: what, and two arguments. */
enum ask {
    ASK_FLAGS, /* -> RFLAGS in the kernel */
    ASK_TSC,
    ASK_CPUID, /* leaf | subleaf << 32, uint32_t[4] to be filled */
    ASK_IRET,  /* RFLAGS for the return, which is by IRET */
    ASK_GATE,  /* vector, GATE_* (kernel.h) */
    ASK_STACK, /* -> TSS.RSP0 */
};

#define VECTOR_NONE GUEST_NO_VECTOR /* no trap came */

#endif
