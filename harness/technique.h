/*
 * The techniques, one row of a table each: what it is called, whether it can
 * run here, and the function that runs it. A new technique is a new row and
 * its file (docs/architecture.md).
 */
#ifndef HARNESS_TECHNIQUE_H
#define HARNESS_TECHNIQUE_H

#include "base/why.h"
#include "harness/run.h"

struct technique_ops {
    const char *summary;
    const char *mmu; /* the `mmu` column */

    /* Whether this machine can run this workload so. 0, or -ENOTSUP with a
     * sentence that begins with what is missing. */
    int (*here)(const struct workload *workload, struct why *why);

    /* Runs the spec in this process and fills the record's phases, kvm and
     * page sizes. 0; -ENOTSUP for what turned out to be missing; any other
     * negative errno for a failure. A sentence goes with each. */
    int (*run)(const struct run_spec *spec, const struct workload *workload,
               struct run_record *record, struct why *why);
};

/* NULL for a technique that only the model has. */
const struct technique_ops *technique_ops(enum technique technique);

/* Whether our monitor is in the VM. Its rows are taken with nested paging
 * under it where KVM can be set so. */
bool technique_is_software(enum technique technique);

/* Whether the guest runs on our shadow page tables. */
bool technique_is_shadowed(enum technique technique);

/* -ENOTSUP and the sentence for such a technique. */
int technique_only_modelled(enum technique technique, struct why *why);

/* Where this process runs: PLATFORM_HOST, or a lab (MEMVIRT_LAB says so). */
enum platform platform_here(void);

/* Runs one spec: what `memvirt one-run` does. The record tells how it went;
 * the caller frees it with run_record_free. */
void technique_run(const struct run_spec *spec, struct run_record *record);

/* native.c */
extern const struct technique_ops technique_native;
/* vm.c: KVM, with its shadow or nested paging */
extern const struct technique_ops technique_shadow, technique_nested;
/* The same VM with our monitor in it. */
extern const struct technique_ops technique_trap, technique_pv, technique_bt;
/* qemu.c */
extern const struct technique_ops technique_emulation;

/* Whether the native row of this run is the guest image on the lab's bare
 * machine and no process: for what the guest kernel does, so that only the
 * virtualization differs. The bare machine has one CPU. */
bool native_is_bare(const struct run_spec *spec,
                    const struct workload *workload);

/* qemu.c: the guest image in QEMU TCG without KVM, counting instructions when
 * `icount`: the lab's bare machine. */
int qemu_here(struct why *why);
int qemu_run(const struct run_spec *spec, bool icount,
             struct run_record *record, struct why *why);

/* Guest RAM for a spec, in bytes, when it does not say: the working set with
 * room for copies, page tables and alignment. */
uint64_t run_ram_bytes(const struct run_spec *spec);

/* The guest's configuration for a spec (workloads/abi.h). */
struct guest_config;
struct guest_config run_guest_config(const struct run_spec *spec);

/* Copies what the guest reported, with wall times by `tsc_khz` (0: unknown);
 * `tick` says what a TSC tick is: "tsc_ticks" or "instructions". -EIO or
 * -ENOTSUP with the guest's message when it says so. */
struct guest_results;
int run_take_results(const struct guest_results *results, uint64_t tsc_khz,
                     const char *tick, struct run_record *record,
                     struct why *why);

/* kHz of this CPU's TSC as the kernel converts it to nanoseconds. */
uint64_t tsc_khz(void);

#endif
