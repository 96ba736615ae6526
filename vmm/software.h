/*
 * The VMM's half of the software VMM: the monitor's memory and page tables,
 * its vCPUs' start, its calls, and, with assist off, the monitor itself
 * (vmm/monitor/monitor.h).
 */
#ifndef VMM_SOFTWARE_H
#define VMM_SOFTWARE_H

#include "vmm/vcpu.h"

struct software;

/* After memory and vCPUs are there; 0, or a negative errno with a sentence. */
int software_create(struct vm *vm, struct why *why);
/* Finds and replaces what doesn't trap in the loaded image, and points every
 * vCPU at the monitor. */
int software_load(struct vm *vm, const void *image, size_t bytes,
                  uint64_t entry, struct why *why);
/* enum mon_call, from the vCPU's thread. */
void software_call(struct vcpu *vcpu, uint32_t call);
/* The guest's marks, and its end, in its trace. */
void software_mark(struct vm *vm, enum wl_phase phase, bool begin);
void software_end_trace(struct vm *vm);
/* The guest's RIP where the CPU's is translated code's. */
struct kvm_regs;
uint64_t software_rip(const struct vcpu *vcpu, const struct kvm_regs *regs);
void software_destroy(struct software *software);

#endif
