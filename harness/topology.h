/*
 * Where threads run and where memory lies: hwloc for processors, libnuma for
 * nodes. What was asked is read back, since a cpuset or a full node can make
 * the kernel do otherwise.
 */
#ifndef HARNESS_TOPOLOGY_H
#define HARNESS_TOPOLOGY_H

#include "base/why.h"

#include <stddef.h>
#include <stdint.h>

#define TOPOLOGY_NODES_MAX 64

/*
 * Pins the calling thread to the `index`-th element of `spec` (counted round
 * and round when there are fewer): a comma-separated list of hwloc objects by
 * logical index, "core:0", "pu:1", "package:0", "numanode:1", ranges such as
 * "core:0-3", or plain numbers, which are the operating system's CPU numbers.
 * "" pins nothing. -EINVAL with the valid values; -EPERM, -EIO when the
 * kernel does otherwise.
 */
int topology_pin(const char *spec, unsigned index, struct why *why);

/* Checks both without doing anything; "" is fine. For usage errors. */
int topology_check(const char *cpu_spec, const char *numa_spec,
                   struct why *why);

/* Binds a range of memory, whole pages, to the nodes of `spec` ("0", "0,1",
 * "0-1"; "" binds nothing) and moves what is there already. */
int topology_bind(void *addr, size_t bytes, const char *spec, struct why *why);

/* How many pages of a range lie on each node; `absent` are not in memory. */
struct topology_placement {
    uint64_t pages[TOPOLOGY_NODES_MAX];
    uint64_t absent;
};
int topology_placement(void *addr, size_t bytes, size_t page_bytes,
                       struct topology_placement *placement, struct why *why);

/* Counts, each 0 when not known. */
struct topology_summary {
    unsigned packages, cores, pus, numa_nodes;
    uint64_t l1d_bytes, l2_bytes, l3_bytes;
    uint64_t memory_bytes;
};
void topology_summarize(struct topology_summary *summary);

#endif
