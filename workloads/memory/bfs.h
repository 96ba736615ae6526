/* The graph that bfs searches; apart from the workload so that it can be
 * tested. */
#ifndef WORKLOADS_MEMORY_BFS_H
#define WORKLOADS_MEMORY_BFS_H

#include <stdint.h>

/* Compressed sparse rows: the edges of vertex v lead to
 * targets[offsets[v]..offsets[v + 1] - 1]. */
struct bfs_graph {
    uint64_t *offsets;
    uint32_t *targets;
    uint64_t vertices;
    uint64_t edges;
};

/* What one search at a time needs. Levels of earlier searches are below
 * `base` and so need no clearing. */
struct bfs_search {
    uint32_t *levels; /* base + distance from the source, if >= base */
    uint32_t *queue;
    uint32_t base;
};

#define BFS_VERTICES_MAX UINT64_C(0x7fffffff)

/* How many vertices, with their edges and `searches` searches, fit `bytes`
 * (at least 4096 and 9 * searches words more). */
uint64_t bfs_vertices(uint64_t bytes, unsigned searches);

/* Builds a random graph of out-degrees 4..128, half of them 4, a quarter 8
 * and so on, in `bytes` of memory of which the searches take their part. */
void bfs_build(struct bfs_graph *graph, void *memory, uint64_t bytes,
               unsigned searches, uint64_t seed);

/* The arrays of search `id`, zeroed, behind the graph's. */
void bfs_search_init(struct bfs_search *search, const struct bfs_graph *graph,
                     void *memory, uint64_t bytes, unsigned id);

/* One search from `source`. Follows at most *budget edges and lowers it by
 * those followed. Returns a checksum of the vertices and levels reached. */
uint64_t bfs_run_search(const struct bfs_graph *graph,
                        struct bfs_search *search, uint64_t source,
                        uint64_t *budget);

#endif
