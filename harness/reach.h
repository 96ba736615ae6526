/* TLB reach, read off a miss-cost curve. */
#ifndef HARNESS_REACH_H
#define HARNESS_REACH_H

#include <stddef.h>
#include <stdint.h>

/* The cost of an access at one working set with 4 KiB and with 2 MiB pages. */
struct reach_point {
    uint64_t working_set_bytes;
    double small_ns, large_ns;
};

/* A TLB level covers `fits_bytes` and does not cover `exceeds_bytes`: the two
 * neighbouring working sets that enclose its reach in 4 KiB pages. */
struct reach {
    uint64_t fits_bytes, exceeds_bytes;
};

#define REACH_LEVELS_MAX 3

/*
 * Finds the working sets at which 4 KiB pages begin to miss in a TLB level.
 *
 * Data caches see the same accesses whatever the page size, so the excess,
 * small_ns - large_ns at one working set, keeps the cost of translation alone
 * (as long as 2 MiB pages hit, which need 512 times the memory to miss). On
 * uniformly random pages a level of T entries misses 1 - T/P of the accesses
 * to P pages: the excess jumps where P passes T, then flattens towards the
 * cost of a miss. A level ends where the excess
 *
 *  - lies on a plateau or flattens before: the first two points agree within
 *    a step, or it grew by less than REACH_FACTOR since the point before;
 *  - grows by at least a step and, from a former level's plateau, by
 *    REACH_FACTOR or more;
 *  - then is a step above the plateau of the first two points, or above 0 if
 *    noise put that below;
 *  - stays at least half as high at all larger working sets.
 *
 * A step is REACH_STEP of large_ns there, or REACH_STEP_NS if that is more.
 *
 * `points` ascend strictly in working set. Returns the number of levels
 * written to `reaches` (room for REACH_LEVELS_MAX), 0 when the curves are
 * flat, when there are fewer than four points, or when no plateau precedes
 * the rise.
 */
unsigned reach_find(const struct reach_point *points, size_t count,
                    struct reach *reaches);

#define REACH_STEP    0.15
#define REACH_STEP_NS 0.3
#define REACH_FACTOR  1.6

#endif
