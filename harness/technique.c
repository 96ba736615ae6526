#include "harness/technique.h"

#include "ept/kvm_switch.h"
#include "mmu/entry.h"
#include "workloads/abi.h"
#include "workloads/catalog.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

const struct technique_ops *technique_ops(enum technique technique)
{
    static const struct technique_ops *const table[TECHNIQUES] = {
        [TECH_NATIVE] = &technique_native,
        [TECH_EMULATION] = &technique_emulation,
        [TECH_SHADOW] = &technique_shadow,
        [TECH_NESTED] = &technique_nested,
        [TECH_TRAP] = &technique_trap,
        [TECH_PV] = &technique_pv,
        [TECH_BT] = &technique_bt,
    };

    return table[technique];
}

bool technique_is_software(enum technique technique)
{
    return technique == TECH_TRAP || technique == TECH_PV ||
           technique == TECH_BT;
}

bool technique_is_shadowed(enum technique technique)
{
    return technique == TECH_TRAP || technique == TECH_BT;
}

int technique_only_modelled(enum technique technique, struct why *why)
{
    return why_set(why, ENOTSUP,
                   "no hardware has '%s': 'memvirt model -t %s' computes it",
                   technique_name(technique), technique_name(technique));
}

enum platform platform_here(void)
{
    const char *lab = getenv("MEMVIRT_LAB");

    if (lab && !strcmp(lab, "svm"))
        return PLATFORM_LAB_SVM;
    if (lab && !strcmp(lab, "vmx"))
        return PLATFORM_LAB_VMX;
    return PLATFORM_HOST;
}

/* What a reader must know of numbers that are right and yet misleading. */
static void add_remark(const struct run_spec *spec,
                       const struct workload *workload,
                       struct run_record *record)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    if (record->message[0])
        return;
    if (cpus > 0 && spec->vcpus > (unsigned long)cpus)
        snprintf(record->message, sizeof record->message,
                 "%u vCPUs share %ld CPUs: when they wait for one another, "
                 "the time is the scheduler's",
                 spec->vcpus, cpus);
    else if (!strcmp(record->kvm, "kvm_pvm") && workload &&
             (workload->class == WL_NANO ||
              (workload->class == WL_COMPUTE &&
               !technique_is_software(spec->technique))))
        snprintf(record->message, sizeof record->message,
                 "kvm_pvm emulates guest CPL0: the time is its emulator's");
}

void technique_run(const struct run_spec *spec, struct run_record *record)
{
    const struct technique_ops *ops = technique_ops(spec->technique);
    const struct workload *workload = workload_find(spec->workload);
    struct why why = {""};
    int err;

    *record = (struct run_record){.status = RUN_OK};
    run_stamp(record->started_at, sizeof record->started_at);
    if (ops)
        snprintf(record->mmu, sizeof record->mmu, "%s", ops->mmu);
    if (!ops)
        err = technique_only_modelled(spec->technique, &why);
    else if (!workload && !spec->image[0])
        err =
            why_set(&why, EINVAL, "there is no workload '%s'", spec->workload);
    else
        err = ops->run(spec, workload, record, &why);
    if (err) {
        record->status = err == -ENOTSUP ? RUN_UNSUPPORTED : RUN_FAILED;
        snprintf(record->message, sizeof record->message, "%s", why.text);
    } else {
        add_remark(spec, workload, record);
    }
}

static uint64_t round_up(uint64_t value, uint64_t step)
{
    return (value + step - 1) / step * step;
}

uint64_t run_ram_bytes(const struct run_spec *spec)
{
    uint64_t page = spec->guest_page_bytes, set = spec->working_set_bytes;
    uint64_t bytes = round_up(set, page) + set / 4 + (32ull << 20);

    /* Large guest pages come from aligned ends of RAM; the image and the page
     * tables take a page of that size from each. */
    if (page > PAGE_4K)
        bytes += 2 * page;
    if (spec->ram_bytes)
        bytes = spec->ram_bytes;
    return round_up(bytes, spec->host_page == HOST_1G ? PAGE_1G : PAGE_2M);
}

/* Who runs the guest's code, for the tests of that. */
static uint32_t cpu_flags(const struct run_spec *spec)
{
    if (spec->technique == TECH_EMULATION)
        return GUEST_CPU_TCG | GUEST_BARE_TCG;
    if (spec->platform != PLATFORM_LAB_SVM)
        return 0;
    return GUEST_CPU_TCG |
           (spec->technique == TECH_NATIVE ? GUEST_BARE_TCG : 0);
}

/* `others`, or where KVM is kvm_pvm its flags: for a guest whose kernel is at
 * CPL 0 when `others` has any. */
static uint32_t pvm_flags(uint32_t others)
{
    struct kvm_state state;

    kvm_state_read(&kvm_host_linux, &state);
    if (state.flavour != KVM_FLAVOUR_PVM)
        return others;
    return GUEST_CPL3_PVM | (others ? GUEST_UNDER_PVM : 0);
}

/* On whom the outcome of an access depends. */
static uint32_t walker_flags(const struct run_spec *spec)
{
    bool lab = spec->platform == PLATFORM_LAB_SVM;

    if (spec->technique == TECH_EMULATION)
        return GUEST_WALKED_BY_TCG;
    if (technique_is_software(spec->technique))
        return GUEST_SOFTWARE_VMM | pvm_flags(0) |
               (spec->technique == TECH_PV ? GUEST_PARAVIRTUAL : 0);
    if (spec->technique != TECH_SHADOW)
        return lab ? GUEST_WALKED_BY_TCG : 0;
    return pvm_flags(GUEST_SHADOWED);
}

struct guest_config run_guest_config(const struct run_spec *spec)
{
    struct guest_config config = {
        .magic = GUEST_CONFIG_MAGIC,
        .version = GUEST_ABI_VERSION,
        .flags = (spec->pcid ? GUEST_USE_PCID : 0) | walker_flags(spec) |
                 cpu_flags(spec),
        .working_set_bytes = spec->working_set_bytes,
        .page_bytes = spec->guest_page_bytes,
        .operations = spec->operations,
        .seed = spec->seed,
        .vcpus = spec->vcpus,
    };

    snprintf(config.workload, sizeof config.workload, "%.*s",
             GUEST_NAME_MAX - 1, spec->workload);
    return config;
}

static void take_phase(const struct guest_phase *from, uint64_t khz,
                       struct phase_record *to)
{
    uint64_t ticks = from->tsc_end - from->tsc_begin;

    to->phase = from->phase;
    to->operations = from->operations;
    to->checksum = from->checksum;
    to->guest_tsc_ticks = (struct maybe_u64){true, ticks};
    if (khz)
        to->wall_ns = (struct maybe_u64){
            true, (uint64_t)((unsigned __int128)ticks * 1000000 / khz)};
}

/* What the guest needed from its first statement to its first operation. */
static void add_boot(const struct guest_results *results,
                     struct run_record *record, const char *unit)
{
    const struct guest_phase *first = &results->phase[0];
    struct counter_row row = {.source = "timing", .scope = "guest"};

    if (!results->phases || first->tsc_begin < results->boot_tsc)
        return;
    snprintf(row.name, sizeof row.name, "boot_%s", unit);
    snprintf(row.unit, sizeof row.unit, "%s", unit);
    row.value = (double)(first->tsc_begin - results->boot_tsc);
    rows_add_counter(&record->phases[0].rows, &row);
}

int run_take_results(const struct guest_results *results, uint64_t khz,
                     const char *tick, struct run_record *record,
                     struct why *why)
{
    record->phase_count = results->phases;
    for (unsigned i = 0; i < results->phases; i++)
        take_phase(&results->phase[i], khz, &record->phases[i]);
    if (results->page_bytes)
        record->guest_page_bytes =
            (struct maybe_u64){true, results->page_bytes};
    add_boot(results, record, tick);
    record->audit_count = results->audits;
    for (unsigned i = 0; i < results->audits; i++)
        record->audits[i] = results->audit[i];
    switch (results->state) {
    case GUEST_DONE:
        if (results->message[0])
            snprintf(record->message, sizeof record->message, "%s",
                     results->message);
        return 0;
    case GUEST_UNSUPPORTED:
        return why_set(why, ENOTSUP, "%s", results->message);
    case GUEST_FAILED:
        return why_set(why, EIO, "the guest failed: %s", results->message);
    default:
        return why_set(why, EIO, "the guest ended before its workload did");
    }
}

/* ---- TSC --------------------------------------------------------------- */

static uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t measured_khz(void)
{
    uint64_t ns = clock_ns(), tsc = wl_tsc();

    while (clock_ns() - ns < 20 * 1000 * 1000)
        ;
    tsc = wl_tsc() - tsc;
    ns = clock_ns() - ns;
    return tsc * 1000000 / ns;
}

/* The page of any perf event holds the kernel's own factors
 * (perf_event_open(2), cap_user_time): ns = ticks * mult >> shift. */
uint64_t tsc_khz(void)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof attr,
        .config = PERF_COUNT_SW_DUMMY,
        .exclude_kernel = 1,
        .exclude_hv = 1,
    };
    long fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    struct perf_event_mmap_page *page = MAP_FAILED;
    uint64_t khz = 0;

    if (fd >= 0)
        page = mmap(NULL, bytes, PROT_READ, MAP_SHARED, (int)fd, 0);
    if (page != MAP_FAILED) {
        if (page->cap_user_time && page->time_mult)
            khz = (uint64_t)(((unsigned __int128)1000000 << page->time_shift) /
                             page->time_mult);
        munmap(page, bytes);
    }
    if (fd >= 0)
        close((int)fd);
    return khz ? khz : measured_khz();
}
