#include "harness/stats.h"

#include <errno.h>
#include <gsl/gsl_randist.h>
#include <gsl/gsl_rng.h>
#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RESAMPLES 2000
#define SEED      20240229

/* One sample set and room for a resampling of it. */
struct samples {
    const double *values;
    double *drawn;
    unsigned count;
};

static int samples_open(struct samples *s, const double *values, unsigned count)
{
    *s = (struct samples){values, calloc(count, sizeof(double)), count};
    return s->drawn ? 0 : -ENOMEM;
}

static double drawn_median(struct samples *s)
{
    gsl_sort(s->drawn, 1, s->count);
    return gsl_stats_median_from_sorted_data(s->drawn, 1, s->count);
}

static double median(struct samples *s)
{
    memcpy(s->drawn, s->values, s->count * sizeof(double));
    return drawn_median(s);
}

static double resampled_median(struct samples *s, gsl_rng *rng)
{
    gsl_ran_sample(rng, s->drawn, s->count, (void *)s->values, s->count,
                   sizeof(double));
    return drawn_median(s);
}

static void interval(double *draws, struct estimate *out)
{
    gsl_sort(draws, 1, RESAMPLES);
    out->low = gsl_stats_quantile_from_sorted_data(draws, 1, RESAMPLES, 0.025);
    out->high = gsl_stats_quantile_from_sorted_data(draws, 1, RESAMPLES, 0.975);
}

/* Every estimate starts from the same seed, so none depends on which others
 * were made before it. */
static int bootstrap(struct samples *a, struct samples *b, struct estimate *out)
{
    double *draws = calloc(RESAMPLES, sizeof *draws);
    gsl_rng *rng = draws ? gsl_rng_alloc(gsl_rng_mt19937) : NULL;
    bool bounded = true;

    if (!rng) {
        free(draws);
        return -ENOMEM;
    }
    gsl_rng_set(rng, SEED);
    for (unsigned i = 0; i < RESAMPLES; i++) {
        draws[i] = resampled_median(a, rng);
        if (b)
            draws[i] /= resampled_median(b, rng);
        bounded = bounded && isfinite(draws[i]);
    }
    if (bounded)
        interval(draws, out);
    else
        *out = (struct estimate){.count = 0};
    gsl_rng_free(rng);
    free(draws);
    return 0;
}

int stats_median(const double *values, unsigned count, struct estimate *out)
{
    struct samples s;
    int err = 0;

    *out = (struct estimate){.count = 0};
    if (!count)
        return 0;
    if (samples_open(&s, values, count))
        return -ENOMEM;
    out->value = out->low = out->high = median(&s);
    out->count = count;
    if (count > 1)
        err = bootstrap(&s, NULL, out);
    free(s.drawn);
    return err;
}

int stats_ratio(const double *a, unsigned a_count, const double *b,
                unsigned b_count, struct estimate *out)
{
    struct samples over, under;
    int err = 0;

    *out = (struct estimate){.count = 0};
    if (!a_count || !b_count)
        return 0;
    if (samples_open(&over, a, a_count))
        return -ENOMEM;
    if (samples_open(&under, b, b_count)) {
        free(over.drawn);
        return -ENOMEM;
    }
    out->value = out->low = out->high = median(&over) / median(&under);
    out->count = a_count < b_count ? a_count : b_count;
    if (!isfinite(out->value))
        *out = (struct estimate){.count = 0};
    else if (a_count > 1 || b_count > 1)
        err = bootstrap(&over, &under, out);
    free(over.drawn);
    free(under.drawn);
    return err;
}
