/* One vCPU: its state at start, and the loop that runs it. */
#ifndef VMM_VCPU_H
#define VMM_VCPU_H

#include "vmm/vm.h"

#include <linux/kvm.h>

struct vcpu {
    struct vm *vm;
    unsigned id;
    int fd;
    pid_t tid;
    struct kvm_run *run;
    size_t run_bytes;
    uint64_t exits[VM_EXIT_KINDS]; /* written by its own thread only */
};

int vcpu_create(struct vcpu *vcpu, struct vm *vm, unsigned id, struct why *why);

/* A flat segment of DPL 0. */
struct kvm_segment vcpu_segment(uint16_t selector, uint8_t type, bool code);

/* Gives a vCPU that has not run its registers, and lets it run. */
int vcpu_set_state(struct vcpu *vcpu, const struct kvm_sregs *sregs,
                   const struct kvm_regs *regs, struct why *why);

/* 64-bit mode at `entry` with the page tables at `cr3` and a GDT at `gdt`;
 * RBX = start_info, RDI = the vCPU's number (workloads/guest/boot.S). */
int vcpu_reset(struct vcpu *vcpu, uint64_t entry, uint64_t cr3, uint64_t gdt,
               uint64_t start_info, struct why *why);

/* What the guest's IN and OUT do: `data` holds `bytes`, 1, 2 or 4. */
void vcpu_port(struct vcpu *vcpu, uint16_t port, unsigned bytes, bool out,
               uint8_t *data);

/* Runs until the VM ends (vm_end_once) or somebody else ended it. */
void vcpu_loop(struct vcpu *vcpu);
void vcpu_destroy(struct vcpu *vcpu);

#endif
