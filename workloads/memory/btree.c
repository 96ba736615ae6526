/*
 * btree: lookups of random keys in a B-tree that fills the working set.
 *
 * Measures translation under an index's mix of locality: the root and the
 * levels below it stay in caches and TLBs, the leaves and their parents miss.
 * Nodes are 256 bytes with up to 16 children. The tree is built in one go and
 * never changes; every fourth key looked up is likely not to be there.
 */
#include "workloads/memory/btree.h"
#include "workloads/measure.h"

#define KEY_STEP_BITS 16

uint64_t btree_key(uint64_t seed, uint64_t i)
{
    return (i << KEY_STEP_BITS) + (wl_mix(seed ^ i) >> (64 - KEY_STEP_BITS));
}

uint64_t btree_value(uint64_t key)
{
    return wl_mix(key) | 1;
}

static uint64_t nodes_above(uint64_t nodes)
{
    return (nodes + BTREE_KEYS) / (BTREE_KEYS + 1);
}

static uint64_t nodes_in_all(uint64_t leaves)
{
    uint64_t all = leaves;

    for (uint64_t level = leaves; level > 1;) {
        level = nodes_above(level);
        all += level;
    }
    return all;
}

uint64_t btree_capacity(uint64_t bytes)
{
    uint64_t nodes = bytes / sizeof(struct btree_node);
    uint64_t leaves = nodes - nodes / (BTREE_KEYS + 1);

    while (nodes_in_all(leaves) > nodes)
        leaves--;
    return leaves * BTREE_KEYS;
}

static void build_leaves(struct btree *tree, uint64_t leaves)
{
    for (uint64_t i = 0, key_no = 0; i < leaves; i++) {
        struct btree_node *leaf = &tree->nodes[i];
        uint64_t left = tree->count - key_no;

        leaf->leaf = 1;
        leaf->used = left < BTREE_KEYS ? left : BTREE_KEYS;
        for (unsigned j = 0; j < leaf->used; j++, key_no++) {
            leaf->keys[j] = btree_key(tree->seed, key_no);
            leaf->links[j] = btree_value(leaf->keys[j]);
        }
    }
}

/* `keys_below` is how many keys a full subtree of the level below holds. */
static void build_level(struct btree *tree, uint64_t below, uint64_t children,
                        uint64_t above, uint64_t keys_below)
{
    for (uint64_t i = 0; i < children; i++) {
        struct btree_node *node = &tree->nodes[above + i / (BTREE_KEYS + 1)];
        unsigned slot = i % (BTREE_KEYS + 1);

        node->leaf = 0;
        node->used = slot;
        node->links[slot] = below + i;
        if (slot)
            node->keys[slot - 1] = btree_key(tree->seed, i * keys_below);
    }
}

void btree_build(struct btree *tree, void *memory, uint64_t count,
                 uint64_t seed)
{
    uint64_t level = 0, nodes = (count + BTREE_KEYS - 1) / BTREE_KEYS;
    uint64_t keys = BTREE_KEYS;

    tree->nodes = memory;
    tree->count = count;
    tree->seed = seed;
    build_leaves(tree, nodes);
    while (nodes > 1) {
        build_level(tree, level, nodes, level + nodes, keys);
        level += nodes;
        nodes = nodes_above(nodes);
        keys *= BTREE_KEYS + 1;
    }
    tree->root = level;
}

/* How many of a node's keys are less than `key`, or equal where `equal`. */
static inline unsigned keys_before(const struct btree_node *node, uint64_t key,
                                   unsigned equal)
{
    unsigned before = 0;

    for (unsigned i = 0; i < node->used; i++)
        before += node->keys[i] < key + equal;
    return before;
}

uint64_t btree_find(const struct btree *tree, uint64_t key)
{
    const struct btree_node *node = &tree->nodes[tree->root];
    unsigned at;

    while (!node->leaf)
        node = &tree->nodes[node->links[keys_before(node, key, 1)]];
    at = keys_before(node, key, 0);
    return at < node->used && node->keys[at] == key ? node->links[at] : 0;
}

WL_KERNEL(btree_kernel)
{
    const struct btree *tree = work;
    uint64_t sum = 0;

    (void)id;
    for (; operations; operations--) {
        uint64_t key = btree_key(tree->seed, wl_pick(&rng, tree->count));

        sum += btree_find(tree, key + !(rng >> 62));
    }
    return sum;
}

static void btree_run(const struct wl_env *env)
{
    struct btree tree;
    uint64_t begin, end;
    void *memory;

    wl_check(env, WL_PAGE_4K, 0);
    memory = wl_map_and_touch(env);
    env->os->phase_begin(env, WL_INIT);
    begin = wl_tsc();
    btree_build(&tree, memory, btree_capacity(env->params->working_set_bytes),
                env->params->seed);
    end = wl_tsc();
    env->os->phase_end(env, WL_INIT, tree.count, begin, end, tree.root);
    wl_steady(env, btree_kernel, &tree, wl_warm_up(env));
}

const struct workload workload_btree = {
    .name = "btree",
    .summary = "lookups of random keys in a B-tree",
    .operation = "lookup",
    .class = WL_MEMORY,
    .default_working_set_bytes = 64 << 20,
    .default_operations = 1 << 18,
    .run = btree_run,
};
