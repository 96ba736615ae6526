/* The figures of a result folder, drawn by gnuplot from scripts/figures/. */
#ifndef HARNESS_FIGURES_H
#define HARNESS_FIGURES_H

#include "base/why.h"

/* Writes figures/NAME.dat, NAME.svg and NAME.png into the folder, for each
 * figure the folder has rows for. -ENOENT with the cure when there is no
 * gnuplot. */
int figures_draw(const char *folder, struct why *why);

#endif
