/* What the guest's user program cannot say in C. */
#include "workloads/guest/layout.h"

    .text
    .globl user_start
user_start:
    xorl %ebp, %ebp
    jmp user_main

/* long user_syscall(number, a, b, c, d, e): the arguments move from the C
 * convention to the kernel's (syscalls.h); d and e are in place already. */
    .globl user_syscall
user_syscall:
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    movq %rcx, %rdx
    syscall
    ret

/* The kernel comes here on an access violation: RDI = address, RSI = the
 * interrupted frame, RSP + 8 a multiple of 16. The handler may use SSE, the
 * interrupted code too. */
    .globl user_segv_entry
user_segv_entry:
    pushq %rbx
    subq $512, %rsp
    fxsave64 (%rsp)
    movq %rsi, %rbx
    movq %rdi, %rsi
    leaq user_state(%rip), %rdi
    call user_segv
    fxrstor64 (%rsp)
    movq %rbx, %rsi
    movq user_sys_resume(%rip), %rdi
    call user_syscall
    ud2

/* void user_catch(struct user_trap *trap, void (*probe)(uint64_t), uint64_t
 * arg): the kernel sends the probe's trap to user_caught (check.h). */
    .globl user_catch
user_catch:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    movq %rsi, %rbx
    movq %rdx, %r12
    movq %rsp, (%rdi)
    leaq user_caught(%rip), %rax
    movq %rax, 8(%rdi)
    movq %rdi, %rsi
    movq user_sys_catch(%rip), %rdi
    call user_syscall
    movq %r12, %rdi
    call *%rbx
user_caught:
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* A CPU other than the first, in parallel(): RDI = env, RSI = guest, RDX. */
    .globl user_part_entry
user_part_entry:
    xorl %ebp, %ebp
    jmp user_part

    .section .note.GNU-stack, "", @progbits
