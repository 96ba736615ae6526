/* The tree that btree looks up in; apart from the workload so that it can be
 * tested. */
#ifndef WORKLOADS_MEMORY_BTREE_H
#define WORKLOADS_MEMORY_BTREE_H

#include <stdint.h>

#define BTREE_KEYS 15u

/* Four lines. An inner node has `used` keys and one child more: key i is the
 * least of child i + 1. A leaf has `used` keys and their values. */
struct btree_node {
    uint32_t used;
    uint32_t leaf;
    uint64_t keys[BTREE_KEYS];
    uint64_t links[BTREE_KEYS + 1]; /* node numbers, or values */
};

struct btree {
    struct btree_node *nodes;
    uint64_t root;
    uint64_t count; /* of keys */
    uint64_t seed;
};

/* The i-th key, in ascending order, and its value. i < 2^48. */
uint64_t btree_key(uint64_t seed, uint64_t i);
uint64_t btree_value(uint64_t key);

/* The most keys that fit `bytes` (at least 4096) of nodes. */
uint64_t btree_capacity(uint64_t bytes);

/* Builds the tree of the first `count` keys bottom-up, in memory for them. */
void btree_build(struct btree *tree, void *memory, uint64_t count,
                 uint64_t seed);

/* The value of a key, or 0 when the tree does not have it. */
uint64_t btree_find(const struct btree *tree, uint64_t key);

#endif
