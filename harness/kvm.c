/*
 * `shadow` and `nested`: the guest under KVM, with the shadow page tables or
 * the nested paging that KVM is set to. The VM is the same; the host's switch
 * decides, so the row is refused when it stands the other way. `trap`, `pv` and
 * `bt`: the same VM with the software VMM in it, which needs nothing but a VM.
 *
 * A run is two executions in two VMs: one that is timed, with nothing that
 * counts at work, and one that is counted, since a histogram on every exit
 * costs several times the exit itself. Both must compute the same.
 */
#include "vmm/vm.h"

#include "bt/cache.h"
#include "ept/kvm_switch.h"
#include "harness/counters/counters.h"
#include "harness/image.h"
#include "harness/monitor_counts.h"
#include "harness/technique.h"
#include "harness/topology.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct vm_job {
    const struct run_spec *spec;
    struct run_record *record;
    struct counters *counters;          /* NULL in the timed execution */
    struct rows rows[GUEST_PHASES_MAX]; /* by phase, in the order they end */
    unsigned phases;
    const struct vm_software *software;
    uint64_t exits_at_begin[VM_EXIT_KINDS];
    struct monitor_counts monitor_at_begin;
};

/* ---- Counting ---------------------------------------------------------- */

static void add_user_exits(const struct vm_job *job, const uint64_t *now,
                           struct rows *rows)
{
    for (unsigned reason = 0; reason < VM_EXIT_KINDS; reason++) {
        struct exit_row row = {.kind = "user_exit", .source = "vmm"};
        const char *name = vm_exit_name(reason);

        row.count = now[reason] - job->exits_at_begin[reason];
        if (!row.count)
            continue;
        if (name)
            snprintf(row.reason, sizeof row.reason, "%s", name);
        else
            snprintf(row.reason, sizeof row.reason, "kvm_exit_%u", reason);
        rows_add_exit(rows, &row);
    }
}

static void on_ready(struct vm *vm, void *arg)
{
    struct vm_job *job = arg;
    struct counters_vm watched = {
        .vm_fd = vm_fd(vm),
        .vcpu_fds = vm_vcpu_fds(vm),
        .vcpu_tids = vm_vcpu_tids(vm),
        .vcpus = vm_vcpus(vm),
    };

    if (job->counters)
        counters_watch_vm(job->counters, &watched);
}

static void on_mark(struct vm *vm, enum wl_phase phase, bool begin, void *arg)
{
    struct vm_job *job = arg;
    uint64_t now[VM_EXIT_KINDS];
    struct rows *rows;

    (void)phase;
    if (!job->counters)
        return;
    if (begin) {
        vm_user_exits(vm, job->exits_at_begin);
        monitor_counts_read(vm, &job->monitor_at_begin);
        counters_begin(job->counters);
        return;
    }
    if (job->phases == GUEST_PHASES_MAX)
        return;
    rows = &job->rows[job->phases++];
    counters_end(job->counters, rows);
    vm_user_exits(vm, now);
    add_user_exits(job, now, rows);
    monitor_counts_add(vm, &job->monitor_at_begin, rows);
}

static int on_pin(unsigned vcpu, void *arg, struct why *why)
{
    const struct vm_job *job = arg;

    return topology_pin(job->spec->cpu, vcpu, why);
}

static int on_place(void *ram, size_t bytes, void *arg, struct why *why)
{
    const struct vm_job *job = arg;

    return topology_bind(ram, bytes, job->spec->numa, why);
}

/* ---- The run ----------------------------------------------------------- */

static struct vm_config configure(const struct run_spec *spec,
                                  struct vm_job *job)
{
    static const enum vm_backing backings[HOST_PAGES] = {
        [HOST_4K] = VM_BACKING_4K,
        [HOST_THP] = VM_BACKING_THP,
        [HOST_2M] = VM_BACKING_2M,
        [HOST_1G] = VM_BACKING_1G,
    };

    return (struct vm_config){
        .ram_bytes = run_ram_bytes(spec),
        .backing = backings[spec->host_page],
        .vcpus = spec->vcpus,
        .time_limit_s = spec->time_limit_s,
        .software = job->software,
        .pin = on_pin,
        .place = on_place,
        .hooks = {.ready = on_ready, .mark = on_mark},
        .arg = job,
    };
}

static int load(const struct run_spec *spec, struct vm *vm, struct why *why)
{
    struct guest_config config = run_guest_config(spec);
    const char *path = spec->image[0]               ? spec->image
                       : spec->technique == TECH_PV ? image_pv_path()
                                                    : image_default_path();
    const void *image;
    size_t bytes;
    int err = image_open(path, &image, &bytes, why);

    if (err)
        return err;
    err = vm_load(vm, image, bytes, &config, why);
    image_close(image, bytes);
    return err;
}

/* The guest's own message explains more than how the VM ended. */
static int take_results(struct vm *vm, struct vm_job *job, int run_err,
                        const struct why *run_why, struct why *why)
{
    struct run_record *record = job->record;
    struct guest_results results;
    int err = vm_results(vm, &results, why);

    if (!err)
        err = run_take_results(&results, tsc_khz(), "tsc_ticks", record, why);
    if (run_err) {
        *why = *run_why;
        return run_err;
    }
    return err;
}

static int run_vm(const struct run_spec *spec, struct vm_job *job,
                  struct why *why)
{
    struct vm_config config = configure(spec, job);
    struct why run_why = {""};
    struct vm *vm = NULL;
    uint64_t page;
    int err = vm_create(&vm, &config, why);

    if (!err)
        err = load(spec, vm, why);
    if (!err) {
        int run_err = vm_run(vm, &run_why);

        page = vm_host_page_bytes(vm);
        if (page)
            job->record->host_page_bytes = (struct maybe_u64){true, page};
        err = take_results(vm, job, run_err, &run_why, why);
    }
    vm_destroy(vm);
    return err;
}

/* The counted execution's rows go to the timed execution's phases. */
static int take_rows(struct vm_job *counted, struct run_record *record,
                     struct why *why)
{
    const struct run_record *other = counted->record;
    int err = 0;

    if (other->phase_count != record->phase_count ||
        counted->phases < record->phase_count)
        err = why_set(why, EIO,
                      "the timed and the counted execution had different "
                      "phases");
    for (unsigned i = 0; !err && i < record->phase_count; i++)
        if (other->phases[i].checksum != record->phases[i].checksum)
            err = why_set(why, EIO,
                          "the timed and the counted execution computed "
                          "different results");
    for (unsigned i = 0; !err && i < record->phase_count; i++)
        if (rows_append(&record->phases[i].rows, &counted->rows[i]))
            err = why_set(why, ENOMEM, "out of memory");
    for (unsigned i = 0; i < counted->phases; i++)
        rows_free(&counted->rows[i]);
    return err;
}

static int run_counted(const struct run_spec *spec, struct run_record *record,
                       const struct vm_software *software, struct why *why)
{
    struct run_record scratch = {.status = RUN_OK};
    struct vm_job job = {
        .spec = spec, .record = &scratch, .software = software};
    struct why rows_why;
    int err, rows_err;

    if (counters_open(&job.counters))
        return why_set(why, ENOMEM, "out of memory");
    err = run_vm(spec, &job, why);
    counters_close(job.counters);
    rows_err = take_rows(&job, record, err ? &rows_why : why);
    run_record_free(&scratch);
    return err ? err : rows_err;
}

static int run_under_kvm(const struct run_spec *spec, struct run_record *record,
                         const struct vm_software *software, struct why *why)
{
    struct vm_software quick = software ? *software : (struct vm_software){0};
    struct vm_job timed = {
        .spec = spec, .record = record, .software = software ? &quick : NULL};
    struct kvm_state state;
    int err;

    kvm_state_read(&kvm_host_linux, &state);
    snprintf(record->kvm, sizeof record->kvm, "%s",
             kvm_flavour_name(state.flavour));
    quick.poison = false; /* it costs two traps a miss */
    err = run_vm(spec, &timed, why);
    if (!err && !spec->uncounted)
        err = run_counted(spec, record, software, why);
    return err;
}

static int paging_here(enum kvm_paging paging, struct why *why)
{
    struct kvm_state state;

    kvm_state_read(&kvm_host_linux, &state);
    if (!state.answers)
        return why_set(why, ENOTSUP,
                       "no usable /dev/kvm: 'memvirt doctor' says why");
    if (state.paging == paging)
        return 0;
    if (state.flavour == KVM_FLAVOUR_PVM)
        return why_set(why, ENOTSUP,
                       "this CPU has no EPT or NPT that KVM could use");
    return why_set(why, ENOTSUP,
                   "KVM is set to %s paging: 'memvirt kvm %s' as root turns "
                   "it, or --switch-kvm for one run",
                   kvm_paging_name(state.paging), kvm_paging_name(paging));
}

static int shadow_here(const struct workload *workload, struct why *why)
{
    (void)workload;
    return paging_here(KVM_PAGING_SHADOW, why);
}

static int nested_here(const struct workload *workload, struct why *why)
{
    (void)workload;
    return paging_here(KVM_PAGING_NESTED, why);
}

static int shadow_run(const struct run_spec *spec,
                      const struct workload *workload,
                      struct run_record *record, struct why *why)
{
    int err = shadow_here(workload, why);

    return err ? err : run_under_kvm(spec, record, NULL, why);
}

static int nested_run(const struct run_spec *spec,
                      const struct workload *workload,
                      struct run_record *record, struct why *why)
{
    int err = nested_here(workload, why);

    return err ? err : run_under_kvm(spec, record, NULL, why);
}

const struct technique_ops technique_shadow = {
    .summary = "hardware-assisted, on KVM's shadow page tables",
    .mmu = "shadow",
    .here = shadow_here,
    .run = shadow_run,
};

const struct technique_ops technique_nested = {
    .summary = "hardware-assisted, with EPT or NPT",
    .mmu = "nested",
    .here = nested_here,
    .run = nested_run,
};

/* ---- The software VMM -------------------------------------------------- */

static int software_here(const struct workload *workload, struct why *why)
{
    struct kvm_state state;

    (void)workload;
    kvm_state_read(&kvm_host_linux, &state);
    if (!state.answers)
        return why_set(why, ENOTSUP,
                       "no usable /dev/kvm: 'memvirt doctor' says why");
    return 0;
}

/* The method needs the CPU to walk our shadow tables themselves. */
static bool can_poison(const struct run_spec *spec,
                       const struct kvm_state *state, struct run_record *record)
{
    const char *why = NULL;

    if (spec->technique == TECH_PV)
        why = "under pv the CPU walks the guest's own tables; trap counts them";
    else if (state->paging == KVM_PAGING_SHADOW)
        why = "this KVM shadows our tables, and the TLB holds its copies; the "
              "lab's doesn't ('memvirt lab -- run ...')";
    if (why)
        snprintf(record->message, sizeof record->message,
                 "TLB misses not counted: %s", why);
    return !why;
}

/* What the row says of them. */
static void note_choices(const struct run_spec *spec, struct run_record *record)
{
    bool shadowed = technique_is_shadowed(spec->technique);
    bool translated = spec->technique == TECH_BT;

    if (shadowed)
        snprintf(record->shadow_policy, sizeof record->shadow_policy, "%s",
                 shadow_policy_name(spec->shadow_policy));
    if (translated)
        snprintf(record->bt_adaptive, sizeof record->bt_adaptive, "%s",
                 spec->no_adaptive ? "off" : "on");
    snprintf(record->assist, sizeof record->assist, "%s",
             spec->no_assist ? "off" : "on");
    record->shadow_roots = (struct maybe_u64){
        shadowed, spec->shadow_roots ? spec->shadow_roots : VM_ROOTS_DEFAULT};
    record->bt_cache_bytes = (struct maybe_u64){
        translated, spec->bt_cache_bytes ? spec->bt_cache_bytes : BT_CODE_MAX};
}

static int software_run(const struct run_spec *spec,
                        const struct workload *workload,
                        struct run_record *record, struct why *why)
{
    int err = software_here(workload, why);
    struct vm_software software = {
        .pv = spec->technique == TECH_PV,
        .policy = spec->shadow_policy,
        .roots = spec->shadow_roots,
        .no_assist = spec->no_assist,
        .translate = spec->technique == TECH_BT,
        .no_adaptive = spec->no_adaptive,
        .code_bytes = spec->bt_cache_bytes,
    };
    struct kvm_state state;

    if (err)
        return err;
    kvm_state_read(&kvm_host_linux, &state);
    software.syscall_faults = state.flavour == KVM_FLAVOUR_PVM;
    software.poison = spec->tlb_poison && can_poison(spec, &state, record);
    if (spec->no_assist && state.paging == KVM_PAGING_SHADOW)
        return why_set(why, ENOTSUP,
                       "KVM's own shadow paging does not see tables that "
                       "another process writes, so --assist off needs EPT or "
                       "NPT under it: 'memvirt lab -- run ...' has that");
    note_choices(spec, record);
    return run_under_kvm(spec, record, &software, why);
}

const struct technique_ops technique_trap = {
    .summary = "software VMM: guest kernel at CPL 3, what doesn't trap patched",
    .mmu = "shadow",
    .here = software_here,
    .run = software_run,
};

const struct technique_ops technique_pv = {
    .summary = "software VMM: guest kernel at CPL 3 that makes hypercalls, on "
               "its own tables, validated",
    .mmu = "direct",
    .here = software_here,
    .run = software_run,
};

const struct technique_ops technique_bt = {
    .summary =
        "software VMM: guest kernel translated as it runs, user code not",
    .mmu = "shadow",
    .here = software_here,
    .run = software_run,
};
