#include "harness/reach.h"

#include <math.h>
#include <stdbool.h>

static double excess(const struct reach_point *point)
{
    return point->small_ns - point->large_ns;
}

static double step(const struct reach_point *point)
{
    return fmax(REACH_STEP * point->large_ns, REACH_STEP_NS);
}

/* One slow run must not make a level: the rise has to last, which needs a
 * larger working set to show it. */
static bool lasts(const struct reach_point *points, size_t count, size_t at,
                  double plateau)
{
    double half = (excess(&points[at]) - plateau) / 2;

    for (size_t i = at + 1; i < count; i++)
        if (excess(&points[i]) - plateau < half)
            return false;
    return at + 1 < count;
}

static bool usable(const struct reach_point *points, size_t count)
{
    if (count < 4)
        return false;
    for (size_t i = 0; i < count; i++)
        if (!isfinite(excess(&points[i])) || points[i].large_ns <= 0 ||
            (i &&
             points[i].working_set_bytes <= points[i - 1].working_set_bytes))
            return false;
    return fabs(excess(&points[1]) - excess(&points[0])) < step(&points[0]);
}

unsigned reach_find(const struct reach_point *points, size_t count,
                    struct reach *reaches)
{
    unsigned found = 0;
    bool calm = true; /* on a plateau, or flattening towards one */
    double ground;

    if (!usable(points, count))
        return 0;
    /* 4 KiB pages cheaper than 2 MiB ones are noise, not a plateau: a rise
     * from there to nothing is no miss. */
    ground = fmax(0, fmin(excess(&points[0]), excess(&points[1])));
    for (size_t i = 2; i < count && found < REACH_LEVELS_MAX; i++) {
        double before = excess(&points[i - 1]) - ground;
        double now = excess(&points[i]) - ground;
        bool rises = now - before >= step(&points[i]) &&
                     now >= step(&points[i]) &&
                     (!found || now >= REACH_FACTOR * before);

        if (rises && calm && lasts(points, count, i, before + ground))
            reaches[found++] = (struct reach){points[i - 1].working_set_bytes,
                                              points[i].working_set_bytes};
        calm = !rises;
    }
    return found;
}
