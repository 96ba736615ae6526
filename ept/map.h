/*
 * How a host maps guest-physical memory: builds EPT or NPT tables for a range
 * in memory of the caller's, by a policy. Freestanding.
 */
#ifndef EPT_MAP_H
#define EPT_MAP_H

#include "ept/translate.h"

#include <stddef.h>

/* Zeroed 4 KiB frames for tables, host-physically contiguous from `pa`. */
struct ept_arena {
    uint64_t *frames; /* of frame_count * PT_ENTRIES entries */
    uint64_t pa;      /* 4 KiB aligned */
    size_t frame_count;
    size_t used;
};

/*
 * The size of page a range gets. Where a page of `page_bytes` does not fit
 * (the ends of a range that is not aligned), smaller ones are used, as hosts
 * do. In fragmented host memory only `large_ppm` of a million large pages can
 * be had; each of the others becomes 512 of the next size, which, where they
 * are large themselves, meet the same fate. The seed decides which; the same
 * seed always fragments alike, whatever the order of mapping.
 */
struct ept_policy {
    uint64_t page_bytes; /* 4 KiB, 2 MiB or 1 GiB */
    uint32_t large_ppm;  /* 1,000,000: no fragmentation */
    uint64_t seed;
    uint64_t rights; /* EPT_R, _W, _X, _XU; NPT leaves are always readable */
    unsigned memory_type; /* EPT_TYPE_*; EPT only */
};

struct ept_range {
    uint64_t gpa, pa, bytes; /* all 4 KiB aligned; `pa` backs `gpa` */
};

/* The frames that mapping `range` into empty tables can take, at most. */
size_t ept_map_frames(unsigned levels, const struct ept_range *range);

/* Takes an empty top table for state->root. -ENOMEM: the arena is full. */
int ept_map_root(struct ept_state *state, struct ept_arena *arena);

/* The size of the page that the policy gives an address of memory that is
 * aligned, in both dimensions, to the policy's pages. */
uint64_t ept_policy_page(const struct ept_policy *policy, uint64_t gpa);

/*
 * Maps the range under state->root, whose tables all lie in the arena.
 * -EINVAL: not aligned, beyond what levels or physical_bits reach, or a policy
 * without meaning (a 1 GiB page the CPU hasn't, rights that are a
 * misconfiguration); -EEXIST: something is mapped there; -ENOMEM: the arena is
 * full. After an error a part of the range may be mapped.
 */
int ept_map(const struct ept_state *state, struct ept_arena *arena,
            const struct ept_range *range, const struct ept_policy *policy);

#endif
