/* Addresses the guest kernel, its linker scripts and its assembly share. */
#ifndef WORKLOADS_GUEST_LAYOUT_H
#define WORKLOADS_GUEST_LAYOUT_H

#define KERNEL_BASE 0xffffffff80000000 /* virtual address of physical 0 */
#define KERNEL_LOAD 0x100000           /* physical address of the image */
#define DIRECT_BASE 0xffff888000000000 /* all RAM, physical 0 first */

#define NANO_BASE 0xffffff0000000000 /* pages the nanobenchmarks map */

#define USER_BASE  0x400000       /* the user program */
#define USER_MAP   0x1000000000   /* first address of map() */
#define USER_LIMIT 0x7f0000000000 /* end of map() */
#define USER_STACK 0x7ff000000000 /* top of CPU 0's stack, others below */

#define USER_STACK_BYTES   0x10000
#define KERNEL_STACK_BYTES 0x4000
#define CPUS_MAX           32
#define PROCESSES_MAX      16

/* Selectors: SYSRET takes SS from USER_CS - 8 (SDM vol. 2, SYSRET). */
#define KERNEL_CS 0x08
#define KERNEL_SS 0x10
#define USER_SS   0x1b
#define USER_CS   0x23
#define TSS_SEL   0x28
#define LDT_SEL   0x38

/* Not a vector: how trap() sees SYSCALL. */
#define VECTOR_SYSCALL 0x100

#define VECTOR_WAKE      0xf0
#define VECTOR_SHOOTDOWN 0xf1

/* struct cpu, see kernel.h: what the SYSCALL entry reaches through GS. */
#define CPU_KERNEL_RSP 0
#define CPU_USER_RSP   8

#endif
