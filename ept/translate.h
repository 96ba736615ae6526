/*
 * One translation in the second dimension: a guest-physical address to a
 * host-physical one through EPT (SDM vol. 3C, 29.3) or NPT (APM vol. 2,
 * 15.25). Freestanding, no state but the caller's.
 */
#ifndef EPT_TRANSLATE_H
#define EPT_TRANSLATE_H

#include "ept/format.h"
#include "mmu/walk.h"

enum ept_format { EPT_FORMAT_EPT, EPT_FORMAT_NPT };

/* What the host set up, and what of its CPU the walk depends on. */
struct ept_state {
    enum ept_format format;
    uint64_t root;          /* of the top table: EPTP[51:12], nCR3[51:12] */
    unsigned levels;        /* 4 or 5 */
    unsigned physical_bits; /* the host's MAXPHYADDR, 36 to 52 */
    bool pages_1g;
    /* EPT only. */
    bool accessed_dirty; /* EPTP[6] */
    bool execute_only;   /* IA32_VMX_EPT_VPID_CAP[0] */
    bool mbec;           /* the mode-based execute control */
    bool advanced;       /* IA32_VMX_EPT_VPID_CAP[22]: EPTQ_GLA_* are told */
    struct ept_pml *pml; /* NULL: not enabled; needs accessed_dirty */
    /* NPT only. */
    bool nxe; /* the host's EFER.NXE */
};

enum ept_outcome {
    EPT_OK,
    EPT_GUEST_PAGE_FAULT, /* 2-D only: the guest's own tables deny it */
    EPT_NOT_CANONICAL,    /* 2-D only: #GP or #SS in the guest */
    EPT_VIOLATION,        /* exit reason 48 */
    EPT_MISCONFIGURATION, /* exit reason 49 */
    EPT_PML_FULL,         /* exit reason 62 */
    EPT_NESTED_FAULT,     /* VMEXIT_NPF, 400h */
    EPT_NO_MEMORY,        /* the callback failed */
};

enum ept_purpose {
    EPT_FOR_ACCESS, /* the final address */
    EPT_FOR_TABLE,  /* an entry of a guest paging structure is read */
    EPT_FOR_UPDATE, /* and its accessed or dirty flag set */
};

struct ept_request {
    uint64_t gpa;
    enum ept_purpose purpose;
    enum mmu_access access; /* EPT_FOR_ACCESS */
    bool user_address;      /* of a user-mode linear address; MBEC asks */
};

struct ept_translation {
    enum ept_outcome outcome;
    int error;              /* EPT_NO_MEMORY: a negative errno */
    uint64_t qualification; /* EPT_VIOLATION: bits 6:0 */
    uint64_t exit_info1;    /* EPT_NESTED_FAULT */
    /* EPT_VIOLATION: bit 63 of the entry that ended the walk, so no #VE
     * (SDM vol. 3C, 26.5.7.1). */
    bool suppress_ve;
    uint64_t pa;          /* EPT_OK */
    uint64_t page_bytes;  /* EPT_OK: 4 KiB, 2 MiB or 1 GiB */
    uint64_t rights;      /* EPT_R, _W, _X, _XU that the whole path has */
    unsigned memory_type; /* EPT_OK under EPT: of the leaf */
    bool ignore_pat;      /* likewise */
    unsigned references;
    struct mmu_reference reference[MMU_LEVELS_MAX];
};

/* Takes root, levels and accessed_dirty from an EPTP as VM entry does: -EINVAL
 * where the SDM's checks (vol. 3C, 27.2.1.1) refuse it. physical_bits is set
 * before; `five_levels` is IA32_VMX_EPT_VPID_CAP[7]. */
int ept_state_load(struct ept_state *state, uint64_t eptp, bool five_levels);

/*
 * Translates once. Accessed and dirty flags are set only when the access is
 * allowed. `memory` is host-physical; its -EAGAIN starts the walk over,
 * MMU_ATTEMPTS_MAX times at most.
 */
void ept_translate(const struct ept_state *state,
                   const struct mmu_memory *memory,
                   const struct ept_request *request,
                   struct ept_translation *translation);

/* As struct mmu_resume: the table a cached entry refers to, and the rights
 * (EPT_R, _W, _X, _XU) of the path down to it (SDM vol. 3C, 29.4.2). */
struct ept_resume {
    unsigned level;
    uint64_t table;
    uint64_t rights;
};

/* The same as ept_translate from `resume` on; gpa is within the levels'
 * reach. */
void ept_translate_from(const struct ept_state *state,
                        const struct mmu_memory *memory,
                        const struct ept_request *request,
                        const struct ept_resume *resume,
                        struct ept_translation *translation);

/* Whether a translation made to read a guest's table entry also allows its
 * accessed and dirty flags to be set; if not, it becomes the violation of
 * that. No entry is read again, as in the CPU. */
bool ept_allows_update(const struct ept_state *state,
                       struct ept_translation *translation);

#endif
