/*
 * gups: read-modify-write of words at random addresses, after RandomAccess of
 * the HPC Challenge.
 *
 * Measures random TLB misses on stores: as random, and each page walk must
 * also find the dirty bit set. It differs from HPCC in the generator and in
 * that each CPU updates a part of the table of its own, so that the result is
 * the same at every run.
 */
#include "workloads/measure.h"

struct gups {
    uint64_t *words;
    uint64_t count;
    unsigned vcpus;
};

WL_KERNEL(gups_kernel)
{
    const struct gups *gups = work;
    uint64_t *words = gups->words + wl_part_begin(gups->count, gups->vcpus, id);
    uint64_t count = wl_part_count(gups->count, gups->vcpus, id), sum = 0;

    for (; operations; operations--) {
        uint64_t *word = &words[wl_pick(&rng, count)];
        uint64_t value = *word ^ rng;

        *word = value;
        sum += value;
    }
    return sum;
}

static void gups_run(const struct wl_env *env)
{
    struct gups gups = {.vcpus = env->params->vcpus};

    wl_check(env, WL_PAGE_4K, 0);
    gups.words = wl_map_and_touch(env);
    gups.count = env->params->working_set_bytes / sizeof *gups.words;
    wl_fill(env, gups.words, gups.count);
    wl_steady(env, gups_kernel, &gups, wl_warm_up(env));
}

const struct workload workload_gups = {
    .name = "gups",
    .summary = "random updates of words, after HPCC RandomAccess",
    .operation = "update",
    .class = WL_MEMORY,
    .default_working_set_bytes = 64 << 20,
    .default_operations = 2 << 20,
    .run = gups_run,
};
