/*
 * mapunmap: maps the working set, writes to each page, unmaps it.
 *
 * Measures demand paging together with the release of pages: what a program
 * sees whose allocator returns memory. firsttouch has the first half alone.
 * Clearing the pages is part of it.
 */
#include "workloads/os/touch.h"

static uint64_t mapunmap_loop(const struct wl_env *env, struct range *range,
                              uint64_t operations)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < operations; i++) {
        *range = range_map(env, WL_LAZY);
        range_write(range, i);
        sum += range_read(range);
        if (env->os->unmap(env, (void *)range->base, range->bytes))
            env->os->fail(env, "cannot unmap the working set");
    }
    return sum;
}

static void mapunmap_run(const struct wl_env *env)
{
    struct range range;

    wl_check(env, 1, 1);
    os_steady(env, mapunmap_loop, &range);
}

const struct workload workload_mapunmap = {
    .name = "mapunmap",
    .summary = "mapping, touching and unmapping the working set",
    .operation = "mapping",
    .class = WL_MMU,
    .default_working_set_bytes = 256 << 10,
    .default_operations = 200,
    .max_vcpus = 1,
    .run = mapunmap_run,
};
