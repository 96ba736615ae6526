/* Where the monitor and what it owns are; its assembly, its linker script and
 * the VMM see this too. */
#ifndef VMM_MONITOR_LAYOUT_H
#define VMM_MONITOR_LAYOUT_H

/* The reserved PML4 slot: 512 GiB of addresses. */
#define MON_SLOT 507
#define MON_BASE 0xfffffd8000000000

/* Offsets from MON_BASE, and in the monitor's memory. */
#define MON_IMAGE         0x0 /* text and read-only data, with its header */
#define MON_BOOT          0x0 /* where a vCPU starts */
#define MON_SYSCALL_ENTRY 0x1ac0
#define MON_STUBS         0x2000 /* 16 bytes for each vector */
#define MON_IMAGE_MAX     0x100000
#define MON_SHARED        0x100000 /* struct mon */
#define MON_CONFIG        0x110000 /* struct mon_config, from the VMM */
#define MON_IDT           0x111000
#define MON_TOUCH         0x112000 /* code for CPL 3 (trap.c) */
#define MON_CPUS          0x120000 /* MON_CPU_BYTES for each vCPU */
#define MON_CPU_BYTES     0x8000
#define MON_TABLES        0x220000 /* the slot's page tables, its PDPT first */
#define MON_TABLES_MAX    0x140000
#define MON_SITES         0x380000 /* decoded instructions */
#define MON_SITES_MAX     0x80000
#define MON_ARENA         0x400000 /* shadow tables */

/* The translation caches' areas, BT_AREA for each vCPU (bt/cache.h). */
#define MON_AREAS 0xfffffd8040000000

/* All guest RAM, physical 0 first. */
#define MON_WINDOW     0xfffffdc000000000
#define MON_WINDOW_MAX 0x4000000000

/* In a vCPU's part: struct mon_cpu, then stacks that grow down. */
#define MON_CPU_STATE_BYTES 0x3000
#define MON_STACK_TOP       0x7000
#define MON_IST_TOP         0x8000

/* What assembly knows of struct mon_cpu. */
#define MON_CPU_FRAME_END   176
#define MON_CPU_STACK       176
#define MON_CPU_SYSCALL_RSP 184
#define MON_CPU_SELF        192
#define MON_FRAME_VECTOR    120
#define MON_FRAME_CS        144

/* Real selectors: the last of a GDT whose first are the guest's. */
#define MON_GDT_GUEST 56 /* descriptors of the guest's that can be loaded */
#define MON_CS        0x1c0
#define MON_SS        0x1c8
#define MON_GUEST_CS  0x1d3 /* of the guest kernel: DPL 3 */
#define MON_GUEST_SS  0x1db
#define MON_TSS       0x1e0
#define MON_GDT       62 /* descriptors */

/* Not a vector: SYSCALL. */
#define MON_VECTOR_SYSCALL 0x100
/* One vCPU wants another to enter the monitor. */
#define MON_VECTOR_KICK 0xfd

/* The monitor's calls to the VMM: enum mon_call as a dword. */
#define MON_PORT 0x5f4

#endif
