/*
 * seq: reads and writes a working set from its first word to its last.
 *
 * Measures what translation costs where it should cost nothing: one TLB miss
 * for 512 words with 4 KiB pages, and prefetchers that hide it. It says
 * nothing of the latency of a miss; chase does.
 */
#include "workloads/measure.h"

struct seq {
    uint64_t *words;
    uint64_t count;
    unsigned vcpus;
};

WL_KERNEL(seq_kernel)
{
    const struct seq *seq = work;
    uint64_t *words = seq->words + wl_part_begin(seq->count, seq->vcpus, id);
    uint64_t count = wl_part_count(seq->count, seq->vcpus, id), sum = 0;

    (void)rng;
    while (operations) {
        uint64_t n = operations < count ? operations : count;

        for (uint64_t i = 0; i < n; i++) {
            uint64_t value = words[i] + 1;

            words[i] = value;
            sum += value;
        }
        operations -= n;
    }
    return sum;
}

static void seq_run(const struct wl_env *env)
{
    struct seq seq = {.vcpus = env->params->vcpus};

    wl_check(env, WL_PAGE_4K, 0);
    seq.words = wl_map_and_touch(env);
    seq.count = env->params->working_set_bytes / sizeof *seq.words;
    wl_fill(env, seq.words, seq.count);
    wl_steady(env, seq_kernel, &seq, wl_warm_up(env));
}

const struct workload workload_seq = {
    .name = "seq",
    .summary = "sequential reads and writes of words",
    .operation = "word read and written",
    .class = WL_MEMORY,
    .default_working_set_bytes = 64 << 20,
    .default_operations = 8 << 20,
    .run = seq_run,
};
