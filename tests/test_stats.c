/* Medians and intervals against known values and by simulation. */
#include "harness/stats.h"
#include "tests/test.h"

#include <gsl/gsl_randist.h>
#include <gsl/gsl_rng.h>
#include <string.h>

static void none(void)
{
    struct estimate e = {1, 1, 1, 1};
    const double one = 1;

    CU_ASSERT_EQUAL(stats_median(NULL, 0, &e), 0);
    CU_ASSERT_EQUAL(e.count, 0);
    CU_ASSERT_EQUAL(stats_ratio(NULL, 0, &one, 1, &e), 0);
    CU_ASSERT_EQUAL(e.count, 0);
    CU_ASSERT_EQUAL(stats_ratio(&one, 1, NULL, 0, &e), 0);
    CU_ASSERT_EQUAL(e.count, 0);
}

static void single(void)
{
    const double seven = 7, two = 2, zero = 0;
    struct estimate e;

    CU_ASSERT_EQUAL(stats_median(&seven, 1, &e), 0);
    CU_ASSERT(e.value == 7 && e.low == 7 && e.high == 7 && e.count == 1);
    CU_ASSERT_EQUAL(stats_ratio(&seven, 1, &two, 1, &e), 0);
    CU_ASSERT(e.value == 3.5 && e.low == 3.5 && e.high == 3.5 && e.count == 1);
    CU_ASSERT_EQUAL(stats_ratio(&seven, 1, &zero, 1, &e), 0);
    CU_ASSERT_EQUAL(e.count, 0);
}

static void medians(void)
{
    const double odd[] = {9, 1, 5}, even[] = {4, 1, 3, 2}, same[] = {6, 6, 6};
    struct estimate e;

    CU_ASSERT_EQUAL(stats_median(odd, 3, &e), 0);
    CU_ASSERT_EQUAL(e.value, 5);
    CU_ASSERT_EQUAL(odd[0], 9);
    CU_ASSERT_EQUAL(stats_median(even, 4, &e), 0);
    CU_ASSERT_EQUAL(e.value, 2.5);
    CU_ASSERT_EQUAL(e.count, 4);
    CU_ASSERT_EQUAL(stats_median(same, 3, &e), 0);
    CU_ASSERT(e.low == 6 && e.high == 6);
}

/* A resampled median of 9 values is at most the k-th of them with the
 * probability that a binomial (9, k/9) is 5 or more: 0.1 % for the 1st, 3.0 %
 * for the 2nd. So the 2.5 % point is the 2nd, and the 97.5 % point the 8th. */
static void known_interval(void)
{
    const double values[] = {10, 20, 30, 40, 50, 60, 70, 80, 90};
    struct estimate e, again;

    CU_ASSERT_EQUAL(stats_median(values, 9, &e), 0);
    CU_ASSERT(e.value == 50 && e.low == 20 && e.high == 80);
    CU_ASSERT_EQUAL(stats_median(values, 9, &again), 0);
    CU_ASSERT_EQUAL(memcmp(&e, &again, sizeof e), 0);
}

/* The percentile interval of a median holds the true one about 95 times in a
 * hundred; 400 simulations have a standard error of 1.1. */
static void coverage(void)
{
    gsl_rng *rng = gsl_rng_alloc(gsl_rng_mt19937);
    unsigned held = 0;
    struct estimate e;
    double values[25];

    gsl_rng_set(rng, 7);
    for (unsigned i = 0; i < 400; i++) {
        for (unsigned j = 0; j < 25; j++)
            values[j] = 100 + gsl_ran_gaussian(rng, 10);
        CU_ASSERT_EQUAL(stats_median(values, 25, &e), 0);
        CU_ASSERT(e.low <= e.value && e.value <= e.high);
        held += e.low <= 100 && 100 <= e.high;
    }
    gsl_rng_free(rng);
    CU_ASSERT(held >= 366 && held <= 396); /* 91.5 to 99 % */
}

static void ratios(void)
{
    const double a[] = {20, 22, 24, 26, 28}, b[] = {9, 10, 11},
                 zeros[] = {0, 5, 5};
    struct estimate e;

    CU_ASSERT_EQUAL(stats_ratio(a, 5, b, 3, &e), 0);
    CU_ASSERT_DOUBLE_EQUAL(e.value, 2.4, 1e-12);
    CU_ASSERT_EQUAL(e.count, 3);
    CU_ASSERT(e.low >= 20.0 / 11 && e.low < 2.4);
    CU_ASSERT(e.high <= 28.0 / 9 && e.high > 2.4);
    /* A denominator that may as well be 0 bounds nothing. */
    CU_ASSERT_EQUAL(stats_ratio(a, 5, zeros, 3, &e), 0);
    CU_ASSERT_EQUAL(e.count, 0);
}

/* Both sides vary: the true ratio of 2 is held about 95 times in a hundred. */
static void ratio_coverage(void)
{
    gsl_rng *rng = gsl_rng_alloc(gsl_rng_mt19937);
    double a[20], b[20];
    unsigned held = 0;
    struct estimate e;

    gsl_rng_set(rng, 11);
    for (unsigned i = 0; i < 300; i++) {
        for (unsigned j = 0; j < 20; j++) {
            a[j] = 200 + gsl_ran_gaussian(rng, 20);
            b[j] = 100 + gsl_ran_gaussian(rng, 10);
        }
        CU_ASSERT_EQUAL(stats_ratio(a, 20, b, 20, &e), 0);
        held += e.low <= 2 && 2 <= e.high;
    }
    gsl_rng_free(rng);
    CU_ASSERT(held >= 273 && held <= 298); /* 91 to 99 % */
}

TEST_SUITE(stats, {"nothing known", none}, {"one sample", single},
           {"medians", medians}, {"a known interval", known_interval},
           {"coverage of the interval", coverage}, {"ratios", ratios},
           {"coverage of the ratio", ratio_coverage});
