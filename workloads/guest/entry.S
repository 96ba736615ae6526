/*
 * Every way into the guest kernel builds a struct trap_frame (kernel.h) and
 * calls trap(); every way out restores one.
 *
 * GS is the kernel's only for the few instructions that find its stack after
 * SYSCALL, so that no other path needs to know whose GS it is.
 */
#include "workloads/guest/layout.h"

/* enum hypercall */
#define HC_IRET 9

    .macro push_registers
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
    .endm

    .macro pop_registers
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
    .endm

    .text

/* One stub a vector, 16 bytes each. Vectors 8, 10-14, 17, 21, 29 and 30 push
 * an error code themselves (SDM vol. 3A, 6.15). */
    .globl trap_stubs
    .align 16
trap_stubs:
    vector = 0
    .rept 256
    .align 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) \
        || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    vector = vector + 1
    .endr

trap_common:
    push_registers
    movq %rsp, %rdi
    cld
    call trap
trap_return:
#ifdef GUEST_PV
    movl $HC_IRET, %eax
    syscall
    ud2
#else
    pop_registers
    addq $16, %rsp
    iretq
#endif

/* Where a new process first runs: its stack holds the frame. */
    .globl fork_return
fork_return:
    call process_started
    jmp trap_return

/* void enter_user(struct trap_frame *frame) */
    .globl enter_user
enter_user:
    movq %rdi, %rsp
    jmp trap_return

    .globl syscall_entry
    .align 4096     /* a page of its own: see the #PF handler */
syscall_entry:
#ifdef GUEST_PV
    pushq $0
    pushq $VECTOR_SYSCALL
    jmp trap_common
#else
    swapgs
    movq %rsp, %gs:CPU_USER_RSP
    movq %gs:CPU_KERNEL_RSP, %rsp
    pushq $USER_SS
    pushq %gs:CPU_USER_RSP
    swapgs
    pushq %r11
    pushq $USER_CS
    pushq %rcx
    pushq $0
    pushq $VECTOR_SYSCALL
    push_registers
    movq %rsp, %rdi
    cld
    call trap
    /* SYSRET clobbers RCX and R11, so a frame that SYS_RESUME put in place
     * of ours leaves by IRET. */
    cmpq $VECTOR_SYSCALL, 15 * 8(%rsp)
    jne trap_return
    pop_registers
    addq $16, %rsp
    popq %rcx           /* RIP */
    addq $8, %rsp
    popq %r11           /* RFLAGS */
    popq %rsp
    sysretq
#endif

/* void context_switch(uint64_t *save_rsp, uint64_t load_rsp) */
    .globl context_switch
context_switch:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* void idle_until_interrupt(void): STI holds interrupts off for one more
 * instruction, so none is lost between the test and HLT. */
    .globl idle_until_interrupt
idle_until_interrupt:
    sti
    hlt
    cli
    ret

    .section .rodata
    .globl user_program
    .globl user_program_end
    .align 4096
user_program:
    .incbin USER_PROGRAM
user_program_end:

    .section .note.GNU-stack, "", @progbits
