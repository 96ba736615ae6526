/*
 * random: loads of words at independent random addresses.
 *
 * Measures the throughput of TLB misses without locality. The processor
 * overlaps the loads, and their walks as far as it has walkers, so that a
 * load costs less than the latency chase shows.
 */
#include "workloads/measure.h"

struct random {
    const uint64_t *words;
    uint64_t count;
};

WL_KERNEL(random_kernel)
{
    const struct random *random = work;
    const uint64_t *words = random->words;
    uint64_t count = random->count, sum = 0;

    (void)id;
    for (; operations; operations--)
        sum += words[wl_pick(&rng, count)];
    return sum;
}

static void random_run(const struct wl_env *env)
{
    struct random random;
    uint64_t *words;

    wl_check(env, WL_PAGE_4K, 0);
    words = wl_map_and_touch(env);
    random.words = words;
    random.count = env->params->working_set_bytes / sizeof *words;
    wl_fill(env, words, random.count);
    wl_steady(env, random_kernel, &random, wl_warm_up(env));
}

const struct workload workload_random = {
    .name = "random",
    .summary = "independent loads from random addresses",
    .operation = "load",
    .class = WL_MEMORY,
    .default_working_set_bytes = 64 << 20,
    .default_operations = 2 << 20,
    .run = random_run,
};
