/*
 * firsttouch: the first access to each page of a working set that is mapped
 * lazily.
 *
 * Measures demand paging alone: fault, allocation and clearing of a page, page
 * table entry. Under nested paging the first touch of a physical page costs a
 * violation of the second dimension too, unless the VMM has populated it;
 * under shadow paging each new mapping costs a hidden fault. It touches as
 * many pages as operations ask for, or all there are.
 */
#include "workloads/os/touch.h"

static void firsttouch_run(const struct wl_env *env)
{
    uint64_t pages, operations = env->params->operations;
    struct range range;

    wl_check(env, 1, 1);
    range = range_map(env, WL_LAZY);
    pages = range.bytes / range.page_bytes;
    if (operations > pages)
        operations = pages;
    wl_first_touch(env, (void *)range.base, operations * range.page_bytes);
}

const struct workload workload_firsttouch = {
    .name = "firsttouch",
    .summary = "first access to each page of the working set",
    .operation = "page touched",
    .class = WL_MMU,
    .default_working_set_bytes = 16 << 20,
    .default_operations = 4096,
    .max_vcpus = 1,
    .run = firsttouch_run,
};
