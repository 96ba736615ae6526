/* What walk_explain.c and walk_replay.c share. */
#ifndef HARNESS_WALK_PRIVATE_H
#define HARNESS_WALK_PRIVATE_H

#include "harness/walk_memory.h"

/* Makes the access again under every set of caches worth telling, from tables
 * whose flags the explained walk has set; for an access that is translated.
 * `walked` is what the CPU walks: the guest's state, or the shadow's. -ENOMEM,
 * or what profiles give (psc_bytes, tlb_bytes). */
int walk_replay_all(struct walk_memory *memory, const struct mmu_state *walked,
                    struct walk_answer *answer, struct why *why);

#endif
