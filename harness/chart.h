/* Bars grouped by slot (a place on the x axis) and series (a legend entry). */
#ifndef HARNESS_CHART_H
#define HARNESS_CHART_H

#include "harness/figure.h"

#include <stddef.h>

struct bar {
    char series[48], slot[64];
    enum technique technique; /* gives the series its colour */
    struct estimate value;
};

struct chart {
    struct bar *bars;
    size_t count;
};

/* Copies the bar. A later bar of the same series and slot is left out: bars
 * would cover each other. 0 or -ENOMEM. */
int chart_add(struct chart *chart, const struct bar *bar);
void chart_free(struct chart *chart);

/* Numbers the distinct slots, or series, in the order of their first bar. */
size_t chart_slots(const struct chart *chart);
size_t chart_series(const struct chart *chart);
size_t chart_slot(const struct chart *chart, const char *name);

/* Smallest and largest value above 0; false when there is none. */
bool chart_range(const struct chart *chart, double *low, double *high);

/* "gups 8M", with what else distinguishes it: page size, vCPUs. */
void chart_slot_name(const struct group *group, char *name, size_t bytes);
/* "nested", and a VM's host page when it is above 4 KiB. */
void chart_series_name(const struct group *group, char *name, size_t bytes);

/* One data set a series (its name first, then a row a slot), and what
 * bars.gp has to know. `unit` is that of the values. */
void chart_write(const struct chart *chart, struct figure *figure,
                 const char *unit);

#endif
