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
 * their exits and counters, each file's in one write(2), so that a reader or a
 * crash finds whole rows. (SIGKILL within that call can cut the last one: the
 * kernel looks for it at page boundaries.) On an error, such as a full disk,
 * what did not fit is taken back. Run ids are `<platform>-<number>`. */
int results_add(struct results *results, const struct run_spec *spec,
                const struct run_record *record, struct why *why);

/* Appends the rows of another folder (the lab's) to this one. Its files are
 * read and checked whole before anything is written: -EINVAL for what is no
 * result folder, -EEXIST when its run ids do not continue ours. */
int results_merge(struct results *results, const char *folder, struct why *why);

/* The number of the next row id of a platform, 1 at first: what a folder that
 * is to be merged starts from. */
unsigned results_next_id(const struct results *results, enum platform platform);
void results_number_from(struct results *results, enum platform platform,
                         unsigned next_id);

/* The header line of runs.csv, exits.csv or counters.csv, NULL for another. */
const char *results_header(const char *file);

int results_close(struct results *results, struct why *why);

#endif
