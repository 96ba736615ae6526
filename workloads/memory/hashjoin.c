/*
 * hashjoin: a hash join without partitioning, as databases do it.
 *
 * Its WL_INIT is the build side (random stores over the table), WL_STEADY the
 * probe side (a random load for the bucket, and a dependent one for each tuple
 * in its chain). Keys repeat on the build side, and half of those probed
 * have no match. The probe side is drawn, not read from memory: all misses
 * are the table's.
 */
#include "workloads/memory/hashjoin.h"
#include "workloads/measure.h"

static inline uint64_t bucket_of(const struct hashjoin *join, uint64_t key)
{
    return (uint64_t)((unsigned __int128)(key * WL_GOLDEN) * join->count >> 64);
}

void hashjoin_build(struct hashjoin *join, void *memory, uint64_t count,
                    uint64_t seed)
{
    uint64_t rng = wl_stream(seed, WL_VCPUS_MAX);

    join->tuples = memory;
    join->heads = (uint32_t *)(join->tuples + count);
    join->count = count;
    for (uint64_t i = 0; i < count; i++) {
        struct hashjoin_tuple *tuple = &join->tuples[i];
        uint32_t *head;

        tuple->key = wl_pick(&rng, count);
        tuple->payload = rng >> 32;
        head = &join->heads[bucket_of(join, tuple->key)];
        tuple->next = *head;
        *head = i + 1;
    }
}

static inline void probe(const struct hashjoin *join, uint64_t key,
                         struct hashjoin_matches *matches)
{
    uint32_t at = join->heads[bucket_of(join, key)];

    while (at) {
        const struct hashjoin_tuple *tuple = &join->tuples[at - 1];

        if (tuple->key == key) {
            matches->count++;
            matches->payload += tuple->payload;
        }
        at = tuple->next;
    }
}

void hashjoin_probe(const struct hashjoin *join, uint64_t key,
                    struct hashjoin_matches *matches)
{
    probe(join, key, matches);
}

WL_KERNEL(hashjoin_kernel)
{
    const struct hashjoin *join = work;
    struct hashjoin_matches matches = {0, 0};

    (void)id;
    for (; operations; operations--)
        probe(join, wl_pick(&rng, 2 * join->count), &matches);
    return matches.payload + (matches.count << 40);
}

static void hashjoin_run(const struct wl_env *env)
{
    struct hashjoin join;
    uint64_t count, begin, end;
    void *memory;

    wl_check(env, WL_PAGE_4K, 0);
    count = env->params->working_set_bytes / HASHJOIN_TUPLE_BYTES;
    if (count > HASHJOIN_COUNT_MAX)
        env->os->fail(env, "hashjoin takes working sets below 80 GiB: ask for "
                           "a smaller --size");
    memory = wl_map_and_touch(env);
    env->os->phase_begin(env, WL_INIT);
    begin = wl_tsc();
    hashjoin_build(&join, memory, count, env->params->seed);
    end = wl_tsc();
    env->os->phase_end(env, WL_INIT, count, begin, end, join.heads[0]);
    wl_steady(env, hashjoin_kernel, &join, wl_warm_up(env));
}

const struct workload workload_hashjoin = {
    .name = "hashjoin",
    .summary = "probes of a hash join without partitioning",
    .operation = "probe",
    .class = WL_MEMORY,
    .default_working_set_bytes = 64 << 20,
    .default_operations = 1 << 20,
    .run = hashjoin_run,
};
