/*
 * A result folder: environment.json, runs.csv, exits.csv, counters.csv,
 * figures/. The schema is in docs/csv.md and held by tests/test_results.c.
 */
#ifndef HARNESS_RESULTS_H
#define HARNESS_RESULTS_H

#include "harness/run.h"

struct results;

/* Creates the folder (its parents too). A folder that exists is taken only
 * when it is empty; otherwise -EEXIST. */
int results_create(struct results **results, const char *folder,
                   struct why *why);

/* Writes one row of runs.csv per phase (one in all when there is none) and
 * their exits and counters, and flushes, so that a reader or a crash at any
 * moment finds whole rows. Run ids are `<platform>-<number>`. */
int results_add(struct results *results, const struct run_spec *spec,
                const struct run_record *record, struct why *why);

/* Appends the rows of another folder (the lab's) to this one. */
int results_merge(struct results *results, const char *folder, struct why *why);

int results_close(struct results *results, struct why *why);

/* One row of runs.csv as read back; text cells point into the table. */
struct run_row;
struct results_table;

#endif
