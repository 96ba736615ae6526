/*
 * Paging-structure entries of x86-64, 4-level and 5-level (SDM vol. 3A,
 * 4.5; APM vol. 2, 5.3). Freestanding.
 */
#ifndef MMU_ENTRY_H
#define MMU_ENTRY_H

#include <stdbool.h>
#include <stdint.h>

#define PTE_P    (1ull << 0) /* present */
#define PTE_RW   (1ull << 1) /* writable */
#define PTE_US   (1ull << 2) /* user */
#define PTE_PWT  (1ull << 3)
#define PTE_PCD  (1ull << 4)
#define PTE_A    (1ull << 5) /* accessed */
#define PTE_D    (1ull << 6) /* dirty; leaves only */
#define PTE_PS   (1ull << 7) /* a PDPTE or PDE that maps a page */
#define PTE_G    (1ull << 8) /* global; leaves only */
#define PTE_SW0  (1ull << 9) /* ignored by the CPU: software's */
#define PTE_SW1  (1ull << 10)
#define PTE_SW2  (1ull << 11)
#define PTE_XD   (1ull << 63) /* execute-disable */
#define PTE_ADDR 0x000ffffffffff000ull

/* The PAT bit is bit 7 of a PTE, and moves up where PS has that place. */
#define PTE_PAT       (1ull << 7)
#define PTE_PAT_LARGE (1ull << 12)
/* Protection key of a leaf: bits 62:59. */
#define PTE_KEY_SHIFT 59
#define PTE_KEY       (15ull << PTE_KEY_SHIFT)

#define PT_ENTRIES 512u
#define PAGE_4K    (1ull << 12)
#define PAGE_2M    (1ull << 21)
#define PAGE_1G    (1ull << 30)

/* Levels count from the leaf: 1 is the page table (PTEs), 2 the page
 * directory, 3 the PDPT, 4 the PML4, 5 the PML5. */
static inline unsigned pt_shift(unsigned level)
{
    return 12 + 9 * (level - 1);
}

static inline unsigned pt_index(uint64_t va, unsigned level)
{
    return (unsigned)(va >> pt_shift(level)) & (PT_ENTRIES - 1);
}

/* A linear address is: the bits above the highest translated one repeat it
 * (SDM vol. 1, 3.3.7.1). */
static inline bool mmu_canonical(uint64_t va, unsigned levels)
{
    unsigned unused = 64 - 12 - 9 * levels;

    return (uint64_t)((int64_t)(va << unused) >> unused) == va;
}

/* The level whose leaf maps `page_bytes`: 1, 2 or 3; 0 for no page size. */
static inline unsigned pt_leaf_level(uint64_t page_bytes)
{
    return page_bytes == PAGE_4K   ? 1
           : page_bytes == PAGE_2M ? 2
           : page_bytes == PAGE_1G ? 3
                                   : 0;
}

/* Page-fault error code (SDM vol. 3A, 4.7). */
#define PF_P  (1u << 0) /* the page was present: a protection violation */
#define PF_W  (1u << 1)
#define PF_U  (1u << 2)
#define PF_RS (1u << 3) /* a reserved bit was set */
#define PF_I  (1u << 4) /* instruction fetch */
#define PF_PK (1u << 5) /* denied by the protection key */

/* PKRU holds two bits for each key (SDM vol. 3A, 4.6.2). */
#define PKRU_AD(key) (1u << 2 * (key)) /* no data access */
#define PKRU_WD(key) (2u << 2 * (key)) /* no write */

#define CR0_PE (1ull << 0)
#define CR0_MP (1ull << 1)
#define CR0_ET (1ull << 4)
#define CR0_NE (1ull << 5)
#define CR0_WP (1ull << 16)
#define CR0_PG (1ull << 31)

#define CR4_PAE        (1ull << 5)
#define CR4_OSFXSR     (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_PCIDE      (1ull << 17)
#define CR4_SMEP       (1ull << 20)
#define CR4_SMAP       (1ull << 21)

#define EFER_SCE (1ull << 0)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

#endif
