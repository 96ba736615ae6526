/*
 * stride: one load from each 4 KiB of the working set, in the order of their
 * addresses.
 *
 * Measures the throughput of page walks that have it easy: neighbouring pages
 * share page tables, and eight of their entries one cache line, so that
 * paging-structure caches and data caches hold nearly all a walk reads. The
 * loads are independent and overlap; chase gives the latency.
 */
#include "workloads/measure.h"

struct stride {
    const unsigned char *base;
    uint64_t pages;
    unsigned vcpus;
};

WL_KERNEL(stride_kernel)
{
    const struct stride *stride = work;
    const unsigned char *base = stride->base;
    uint64_t pages = stride->pages, sum = 0;
    uint64_t page = wl_part_begin(pages, stride->vcpus, id) % pages;

    (void)rng;
    for (; operations; operations--) {
        sum += *(const uint64_t *)(base + wl_line_of_page(page));
        if (++page == pages)
            page = 0;
    }
    return sum;
}

static void stride_run(const struct wl_env *env)
{
    uint64_t bytes = env->params->working_set_bytes;
    struct stride stride = {.vcpus = env->params->vcpus};
    void *base;

    wl_check(env, WL_PAGE_4K, 0);
    base = wl_map_and_touch(env);
    stride.base = base;
    stride.pages = bytes / WL_PAGE_4K;
    wl_fill(env, base, bytes / sizeof(uint64_t));
    wl_steady(env, stride_kernel, &stride, wl_warm_up(env));
}

const struct workload workload_stride = {
    .name = "stride",
    .summary = "one load from each 4 KiB, in order",
    .operation = "load",
    .class = WL_MEMORY,
    .default_working_set_bytes = 64 << 20,
    .default_operations = 2 << 20,
    .run = stride_run,
};
