/*
 * Everything that counts while a guest runs, behind one interface: PAPI on the
 * vCPU thread, KVM's binary statistics, and our own tracing instance with
 * per-reason histograms. A source that this machine does not have, or that
 * cannot be made to count, adds no rows; it never adds zeros.
 *
 * Life: counters_open on the thread that will execute the guest (or the
 * native workload); counters_watch_vm when there is a VM; then begin/end
 * around each phase, on that same thread; counters_close.
 */
#ifndef HARNESS_COUNTERS_COUNTERS_H
#define HARNESS_COUNTERS_COUNTERS_H

#include "base/why.h"
#include "harness/run.h"

#include <sys/types.h>

struct counters;

struct counters_vm {
    int vm_fd;
    const int *vcpu_fds;
    const pid_t *vcpu_tids; /* gettid() of each vCPU's thread */
    unsigned vcpus;
};

/* 0, or -ENOMEM. Sources that are missing are not an error. */
int counters_open(struct counters **counters);

/* The same with the named sources only, separated by commas ("kvm_stats,papi");
 * NULL for all. Counting is not free: kvm_trace costs some 2,000 instructions
 * an exit, papi's tracepoints some hundred, kvm_stats none. -EINVAL for a
 * name that is no source. */
int counters_open_only(struct counters **counters, const char *names);
int counters_watch_vm(struct counters *counters, const struct counters_vm *vm);

/* Snapshots: begin reads every source last-opened first, end reads them in
 * the opposite order, and appends the differences to `rows` (in an order that
 * depends on names only). */
int counters_begin(struct counters *counters);
int counters_end(struct counters *counters, struct rows *rows);
void counters_close(struct counters *counters);

/* For `memvirt doctor` and `memvirt list`: each source, each counter in it,
 * and whether it was really started and read here. */
struct counter_status {
    char source[16];
    char name[64];
    bool works;
    char detail[200]; /* when not: the reason, and the cure if there is one */
};
int counters_probe(struct counter_status **list, unsigned *count);

#endif
