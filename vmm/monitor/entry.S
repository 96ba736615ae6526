/*
 * Ways into the monitor and out of it. A trap of the guest's starts on the
 * stack that TSS.RSP0 names, which ends where struct mon_cpu's frame does: so
 * the frame is in place, and RSP is the mon_cpu, once all is pushed.
 */
#include "vmm/monitor/layout.h"

    .section .boot, "ax"
/* Where every vCPU starts: RDI = its mon_cpu, RSP = its stack. */
    .globl monitor_boot
monitor_boot:
    movq %rdi, %rbx
    call monitor_start
    jmp back

    .section .syscall, "ax"
/* SYSCALL of the guest's. GS is ours for a moment: its other base is the
 * mon_cpu. */
    .globl monitor_syscall
monitor_syscall:
    swapgs
    movq %rsp, %gs:MON_CPU_SYSCALL_RSP
    movq %gs:MON_CPU_SELF, %rsp
    addq $MON_CPU_FRAME_END, %rsp
    pushq $MON_GUEST_SS
    pushq %gs:MON_CPU_SYSCALL_RSP
    swapgs
    pushq %r11
    pushq $MON_GUEST_CS
    pushq %rcx
    pushq $0
    pushq $MON_VECTOR_SYSCALL
    jmp trapped

    .section .stubs, "ax"
/* One stub a vector, 16 bytes each; some vectors push an error code
 * themselves (SDM vol. 3A, 6.15). */
    vector = 0
    .rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) \
        || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp trapped
    vector = vector + 1
    .endr

    .text
trapped:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    cmpw $MON_CS, MON_FRAME_CS(%rsp)
    je own
    movq %rsp, %rbx
    movq MON_CPU_STACK(%rsp), %rsp
    call monitor_trapped
back:
    movq %rbx, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq

/* From CPL 0: a kick while the monitor waits, or the monitor's own fault. */
own:
    movq %rsp, %rbx
    andq $~15, %rsp
    call monitor_interrupted
    jmp back

    .section .note.GNU-stack, "", @progbits
