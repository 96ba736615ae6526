/*
 * bfs: breadth-first searches of a random graph in compressed sparse rows.
 *
 * Measures a mix that graph programs have: sequential reads of edges and of
 * the queue, and a random access to the levels for every edge. Targets are
 * uniformly random, the worst case for locality; degrees are skewed as in
 * real graphs. The last search stops where the operations are used up.
 */
#include "workloads/memory/bfs.h"
#include "workloads/measure.h"

#define DEGREE_MIN  4u
#define DEGREE_MEAN 14u /* 4 * (5 / 2 + 32 / 32) */

static uint64_t bytes_of_search(uint64_t vertices)
{
    return 2 * vertices * sizeof(uint32_t);
}

uint64_t bfs_vertices(uint64_t bytes, unsigned searches)
{
    uint64_t each = sizeof(uint64_t) + DEGREE_MEAN * sizeof(uint32_t) +
                    searches * bytes_of_search(1);

    return (bytes - sizeof(uint64_t)) / each;
}

static unsigned degree_of(uint64_t seed, uint64_t vertex)
{
    return DEGREE_MIN << __builtin_ctzll(wl_mix(seed + vertex) | 32);
}

void bfs_build(struct bfs_graph *graph, void *memory, uint64_t bytes,
               unsigned searches, uint64_t seed)
{
    uint64_t vertices = bfs_vertices(bytes, searches), edges = 0, room;
    uint64_t rng = wl_stream(seed, WL_VCPUS_MAX);

    graph->vertices = vertices;
    graph->offsets = memory;
    graph->targets = (uint32_t *)(graph->offsets + vertices + 1);
    room = (bytes - searches * bytes_of_search(vertices) -
            (vertices + 1) * sizeof(uint64_t)) /
           sizeof(uint32_t);
    for (uint64_t v = 0; v < vertices; v++) {
        uint64_t degree = degree_of(seed, v);

        if (degree > room - edges)
            degree = room - edges;
        graph->offsets[v] = edges;
        for (; degree; degree--)
            graph->targets[edges++] = wl_pick(&rng, vertices);
    }
    graph->offsets[vertices] = edges;
    graph->edges = edges;
}

void bfs_search_init(struct bfs_search *search, const struct bfs_graph *graph,
                     void *memory, uint64_t bytes, unsigned id)
{
    uint64_t each = bytes_of_search(graph->vertices);
    uint32_t *end = (uint32_t *)((unsigned char *)memory + bytes / 4 * 4);

    search->levels = end - (id + 1) * each / sizeof *end;
    search->queue = search->levels + graph->vertices;
    search->base = 1;
}

/* When the levels of a search might no longer fit, forgets all before. */
static void renew_base(const struct bfs_graph *graph, struct bfs_search *search)
{
    if (search->base < UINT32_MAX - BFS_VERTICES_MAX)
        return;
    for (uint64_t v = 0; v < graph->vertices; v++)
        search->levels[v] = 0;
    search->base = 1;
}

uint64_t bfs_run_search(const struct bfs_graph *graph,
                        struct bfs_search *search, uint64_t source,
                        uint64_t *budget)
{
    uint32_t *levels = search->levels, *queue = search->queue, base, level;
    uint64_t left = *budget, tail = 0, sum = source;

    renew_base(graph, search);
    base = level = search->base;
    levels[source] = base;
    queue[tail++] = source;
    for (uint64_t head = 0; head < tail && left; head++) {
        uint64_t at = graph->offsets[queue[head]];
        uint64_t end = graph->offsets[queue[head] + UINT64_C(1)];

        if (end - at > left)
            end = at + left;
        left -= end - at;
        level = levels[queue[head]] + 1;
        for (; at < end; at++) {
            uint32_t target = graph->targets[at];

            if (levels[target] < base) {
                levels[target] = level;
                queue[tail++] = target;
                sum += (uint64_t)target * (level - base + 1);
            }
        }
    }
    *budget = left;
    search->base = level + 1;
    return sum;
}

struct bfs_work {
    struct bfs_graph graph;
    struct bfs_search searches[];
};

WL_KERNEL(bfs_kernel)
{
    struct bfs_work *bfs = (struct bfs_work *)work;
    uint64_t sum = 0;

    while (operations) {
        uint64_t before = operations;

        sum += bfs_run_search(&bfs->graph, &bfs->searches[id],
                              wl_pick(&rng, bfs->graph.vertices), &operations);
        if (operations == before) /* a source without edges */
            operations--;
    }
    return sum;
}

static void bfs_init(const struct wl_env *env, struct bfs_work *work,
                     void *memory)
{
    uint64_t bytes = env->params->working_set_bytes, begin, end;
    unsigned vcpus = env->params->vcpus;

    env->os->phase_begin(env, WL_INIT);
    begin = wl_tsc();
    bfs_build(&work->graph, memory, bytes, vcpus, env->params->seed);
    end = wl_tsc();
    env->os->phase_end(env, WL_INIT, work->graph.edges, begin, end,
                       work->graph.targets[work->graph.edges - 1]);
    for (unsigned i = 0; i < vcpus; i++)
        bfs_search_init(&work->searches[i], &work->graph, memory, bytes, i);
}

static void bfs_run(const struct wl_env *env)
{
    uint64_t bytes = env->params->working_set_bytes;
    unsigned vcpus = env->params->vcpus;
    struct bfs_work *work;
    void *memory;

    wl_check(env, WL_PAGE_4K, 0);
    if (bfs_vertices(bytes, vcpus) < 16)
        env->os->fail(env, "bfs needs a larger working set for as many CPUs: "
                           "ask for a larger --size");
    if (bfs_vertices(bytes, vcpus) > BFS_VERTICES_MAX)
        env->os->fail(env, "bfs takes graphs of up to 2^31 vertices: ask for "
                           "a smaller --size");
    memory = wl_map_and_touch(env);
    work = wl_map_or_fail(env, sizeof *work + vcpus * sizeof(struct bfs_search),
                          WL_PAGE_4K, WL_POPULATE);
    bfs_init(env, work, memory);
    wl_steady(env, bfs_kernel, work, wl_warm_up(env));
}

const struct workload workload_bfs = {
    .name = "bfs",
    .summary = "breadth-first searches of a random graph",
    .operation = "edge followed",
    .class = WL_MEMORY,
    .default_working_set_bytes = 64 << 20,
    .default_operations = 2 << 20,
    .run = bfs_run,
};
