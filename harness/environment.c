#include "harness/environment.h"

#include "ept/kvm_switch.h"
#include "harness/counters/counters.h"
#include "harness/topology.h"

#include <cpuid.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <gsl/gsl_version.h>
#include <hwloc.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <papi.h>
#include <perfmon/pfmlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#define LINE_BYTES 512

const char *environment_line(const char *path, char *line, unsigned bytes)
{
    FILE *stream = fopen(path, "re");

    *line = '\0';
    if (!stream)
        return line;
    if (fgets(line, (int)bytes, stream))
        line[strcspn(line, "\n")] = '\0';
    else
        *line = '\0';
    fclose(stream);
    return line;
}

const char *environment_cpuinfo(const char *field, char *value, unsigned bytes)
{
    FILE *stream = fopen("/proc/cpuinfo", "re");
    size_t length = strlen(field), size = 0;
    char *line = NULL;

    *value = '\0';
    while (stream && getline(&line, &size, stream) > 0) {
        char *at = line + length;

        if (strncmp(line, field, length) || at[strspn(at, "\t ")] != ':')
            continue;
        at = strchr(at, ':') + 1;
        at += strspn(at, " ");
        at[strcspn(at, "\n")] = '\0';
        snprintf(value, bytes, "%s", at);
        break;
    }
    free(line);
    if (stream)
        fclose(stream);
    return value;
}

const char *environment_choice(const char *path, char *word, unsigned bytes)
{
    char line[LINE_BYTES];
    const char *open, *close;

    *word = '\0';
    environment_line(path, line, sizeof line);
    open = strchr(line, '[');
    close = open ? strchr(open, ']') : NULL;
    if (close)
        snprintf(word, bytes, "%.*s", (int)(close - open - 1), open + 1);
    return word;
}

struct hugepage_pool environment_hugepages(uint64_t page_bytes)
{
    struct hugepage_pool pool = {0};
    char folder[128], path[192], line[64];

    snprintf(folder, sizeof folder, "/sys/kernel/mm/hugepages/hugepages-%llukB",
             (unsigned long long)(page_bytes >> 10));
    pool.exists = !access(folder, F_OK);
    snprintf(path, sizeof path, "%s/nr_hugepages", folder);
    pool.total = strtoull(environment_line(path, line, sizeof line), NULL, 10);
    snprintf(path, sizeof path, "%s/free_hugepages", folder);
    pool.free = strtoull(environment_line(path, line, sizeof line), NULL, 10);
    return pool;
}

bool environment_in_vm(void)
{
    unsigned eax, ebx, ecx, edx;

    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx & 1u << 31;
}

uint32_t environment_tsc_khz(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = -1, vcpu = -1;
    int khz = 0;

    if (kvm >= 0)
        vm = ioctl(kvm, KVM_CREATE_VM, 0ul);
    if (vm >= 0)
        vcpu = ioctl(vm, KVM_CREATE_VCPU, 0ul);
    if (vcpu >= 0)
        khz = ioctl(vcpu, KVM_GET_TSC_KHZ, 0ul);
    if (vcpu >= 0)
        close(vcpu);
    if (vm >= 0)
        close(vm);
    if (kvm >= 0)
        close(kvm);
    return khz > 0 ? (uint32_t)khz : 0;
}

/* Absent rather than empty, absent rather than 0. */
static void put_text(json_t *object, const char *key, const char *text)
{
    if (*text)
        json_object_set_new(object, key, json_string(text));
}

static void put_number(json_t *object, const char *key, uint64_t number)
{
    if (number)
        json_object_set_new(object, key, json_integer((json_int_t)number));
}

static void put_line(json_t *object, const char *key, const char *path)
{
    char line[LINE_BYTES];

    put_text(object, key, environment_line(path, line, sizeof line));
}

static json_t *machine_json(void)
{
    json_t *o = json_object();

    put_line(o, "vendor", "/sys/class/dmi/id/sys_vendor");
    put_line(o, "product", "/sys/class/dmi/id/product_name");
    json_object_set_new(o, "in_vm", json_boolean(environment_in_vm()));
    return o;
}

static json_t *kernel_json(void)
{
    json_t *o = json_object();
    struct utsname name;

    if (!uname(&name)) {
        put_text(o, "release", name.release);
        put_text(o, "version", name.version);
    }
    put_line(o, "command_line", "/proc/cmdline");
    put_line(o, "perf_event_paranoid", "/proc/sys/kernel/perf_event_paranoid");
    return o;
}

static json_t *cpu_json(void)
{
    static const struct {
        const char *key, *field;
    } fields[] = {
        {"vendor", "vendor_id"},  {"model_name", "model name"},
        {"family", "cpu family"}, {"model", "model"},
        {"stepping", "stepping"}, {"microcode", "microcode"},
    };
    json_t *o = json_object();
    char value[LINE_BYTES];

    for (unsigned i = 0; i < sizeof fields / sizeof fields[0]; i++)
        put_text(o, fields[i].key,
                 environment_cpuinfo(fields[i].field, value, sizeof value));
    put_number(o, "tsc_khz", environment_tsc_khz());
    put_line(o, "governor",
             "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    put_line(o, "smt", "/sys/devices/system/cpu/smt/control");
    return o;
}

static json_t *topology_json(void)
{
    struct topology_summary s;
    json_t *o = json_object();

    topology_summarize(&s);
    put_number(o, "packages", s.packages);
    put_number(o, "cores", s.cores);
    put_number(o, "pus", s.pus);
    put_number(o, "numa_nodes", s.numa_nodes);
    put_number(o, "l1d_bytes", s.l1d_bytes);
    put_number(o, "l2_bytes", s.l2_bytes);
    put_number(o, "l3_bytes", s.l3_bytes);
    put_number(o, "memory_bytes", s.memory_bytes);
    return o;
}

static void put_pool(json_t *object, const char *key, uint64_t page_bytes)
{
    struct hugepage_pool pool = environment_hugepages(page_bytes);

    if (pool.exists)
        json_object_set_new(object, key,
                            json_pack("{s:I, s:I}", "total",
                                      (json_int_t)pool.total, "free",
                                      (json_int_t)pool.free));
}

static json_t *pages_json(void)
{
    static const char thp[] = "/sys/kernel/mm/transparent_hugepage/";
    json_t *o = json_object();
    char path[128], word[32];

    put_pool(o, "hugepages_2m", 2ull << 20);
    put_pool(o, "hugepages_1g", 1ull << 30);
    snprintf(path, sizeof path, "%senabled", thp);
    put_text(o, "thp", environment_choice(path, word, sizeof word));
    snprintf(path, sizeof path, "%sshmem_enabled", thp);
    put_text(o, "thp_shmem", environment_choice(path, word, sizeof word));
    snprintf(path, sizeof path, "%sdefrag", thp);
    put_text(o, "thp_defrag", environment_choice(path, word, sizeof word));
    return o;
}

static json_t *parameters_json(const char *module)
{
    json_t *o = json_object();
    char folder[128], path[400];
    struct dirent *entry;
    DIR *dir;

    snprintf(folder, sizeof folder, "/sys/module/%s/parameters", module);
    dir = opendir(folder);
    while (dir && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        put_line(o, entry->d_name, path);
    }
    if (dir)
        closedir(dir);
    return o;
}

static json_t *kvm_json(void)
{
    json_t *o = json_object();
    struct kvm_state state;

    kvm_state_read(&kvm_host_linux, &state);
    json_object_set_new(o, "usable", json_boolean(state.answers));
    if (!state.flavour)
        return o;
    put_text(o, "module", kvm_flavour_name(state.flavour));
    if (state.paging != KVM_PAGING_UNKNOWN)
        put_text(o, "paging", kvm_paging_name(state.paging));
    json_object_set_new(o, "parameters",
                        parameters_json(kvm_flavour_name(state.flavour)));
    json_object_set_new(o, "kvm_parameters", parameters_json("kvm"));
    return o;
}

static json_t *versions_json(void)
{
    unsigned hwloc = hwloc_get_api_version();
    json_t *o = json_object();
    char text[64];

#ifdef MEMVIRT_VERSION
    put_text(o, "memvirt", MEMVIRT_VERSION);
#endif
#ifdef MEMVIRT_COMMIT
    put_text(o, "commit", MEMVIRT_COMMIT);
#endif
    put_text(o, "compiler", __VERSION__);
    snprintf(text, sizeof text, "%d.%d.%d", PAPI_VERSION_MAJOR(PAPI_VERSION),
             PAPI_VERSION_MINOR(PAPI_VERSION),
             PAPI_VERSION_REVISION(PAPI_VERSION));
    put_text(o, "papi", text);
    snprintf(text, sizeof text, "%d.%d", PFM_MAJ_VERSION(pfm_get_version()),
             PFM_MIN_VERSION(pfm_get_version()));
    put_text(o, "libpfm4", text);
    snprintf(text, sizeof text, "%u.%u.%u", hwloc >> 16, hwloc >> 8 & 0xff,
             hwloc & 0xff);
    put_text(o, "hwloc", text);
    put_text(o, "jansson", jansson_version_str());
    put_text(o, "gsl", GSL_VERSION);
    return o;
}

/* {"papi": ["page_faults (host)", ...], ...}: those that counted here. */
static json_t *counters_json(void)
{
    struct counter_status *list = NULL;
    unsigned count = 0;
    json_t *o = json_object();

    if (counters_probe(&list, &count))
        count = 0;
    for (unsigned i = 0; i < count; i++) {
        json_t *names = json_object_get(o, list[i].source);

        if (!names) {
            names = json_array();
            json_object_set_new(o, list[i].source, names);
        }
        if (list[i].works)
            json_array_append_new(names, json_string(list[i].name));
    }
    free(list);
    return o;
}

int environment_write(const char *path, struct why *why)
{
    json_t *o = json_object();
    int err;

    json_object_set_new(o, "machine", machine_json());
    json_object_set_new(o, "kernel", kernel_json());
    json_object_set_new(o, "cpu", cpu_json());
    json_object_set_new(o, "topology", topology_json());
    json_object_set_new(o, "pages", pages_json());
    json_object_set_new(o, "kvm", kvm_json());
    json_object_set_new(o, "versions", versions_json());
    json_object_set_new(o, "counters", counters_json());
    errno = 0;
    err = json_dump_file(o, path, JSON_INDENT(2) | JSON_SORT_KEYS)
              ? (errno ? errno : EIO)
              : 0;
    json_decref(o);
    return err ? why_set(why, err, "cannot write %s: %s", path, strerror(err))
               : 0;
}
