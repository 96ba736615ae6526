/*
 * The VM: one KVM virtual machine with RAM from physical address 0 (and above
 * 4 GiB when it is larger than 3 GiB, as on a PC), 1 to 32 vCPUs that start in
 * 64-bit mode, a debug console, an exit port, phase marks and a results page
 * (workloads/abi.h). vCPU 0 runs on the thread that calls vm_run, the others
 * on threads of their own.
 *
 * Life: vm_create, vm_load, vm_run, then vm_results and vm_host_page_bytes,
 * then vm_destroy.
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include "base/why.h"
#include "shadowpt/policy.h"
#include "workloads/abi.h"
#include "workloads/api.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define VM_VCPUS_MAX  32
#define VM_RAM_MIN    (16ull << 20)
#define VM_RAM_MAX    (512ull << 30)
#define VM_EXIT_KINDS 64

enum vm_backing { VM_BACKING_4K, VM_BACKING_THP, VM_BACKING_2M, VM_BACKING_1G };

struct bt_stats;
struct shadow_stats;
struct vm;

/* Called on vCPU 0's thread. */
struct vm_hooks {
    /* Every vCPU has its thread; none has run yet. */
    void (*ready)(struct vm *vm, void *arg);
    /* The guest marks the start or the end of a phase. */
    void (*mark)(struct vm *vm, enum wl_phase phase, bool begin, void *arg);
};

/* Takes what a guest does to memory (trace/event.h): whole events, in order,
 * on vCPU 0's thread, 4096 words at most. False ends the run. */
struct vm_trace {
    bool fetches; /* instructions too */
    bool (*take)(void *arg, const uint64_t *words, size_t count);
    void *arg;
};

/* The software VMM: our monitor at CPL 0, the guest's kernel at CPL 3
 * (vmm/monitor/monitor.h). */
struct vm_software {
    bool unpatched; /* what doesn't trap is left as it is */
    bool pv;        /* the guest makes hypercalls (workloads/hypercall.h) */
    enum shadow_policy policy;
    unsigned roots; /* shadow roots cached; 0: the default */
    bool no_assist; /* each trap is handled in the VMM process */
    /* This KVM leaves SYSCALL at CPL 3, where its fetch faults (kvm_pvm). */
    bool syscall_faults;
    bool poison; /* count misses of the TLB, by BadgerTrap's method */
    /* The guest's kernel is translated and not patched (bt/bt.h). */
    bool translate;
    bool no_adaptive;    /* what keeps faulting stays a copy */
    uint32_t code_bytes; /* of the translation cache; 0: all of it */
    /* User code is translated too, and all is told; one vCPU. Or NULL. */
    const struct vm_trace *trace;
};

struct vm_config {
    const char *kvm_path; /* NULL: /dev/kvm */
    uint64_t ram_bytes;   /* a multiple of 2 MiB (1 GiB with 1 GiB backing) */
    enum vm_backing backing;
    unsigned vcpus;
    unsigned time_limit_s;              /* 0: none */
    const struct vm_software *software; /* NULL: hardware-assisted */
    /* Each may be NULL; an error ends the creation or the run. */
    int (*pin)(unsigned vcpu, void *arg, struct why *why); /* on its thread */
    int (*place)(void *ram, size_t bytes, void *arg, struct why *why);
    struct vm_hooks hooks;
    void *arg; /* of all of these */
};

/* How a run ended. */
enum vm_end {
    VM_END_EXIT,           /* the guest wrote to the exit port */
    VM_END_HALT,           /* it halted for good */
    VM_END_SHUTDOWN,       /* a triple fault */
    VM_END_INTERNAL_ERROR, /* KVM could not go on */
    VM_END_FAILED_ENTRY,   /* the CPU refused the VM's state */
    VM_END_BAD_ACCESS,     /* MMIO, or another exit nobody asked for */
    VM_END_TIMEOUT,
    VM_END_ERROR,   /* KVM_RUN itself failed */
    VM_END_MONITOR, /* the monitor could not go on */
};

/* 0, or a negative errno with a sentence. */
int vm_create(struct vm **vm, const struct vm_config *config, struct why *why);

/* Loads an ELF64 image (vmm/elf.h) and hands it `config`; results_gpa and
 * vcpus are filled in here. -EINVAL for an image that cannot be loaded. */
int vm_load(struct vm *vm, const void *image, size_t bytes,
            const struct guest_config *config, struct why *why);

/* Runs to the end. 0 when the guest ended by its exit port; otherwise -EIO
 * and a sentence that names the end and the state that explains it. */
int vm_run(struct vm *vm, struct why *why);
enum vm_end vm_end(const struct vm *vm);

/* The guest's answer, checked (vmm/results.h). */
int vm_results(const struct vm *vm, struct guest_results *results,
               struct why *why);

/* What the debug console got, at most 4 KiB, ends in 0. */
const char *vm_console(const struct vm *vm);

/* The page size that backs most of RAM now, read from /proc/self/smaps; 0
 * when that cannot be told. */
uint64_t vm_host_page_bytes(const struct vm *vm);

/* Exits to user space so far, all vCPUs, by KVM_EXIT_* reason. */
void vm_user_exits(const struct vm *vm, uint64_t counts[VM_EXIT_KINDS]);
/* "io", "mmio", ...: KVM's name in lower case, NULL for an unknown reason. */
const char *vm_exit_name(unsigned reason);

/* Traps that the monitor has handled so far, all vCPUs, by reason; 0 when
 * there is no such reason, and for a VM without a monitor. */
#define VM_TRAP_REASONS  160
#define VM_ROOTS_DEFAULT 64
uint64_t vm_monitor_traps(const struct vm *vm, unsigned reason);
/* "hidden_fault", "invlpg", ...; NULL for no reason. */
const char *vm_trap_name(unsigned reason);
bool vm_counts_tlb_misses(const struct vm *vm);
/* NULL for a VM without a monitor. */
const struct shadow_stats *vm_shadow_stats(const struct vm *vm);
/* Of all vCPUs' translators together, until the next call; NULL for a VM
 * without one. */
const struct bt_stats *vm_bt_stats(const struct vm *vm);

/* The CPU that a trace is of; only of a VM with one. */
struct event_guest;
void vm_trace_guest(const struct vm *vm, struct event_guest *guest);

int vm_fd(const struct vm *vm);
unsigned vm_vcpus(const struct vm *vm);
const int *vm_vcpu_fds(const struct vm *vm);
const pid_t *vm_vcpu_tids(const struct vm *vm); /* from ready() on */
unsigned vm_tsc_khz(const struct vm *vm);       /* 0 when KVM does not say */

void vm_destroy(struct vm *vm);

#endif
