/* The hash table that hashjoin builds and probes; apart from the workload so
 * that it can be tested. */
#ifndef WORKLOADS_MEMORY_HASHJOIN_H
#define WORKLOADS_MEMORY_HASHJOIN_H

#include <stdint.h>

struct hashjoin_tuple {
    uint64_t key;
    uint32_t payload;
    uint32_t next; /* in the bucket: a tuple's number + 1, or 0 */
};

struct hashjoin {
    struct hashjoin_tuple *tuples;
    uint32_t *heads; /* as many as tuples */
    uint64_t count;
};

struct hashjoin_matches {
    uint64_t count;
    uint64_t payload;
};

#define HASHJOIN_TUPLE_BYTES (sizeof(struct hashjoin_tuple) + sizeof(uint32_t))
#define HASHJOIN_COUNT_MAX   UINT64_C(0xfffffffe)

/* Draws `count` tuples, their keys below `count` and some of them equal, and
 * hashes them. `memory` is zeroed and holds count * HASHJOIN_TUPLE_BYTES. */
void hashjoin_build(struct hashjoin *join, void *memory, uint64_t count,
                    uint64_t seed);

/* Adds the tuples of one key to `matches`. */
void hashjoin_probe(const struct hashjoin *join, uint64_t key,
                    struct hashjoin_matches *matches);

#endif
