/*
 * Where the guest starts.
 *
 * pvh_start   32-bit protected mode without paging, EBX = physical address of
 *             the PVH start info: QEMU's -kernel, and any PVH loader.
 * start64     64-bit mode, physical 0 .. 1 GiB mapped at 0 and at
 *             KERNEL_BASE, RBX as above, RDI = CPU number: memvirt's VMM,
 *             for every CPU.
 */
#include "workloads/guest/layout.h"

#define PHYS(symbol) ((symbol) - KERNEL_BASE)

    .section .note.Xen, "a", @note
    .align 4
    .long 4, 4, 18              /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long PHYS(pvh_start)

    .section .text.boot, "ax"
    .code32
    .globl pvh_start
pvh_start:
    cld
    movl $PHYS(boot_pdpt) + 3, PHYS(boot_pml4)
    movl $PHYS(boot_pdpt) + 3, PHYS(boot_pml4) + 511 * 8
    movl $PHYS(boot_pd) + 3, PHYS(boot_pdpt)
    movl $PHYS(boot_pd) + 3, PHYS(boot_pdpt) + 510 * 8
    movl $PHYS(boot_pd), %edi
    movl $0x83, %eax            /* present, writable, 2 MiB */
    movl $512, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b

    movl %cr4, %eax
    orl $0x20, %eax             /* PAE */
    movl %eax, %cr4
    movl $PHYS(boot_pml4), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      /* EFER */
    rdmsr
    orl $0x901, %eax            /* SCE, LME, NXE */
    wrmsr
    movl %cr0, %eax
    orl $0x80010022, %eax       /* PG, WP, NE, MP */
    andl $~4, %eax              /* EM */
    movl %eax, %cr0
    lgdt PHYS(boot_gdtr)
    ljmp $KERNEL_CS, $PHYS(1f)
    .code64
1:  xorl %edi, %edi
    movabsq $start64, %rax
    jmp *%rax

    .globl start64
start64:
    movq %rdi, %rax
    incq %rax
    imulq $KERNEL_STACK_BYTES, %rax
    leaq boot_stacks(%rax), %rsp
    movq %rbx, %rsi
    xorl %ebp, %ebp
    call kernel_start
    ud2

    .section .rodata
    .align 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdtr:
    .word . - boot_gdt - 1
    .long PHYS(boot_gdt)

    .section .bss
    .align 4096
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4096
    .align KERNEL_STACK_BYTES
    .globl boot_stacks
boot_stacks:
    .skip KERNEL_STACK_BYTES * CPUS_MAX
    .globl process_stacks
process_stacks:
    .skip KERNEL_STACK_BYTES * PROCESSES_MAX

    .section .note.GNU-stack, "", @progbits
