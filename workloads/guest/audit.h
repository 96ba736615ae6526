/* The audit in the guest's kernel (workloads/audit.h). */
#ifndef WORKLOADS_GUEST_AUDIT_H
#define WORKLOADS_GUEST_AUDIT_H

#include "workloads/guest/kernel.h"

/* Runs it when the configuration asks for it: the instructions from number
 * `operations` - 1 on, each with a record in the results as soon as it has
 * ended, so that what ends the VM is the one behind the last record. */
bool audit_run(struct cpu *cpu, const char *name);

#endif
