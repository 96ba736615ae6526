/* What every benchmark needs: a clock that nobody adjusts, and an end. */
#ifndef TESTS_BENCH_BENCH_H
#define TESTS_BENCH_BENCH_H

#include "base/why.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline void give_up(const struct why *why)
{
    fprintf(stderr, "%s\n", why->text);
    exit(1);
}

#endif
