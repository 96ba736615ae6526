/*
 * The audit (docs/audit.md): instructions that tell or change the state of the
 * machine, each executed by code that takes itself for a kernel. The same
 * machine code (audit_insn.S) runs in the guest's kernel and in a process.
 */
#ifndef WORKLOADS_AUDIT_H
#define WORKLOADS_AUDIT_H

#include <stdint.h>

enum audit_instruction {
#define AUDIT(id, name, listed) AUDIT_##id,
#include "workloads/audit.def"
#undef AUDIT
    AUDIT_INSTRUCTIONS
};

#define AUDIT_REFUSED       0ull      /* LAR and its like cleared ZF */
#define AUDIT_LAR_BITS      0xf0ff00u /* the others are undefined */
#define AUDIT_FLAGS         0x3200ull /* IF and IOPL */
#define AUDIT_INT_MARK      0x80ull
#define AUDIT_SYSCALL_MARK  0x5ca11ull
#define AUDIT_GS_BASE       0x12345000ull
#define AUDIT_SWAPPED       0x5a5aull /* at GS:0 behind SWAPGS */
#define AUDIT_TASK_PRIORITY 5ull

/* Each executes one and returns what it told. For JMP and CALL, `arg` points
 * to a far pointer (4 bytes of offset, 2 of selector) to code that jumps to
 * RAX. SYSRET is executed for the exception alone. */
#define AUDIT(id, name, listed) uint64_t audit_##id(uint64_t arg);
#include "workloads/audit.def"
#undef AUDIT

#endif
