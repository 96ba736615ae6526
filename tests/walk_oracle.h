/*
 * The manual's rules of paging once more, to hold mmu/walk.c against: nothing
 * is shared with it but the types. It works on entries that somebody else
 * collected, in the order of the manual's prose, with bit numbers as its
 * tables print them (SDM vol. 3A, chapter 4).
 */
#ifndef TESTS_WALK_ORACLE_H
#define TESTS_WALK_ORACLE_H

#include "mmu/walk.h"

/* The entries that the address selects at every level, [level], whether or not
 * a walk gets there. */
struct oracle_entries {
    uint64_t at[MMU_LEVELS_MAX + 1];
};

/* `walk` as mmu_walk() is to leave it (without references' `pa`), and
 * `entries` as memory is to look afterwards. */
void oracle_walk(const struct mmu_state *state,
                 const struct mmu_request *request,
                 struct oracle_entries *entries, struct mmu_walk *walk);

#endif
