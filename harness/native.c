/*
 * `native`: the workload as a Linux process. The kernel nanobenchmarks have
 * no such form; theirs is the guest image booted straight on the lab's bare
 * machine, and on lab-svm that is the baseline of the MMU microbenchmarks too,
 * which would otherwise compare two kernels.
 */
#include "harness/counters/counters.h"
#include "harness/technique.h"
#include "harness/topology.h"
#include "workloads/linux/process.h"

#include <errno.h>
#include <numa.h>
#include <stdio.h>
#include <string.h>

struct native_run {
    struct run_record *record;
    struct counters *counters;
    uint64_t khz;
    struct rows rows; /* of the phase that runs */
};

static void begin(void *arg, enum wl_phase phase)
{
    struct native_run *run = arg;

    (void)phase;
    if (run->counters)
        counters_begin(run->counters);
}

static void end(void *arg, enum wl_phase phase, uint64_t operations,
                uint64_t tsc_begin, uint64_t tsc_end, uint64_t checksum)
{
    struct native_run *run = arg;
    struct run_record *record = run->record;
    struct phase_record *to = &record->phases[record->phase_count];
    uint64_t ticks = tsc_end - tsc_begin;

    if (record->phase_count == RUN_PHASES_MAX)
        return;
    record->phase_count++;
    *to = (struct phase_record){
        .phase = phase,
        .operations = operations,
        .checksum = checksum,
        .guest_tsc_ticks = {true, ticks},
        .wall_ns = {true,
                    (uint64_t)((unsigned __int128)ticks * 1000000 / run->khz)},
    };
    if (run->counters)
        counters_end(run->counters, &to->rows);
}

static int run_process(const struct run_spec *spec,
                       const struct workload *workload,
                       struct run_record *record, struct why *why)
{
    struct wl_params params = {
        .working_set_bytes = spec->working_set_bytes,
        .page_bytes = spec->guest_page_bytes,
        .operations = spec->operations,
        .seed = spec->seed,
        .vcpus = spec->vcpus,
    };
    struct native_run run = {.record = record, .khz = tsc_khz()};
    struct wl_linux_hooks hooks = {begin, end, &run};
    struct wl_linux_found found = {0};
    int err = counters_open(&run.counters);

    if (err)
        return why_set(why, -err, "out of memory");
    err = wl_linux_run(workload, &params, &hooks, &found, why);
    counters_close(run.counters);
    if (found.page_bytes)
        record->host_page_bytes = record->guest_page_bytes =
            (struct maybe_u64){true, found.page_bytes};
    return err;
}

static int take_memory_from(const char *nodes, struct why *why)
{
    struct bitmask *mask;

    if (!*nodes)
        return 0;
    mask = numa_available() < 0 ? NULL : numa_parse_nodestring(nodes);
    if (!mask)
        return why_set(why, EINVAL, "--numa: there are no nodes '%s' here",
                       nodes);
    numa_set_membind(mask);
    numa_bitmask_free(mask);
    return 0;
}

bool native_is_bare(const struct run_spec *spec,
                    const struct workload *workload)
{
    if (spec->platform != PLATFORM_LAB_SVM || !workload)
        return false;
    return workload->class == WL_NANO || workload->class == WL_TEST ||
           workload->class == WL_COMPUTE ||
           (workload->class == WL_MMU && spec->vcpus == 1);
}

static int native_run(const struct run_spec *spec,
                      const struct workload *workload,
                      struct run_record *record, struct why *why)
{
    int err;

    if (native_is_bare(spec, workload)) {
        snprintf(record->message, sizeof record->message,
                 "the guest image on the bare machine");
        return qemu_run(spec, true, record, why);
    }
    if (!workload->run)
        return why_set(
            why, ENOTSUP,
            "what the guest kernel runs has no form as a process: its "
            "native row comes from the lab's bare machine "
            "(memvirt lab)");
    if (spec->pcid)
        return why_set(why, ENOTSUP,
                       "a process cannot choose its kernel's use of PCIDs");
    err = topology_pin(spec->cpu, 0, why);
    if (!err)
        err = take_memory_from(spec->numa, why);
    return err ? err : run_process(spec, workload, record, why);
}

static int native_here(const struct workload *workload, struct why *why)
{
    if (workload->run)
        return 0;
    return why_set(why, ENOTSUP, "the lab's bare machine runs it");
}

const struct technique_ops technique_native = {
    .summary = "no virtualization: a Linux process, or the bare machine",
    .mmu = "1d",
    .here = native_here,
    .run = native_run,
};
