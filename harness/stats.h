/* Medians with bootstrap intervals (Efron & Tibshirani, An Introduction to
 * the Bootstrap, ch. 13: percentile intervals), repeatable: the resampling is
 * seeded. */
#ifndef HARNESS_STATS_H
#define HARNESS_STATS_H

#include <stdbool.h>
#include <stddef.h>

struct estimate {
    double value;     /* the median */
    double low, high; /* 95 % interval; both equal value when count < 2 */
    unsigned count;   /* samples; 0: nothing known */
};

/* -ENOMEM, or 0. `values` is not changed. */
int stats_median(const double *values, unsigned count, struct estimate *out);
/* The ratio of the medians of a and b; count is the smaller one's, and 0 when
 * either is empty or b's median is 0. */
int stats_ratio(const double *a, unsigned a_count, const double *b,
                unsigned b_count, struct estimate *out);

#endif
