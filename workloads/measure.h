/*
 * What all workloads share: checking their parameters, mapping their memory,
 * splitting their operations among CPUs, and the measured phases.
 *
 * A workload does not unmap its working set at the end: like a process that
 * exits, it leaves that to the operating system it runs on.
 */
#ifndef WORKLOADS_MEASURE_H
#define WORKLOADS_MEASURE_H

#include "workloads/api.h"
#include "workloads/limits.h"

#define WL_GOLDEN UINT64_C(0x9e3779b97f4a7c15) /* 2^64 / golden ratio */

/* Fails the run unless the parameters make sense. `min_bytes` is the least
 * working set (0: the workload takes none); `max_vcpus` as in the table. */
static inline void wl_check(const struct wl_env *env, uint64_t min_bytes,
                            unsigned max_vcpus)
{
    const struct wl_params *p = env->params;

    if (!wl_page_size_known(p->page_bytes))
        env->os->fail(env, "the page size must be 4K, 2M or 1G");
    if (!p->operations)
        env->os->fail(env, "operations must be at least 1");
    if (!p->vcpus || p->vcpus > WL_VCPUS_MAX)
        env->os->fail(env, "vcpus must be between 1 and 512");
    if (max_vcpus && p->vcpus > max_vcpus)
        env->os->fail(env, "this workload runs on one CPU: ask for --vcpus 1");
    if (p->working_set_bytes < min_bytes)
        env->os->fail(env, "the working set is too small for this workload: "
                           "ask for a larger --size");
    if (p->working_set_bytes > WL_BYTES_MAX)
        env->os->fail(env, "the working set is larger than half of the "
                           "address space: ask for a smaller --size");
}

/* `bytes` is at most WL_BYTES_MAX, so that this cannot overflow. */
static inline uint64_t wl_round_up(uint64_t bytes, uint64_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static inline void *wl_map_or_fail(const struct wl_env *env, uint64_t bytes,
                                   uint64_t page_bytes, enum wl_map_flags flags)
{
    void *memory = NULL;

    if (bytes <= WL_BYTES_MAX)
        memory = env->os->map(env, bytes, page_bytes, flags);
    if (!memory)
        env->os->fail(env, "not enough memory for the working set in pages "
                           "of this size: ask for a smaller --size");
    return memory;
}

/* A number below n, for any n, by multiply-shift. */
static inline uint64_t wl_pick(uint64_t *rng, uint64_t n)
{
    return (uint64_t)((unsigned __int128)wl_random(rng) * n >> 64);
}

/* A fixed scrambling of 64 bits (the finalizer of SplitMix64: Steele, Lea and
 * Flood, OOPSLA 2014). */
static inline uint64_t wl_mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* The state of the n-th random stream of a seed; never 0. */
static inline uint64_t wl_stream(uint64_t seed, uint64_t n)
{
    uint64_t state = wl_mix(wl_mix(seed + WL_GOLDEN) + (n + 1) * WL_GOLDEN);

    return state ? state : 1;
}

/* Part `id` of `total` things split among `parts`: where it begins, and how
 * many there are. Part `parts` begins at the end. */
static inline uint64_t wl_part_begin(uint64_t total, unsigned parts,
                                     unsigned id)
{
    uint64_t rest = total % parts;

    return total / parts * id + (id < rest ? id : rest);
}

static inline uint64_t wl_part_count(uint64_t total, unsigned parts,
                                     unsigned id)
{
    return total / parts + (id < total % parts);
}

/* In each 4 KiB of memory one line is used: which one varies, for otherwise
 * all of them would compete for the same sets of a cache. */
static inline uint64_t wl_line_of_page(uint64_t page)
{
    return page * WL_PAGE_4K + (page * WL_GOLDEN >> 58) * WL_LINE_BYTES;
}

/* Writes one word into every page of a lazily mapped range: WL_FIRST_TOUCH,
 * one operation a page. The memory stays zeroed. */
static inline void wl_first_touch(const struct wl_env *env, void *base,
                                  uint64_t bytes)
{
    uint64_t page_bytes = env->params->page_bytes, pages = 0, begin, end;
    volatile unsigned char *at = base;

    env->os->phase_begin(env, WL_FIRST_TOUCH);
    begin = wl_tsc();
    for (uint64_t i = 0; i < bytes; i += page_bytes, pages++)
        *(volatile uint64_t *)(at + i) = 0;
    end = wl_tsc();
    env->os->phase_end(env, WL_FIRST_TOUCH, pages, begin, end, pages);
}

/* The working set, mapped lazily and touched page by page. */
static inline void *wl_map_and_touch(const struct wl_env *env)
{
    uint64_t bytes = env->params->working_set_bytes;
    void *base = wl_map_or_fail(env, bytes, env->params->page_bytes, WL_LAZY);

    wl_first_touch(env, base, bytes);
    return base;
}

/* Fills words with values that depend on the seed: WL_INIT, one operation a
 * word, for workloads that have no data structure of their own. */
static inline void wl_fill(const struct wl_env *env, uint64_t *words,
                           uint64_t count)
{
    uint64_t value = env->params->seed, sum = 0, begin, end;

    env->os->phase_begin(env, WL_INIT);
    begin = wl_tsc();
    for (uint64_t i = 0; i < count; i++) {
        value += WL_GOLDEN;
        words[i] = value;
        sum += value;
    }
    end = wl_tsc();
    env->os->phase_end(env, WL_INIT, count, begin, end, sum);
}

/* The measured loop of a workload as one CPU runs it: does `operations`
 * (possibly 0) with the random stream `rng` and returns their checksum, which
 * may depend on nothing but the arguments and what `work` holds. WL_KERNEL
 * begins its definition. */
#define WL_KERNEL(name)                             \
    static __attribute__((noinline)) uint64_t name( \
        const void *work, uint64_t operations, uint64_t rng, unsigned id)

typedef uint64_t wl_kernel(const void *work, uint64_t operations, uint64_t rng,
                           unsigned id);

struct wl_sum {
    uint64_t value;
    uint64_t rest_of_line[7];
};

struct wl_team {
    wl_kernel *kernel;
    const void *work;
    uint64_t operations;
    uint64_t seed;
    struct wl_sum *sums;
};

static inline void wl_team_member(const struct wl_env *env, void *arg,
                                  unsigned id)
{
    struct wl_team *team = arg;
    uint64_t share = wl_part_count(team->operations, env->params->vcpus, id);

    team->sums[id].value =
        team->kernel(team->work, share, wl_stream(team->seed, id), id);
}

/* One CPU alone does without parallel(), so that nothing but the kernel is
 * measured. */
static inline uint64_t wl_team_run(const struct wl_env *env,
                                   struct wl_team *team)
{
    uint64_t sum = 0;

    if (env->params->vcpus == 1)
        wl_team_member(env, team, 0);
    else if (env->os->parallel(env, wl_team_member, team))
        env->os->fail(env, "cannot start as many CPUs: ask for fewer --vcpus");
    for (unsigned i = 0; i < env->params->vcpus; i++)
        sum += team->sums[i].value;
    return sum;
}

/* WL_STEADY: `warm_up` operations unmeasured, then params->operations. */
static inline void wl_steady(const struct wl_env *env, wl_kernel *kernel,
                             const void *work, uint64_t warm_up)
{
    unsigned vcpus = env->params->vcpus;
    struct wl_sum alone;
    struct wl_team team = {.kernel = kernel, .work = work, .sums = &alone};
    uint64_t begin, end, sum;

    if (vcpus > 1)
        team.sums = wl_map_or_fail(env, vcpus * sizeof *team.sums, WL_PAGE_4K,
                                   WL_POPULATE);
    team.operations = warm_up;
    team.seed = ~env->params->seed;
    wl_team_run(env, &team);

    team.operations = env->params->operations;
    team.seed = env->params->seed;
    env->os->phase_begin(env, WL_STEADY);
    begin = wl_tsc();
    sum = wl_team_run(env, &team);
    end = wl_tsc();
    env->os->phase_end(env, WL_STEADY, team.operations, begin, end, sum);
}

/* Enough to train the branch predictors and fill the TLBs when WL_INIT has
 * just been through the whole working set. */
static inline uint64_t wl_warm_up(const struct wl_env *env)
{
    return env->params->operations / 4 + env->params->vcpus;
}

#endif
