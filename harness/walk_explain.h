/*
 * One translation explained: tables are built in memory as an operating
 * system and a host would, walked by the architectural walkers of mmu/ and
 * ept/ or filled by the shadow MMU of shadowpt/, and every entry read is told.
 * Then the same access is made again with this cache or that one warm, and
 * what it reads is counted.
 */
#ifndef HARNESS_WALK_EXPLAIN_H
#define HARNESS_WALK_EXPLAIN_H

#include "base/why.h"
#include "ept/walk2d.h"
#include "mmu/profile.h"
#include "shadowpt/shadow.h"

#include <stddef.h>

enum walk_technique { WALK_NATIVE, WALK_NESTED, WALK_SHADOW };

/* One entry made different from what the tables would have: the bits to set
 * and to clear, or a value for all of them. */
struct walk_change {
    bool nested; /* EPT's or NPT's */
    bool leaf;   /* the entry that maps the page, whatever its level */
    unsigned level;
    /* Whose address the nested entry translates: a guest entry's by level, or
     * 0 for the access's. */
    unsigned guest_level;
    uint64_t set, clear;
    bool whole; /* the entry becomes `set` */
};

#define WALK_CHANGES_MAX 16

struct walk_question {
    enum walk_technique technique;
    struct mmu_request request;
    /* Of the guest, or the only dimension; cr3 is chosen by walk_explain. */
    struct mmu_state guest;
    struct ept_state nested;        /* likewise, root and pml */
    uint64_t guest_page, host_page; /* 4 KiB, 2 MiB or 1 GiB */
    uint64_t rights;                /* of the page: PTE_RW, PTE_US, PTE_XD */
    uint64_t host_rights;           /* EPT_R, _W, _X */
    bool pml_full; /* EPT: the page-modification log is on and has no room */
    unsigned changes;
    struct walk_change change[WALK_CHANGES_MAX];
    const struct mmu_profile *profile; /* which caches there are */
};

enum walk_tables { WALK_GUEST_TABLES, WALK_NESTED_TABLES, WALK_SHADOW_TABLES };

/* One entry that was read. */
struct walk_row {
    enum walk_tables tables;
    unsigned level;
    unsigned guest_level; /* nested: whose entry is sought; 0: the access */
    unsigned index;
    uint64_t gpa;   /* of the guest's entry, or what is being translated */
    uint64_t pa;    /* of the entry, in the host; native: the only one */
    uint64_t entry; /* as read */
    uint64_t sets;  /* accessed and dirty flags that the walk set */
};

enum walk_by { WALK_BY_CPU, WALK_BY_SHADOW_MMU };

/* How a pass ended: the CPU's events, or what the shadow MMU made of one. */
enum walk_end {
    WALK_TRANSLATED,
    WALK_PAGE_FAULT, /* by the tables walked: under shadow, the shadow's */
    WALK_NOT_CANONICAL,
    WALK_VIOLATION,
    WALK_MISCONFIGURATION,
    WALK_PML_FULL,
    WALK_NESTED_FAULT,
    WALK_NO_MEMORY,
    WALK_HIDDEN_FAULT, /* shadow MMU: fixed, the instruction runs again */
    WALK_TRUE_FAULT,   /* shadow MMU: the guest's own */
    WALK_EMULATE,      /* shadow MMU: does the write itself */
    WALK_ENDS,
};

struct walk_pass {
    enum walk_by by;
    enum walk_end end;
    unsigned error;         /* PF_* of a page fault, or a positive errno */
    uint64_t qualification; /* EPTQ_* */
    uint64_t exit_info1;    /* PF_* and NPF_* */
    uint64_t gpa, pa;       /* of the access, or what the event is about */
    uint64_t guest_page, host_page; /* translated: of either leaf */
    bool writable, executable, user;
    unsigned rows;
    struct walk_row row[WALK2D_REFERENCES_MAX];
};

/* Shadow paging: the CPU's fault, the shadow MMU's work and the CPU's second
 * walk; one more of each where a write needs it. */
#define WALK_PASSES_MAX 8

enum walk_caches {
    WALK_CACHES_NONE,
    WALK_CACHES_EMPTY,  /* all there are, nothing in them: they fill on the
                           way */
    WALK_CACHES_ONE,    /* one, as those below warm: filled by this access */
    WALK_CACHES_WALK,   /* paging-structure caches, of both dimensions */
    WALK_CACHES_NESTED, /* and the nested TLB */
    WALK_CACHES_TLB,
};

/* The same access again, with caches. */
struct walk_replay {
    enum walk_caches which;
    char caches[64];     /* in words */
    unsigned references; /* of which: */
    unsigned nested;
};

#define WALK_REPLAYS_MAX 20

struct walk_answer {
    uint64_t root;        /* of the tables the guest's CR3 names */
    uint64_t nested_root; /* EPTP or nCR3; shadow: of the shadow tables */
    unsigned passes;
    struct walk_pass pass[WALK_PASSES_MAX];
    /* None when the access ended in an event: it is not cached. */
    unsigned replays;
    struct walk_replay replay[WALK_REPLAYS_MAX];
};

/* What an operating system would have: 4 levels, 4 KiB pages that allow
 * everything, a user's read of `va`, WP, NXE, SMEP and SMAP on. No profile. */
void walk_question_default(struct walk_question *question, uint64_t va);

/* -EINVAL with the sentence for a question without meaning (a change to an
 * entry that the address does not use, an impossible size), -ENOMEM. An event
 * that ends the walk is an answer, no error. */
int walk_explain(const struct walk_question *question,
                 struct walk_answer *answer, struct why *why);

#endif
