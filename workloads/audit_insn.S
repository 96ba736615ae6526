/*
 * The instructions of the audit (audit.h), as uint64_t (uint64_t arg). Plain
 * text, so that a VMM that looks for sensitive instructions there finds them;
 * no relocations, so that it links anywhere. INT n and SYSCALL: RAX is -1,
 * which no Linux takes for a system call.
 */
#include "workloads/guest/layout.h"

    .text

    .macro audit name
    .globl audit_\name
    .type audit_\name, @function
    .align 16
audit_\name:
    .endm

    audit sgdt
    subq $16, %rsp
    sgdt (%rsp)
    movq 2(%rsp), %rax
    addq $16, %rsp
    ret
    audit sidt
    subq $16, %rsp
    sidt (%rsp)
    movq 2(%rsp), %rax
    addq $16, %rsp
    ret
    audit sldt
    sldt %eax
    movzwl %ax, %eax
    ret
    audit smsw
    smsw %eax
    movzwl %ax, %eax
    ret
    audit pushf
    pushfq
    popq %rax
    andl $0x3200, %eax
    ret
    audit popf              /* IOPL 3, IF clear */
    pushfq
    pushq $0x3002
    popfq
    pushfq
    popq %rax
    popfq
    andl $0x3200, %eax
    ret
    audit lar
    movl $KERNEL_CS, %ecx
    xorl %eax, %eax
    larl %ecx, %eax
    jz 1f
    xorl %eax, %eax
1:  andl $0xf0ff00, %eax
    ret
    audit lsl
    movl $KERNEL_SS, %ecx
    xorl %eax, %eax
    lsll %ecx, %eax
    jz 1f
    xorl %eax, %eax
1:  ret
    audit verr              /* 1: may be read, 2: written */
    movl $KERNEL_SS, %ecx
    xorl %eax, %eax
    xorl %edx, %edx
    verr %cx
    setz %al
    verw %cx
    setz %dl
    leal (%rax, %rdx, 2), %eax
    ret
    audit pop
    movl %gs, %edx
    pushq $KERNEL_SS
    popq %gs
    movl %gs, %eax
    movl %edx, %gs
    ret
    audit push
    pushq %gs
    popq %rax
    ret
    audit call              /* the CS it pushed */
    movq %rsp, %r8
    leaq 1f(%rip), %rax
    lcall *(%rdi)
1:  movl 4(%rsp), %eax
    movq %r8, %rsp
    ret
    audit jmp
    leaq 1f(%rip), %rax
    ljmp *(%rdi)
1:  movl %cs, %eax
    ret
    audit int
    movl $-1, %eax
    int $0x80
    ret
    audit ret
    pushq $KERNEL_CS
    leaq 1f(%rip), %rax
    pushq %rax
    lretq
1:  movl %cs, %eax
    ret
    audit str
    str %eax
    movzwl %ax, %eax
    ret
    audit mov
    movl %cs, %eax
    ret
    audit iretq             /* IOPL 3, IF clear */
    movq %rsp, %rax
    pushfq
    movl %ss, %ecx
    pushq %rcx
    pushq %rax
    pushq $0x3002
    movl %cs, %ecx
    pushq %rcx
    leaq 1f(%rip), %rcx
    pushq %rcx
    iretq
1:  pushfq
    movq (%rsp), %rax
    movq $2, (%rsp)
    popfq
    andl $0x3200, %eax
    ret
    audit syscall
    movq $-1, %rax
    syscall
    ret
    audit sysret
    sysretq
    ret
    audit swapgs
    swapgs
    movq %gs:0, %rax
    swapgs
    ret
    audit rdgsbase
    rdgsbase %rax
    ret
    audit cr8
    movl $5, %eax
    movq %rax, %cr8
    movq %cr8, %rax
    xorl %ecx, %ecx
    movq %rcx, %cr8
    ret
    audit cli               /* IF behind it */
    cli
    pushfq
    popq %rax
    andl $0x200, %eax
    ret

/* Where the guest's LSTAR points for SYSCALL. */
    .globl audit_syscall_target
audit_syscall_target:
    movl $0x5ca11, %eax
    jmp *%rcx

    .section .note.GNU-stack, "", @progbits
