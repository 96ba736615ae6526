#include "harness/doctor.h"

#include "base/program.h"

#include "base/parse.h"
#include "ept/kvm_switch.h"
#include "harness/counters/counters.h"
#include "harness/environment.h"
#include "harness/topology.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Grows the list and hands out the new finding, NULL without memory. */
static struct finding *add(struct doctor *d, const char *area, const char *name,
                           enum finding_state state)
{
    struct finding *grown =
                       reallocarray(d->findings, d->count + 1u, sizeof *grown),
                   *new;

    if (!grown)
        return NULL;
    d->findings = grown;
    new = &grown[d->count++];
    *new = (struct finding){.state = state};
    snprintf(new->area, sizeof new->area, "%s", area);
    snprintf(new->name, sizeof new->name, "%s", name);
    return new;
}

/* `format` is what was found. */
static int report(struct doctor *d, const char *area, const char *name,
                  enum finding_state state, const char *effect,
                  const char *cure, const char *format, ...)
    __attribute__((format(printf, 7, 8)));

static int report(struct doctor *d, const char *area, const char *name,
                  enum finding_state state, const char *effect,
                  const char *cure, const char *format, ...)
{
    struct finding *f = add(d, area, name, state);
    va_list args;

    if (!f)
        return -ENOMEM;
    va_start(args, format);
    vsnprintf(f->found, sizeof f->found, format, args);
    va_end(args);
    snprintf(f->effect, sizeof f->effect, "%s", effect);
    snprintf(f->cure, sizeof f->cure, "%s", cure);
    return 0;
}

static int examine_machine(struct doctor *d)
{
    char model[128], release[128];
    int err;

    environment_cpuinfo("model name", model, sizeof model);
    environment_line("/proc/sys/kernel/osrelease", release, sizeof release);
    err = report(d, "machine", "processor", FINDING_OK, "", "", "%s",
                 *model ? model : "unknown");
    if (!err)
        err = report(d, "machine", "kernel", FINDING_OK, "", "", "Linux %s",
                     release);
    if (!err && environment_in_vm())
        err = report(d, "machine", "in a VM", FINDING_NOTE,
                     "times contain the outer hypervisor; exits of a nested "
                     "guest go through it",
                     "for times to quote, run on bare metal",
                     "yes (CPUID says a hypervisor is present)");
    else if (!err)
        err = report(d, "machine", "in a VM", FINDING_OK, "", "", "no");
    return err;
}

static const char *kvm_cure(int error)
{
    switch (error) {
    case ENOENT:
        return "sudo modprobe kvm_intel or kvm_amd; virtualization turned on "
               "in the firmware; or use memvirt lab";
    case EACCES:
    case EPERM:
        return "sudo usermod -aG kvm $USER, and log in again";
    default:
        return "see dmesg | grep -i kvm";
    }
}

static int examine_dev_kvm(struct doctor *d, const struct kvm_state *state)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), error = errno;

    if (kvm >= 0)
        close(kvm);
    if (kvm < 0)
        return report(d, "kvm", "/dev/kvm", FINDING_MISSING,
                      "shadow and nested run in the lab only", kvm_cure(error),
                      "%s", strerror(error));
    if (!state->answers)
        return report(d, "kvm", "/dev/kvm", FINDING_MISSING,
                      "shadow and nested run in the lab only",
                      "another hypervisor may hold VT-x or SVM (VirtualBox?): "
                      "end it",
                      "opens, but makes no VM");
    return report(d, "kvm", "/dev/kvm", FINDING_OK, "", "", "makes VMs");
}

static int examine_paging(struct doctor *d, const struct kvm_state *s)
{
    const char *other = s->paging == KVM_PAGING_NESTED ? "shadow" : "nested";
    char effect[128], cure[128];
    int err;

    if (s->flavour == KVM_FLAVOUR_NONE)
        return 0;
    err = report(d, "kvm", "module", FINDING_OK, "", "", "%s",
                 kvm_flavour_name(s->flavour));
    if (err)
        return err;
    snprintf(effect, sizeof effect, "%s runs in the lab only", other);
    snprintf(cure, sizeof cure, "sudo memvirt kvm %s", other);
    if (s->flavour == KVM_FLAVOUR_PVM)
        err = report(d, "kvm", "paging", FINDING_NOTE,
                     "nested runs in the lab only; the guest's kernel mode is "
                     "emulated in software",
                     "a machine with VT-x or SVM", "shadow (kvm_pvm)");
    else
        err = report(d, "kvm", "paging", FINDING_NOTE, effect,
                     s->switchable ? cure : s->obstacle, "%s (%s=%d)",
                     kvm_paging_name(s->paging), kvm_flavour_switch(s->flavour),
                     s->paging == KVM_PAGING_NESTED);
    if (!err && s->kept)
        err = report(d, "kvm", "switched", FINDING_NOTE,
                     "this host's VMs run with what memvirt kvm chose",
                     "sudo memvirt kvm restore",
                     "memvirt kvm has turned it and waits for restore");
    return err;
}

/* Parameters of the vendor modules that change what paging costs. */
static int examine_features(struct doctor *d, const struct kvm_state *s)
{
    static const char *const names[] = {
        "ept", "eptad",  "pml",  "vpid",        "unrestricted_guest",
        "npt", "nested", "avic", "enable_apicv"};
    char text[256] = "", path[128], value[32];
    size_t used = 0;

    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "/sys/module/%s/parameters/%s",
                 kvm_flavour_name(s->flavour), names[i]);
        if (!s->flavour || !*environment_line(path, value, sizeof value) ||
            used >= sizeof text)
            continue;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s=%s",
                                 used ? " " : "", names[i], value);
    }
    return used ? report(d, "kvm", "features", FINDING_OK, "", "", "%s", text)
                : 0;
}

struct capability {
    const char *name;
    long number;
    const char *effect;
};

static const struct capability capabilities[] = {
    {"binary statistics", KVM_CAP_BINARY_STATS_FD,
     "no exits from kvm_stats: Linux 5.14 or later has them"},
    {"synchronized registers", KVM_CAP_SYNC_REGS, "user exits cost more"},
    {"immediate exit", KVM_CAP_IMMEDIATE_EXIT, "time limits are less exact"},
};

static int examine_capabilities(struct doctor *d)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), err = 0;

    for (unsigned i = 0;
         kvm >= 0 && !err && i < sizeof capabilities / sizeof capabilities[0];
         i++) {
        bool has = ioctl(kvm, KVM_CHECK_EXTENSION, capabilities[i].number) > 0;

        err = report(d, "kvm", capabilities[i].name,
                     has ? FINDING_OK : FINDING_MISSING,
                     has ? "" : capabilities[i].effect,
                     has ? "" : "a newer kernel", "%s", has ? "yes" : "no");
    }
    if (kvm >= 0)
        close(kvm);
    return err;
}

static int examine_kvm(struct doctor *d)
{
    struct kvm_state state;
    int err;

    kvm_state_read(&kvm_host_linux, &state);
    err = examine_dev_kvm(d, &state);
    if (!err)
        err = examine_paging(d, &state);
    if (!err)
        err = examine_features(d, &state);
    return err ? err : examine_capabilities(d);
}

/* Appends ", name" or, when the text is full, "..." once. */
static void list_name(char *text, size_t bytes, const char *name)
{
    size_t used = strlen(text);

    if (used + strlen(name) + 8 < bytes)
        snprintf(text + used, bytes - used, "%s%s",
                 used && text[used - 1] != ' ' ? ", " : "", name);
    else if (used + 6 < bytes && strcmp(text + used - 3, "..."))
        snprintf(text + used, bytes - used, ", ...");
}

/* All that works of a source in one line. */
static int examine_working(struct doctor *d, const char *source,
                           const struct counter_status *list, unsigned count)
{
    struct finding *f;
    unsigned works = 0;

    for (unsigned i = 0; i < count; i++)
        works += list[i].works && !strcmp(list[i].source, source);
    if (!works)
        return 0;
    f = add(d, "counters", source, FINDING_OK);
    if (!f)
        return -ENOMEM;
    snprintf(f->found, sizeof f->found, "%u counted: ", works);
    for (unsigned i = 0; i < count; i++)
        if (list[i].works && !strcmp(list[i].source, source))
            list_name(f->found, sizeof f->found, list[i].name);
    return 0;
}

/* One finding for all counters that are missing for the same reason. */
static int examine_missing(struct doctor *d, const struct counter_status *s)
{
    struct finding *f = &d->findings[d->count - 1];

    if (strcmp(f->name, s->source) || strcmp(f->found, s->detail)) {
        f = add(d, "counters", s->source, FINDING_MISSING);
        if (!f)
            return -ENOMEM;
        snprintf(f->found, sizeof f->found, "%s", s->detail);
        snprintf(f->effect, sizeof f->effect, "empty cells: ");
    }
    list_name(f->effect, sizeof f->effect, *s->name ? s->name : s->source);
    return 0;
}

static int examine_counters(struct doctor *d)
{
    static const char *const sources[] = {"kvm_stats", "kvm_trace", "papi"};
    struct counter_status *list = NULL;
    unsigned count = 0;
    int err = counters_probe(&list, &count);

    for (unsigned s = 0; !err && s < 3; s++) {
        err = examine_working(d, sources[s], list, count);
        for (unsigned i = 0; !err && i < count; i++)
            if (!list[i].works && !strcmp(list[i].source, sources[s]))
                err = examine_missing(d, &list[i]);
    }
    free(list);
    return err;
}

static int examine_pmu(struct doctor *d)
{
    char level[16];
    bool pmu = !access("/sys/bus/event_source/devices/cpu", F_OK) ||
               !access("/sys/bus/event_source/devices/cpu_core", F_OK);
    int err;

    err = report(d, "counters", "PMU", pmu ? FINDING_OK : FINDING_MISSING,
                 pmu ? "" : "no TLB misses and walk cycles measured",
                 pmu                   ? ""
                 : environment_in_vm() ? "turn the virtual PMU on in the outer "
                                         "hypervisor (QEMU: -cpu host,pmu=on)"
                                       : "see dmesg | grep -i perf",
                 "%s", pmu ? "yes" : "the kernel found none");
    environment_line("/proc/sys/kernel/perf_event_paranoid", level,
                     sizeof level);
    if (!err && *level && atoi(level) > 2)
        err = report(d, "counters", "paranoid", FINDING_MISSING,
                     "PAPI counts nothing, even for root",
                     "sudo sysctl kernel.perf_event_paranoid=1",
                     "kernel.perf_event_paranoid is %s", level);
    return err;
}

static int examine_pool(struct doctor *d, const char *name, uint64_t bytes,
                        const char *cure)
{
    struct hugepage_pool pool = environment_hugepages(bytes);
    char effect[96];

    snprintf(effect, sizeof effect, "--host-page %s does not run here", name);
    if (!pool.exists)
        return report(d, "pages", name, FINDING_MISSING, effect,
                      "a processor and kernel with this page size",
                      "not supported");
    return report(d, "pages", name, pool.free ? FINDING_OK : FINDING_MISSING,
                  pool.free ? "" : effect, pool.free ? "" : cure,
                  "%llu reserved, %llu free", (unsigned long long)pool.total,
                  (unsigned long long)pool.free);
}

static int examine_thp(struct doctor *d)
{
    static const char folder[] = "/sys/kernel/mm/transparent_hugepage/";
    char path[96], mode[32];
    bool good;
    int err;

    snprintf(path, sizeof path, "%senabled", folder);
    environment_choice(path, mode, sizeof mode);
    good = *mode && strcmp(mode, "never");
    err = report(d, "pages", "thp", good ? FINDING_OK : FINDING_MISSING,
                 good ? "" : "native processes get 4K pages only",
                 good ? ""
                      : "echo madvise | sudo tee "
                        "/sys/kernel/mm/transparent_hugepage/enabled",
                 "%s", *mode ? mode : "not in this kernel");
    if (err)
        return err;
    snprintf(path, sizeof path, "%sshmem_enabled", folder);
    environment_choice(path, mode, sizeof mode);
    good = *mode && strcmp(mode, "never") && strcmp(mode, "deny");
    return report(d, "pages", "thp (memfd)",
                  good ? FINDING_OK : FINDING_MISSING,
                  good ? "" : "--host-page thp gives the guest 4K pages",
                  good ? ""
                       : "echo advise | sudo tee "
                         "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
                  "%s", *mode ? mode : "not in this kernel");
}

static int examine_pages(struct doctor *d)
{
    int err =
        examine_pool(d, "2M", 2ull << 20, "sudo sysctl vm.nr_hugepages=512");

    if (!err)
        err = examine_pool(
            d, "1G", 1ull << 30,
            "echo 2 | sudo tee "
            "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages, or "
            "boot with hugepagesz=1G hugepages=2");
    return err ? err : examine_thp(d);
}

static int examine_topology(struct doctor *d)
{
    struct topology_summary s;
    char memory[32], governor[64];
    cpu_set_t allowed;
    int err;

    topology_summarize(&s);
    format_size(s.memory_bytes >> 20 << 20, memory, sizeof memory);
    err = report(d, "topology", "processors", FINDING_OK, "", "",
                 "%u packages, %u cores, %u CPUs, %s of memory", s.packages,
                 s.cores, s.pus, memory);
    if (!err)
        err = report(d, "topology", "numa",
                     s.numa_nodes > 1 ? FINDING_OK : FINDING_NOTE,
                     s.numa_nodes > 1 ? "" : "--numa has nothing to choose",
                     s.numa_nodes > 1 ? "" : "a machine with several nodes",
                     "%u node%s", s.numa_nodes, s.numa_nodes == 1 ? "" : "s");
    if (!err && !sched_getaffinity(0, sizeof allowed, &allowed))
        err = report(
            d, "topology", "pinning",
            (unsigned)CPU_COUNT(&allowed) >= s.pus ? FINDING_OK : FINDING_NOTE,
            "", "", "%d of %u CPUs may be used", CPU_COUNT(&allowed), s.pus);
    environment_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
                     governor, sizeof governor);
    if (err || !*governor)
        return err ? err
                   : report(d, "topology", "governor", FINDING_NOTE,
                            "the frequency is not ours to hold", "",
                            "no cpufreq here");
    if (!strcmp(governor, "performance"))
        return report(d, "topology", "governor", FINDING_OK, "", "", "%s",
                      governor);
    return report(d, "topology", "governor", FINDING_NOTE,
                  "times vary with the frequency",
                  "sudo cpupower frequency-set -g performance", "%s", governor);
}

static int examine_tools(struct doctor *d)
{
    static const struct {
        const char *program, *effect, *cure;
    } tools[] = {
        {"qemu-system-x86_64", "no emulation, no lab (--machine svm)",
         "sudo apt-get install qemu-system-x86"},
        {"bochs", "no Intel lab (--machine vmx), no walk references",
         "sudo apt-get install bochs bochsbios vgabios"},
        {"xorriso", "no Intel lab (--machine vmx)",
         "sudo apt-get install xorriso isolinux"},
        {"gnuplot", "no figures", "sudo apt-get install gnuplot-nox"},
    };
    int err = 0;

    for (unsigned i = 0; !err && i < sizeof tools / sizeof tools[0]; i++) {
        bool has = program_in_path(tools[i].program);

        err = report(d, "tools", tools[i].program,
                     has ? FINDING_OK : FINDING_MISSING,
                     has ? "" : tools[i].effect, has ? "" : tools[i].cure, "%s",
                     has ? "installed" : "not installed");
    }
    return err;
}

int doctor_examine(struct doctor *doctor)
{
    static int (*const parts[])(struct doctor * d) = {
        examine_machine, examine_kvm,      examine_pmu,   examine_counters,
        examine_pages,   examine_topology, examine_tools,
    };
    int err = 0;

    *doctor = (struct doctor){0};
    for (unsigned i = 0; !err && i < sizeof parts / sizeof parts[0]; i++)
        err = parts[i](doctor);
    if (err)
        doctor_free(doctor);
    return err;
}

void doctor_free(struct doctor *doctor)
{
    free(doctor->findings);
    *doctor = (struct doctor){0};
}

static const char *const state_names[] = {"ok", "note", "missing"};

void doctor_print(const struct doctor *doctor, FILE *stream)
{
    const char *area = "";

    for (unsigned i = 0; i < doctor->count; i++) {
        const struct finding *f = &doctor->findings[i];

        fprintf(stream, "%-9s %-22s %-8s %s\n",
                strcmp(area, f->area) ? f->area : "", f->name,
                state_names[f->state], f->found);
        if (*f->effect)
            fprintf(stream, "%-42seffect: %s\n", "", f->effect);
        if (*f->cure)
            fprintf(stream, "%-42scure: %s\n", "", f->cure);
        area = f->area;
    }
}

json_t *doctor_json(const struct doctor *doctor)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < doctor->count; i++) {
        const struct finding *f = &doctor->findings[i];
        json_t *o =
            json_pack("{s:s, s:s, s:s, s:s}", "area", f->area, "name", f->name,
                      "state", state_names[f->state], "found", f->found);

        if (*f->effect)
            json_object_set_new(o, "effect", json_string(f->effect));
        if (*f->cure)
            json_object_set_new(o, "cure", json_string(f->cure));
        json_array_append_new(list, o);
    }
    return json_pack("{s:o}", "findings", list);
}
