/*
 * What a guest kernel built for it asks of the monitor
 * (docs/paravirtualization.md): SYSCALL in the guest's kernel mode, the call in
 * RAX, arguments in RDI and RSI, the result in RAX: 0 or more, or a negative
 * errno. RCX and R11 are clobbered. Addresses are the guest's own; physical
 * ones say so.
 *
 * A guest starts as under `trap`: on shadow tables, and what is privileged
 * traps. HC_START takes it to direct paging, and what has no call here goes on
 * trapping. The CPU then walks the guest's tables themselves: all it maps must
 * be user pages, no table may be mapped writable anywhere, and the user root
 * must leave out what only the kernel may see.
 */
#ifndef WORKLOADS_HYPERCALL_H
#define WORKLOADS_HYPERCALL_H

#include <stdint.h>

#define PV_UPDATES_MAX 65536

enum hypercall {
    /* struct pv_start *: every CPU from here on, wherever it is, on that root;
     * -EINVAL, -EFAULT, -EBUSY as HC_UPDATE. Each makes the call once more
     * for its own entry and CR2. Before it, every other call is -EINVAL. */
    HC_START = 1,
    /* struct pv_update *, 16-byte aligned, count, at most PV_UPDATES_MAX:
     * written in order. How many were; less than
     * `count` when one was refused: it would have made a table writable, or
     * mapped no RAM, or had reserved bits, or was no entry of a table. */
    HC_UPDATE,
    /* Physical addresses of the kernel's PML4 and the user's: both pinned. */
    HC_SET_ROOTS,
    /* Physical address, level: keeps a table valid that nothing leads to. */
    HC_PIN,
    HC_UNPIN,
    /* Fills a frame with 0 that is neither a table nor mapped writable. */
    HC_CLEAR,
    HC_FLUSH_PAGE, /* address: of this CPU's TLB */
    HC_FLUSH,
    /* RSP points at a struct pv_frame: all registers are loaded from it. */
    HC_IRET,
};

struct pv_start {
    uint64_t root;          /* physical: the kernel's PML4 */
    uint64_t syscall_entry; /* where user code's SYSCALL arrives, see below */
    uint64_t *cr2;          /* gets the address of each page fault */
};

struct pv_update {
    uint64_t entry; /* physical address */
    uint64_t value;
};

/* What user code's SYSCALL finds on the kernel's stack, from `rip` on; the
 * entry pushes the rest. RCX and R11 keep the user's values. Exceptions come
 * by the IDT, as ever. */
struct pv_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
    uint64_t rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

#endif
