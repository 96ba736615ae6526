/* Zipf-distributed ranks in integers; apart from the workload so that it can
 * be tested. */
#ifndef WORKLOADS_MEMORY_ZIPF_H
#define WORKLOADS_MEMORY_ZIPF_H

#include "workloads/measure.h"

#define ZIPF_COLUMNS   64u /* of the alias table; a power of two */
#define ZIPF_COUNT_MAX UINT64_C(0xffffffff)

/*
 * Rank r of 1..count has probability proportional to 1/r. Bucket b holds the
 * ranks 2^b..2^(b+1)-1: an alias table chooses the bucket without a branch
 * (Walker, ACM TOMS 3, 1977), and rejection the rank in it, at least every
 * other try succeeding since 1/r varies by less than 2 within a bucket.
 */
struct zipf {
    uint64_t count;
    uint64_t factor, mask; /* of zipf_place */
    struct {
        uint64_t threshold; /* of 2^32 */
        uint32_t other;
    } columns[ZIPF_COLUMNS];
    uint64_t width[ZIPF_COLUMNS];
};

/* `count` is between 1 and ZIPF_COUNT_MAX. */
void zipf_init(struct zipf *zipf, uint64_t count);

static inline uint64_t zipf_rank(const struct zipf *zipf, uint64_t *rng)
{
    uint64_t random = wl_random(rng), bucket = random >> 58, first, rank;

    if ((random & 0xffffffff) >= zipf->columns[bucket].threshold)
        bucket = zipf->columns[bucket].other;
    first = UINT64_C(1) << bucket;
    do {
        random = wl_random(rng);
        rank = first + ((random >> 32) * zipf->width[bucket] >> 32);
    } while ((random & 0xffffffff) * rank >= first << 32);
    return rank;
}

/* Where the item of a rank lies: a permutation of 0..count-1 that keeps
 * popular items apart. When count is no power of two, it walks the cycle of
 * a permutation of the next one. */
static inline uint64_t zipf_place(const struct zipf *zipf, uint64_t rank)
{
    uint64_t place = rank - 1;

    do
        place = place * zipf->factor & zipf->mask;
    while (place >= zipf->count);
    return place;
}

#endif
