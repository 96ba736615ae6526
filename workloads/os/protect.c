/*
 * protect: takes write access from the working set, reads each page, gives
 * write access back, writes each page.
 *
 * Measures changes of page tables in bulk, with the TLB flushes they need, and
 * the misses after them. A garbage collector or a checkpoint does this. Under
 * shadow paging the tables' own pages are write-protected or out of sync, and
 * this is the case that shows which.
 */
#include "workloads/os/touch.h"

static uint64_t protect_loop(const struct wl_env *env, struct range *range,
                             uint64_t operations)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < operations; i++) {
        range_protect(env, range, WL_PROT_READ);
        sum += range_read(range);
        range_protect(env, range, WL_PROT_READ | WL_PROT_WRITE);
        range_write(range, i);
    }
    return sum;
}

static void protect_run(const struct wl_env *env)
{
    struct range range;

    wl_check(env, 1, 1);
    range = range_map(env, WL_POPULATE);
    os_steady(env, protect_loop, &range);
}

const struct workload workload_protect = {
    .name = "protect",
    .summary = "taking and giving write access to the working set",
    .operation = "pair of changes",
    .class = WL_MMU,
    .default_working_set_bytes = 256 << 10,
    .default_operations = 500,
    .max_vcpus = 1,
    .run = protect_run,
};
