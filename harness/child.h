/* Every run is a fresh process: `memvirt one-run`. */
#ifndef HARNESS_CHILD_H
#define HARNESS_CHILD_H

#include "base/why.h"
#include "harness/run.h"

#include <signal.h>

/*
 * Runs the spec in a child and returns its record, which the caller frees. A
 * child that crashes, exceeds its time limit by more than a grace, or answers
 * with nonsense gives a record with status failed and a message. When
 * *stop becomes non-zero the child is ended and -EINTR returned.
 */
int child_run(const struct run_spec *spec, struct run_record *record,
              const volatile sig_atomic_t *stop);

/* The child's side: spec from standard input, record to standard output.
 * Returns the exit status. */
int cmd_one_run(int argc, char **argv);

#endif
