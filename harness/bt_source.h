/* A guest that runs translated, as a stream of events: memvirt trace -t bt. */
#ifndef HARNESS_BT_SOURCE_H
#define HARNESS_BT_SOURCE_H

#include "harness/run.h"
#include "trace/source.h"

/* The whole system, from its kernel's first instruction; in a thread of its
 * own, ahead of whoever reads. `spec` has the workload and its parameters, none
 * of them 0 that has a default. -ENOTSUP where there is no KVM, and what
 * creating a VM says; what goes wrong in the guest is read's. */
int bt_source_open(const struct run_spec *spec, bool fetches,
                   struct event_source **source, struct why *why);

#endif
