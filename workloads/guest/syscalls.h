/* System calls between the guest kernel and its user program: number in RAX,
 * arguments in RDI, RSI, RDX, R8, R9, R10, result in RAX. */
#ifndef WORKLOADS_GUEST_SYSCALLS_H
#define WORKLOADS_GUEST_SYSCALLS_H

enum guest_syscall {
    SYS_NULL,
    SYS_CONFIG,  /* struct guest_config *, to be filled */
    SYS_MAP,     /* bytes, page_bytes, populate -> address or 0 */
    SYS_UNMAP,   /* address, bytes */
    SYS_PROTECT, /* address, bytes, prot */
    SYS_ON_SEGV, /* user handler or 0 */
    SYS_FORK,    /* -> child id, 0 in the child */
    SYS_EXIT,    /* status */
    SYS_WAIT,    /* child id -> exit status, or negative */
    SYS_YIELD,
    SYS_PARALLEL,    /* entry, arg0, arg1: starts the other CPUs there with
                        RDI = arg0, RSI = arg1, RDX = CPU number */
    SYS_WORK_DONE,   /* ends such a CPU's part */
    SYS_WORK_WAIT,   /* returns when all parts have ended */
    SYS_PHASE_BEGIN, /* phase */
    SYS_PHASE_END,   /* phase, operations, tsc_begin, tsc_end, checksum */
    SYS_RESUME,      /* struct trap_frame *: back from a segv handler */
    SYS_FINISH,      /* enum guest_state, message or 0 */
    /* Of the self-test (check.h): */
    SYS_CHECK,   /* struct check * */
    SYS_CATCH,   /* struct user_trap * for the next trap, or 0 */
    SYS_ASK,     /* enum ask, two arguments */
    SYS_CHECKED, /* that was the last */
};

#endif
