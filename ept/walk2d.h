/*
 * The two-dimensional walk: one access by a guest under nested paging. Every
 * entry of the guest's tables lies at a guest-physical address, which EPT or
 * NPT translates before the entry can be read, and so does the access itself:
 * (n + 1)(m + 1) - 1 references for n guest and m nested levels. Freestanding.
 */
#ifndef EPT_WALK2D_H
#define EPT_WALK2D_H

#include "ept/translate.h"

/* 5 + 5 levels. */
#define WALK2D_REFERENCES_MAX 35

enum walk2d_dimension { WALK2D_GUEST, WALK2D_NESTED };

struct walk2d_reference {
    enum walk2d_dimension dimension;
    unsigned level;       /* 5 .. 1, of the entry read */
    unsigned guest_level; /* whose entry is sought; 0: the access itself */
    uint64_t pa;          /* host-physical, of the entry */
    uint64_t gpa;         /* of the guest's entry, or being translated */
    uint64_t entry;       /* as read, before flags were set */
};

struct walk2d {
    enum ept_outcome outcome;
    /* EPT_GUEST_PAGE_FAULT: PF_*. EPT_NO_MEMORY: a negative errno. */
    int error;
    uint64_t qualification; /* EPT_VIOLATION: all bits, EPTQ_* */
    uint64_t exit_info1;    /* EPT_NESTED_FAULT: PF_* and NPF_* */
    bool suppress_ve;       /* EPT_VIOLATION */
    /* The access's guest-physical address, or the one an EPT or NPT event is
     * about; 0 where the guest's tables gave none. */
    uint64_t gpa;
    uint64_t pa; /* EPT_OK */
    /* EPT_OK: of either leaf; a TLB keeps the smaller. */
    uint64_t guest_page_bytes, nested_page_bytes;
    /* EPT_OK: what both dimensions allow. */
    bool writable, executable;
    bool user; /* a user-mode linear address */
    unsigned memory_type;
    bool ignore_pat;
    unsigned references;
    struct walk2d_reference reference[WALK2D_REFERENCES_MAX];
};

/*
 * Walks once. `guest->cr3` is guest-physical; `memory` is host-physical, and
 * its negative errno ends the walk (EPT_NO_MEMORY). Accessed and dirty flags
 * are set in both dimensions as mmu_walk and ept_translate say; an event of
 * the last translation leaves those of the guest's tables set. When an entry
 * changes under the walk it starts over, and `reference` holds the last try.
 */
void walk2d(const struct mmu_state *guest, const struct ept_state *nested,
            const struct mmu_memory *memory, const struct mmu_request *request,
            struct walk2d *walk);

#endif
