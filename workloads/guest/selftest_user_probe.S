/* Single instructions for the self-test's user program, as in
 * selftest_probe.S; there are others here, and none is the kernel's. */
#include "workloads/guest/layout.h"

    .text

    .macro probe name
    .globl user_\name
    .align 16
user_\name:
    .endm
    .macro at name
    .globl user_\name\()_at
user_\name\()_at:
    .endm
    .macro simple name, text:vararg
    probe \name
    \text
    ret
    .endm

    simple load, movq (%rdi), %rax
    simple store, movq %rdi, (%rdi)
    simple fetch, jmp *%rdi
    simple ud2, ud2
    simple divide, divb (%rdi)
    simple int3, int3
    simple int80, int $0x80
    simple int81, int $0x81
    probe load_stack
    movq %rdi, %rbp
    at load_stack
    movq (%rbp), %rax
    ret
    probe step
    pushfq
    orl $0x100, (%rsp)
    popfq
    nop
    at step
    nop
    ret
    probe unaligned         /* with AC */
    pushfq
    orl $0x40000, (%rsp)
    popfq
    at unaligned
    movq 1(%rdi), %rax
    pushfq
    andl $~0x40000, (%rsp)
    popfq
    ret
    probe divide_sse        /* by 0, not masked */
    subq $8, %rsp
    movl $0x1d80, (%rsp)
    ldmxcsr (%rsp)
    movl $0x1f80, (%rsp)
    pxor %xmm0, %xmm0
    movl $1, %eax
    cvtsi2ssl %eax, %xmm1
    at divide_sse
    divss %xmm0, %xmm1
    ldmxcsr (%rsp)
    addq $8, %rsp
    ret

/* What is the kernel's. */
    simple hlt, hlt
    simple cli, cli
    simple sti, sti
    simple clts, clts
    simple invd, invd
    simple wbinvd, wbinvd
    simple invlpg, invlpg (%rdi)
    simple lgdt, lgdt (%rdi)
    simple lidt, lidt (%rdi)
    simple lldt, lldt %di
    simple ltr, ltr %di
    simple lmsw, lmsw %di
    simple swapgs, swapgs
    simple sysret, sysretq
    simple mov_from_cr0, movq %cr0, %rax
    simple mov_from_cr2, movq %cr2, %rax
    simple mov_from_cr3, movq %cr3, %rax
    simple mov_from_cr4, movq %cr4, %rax
    simple mov_from_cr8, movq %cr8, %rax
    simple mov_to_cr0, movq %rdi, %cr0
    simple mov_to_cr3, movq %rdi, %cr3
    simple mov_to_cr4, movq %rdi, %cr4
    simple mov_to_cr8, movq %rdi, %cr8
    simple mov_from_dr7, movq %dr7, %rax
    simple mov_to_dr7, movq %rdi, %dr7
    simple in, inb $0x80, %al
    simple out, outb %al, $0x80
    probe rdmsr
    movl $0xc0000080, %ecx
    at rdmsr
    rdmsr
    ret
    probe wrmsr
    movl $0xc0000080, %ecx
    xorl %eax, %eax
    xorl %edx, %edx
    at wrmsr
    wrmsr
    ret
    probe rdpmc
    xorl %ecx, %ecx
    at rdpmc
    rdpmc
    ret
    simple mov_ss, movl %edi, %ss
    simple mov_ds, movl %edi, %ds
    simple mov_fs, movl %edi, %fs
    probe far_ret           /* CS = arg */
    pushq %rdi
    leaq 1f(%rip), %rcx
    pushq %rcx
    at far_ret
    lretq
1:  ret
    probe iret              /* CS = arg */
    movq %rsp, %rax
    movl %ss, %ecx
    pushq %rcx
    pushq %rax
    pushq $2
    pushq %rdi
    leaq 1f(%rip), %rcx
    pushq %rcx
    at iret
    iretq
1:  ret

/* void (struct user_syscall_effect *): what SYSCALL and the return leave. */
    .globl user_syscall_effect
user_syscall_effect:
    pushq %rbx
    movq %rdi, %rbx
    pushq (%rdi)            /* flags to go in with */
    popfq
    movl $0, %eax           /* SYS_NULL */
    syscall
    .globl user_syscall_effect_at
user_syscall_effect_at:
    pushfq
    popq 24(%rbx)
    movq %rcx, 8(%rbx)
    movq %r11, 16(%rbx)
    movl %cs, %eax
    movq %rax, 32(%rbx)
    movl %ss, %eax
    movq %rax, 40(%rbx)
    pushq $2
    popfq
    popq %rbx
    ret

    .section .note.GNU-stack, "", @progbits
