/*
 * Single instructions for the self-test's kernel part, as uint64_t (uint64_t
 * arg): what traps is a probe's first instruction, or stands at its label that
 * ends in _at. They are plain kernel text, so that a VMM that looks for
 * sensitive instructions there finds them.
 */
#include "workloads/guest/layout.h"

    .text

/* void catch_trap(struct caught *c, probe_function *probe, uint64_t arg):
 * returns when the probe does, or when selftest_caught() has sent its trap to
 * catch_resume. */
    .globl catch_trap
    .globl catch_resume
catch_trap:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    movq %rsp, (%rdi)
    movq %rdx, %rdi
    call *%rsi
catch_resume:
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .macro probe name
    .globl probe_\name
    .align 16
probe_\name:
    .endm
    .macro at name
    .globl probe_\name\()_at
probe_\name\()_at:
    .endm

/* ---- Memory -------------------------------------------------------------- */

    probe load
    movq (%rdi), %rax
    ret
    probe store
    movq %rdi, (%rdi)
    ret
    probe modify
    lock
    incq (%rdi)
    ret
    probe fetch             /* what is there returns */
    jmp *%rdi
    probe load_stack        /* SS: an address made with RBP */
    movq %rdi, %rbp
    at load_stack
    movq (%rbp), %rax
    ret

/* ---- Exceptions ---------------------------------------------------------- */

    probe ud2
    ud2
    probe divide            /* by the byte at (RDI) */
    divb (%rdi)
    ret
    probe int3
    int3
    ret
    probe int80
    int $0x80
    ret
    probe int81
    int $0x81
    ret
    probe icebp
    .byte 0xf1
    ret
    probe fninit
    fninit
    ret
    probe lock_nop
    .byte 0xf0, 0x90
    ret
    probe into              /* of 32-bit modes only */
    .byte 0xce
    ret
    probe long              /* 16 bytes */
    .fill 15, 1, 0x66
    nop
    ret
    probe ud0
    .byte 0x0f, 0xff
    ret
    probe step              /* TF: a trap behind the next instruction */
    pushfq
    orl $0x100, (%rsp)
    popfq
    nop
    at step
    nop
    ret
    probe ud2_with_rsp      /* RSP = arg */
    movq %rdi, %rsp
    at ud2_with_rsp
    ud2
    probe divide_with_rsp
    movq %rdi, %rsp
    xorl %ecx, %ecx
    at divide_with_rsp
    divb %cl
    ud2
    probe ud2_with_flags    /* RFLAGS = arg */
    pushq %rdi
    popfq
    at ud2_with_flags
    ud2

/* ---- State --------------------------------------------------------------- */

    probe mov_ss
    movl %edi, %ss
    ret
    probe mov_ds
    movl %edi, %ds
    ret
    probe mov_fs
    movl %edi, %fs
    ret
    probe lldt
    lldt %di
    ret
    probe ltr
    ltr %di
    ret
    probe mov_cr0
    movq %rdi, %cr0
    ret
    probe mov_cr3
    movq %rdi, %cr3
    ret
    probe mov_cr4
    movq %rdi, %cr4
    ret
    probe mov_cr8
    movq %rdi, %cr8
    ret
    probe mov_dr7
    movq %rdi, %dr7
    ret
    probe rdmsr             /* ECX = arg */
    movl %edi, %ecx
    at rdmsr
    rdmsr
    ret
    probe wrmsr             /* arg: the MSR and its value, 8 bytes each */
    movl (%rdi), %ecx
    movl 8(%rdi), %eax
    movl 12(%rdi), %edx
    at wrmsr
    wrmsr
    ret

/* ---- Far transfers ------------------------------------------------------- */

    probe far_jmp           /* arg: a far pointer to code that jumps to RAX */
    leaq 1f(%rip), %rax
    at far_jmp
    ljmp *(%rdi)
1:  movl %cs, %eax
    ret
    probe far_call          /* the same; the 8 bytes it pushed, of 4 each */
    movq %rsp, %r8
    leaq 1f(%rip), %rax
    at far_call
    lcall *(%rdi)
    .globl probe_far_call_end
probe_far_call_end:
    ud2
1:  movq (%rsp), %rax
    subq %rsp, %r8
    cmpq $8, %r8
    je 2f
    movq %r8, %rax
2:  addq %r8, %rsp
    ret
    probe far_ret           /* releases 16 bytes more; RSP's change */
    movq %rsp, %rax
    pushq $0
    pushq $0
    pushq $KERNEL_CS
    leaq 1f(%rip), %rcx
    pushq %rcx
    lretq $16
1:  subq %rsp, %rax
    ret
    probe far_ret_32        /* arg: a low address of code that jumps to RAX */
    movq %rsp, %r8
    leaq 1f(%rip), %rax
    subq $8, %rsp
    movl %edi, (%rsp)
    movl $KERNEL_CS, 4(%rsp)
    lretl
1:  movq %r8, %rax
    subq %rsp, %rax
    movq %r8, %rsp
    ret
    probe far_ret_to        /* CS = arg */
    pushq %rdi
    leaq 1f(%rip), %rcx
    pushq %rcx
    at far_ret_to
    lretq
1:  ret
    probe iret_to           /* CS = arg */
    movq %rsp, %rax
    pushq $KERNEL_SS
    pushq %rax
    pushq $2
    pushq %rdi
    leaq 1f(%rip), %rcx
    pushq %rcx
    at iret_to
    iretq
1:  ret

    .section .note.GNU-stack, "", @progbits
