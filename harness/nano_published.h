/* The seven nanobenchmarks of Adams and Agesen (ASPLOS 2006, section 6.3) as
 * published, beside the lab's. */
#ifndef HARNESS_NANO_PUBLISHED_H
#define HARNESS_NANO_PUBLISHED_H

#include "base/why.h"
#include "harness/groups.h"
#include "harness/plan.h"

#include <stdio.h>

/* What the lab has to run for it: native, bt, shadow and nested. */
int nano_published_plan(struct plan *plan, struct why *why);

/* The table: published cycles, measured instructions, whether bt differs from
 * shadow in the same direction. What was not measured is a dash. */
void nano_published_print(const struct groups *groups, FILE *to);

#endif
