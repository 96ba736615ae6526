/* One figure on its way to gnuplot: its data file and what its script is
 * told. For harness/figure_*.c. */
#ifndef HARNESS_FIGURE_H
#define HARNESS_FIGURE_H

#include "base/why.h"
#include "harness/groups.h"
#include "harness/run.h"

#include <stdbool.h>
#include <stdio.h>

struct figure {
    char name[48]; /* KIND-PLATFORM: of the files, and in no need of quotes */
    const char *script; /* in scripts/figures/ */
    FILE *data;         /* NAME.dat */
    FILE *settings;     /* gnuplot statements that come before the script */
    char *statements;
    size_t statements_bytes;
};

/* Starts NAME.dat in `folder`. The figure is figure_finish's to free. */
int figure_start(struct figure *figure, const char *folder, const char *kind,
                 enum platform platform, const char *script, struct why *why);

/* Sets a gnuplot variable before the script runs; any text is safe. */
void figure_set(struct figure *figure, const char *variable, const char *format,
                ...) __attribute__((format(printf, 3, 4)));
void figure_set_number(struct figure *figure, const char *variable,
                       double value);

/* A cell of the data file: quoted, and safe whatever a CSV file held. */
void figure_label(struct figure *figure, const char *text);

/* Draws NAME.svg and NAME.png with gnuplot, unless `err`, and frees. Returns
 * `err` or what went wrong. */
int figure_finish(struct figure *figure, const char *folder, int err,
                  struct why *why);

/* What a figure is made from: the rows of one platform. */
struct figure_rows {
    const struct groups *groups;
    const char *folder; /* .../figures */
    enum platform platform;
};

/* Whether a group belongs to the platform and technique. */
bool figure_takes(const struct figure_rows *rows, const struct group *group,
                  enum technique technique);

/* "lab-svm (kvm_amd; costs are instruction counts)": the second line of titles.
 */
const char *figure_place(const struct figure_rows *rows, char *text,
                         size_t bytes);

/* Steady state; or, of a workload that has none, its only other phase. */
bool figure_main_phase(const struct figure_rows *rows,
                       const struct group *group);

/* A workload at several working sets is shown at its largest: the sweep is
 * the miss-cost figure's. */
bool figure_largest(const struct figure_rows *rows, const struct group *group);

/* Each draws its figure if the platform has rows for it. 1: drawn, 0: no
 * rows, or a negative errno. */
int figure_overhead(const struct figure_rows *rows, struct why *why);
int figure_nano(const struct figure_rows *rows, struct why *why);
int figure_phases(const struct figure_rows *rows, struct why *why);
int figure_exits(const struct figure_rows *rows, struct why *why);
int figure_miss_cost(const struct figure_rows *rows, struct why *why);

#endif
