/*
 * A VM of 2 MiB whose guest executes one kind of instruction a given number
 * of times: what counters are proved against (here, in `memvirt doctor`, and
 * in tests), since a counter that has never been seen to count is no counter.
 */
#ifndef HARNESS_COUNTERS_PROBE_VM_H
#define HARNESS_COUNTERS_PROBE_VM_H

#include "base/why.h"
#include "harness/counters/counters.h"

enum probe_op {
    PROBE_CPUID,  /* exits on every KVM there is */
    PROBE_INVLPG, /* exits without EPT or NPT only */
    PROBE_CR3,    /* likewise; the same value is written again */
    PROBE_NOTHING,
    PROBE_OPS,
};

struct probe_vm {
    int kvm, vm, vcpu;
    void *ram, *run;
    size_t run_bytes;
    pid_t tid;
};

/* Makes the VM on the calling thread. 0 or a negative errno. */
int probe_vm_open(struct probe_vm *probe, struct why *why);

/* Executes the instruction `count` times, and one OUT that ends it: a user
 * exit. 0 or a negative errno. */
int probe_vm_run(struct probe_vm *probe, enum probe_op op, uint32_t count,
                 struct why *why);

/* For counters_watch_vm; points into `probe`. */
struct counters_vm probe_vm_counted(const struct probe_vm *probe);
void probe_vm_close(struct probe_vm *probe);

#endif
