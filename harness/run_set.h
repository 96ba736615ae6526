/* What every command that fills a result folder has around its runs: the
 * folder's name, the interrupt, the table and the figures at the end. */
#ifndef HARNESS_RUN_SET_H
#define HARNESS_RUN_SET_H

#include "harness/results.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/* `asked`, or results/TIME with the suffix when it is NULL. */
const char *run_set_folder(const char *asked, const char *suffix, char *text,
                           size_t bytes);

/* results_create, and environment.json in it. Then catches signals. */
int run_set_open(struct results **results, const char *folder, struct why *why);

/* From here on SIGINT and SIGTERM only set what this returns: the signal, or
 * 0. */
const volatile sig_atomic_t *run_set_catch(void);

/* The same, without catching anything yet. */
const volatile sig_atomic_t *run_set_stop(void);

/* The table on standard output, the figures unless told not to, and where all
 * is. What fails is told on standard error as from `command`. */
void run_set_show(const char *command, const char *folder, bool figures);

#endif
