/*
 * What a model of one core needs to know of a CPU. Data files describe it
 * (mmu/profiles/, read by harness/profile.h). Freestanding.
 */
#ifndef MMU_PROFILE_H
#define MMU_PROFILE_H

#include "mmu/dcache.h"
#include "mmu/psc.h"
#include "mmu/tlb.h"

struct mmu_profile {
    char name[32];
    char cpu[64];
    unsigned walkers; /* page walks at the same time */
    struct tlb_config tlb;
    struct psc_config psc;        /* of 1-D walks and a 2-D walk's guest */
    struct psc_config psc_nested; /* of a 2-D walk's EPT or NPT */
    /* Guest-physical pages in a 2-D walk, one structure for all sizes; no
     * entries: no nested TLB. */
    struct {
        uint32_t entries, ways;
        unsigned cycles;
    } nested_tlb;
    struct dcache_config dcache;
};

#endif
