/*
 * zipf: loads of lines whose popularity follows Zipf's law with exponent 1.
 *
 * Measures what TLBs and caches make of real locality: the 100 most popular
 * of a million lines take a third of the loads. Popular lines are spread over
 * pages, so that locality of lines is none of pages beyond that. A part of
 * each operation is drawing its random rank, some ten nanoseconds.
 */
#include "workloads/memory/zipf.h"

struct zipf_work {
    struct zipf zipf;
    const unsigned char *base;
};

/* The sum of 2^40 / r over `count` ranks from `first`, in up to 4096 blocks,
 * each taken at its middle: off by less than 1 in 10^7. */
static uint64_t zipf_weight(uint64_t first, uint64_t count)
{
    uint64_t block = count / 4096 + 1, sum = 0;

    for (uint64_t i = 0; i < count; i += block) {
        uint64_t n = count - i < block ? count - i : block;
        uint64_t twice_middle = 2 * (first + i) + n - 1;

        sum += (n << 41) / twice_middle;
    }
    return sum;
}

/* part / whole as a fraction of 2^32, for part <= whole < 2^62. */
static uint64_t zipf_fraction(uint64_t part, uint64_t whole)
{
    uint64_t fraction = 0;

    if (part == whole)
        return UINT64_C(1) << 32;
    for (unsigned i = 0; i < 32; i++) {
        part <<= 1;
        fraction = fraction << 1 | (part >= whole);
        if (part >= whole)
            part -= whole;
    }
    return fraction;
}

/* Each column holds `total` of weight; one that has less takes the rest from
 * one that has more, until all are even. */
static void zipf_alias(struct zipf *zipf, uint64_t *weights, uint64_t total)
{
    uint64_t done = 0;

    for (unsigned left = ZIPF_COLUMNS; left; left--) {
        unsigned low = ZIPF_COLUMNS, high = 0;

        for (unsigned i = 0; i < ZIPF_COLUMNS; i++) {
            if (done >> i & 1)
                continue;
            if (low == ZIPF_COLUMNS || weights[i] < weights[low])
                low = i;
            if (done >> high & 1 || weights[i] > weights[high])
                high = i;
        }
        done |= UINT64_C(1) << low;
        zipf->columns[low].other = high;
        zipf->columns[low].threshold = zipf_fraction(weights[low], total);
        if (low != high)
            weights[high] -= total - weights[low];
    }
}

void zipf_init(struct zipf *zipf, uint64_t count)
{
    uint64_t weights[ZIPF_COLUMNS], total = 0;
    unsigned bits = 0;

    for (unsigned i = 0; i < ZIPF_COLUMNS; i++) {
        uint64_t first = UINT64_C(1) << i, width = 0;

        if (first <= count)
            width = count - first + 1 < first ? count - first + 1 : first;
        zipf->width[i] = width;
        weights[i] = zipf_weight(first, width);
        total += weights[i];
        weights[i] *= ZIPF_COLUMNS;
    }
    zipf_alias(zipf, weights, total);
    while (UINT64_C(1) << bits < count)
        bits++;
    zipf->count = count;
    zipf->mask = (UINT64_C(1) << bits) - 1;
    zipf->factor = (bits ? WL_GOLDEN >> (64 - bits) : 0) | 1;
}

WL_KERNEL(zipf_kernel)
{
    const struct zipf_work *zipf = work;
    const unsigned char *base = zipf->base;
    uint64_t sum = 0;

    (void)id;
    for (; operations; operations--) {
        uint64_t rank = zipf_rank(&zipf->zipf, &rng);
        uint64_t place = zipf_place(&zipf->zipf, rank);

        sum += *(const uint64_t *)(base + place * WL_LINE_BYTES);
    }
    return sum;
}

static void zipf_run(const struct wl_env *env)
{
    uint64_t bytes = env->params->working_set_bytes;
    struct zipf_work *work;
    void *base;

    wl_check(env, WL_PAGE_4K, 0);
    if (bytes / WL_LINE_BYTES > ZIPF_COUNT_MAX)
        env->os->fail(env, "zipf takes working sets below 256 GiB: ask for a "
                           "smaller --size");
    base = wl_map_and_touch(env);
    wl_fill(env, base, bytes / sizeof(uint64_t));
    work = wl_map_or_fail(env, sizeof *work, WL_PAGE_4K, WL_POPULATE);
    work->base = base;
    zipf_init(&work->zipf, bytes / WL_LINE_BYTES);
    wl_steady(env, zipf_kernel, work, wl_warm_up(env));
}

const struct workload workload_zipf = {
    .name = "zipf",
    .summary = "loads of lines, popular ones more often (Zipf, exponent 1)",
    .operation = "load",
    .class = WL_MEMORY,
    .default_working_set_bytes = 64 << 20,
    .default_operations = 1 << 20,
    .run = zipf_run,
};
