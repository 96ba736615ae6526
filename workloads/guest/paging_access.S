/*
 * One access of the paging test. It ends in a trap in any case: a page fault,
 * or the divide error behind it, an exception that no hypervisor intercepts.
 */
#include "workloads/guest/layout.h"

#define FRAME_RSP 160 /* struct trap_frame, see kernel.h */

    .text

/* void paging_access(struct trap_frame *frame, uint64_t *resume_rsp) */
    .globl paging_access
    .globl paging_resume
paging_access:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rsi)
    movq %rsp, FRAME_RSP(%rdi)
    jmp enter_user
paging_resume:
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* Runs here at CPL0 and as a copy at CPL3. */
    .globl paging_stubs
    .globl paging_stubs_end
    .globl paging_read
    .globl paging_write
    .globl paging_fetch
    .globl paging_segment
    .align 64
paging_stubs:
paging_read:
    movl (%rdi), %eax
    divb %cl
paging_write:
    movl %eax, (%rdi)
    divb %cl
paging_segment:
    movl $7, %edx       /* LDT, RPL 3 */
    movl %edx, %fs
    divb %cl
paging_fetch:
    jmp *%rdi
paging_stubs_end:

    .section .rodata
    .globl paging_page
    .globl paging_page_end
paging_page:
    movl $0, %eax
    divb %cl
paging_page_end:

    .section .note.GNU-stack, "", @progbits
