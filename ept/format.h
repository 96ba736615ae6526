/*
 * The two formats of the second dimension. EPT has entries of its own (SDM
 * vol. 3C, 29.3.2, tables 29-1 to 29-7; 28.3.2 before the chapters moved);
 * NPT uses ordinary long-mode entries (APM vol. 2, 15.25), which mmu/entry.h
 * has. Freestanding.
 *
 * An EPT entry:
 *
 *   63  suppress #VE     52..12 address     8 accessed   2 execute
 *   61  sub-page write   11 ignored         7 large page 1 write
 *   60  shadow stack     10 user execute    6 ignore PAT 0 read
 *   58  paging-write      9 dirty         5:3 memory type
 *   57  verify paging
 */
#ifndef EPT_FORMAT_H
#define EPT_FORMAT_H

#include "mmu/entry.h"

#include <stdbool.h>
#include <stdint.h>

#define EPT_R           (1ull << 0)
#define EPT_W           (1ull << 1)
#define EPT_X           (1ull << 2)  /* with MBEC: supervisor-mode addresses */
#define EPT_TYPE_SHIFT  3            /* leaves only; 3 bits */
#define EPT_IPAT        (1ull << 6)  /* ignore the guest's PAT; leaves only */
#define EPT_PS          (1ull << 7)  /* a PDPTE or PDE that maps a page */
#define EPT_A           (1ull << 8)  /* accessed, where EPTP[6] enables it */
#define EPT_D           (1ull << 9)  /* dirty; leaves only */
#define EPT_XU          (1ull << 10) /* MBEC: execute, user-mode addresses */
#define EPT_SUPPRESS_VE (1ull << 63)
#define EPT_ADDR        PTE_ADDR
#define EPT_RWX         (EPT_R | EPT_W | EPT_X)

/* Memory types of leaves and of the EPTP (SDM vol. 3A, table 12-2); 2, 3 and
 * 7 are reserved. */
#define EPT_TYPE_UC 0u
#define EPT_TYPE_WC 1u
#define EPT_TYPE_WT 4u
#define EPT_TYPE_WP 5u
#define EPT_TYPE_WB 6u

#define EPT_TYPE(type) ((uint64_t)(type) << EPT_TYPE_SHIFT)

static inline unsigned ept_entry_type(uint64_t entry)
{
    return (unsigned)(entry >> EPT_TYPE_SHIFT) & 7;
}

/* A page table's entry always maps a page; others say so in bit 7, which
 * PML4 and PML5 entries may not set. */
static inline bool ept_is_leaf(uint64_t entry, unsigned level)
{
    return level == 1 || (level <= 3 && (entry & EPT_PS));
}

/* The EPT pointer (SDM vol. 3C, 25.6.11). */
#define EPTP_TYPE         7ull
#define EPTP_LENGTH_SHIFT 3 /* page-walk length less one; 3 bits */
#define EPTP_AD           (1ull << 6)

static inline uint64_t ept_pointer(uint64_t pa, unsigned levels, bool ad)
{
    return pa | (uint64_t)(levels - 1) << EPTP_LENGTH_SHIFT | EPT_TYPE_WB |
           (ad ? EPTP_AD : 0);
}

/* Exit qualification of an EPT violation (SDM vol. 3C, 28.2.1, "Exit
 * Qualification for EPT Violations"). */
#define EPTQ_READ       (1ull << 0) /* the access: a data read */
#define EPTQ_WRITE      (1ull << 1)
#define EPTQ_FETCH      (1ull << 2)
#define EPTQ_READABLE   (1ull << 3) /* what all entries used allow */
#define EPTQ_WRITABLE   (1ull << 4)
#define EPTQ_EXECUTABLE (1ull << 5)
#define EPTQ_USER_EXEC  (1ull << 6) /* with MBEC */
#define EPTQ_GLA_VALID  (1ull << 7)
#define EPTQ_TRANSLATED                                                       \
    (1ull << 8)                      /* of the access, not of a table's entry \
                                      */
#define EPTQ_GLA_USER    (1ull << 9) /* 9 to 11: advanced information */
#define EPTQ_GLA_WRITE   (1ull << 10)
#define EPTQ_GLA_XD      (1ull << 11)
#define EPTQ_RIGHT_SHIFT 3

/* EXITINFO1 of VMEXIT_NPF: a page-fault error code (PF_*) and these (APM
 * vol. 2, 15.25.6). */
#define NPF_FINAL (1ull << 32) /* translating the access's own address */
#define NPF_TABLE (1ull << 33) /* translating that of a guest table's entry */

/* The page-modification log (SDM vol. 3C, 29.3.6). */
#define EPT_PML_ENTRIES 512u

struct ept_pml {
    uint64_t *log;  /* EPT_PML_ENTRIES guest-physical addresses */
    uint16_t index; /* of the next entry to write; counts down */
};

#endif
