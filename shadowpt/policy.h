/* What a user chooses of the shadow MMU (shadow.h). */
#ifndef SHADOWPT_POLICY_H
#define SHADOWPT_POLICY_H

enum shadow_policy {
    /* Guest tables are write-protected; the shadow follows every write. */
    SHADOW_TRACED,
    /* Page tables (level 1) are let go at the first write, and looked through
     * again at INVLPG and MOV CR3; the levels above are traced. */
    SHADOW_UNSYNC,
    /* A virtual TLB: nothing is protected, a flush drops all. */
    SHADOW_VTLB,
};

#define SHADOW_POLICIES 3

/* Shadow roots that can be cached. */
#define SHADOW_ROOTS_MAX 256u

#endif
