/* Tables of what exits cost, for the model: data files in libconfig's syntax.
 * The keys are those of struct model_costs. */
#ifndef HARNESS_COSTS_H
#define HARNESS_COSTS_H

#include "model/machine.h"

#define COSTS_FOLDER MEMVIRT_ROOT "/model/costs"

/* Reads a table by name ("skylake", from COSTS_FOLDER) or, when there is a
 * slash in it, by path. Errors as profile_load. */
int costs_load(const char *name, struct model_costs *costs, struct why *why);

/* The same for `count` bytes that are called `file` in sentences. */
int costs_parse(const char *file, const void *bytes, size_t count,
                struct model_costs *costs, struct why *why);

#endif
