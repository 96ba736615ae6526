/*
 * What cached translations are tagged with, and what the instructions that
 * invalidate them name. Freestanding.
 */
#ifndef MMU_SPACE_H
#define MMU_SPACE_H

#include <stdint.h>

#define MMU_PCIDS 4096u

/*
 * A tag: VPID (AMD: ASID) in bits 31:16, PCID in bits 11:0; 0 where the CPU
 * does not tag. Global translations match under every PCID of their VPID (SDM
 * vol. 3A, 4.10.2.4), so they have a tag of their own per VPID.
 */
#define MMU_TAG_GLOBAL 0x1000u

static inline uint32_t mmu_tag(uint16_t vpid, uint16_t pcid)
{
    return (uint32_t)vpid << 16 | (pcid & (MMU_PCIDS - 1));
}

static inline uint32_t mmu_tag_global(uint32_t tag)
{
    return (tag & 0xffff0000u) | MMU_TAG_GLOBAL;
}

/* INVPCID types, by the number the instruction takes (SDM vol. 2A). All of
 * them stay within the current VPID. */
enum mmu_invpcid {
    INVPCID_ADDRESS = 0,        /* one address in one PCID, globals stay */
    INVPCID_CONTEXT = 1,        /* one PCID, globals stay */
    INVPCID_ALL = 2,            /* every PCID, globals too */
    INVPCID_ALL_NON_GLOBAL = 3, /* every PCID, globals stay */
};

/* INVVPID types (SDM vol. 3C, 30.3). */
enum mmu_invvpid {
    INVVPID_ADDRESS = 0,            /* one address in one VPID, globals too */
    INVVPID_CONTEXT = 1,            /* one VPID, globals too */
    INVVPID_ALL = 2,                /* every VPID but 0 */
    INVVPID_CONTEXT_NON_GLOBAL = 3, /* one VPID, globals stay */
};

#endif
