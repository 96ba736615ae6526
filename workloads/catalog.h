/*
 * Every workload there is: those of workloads/user.def, the kernel code of
 * workloads/compute/compute.def, and the kernel nanobenchmarks of
 * workloads/guest/nano.def, of which a hosted program knows the description
 * only (their `run` is NULL).
 */
#ifndef WORKLOADS_CATALOG_H
#define WORKLOADS_CATALOG_H

#include "base/why.h"
#include "workloads/api.h"

/* All of them, ended by NULL. */
const struct workload *const *workload_catalog(void);

/* NULL when there is none of this name. */
const struct workload *workload_find(const char *name);

/* Fills in the workload's defaults for what is 0, and sets the working set of
 * a workload that takes none to 0. -EINVAL with a sentence for what no run
 * could use: page sizes other than 4 KiB, 2 MiB and 1 GiB, a working set below
 * 4 KiB or above half of the address space, more vCPUs than the workload
 * uses. A working set smaller than a page is allowed: it gets a page and uses
 * a part of it. */
int workload_check(const struct workload *workload, struct wl_params *params,
                   struct why *why);

#endif
