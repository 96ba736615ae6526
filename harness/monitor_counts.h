/* What the monitor counted in a phase: traps by reason for exits.csv, the
 * shadow MMU's and the translator's events for counters.csv. All with `monitor`
 * as their source. */
#ifndef HARNESS_MONITOR_COUNTS_H
#define HARNESS_MONITOR_COUNTS_H

#include "bt/bt.h"
#include "harness/run.h"
#include "shadowpt/shadow.h"
#include "vmm/vm.h"

struct monitor_counts {
    uint64_t traps[VM_TRAP_REASONS];
    struct shadow_stats shadow;
    struct bt_stats bt;
};

/* All 0 for a VM without a monitor. */
void monitor_counts_read(const struct vm *vm, struct monitor_counts *counts);

/* The difference to `before`, as rows; none for a VM without a monitor. */
void monitor_counts_add(const struct vm *vm,
                        const struct monitor_counts *before, struct rows *rows);

#endif
