/*
 * chase: follows a list that visits one line in each 4 KiB of the working set
 * in random order.
 *
 * Each load needs the one before, so that time per operation is the latency
 * of a load with its TLB misses and page walks: drawn against the working
 * set, the miss-cost curve. With larger pages it still visits one line in
 * each 4 KiB, so that the curves of all page sizes load the data caches alike
 * and their difference is translation. What it cannot tell apart is a walk
 * from the data cache miss that follows it: the 2 MiB curve is the reference.
 * Fewer operations than pages see a part of the working set only.
 */
#include "workloads/memory/chase.h"
#include "workloads/measure.h"

struct chase {
    void *base;
    uint64_t pages;
    unsigned vcpus;
};

union chase_node *chase_node(void *base, uint64_t page)
{
    return (union chase_node *)((unsigned char *)base + wl_line_of_page(page));
}

void chase_build(void *base, uint64_t pages, uint64_t seed)
{
    uint64_t rng = wl_stream(seed, 0);

    for (uint64_t i = 0; i < pages; i++)
        chase_node(base, i)->page = i;
    for (uint64_t i = pages - 1; i > 0; i--) {
        union chase_node *one = chase_node(base, i);
        union chase_node *other = chase_node(base, wl_pick(&rng, i));
        uint64_t page = one->page;

        one->page = other->page;
        other->page = page;
    }
    for (uint64_t i = 0; i < pages; i++) {
        union chase_node *node = chase_node(base, i);

        node->next = chase_node(base, node->page);
    }
}

WL_KERNEL(chase_kernel)
{
    const struct chase *chase = work;
    uint64_t first = wl_part_begin(chase->pages, chase->vcpus, id);
    const union chase_node *node =
        chase_node(chase->base, first % chase->pages);
    uint64_t sum = -operations * (uintptr_t)chase->base;

    (void)rng;
    for (; operations; operations--) {
        node = node->next;
        sum += (uintptr_t)node;
    }
    return sum;
}

static void chase_init(const struct wl_env *env, const struct chase *chase)
{
    uint64_t begin, end;

    env->os->phase_begin(env, WL_INIT);
    begin = wl_tsc();
    chase_build(chase->base, chase->pages, env->params->seed);
    end = wl_tsc();
    env->os->phase_end(env, WL_INIT, chase->pages, begin, end,
                       (uintptr_t)chase_node(chase->base, 0)->next -
                           (uintptr_t)chase->base);
}

static void chase_run(const struct wl_env *env)
{
    unsigned vcpus = env->params->vcpus;
    struct chase chase = {.vcpus = vcpus};

    wl_check(env, WL_PAGE_4K, 0);
    chase.base = wl_map_and_touch(env);
    chase.pages = env->params->working_set_bytes / WL_PAGE_4K;
    chase_init(env, &chase);
    wl_steady(env, chase_kernel, &chase, chase.pages * vcpus);
}

const struct workload workload_chase = {
    .name = "chase",
    .summary = "dependent loads, one line in each 4 KiB, in random order",
    .operation = "load",
    .class = WL_MEMORY,
    .default_working_set_bytes = 64 << 20,
    .default_operations = 1 << 20,
    .run = chase_run,
};
