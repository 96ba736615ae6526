/*
 * A result folder, repetitions brought together: what the printed table and
 * the figures are made of. A group is all runs that differ in `rep` only.
 */
#ifndef HARNESS_GROUPS_H
#define HARNESS_GROUPS_H

#include "base/why.h"
#include "harness/run.h"
#include "harness/stats.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct group_exit {
    char kind[16], source[16], reason[40];
    struct estimate per_operation;
};

struct group_counter {
    char source[16], name[64];
    double value, per_operation;
};

struct group {
    char platform[16], kvm[16], technique[16], mmu[16], phase[16];
    char workload[RUN_WORKLOAD_MAX];
    char shadow_policy[16], cpu_profile[32], levels[8], assist[8],
        bt_adaptive[8];
    uint64_t working_set_bytes, guest_page_bytes, host_page_bytes; /* 0: none */
    uint64_t shadow_roots, bt_cache_bytes;
    unsigned vcpus;
    unsigned runs, failed, unsupported;
    char message[320]; /* of the first run that has one */

    /* ns an operation on the host (wall_ns / operations). On lab-svm the
     * clock counts instructions, so there it is instructions an operation;
     * on lab-vmx it is Bochs's time, which means nothing: count is 0. Of the
     * model it is the modelled cycles of translation an operation. */
    struct estimate cost;
    double *costs; /* the samples behind it, cost.count of them */
    /* cost over the native group of the same platform, workload, phase,
     * working set, guest page and vcpus; count 0 when there is none. */
    struct estimate over_native;
    /* Exits by reason, the most frequent first; the vm_exit rows of one
     * source only: kvm_trace where it is, else kvm_stats, else papi. */
    struct group_exit *exits;
    size_t exit_count;
    /* All VM exits an operation (kvm_stats' `all`, else the sum above). */
    struct estimate vm_exits;
    /* Every counter, of the group's first run that has it. */
    struct group_counter *counters;
    size_t counter_count;
};

struct groups {
    struct group *groups; /* in the order of their first row */
    size_t count;
};

/* "ns", "instructions", "cycles" (model) or "" (lab-vmx): the unit of `cost`
 * on a platform. */
const char *group_cost_unit(const char *platform);

/* "trap unsync, assist off": the technique with its choices. */
#define GROUP_TECHNIQUE_MAX 64
void group_technique(const struct group *group, char *text, size_t bytes);

/* NULL when the group has no such counter. */
const struct group_counter *group_counter(const struct group *group,
                                          const char *source, const char *name);

/* Reads runs.csv, exits.csv and counters.csv of the folder. */
int groups_read(struct groups *groups, const char *folder, struct why *why);
void groups_free(struct groups *groups);

#endif
