/*
 * Counters against something that counts the same otherwise: getrusage,
 * debugfs, and each other. What this machine cannot count is skipped here and
 * runs in the lab.
 */
#include "harness/counters/counters.h"
#include "harness/counters/exit_reasons.h"
#include "harness/counters/hist.h"
#include "harness/counters/kvm_stats.h"
#include "harness/counters/papi_events.h"
#include "harness/counters/probe_vm.h"
#include "tests/test.h"

#include <errno.h>
#include <linux/kvm.h>
#include <papi.h>
#include <perfmon/pfmlib.h>
#include <perfmon/pfmlib_perf_event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <tracefs.h>
#include <unistd.h>

/* Every name in the table of PMU events must be one that libpfm4 knows on
 * some x86 processor; 100 + index of the first that is not. */
static bool known_somewhere(const char *event)
{
    for (int i = 0; i < PFM_PMU_MAX; i++) {
        pfm_pmu_info_t info = {.size = sizeof info};
        struct perf_event_attr attr = {0};
        pfm_perf_encode_arg_t arg = {.attr = &attr, .size = sizeof arg};
        char name[256];

        if (pfm_get_pmu_info(i, &info) != PFM_SUCCESS)
            continue;
        snprintf(name, sizeof name, "%s::%s:u=1:mg=1", info.name, event);
        if (pfm_get_os_event_encoding(name, PFM_PLM3, PFM_OS_PERF_EVENT_EXT,
                                      &arg) == PFM_SUCCESS)
            return true;
    }
    return false;
}

static int first_unknown_event(void)
{
    setenv("LIBPFM_ENCODE_INACTIVE", "1", 1);
    if (pfm_initialize() != PFM_SUCCESS)
        return 99;
    for (unsigned m = 0; m < papi_metric_count; m++)
        for (unsigned c = 0; c < PAPI_CANDIDATES_MAX; c++) {
            const char *name = papi_metrics[m].candidates[c];

            if (name && papi_metrics[m].kind >= PAPI_CLOCKS &&
                !known_somewhere(name))
                return 100 + (int)m;
        }
    return 0;
}

static void pmu_events_exist(void)
{
    pid_t child;
    int status = -1;

    if (PAPI_is_initialized() != PAPI_NOT_INITED) {
        test_skip("PAPI has libpfm4 already: run this suite by itself");
        return;
    }
    child = fork();
    if (!child)
        _exit(first_unknown_event());
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT_EQUAL(status, 0);
}

/* A statistics file as KVM_GET_STATS_FD documents it. */
struct fake {
    struct kvm_stats_header header;
    struct {
        struct kvm_stats_desc desc;
        char name[16];
    } descs[3];
    uint64_t data[8];
};

static struct fake make_fake(void)
{
    struct fake f = {
        .header = {.name_size = 16,
                   .num_desc = 3,
                   .desc_offset = offsetof(struct fake, descs),
                   .data_offset = offsetof(struct fake, data)},
        .data = {11, 22, 33, 44},
    };

    f.descs[0].desc = (struct kvm_stats_desc){.size = 1, .offset = 8};
    strcpy(f.descs[0].name, "exits");
    f.descs[1].desc = (struct kvm_stats_desc){
        .flags = KVM_STATS_TYPE_LOG_HIST, .size = 2, .offset = 16};
    strcpy(f.descs[1].name, "a_histogram");
    f.descs[2].desc = (struct kvm_stats_desc){.flags = KVM_STATS_TYPE_INSTANT |
                                                       KVM_STATS_UNIT_SECONDS,
                                              .exponent = -9,
                                              .size = 1,
                                              .offset = 0};
    strcpy(f.descs[2].name, "waited");
    return f;
}

static int open_fake(const struct fake *fake, size_t bytes,
                     struct kvm_stats_file *file)
{
    int fd = memfd_create("stats", MFD_CLOEXEC);

    if (fd < 0 || write(fd, fake, bytes) != (ssize_t)bytes)
        abort();
    return kvm_stats_file_open(file, fd, NULL);
}

static void stats_file_parses(void)
{
    struct fake fake = make_fake();
    struct kvm_stats_file file;
    uint64_t values[2] = {0};

    CU_ASSERT_EQUAL_FATAL(open_fake(&fake, sizeof fake, &file), 0);
    CU_ASSERT_EQUAL_FATAL(file.count, 2);
    CU_ASSERT_EQUAL(kvm_stats_file_read(&file, values), 0);
    CU_ASSERT_STRING_EQUAL(file.stats[0].name, "exits");
    CU_ASSERT_STRING_EQUAL(file.stats[0].unit, "events");
    CU_ASSERT_EQUAL(values[0], 22);
    CU_ASSERT_STRING_EQUAL(file.stats[1].unit, "ns");
    CU_ASSERT_EQUAL(file.stats[1].type, KVM_STAT_INSTANT);
    CU_ASSERT_EQUAL(values[1], 11);
    kvm_stats_file_close(&file);
}

static int hostile(void (*spoil)(struct fake *fake))
{
    struct fake fake = make_fake();
    struct kvm_stats_file file;

    spoil(&fake);
    return open_fake(&fake, sizeof fake, &file);
}

static void no_names(struct fake *f)
{
    f->header.name_size = 0;
}

static void huge_names(struct fake *f)
{
    f->header.name_size = ~0u;
}

static void too_many(struct fake *f)
{
    f->header.num_desc = ~0u;
}

static void more_than_there_are(struct fake *f)
{
    f->header.num_desc = 1000;
}

static void far_descriptors(struct fake *f)
{
    f->header.desc_offset = ~0u;
}

static void far_value(struct fake *f)
{
    f->descs[0].desc.offset = ~0u - 7;
}

static void crooked_value(struct fake *f)
{
    f->descs[0].desc.offset = 3;
}

static void endless_name(struct fake *f)
{
    memset(f->descs[0].name, 'x', sizeof f->descs[0].name);
}

static void stats_file_is_not_believed(void)
{
    struct fake fake = make_fake();
    struct kvm_stats_file file;

    CU_ASSERT_EQUAL(hostile(no_names), -EPROTO);
    CU_ASSERT_EQUAL(hostile(huge_names), -EPROTO);
    CU_ASSERT_EQUAL(hostile(too_many), -EPROTO);
    CU_ASSERT_EQUAL(hostile(more_than_there_are), -EPROTO);
    CU_ASSERT_EQUAL(hostile(far_descriptors), -EPROTO);
    CU_ASSERT_EQUAL(hostile(far_value), -EPROTO);
    CU_ASSERT_EQUAL(hostile(crooked_value), -EPROTO);
    CU_ASSERT_EQUAL(hostile(endless_name), -EPROTO);
    for (size_t bytes = 0; bytes < offsetof(struct fake, data); bytes++)
        CU_ASSERT_EQUAL(open_fake(&fake, bytes, &file), -EPROTO);
}

static const char two_triggers[] =
    "# event histogram\n#\n"
    "# trigger info: hist:keys=common_pid:vals=hitcount:s=common_timestamp "
    "[active]\n#\n\n"
    "{ common_pid:       1234 } hitcount:          9\n\n"
    "Totals:\n    Hits: 9\n    Entries: 1\n    Dropped: 0\n\n\n"
    "# event histogram\n#\n"
    "# trigger info: hist:keys=isa,exit_reason:vals=hitcount,ns [active]\n#\n\n"
    "{ isa:          2, exit_reason:        123 } hitcount:          1\n"
    "{ isa:          2, exit_reason:        114 } hitcount:       1000  "
    "ns:    5000000\n\n"
    "Totals:\n    Hits: 1001\n    Entries: 2\n    Dropped: 3\n";

static void histograms_parse(void)
{
    struct hist hist;

    CU_ASSERT_EQUAL_FATAL(hist_parse(two_triggers, "isa,exit_reason", &hist),
                          0);
    CU_ASSERT_EQUAL_FATAL(hist.count, 2);
    CU_ASSERT_EQUAL(hist.hits, 1001);
    CU_ASSERT_EQUAL(hist.dropped, 3);
    CU_ASSERT_EQUAL(hist.entries[1].keys[0], 2);
    CU_ASSERT_EQUAL(hist.entries[1].keys[1], 114);
    CU_ASSERT_EQUAL(hist.entries[1].hitcount, 1000);
    CU_ASSERT_EQUAL(hist.entries[1].value, 5000000);
    CU_ASSERT_EQUAL(hist.entries[0].value, 0);
    hist_free(&hist);
    CU_ASSERT_EQUAL_FATAL(hist_parse(two_triggers, "common_pid", &hist), 0);
    CU_ASSERT_EQUAL(hist.hits, 9);
    hist_free(&hist);
}

static void histograms_are_not_believed(void)
{
    size_t length = strlen(two_triggers);
    struct hist hist;
    char text[sizeof two_triggers];

    CU_ASSERT_EQUAL(hist_parse("", "isa", &hist), -ENOENT);
    CU_ASSERT_EQUAL(hist_parse(two_triggers, "isa", &hist), -ENOENT);
    CU_ASSERT_EQUAL(
        hist_parse("# trigger info: hist:keys=a:\n{ a: x } hitcount: 1\n", "a",
                   &hist),
        -EPROTO);
    CU_ASSERT_EQUAL(
        hist_parse("# trigger info: hist:keys=a:\n{ a: 1, b: 2, c: 3 } "
                   "hitcount: 1\n",
                   "a", &hist),
        -EPROTO);
    /* Cut anywhere before the last number, it must not pass for whole. */
    for (size_t cut = 0; cut + 2 < length; cut++) {
        memcpy(text, two_triggers, cut);
        text[cut] = '\0';
        CU_ASSERT_NOT_EQUAL(hist_parse(text, "isa,exit_reason", &hist), 0);
    }
}

static void exit_reasons_have_names(void)
{
    char name[40];

    CU_ASSERT_STRING_EQUAL(exit_reason_name(EXIT_ISA_SVM, 1024, name), "npf");
    CU_ASSERT_STRING_EQUAL(exit_reason_name(EXIT_ISA_SVM, 78, name), "excp_pf");
    CU_ASSERT_STRING_EQUAL(exit_reason_name(EXIT_ISA_SVM, 19, name),
                           "write_cr3");
    CU_ASSERT_STRING_EQUAL(exit_reason_name(EXIT_ISA_SVM, 0x69, name),
                           "read_tr");
    CU_ASSERT_STRING_EQUAL(exit_reason_name(EXIT_ISA_SVM, 0x300, name),
                           "svm_0x300");
    CU_ASSERT_STRING_EQUAL(exit_reason_name(EXIT_ISA_VMX, 48, name),
                           "ept_violation");
    CU_ASSERT_STRING_EQUAL(exit_reason_name(EXIT_ISA_VMX, 0x4000030, name),
                           "ept_violation");
    CU_ASSERT_STRING_EQUAL(exit_reason_name(EXIT_ISA_VMX, 0x80000021, name),
                           "failed_vmentry_invalid_state");
    CU_ASSERT_STRING_EQUAL(exit_reason_name(EXIT_ISA_VMX, 200, name),
                           "vmx_0xc8");
}

static const struct counter_row *find_counter(const struct rows *rows,
                                              const char *source,
                                              const char *name)
{
    for (unsigned i = 0; i < rows->counter_count; i++)
        if (!strcmp(rows->counters[i].source, source) &&
            !strcmp(rows->counters[i].name, name))
            return &rows->counters[i];
    return NULL;
}

static const struct exit_row *find_exit(const struct rows *rows,
                                        const char *source, const char *reason)
{
    for (unsigned i = 0; i < rows->exit_count; i++)
        if (!strcmp(rows->exits[i].source, source) &&
            !strcmp(rows->exits[i].reason, reason))
            return &rows->exits[i];
    return NULL;
}

static long minor_faults(void)
{
    struct rusage usage;

    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_minflt;
}

static void touch_pages(unsigned count)
{
    size_t bytes = count * 4096u;
    char *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    madvise(pages, bytes, MADV_NOHUGEPAGE);
    for (size_t at = 0; at < bytes; at += 4096)
        *(volatile char *)(pages + at) = 1;
    munmap(pages, bytes);
}

/* A process without a VM, as `native` is counted. */
static void page_faults_agree_with_getrusage(void)
{
    const struct counter_row *row;
    struct counters *counters;
    struct rows rows = {0};
    long faults;

    CU_ASSERT_EQUAL_FATAL(counters_open(&counters), 0);
    counters_begin(counters);
    counters_end(counters, &rows);
    rows_free(&rows);
    faults = minor_faults();
    counters_begin(counters);
    touch_pages(100);
    CU_ASSERT_EQUAL(counters_end(counters, &rows), 0);
    faults = minor_faults() - faults;
    row = find_counter(&rows, "papi", "page_faults");
    CU_ASSERT_EQUAL(rows.exit_count, 0);
    if (!row)
        test_skip("PAPI counts no page faults here: see memvirt doctor");
    else
        CU_ASSERT(row->value >= 100 && row->value <= (double)faults);
    rows_free(&rows);
    counters_close(counters);
}

static void unknown_sources_are_refused(void)
{
    struct counters *counters = NULL;

    CU_ASSERT_EQUAL(counters_open_only(&counters, "kvm_stats,nonsense"),
                    -EINVAL);
    CU_ASSERT_EQUAL_FATAL(counters_open_only(&counters, "kvm_stats"), 0);
    counters_close(counters);
}

/* Runs the probe guest under all counters, after a run that warms it up. */
static bool count_probe(enum probe_op op, unsigned count, const char *sources,
                        struct rows *rows)
{
    struct counters *counters;
    struct counters_vm counted;
    struct probe_vm vm;
    struct why why;

    *rows = (struct rows){0};
    if (probe_vm_open(&vm, &why)) {
        test_skip("%s", why.text);
        return false;
    }
    CU_ASSERT_EQUAL_FATAL(counters_open_only(&counters, sources), 0);
    counted = probe_vm_counted(&vm);
    counters_watch_vm(counters, &counted);
    CU_ASSERT_EQUAL(probe_vm_run(&vm, op, 10, &why), 0);
    counters_begin(counters);
    CU_ASSERT_EQUAL(probe_vm_run(&vm, op, count, &why), 0);
    CU_ASSERT_EQUAL(counters_end(counters, rows), 0);
    counters_close(counters);
    probe_vm_close(&vm);
    return true;
}

static void statistics_count_exits(void)
{
    const struct exit_row *few, *many;
    struct rows a, b;

    if (!count_probe(PROBE_CPUID, 0, "kvm_stats", &a) ||
        !count_probe(PROBE_CPUID, 20000, "kvm_stats", &b))
        return;
    few = find_exit(&a, "kvm_stats", "all");
    many = find_exit(&b, "kvm_stats", "all");
    CU_ASSERT_PTR_NOT_NULL_FATAL(few);
    CU_ASSERT_PTR_NOT_NULL_FATAL(many);
    CU_ASSERT(few->count >= 1);
    CU_ASSERT(many->count > few->count);
    CU_ASSERT_PTR_NOT_NULL(find_counter(&a, "kvm_stats", "pages_4k"));
    rows_free(&a);
    rows_free(&b);
}

/* debugfs shows the same numbers another way, a file for each. */
static void statistics_agree_with_debugfs(void)
{
    struct kvm_stats_file file;
    struct probe_vm vm;
    struct why why;
    uint64_t values[256];
    unsigned compared = 0;

    if (probe_vm_open(&vm, &why)) {
        test_skip("%s", why.text);
        return;
    }
    CU_ASSERT_EQUAL(probe_vm_run(&vm, PROBE_INVLPG, 50, &why), 0);
    CU_ASSERT_EQUAL_FATAL(
        kvm_stats_file_open(&file, ioctl(vm.vm, KVM_GET_STATS_FD, NULL), &why),
        0);
    CU_ASSERT_FATAL(file.count < 256);
    CU_ASSERT_EQUAL(kvm_stats_file_read(&file, values), 0);
    for (unsigned i = 0; i < file.count; i++) {
        char path[200];
        unsigned long long shown;
        FILE *stream;

        snprintf(path, sizeof path, "/sys/kernel/debug/kvm/%d-%d/%s", getpid(),
                 vm.vm, file.stats[i].name);
        stream = fopen(path, "re");
        if (stream && fscanf(stream, "%llu", &shown) == 1) {
            CU_ASSERT_EQUAL(values[i], shown);
            compared++;
        }
        if (stream)
            fclose(stream);
    }
    if (!compared)
        test_skip("no debugfs to compare with: mount -t debugfs none "
                  "/sys/kernel/debug, as root");
    kvm_stats_file_close(&file);
    probe_vm_close(&vm);
}

static uint64_t sum_of_trace(const struct rows *rows)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < rows->exit_count; i++)
        if (!strcmp(rows->exits[i].source, "kvm_trace"))
            sum += rows->exits[i].count;
    return sum;
}

static void sources_agree(void)
{
    const struct exit_row *stats, *papi, *cpuid, *io;
    struct rows rows;

    if (!count_probe(PROBE_CPUID, 1000, NULL, &rows))
        return;
    stats = find_exit(&rows, "kvm_stats", "all");
    papi = find_exit(&rows, "papi", "all");
    cpuid = find_exit(&rows, "kvm_trace", "cpuid");
    if (!papi || !cpuid) {
        test_skip("kvm:kvm_exit cannot be counted here: runs in the lab");
    } else {
        CU_ASSERT_EQUAL(papi->count, stats->count);
        CU_ASSERT_EQUAL(sum_of_trace(&rows), stats->count);
        CU_ASSERT_EQUAL(cpuid->count, 1000);
        CU_ASSERT(cpuid->total_ns.known && cpuid->total_ns.value >= 1000);
        io = find_exit(&rows, "kvm_trace", "io");
        io = io ? io : find_exit(&rows, "kvm_trace", "io_instruction");
        CU_ASSERT(io && io->count == 1 && !io->total_ns.known);
    }
    rows_free(&rows);
}

/* What did not count has no row: on a KVM that never reaches the tracepoint,
 * and on a machine without a PMU. */
static void absent_is_not_zero(void)
{
    struct rows rows;

    if (!count_probe(PROBE_CPUID, 1000, NULL, &rows))
        return;
    for (unsigned i = 0; i < rows.exit_count; i++)
        CU_ASSERT(rows.exits[i].count > 0);
    for (unsigned i = 0; i < rows.counter_count; i++) {
        const struct counter_row *row = &rows.counters[i];

        CU_ASSERT(*row->source && *row->scope && *row->name && *row->unit);
        if (!strncmp(row->name, "dtlb", 4) || !strcmp(row->name, "cycles"))
            CU_ASSERT_EQUAL(access("/sys/bus/event_source/devices/cpu", F_OK),
                            0);
    }
    rows_free(&rows);
}

static bool instance_exists(pid_t pid)
{
    char path[256];

    snprintf(path, sizeof path, "%s/instances/memvirt-%d",
             tracefs_tracing_dir(), (int)pid);
    return !access(path, F_OK);
}

/* Watches a VM and stops there, to be killed. */
static void __attribute__((noreturn)) hold_instance(int ready)
{
    struct counters *counters;
    struct counters_vm counted;
    struct probe_vm vm;

    if (probe_vm_open(&vm, NULL) || counters_open_only(&counters, "kvm_trace"))
        _exit(1);
    counted = probe_vm_counted(&vm);
    counters_watch_vm(counters, &counted);
    if (write(ready, "r", 1) != 1)
        _exit(1);
    pause();
    _exit(1);
}

static void nothing_stays_after_a_kill(void)
{
    const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
    bool was_there;
    int ends[2];
    pid_t child;
    char byte;

    CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
    child = fork();
    if (!child)
        hold_instance(ends[1]);
    close(ends[1]);
    if (read(ends[0], &byte, 1) != 1)
        byte = 0;
    was_there = tracefs_tracing_dir() && instance_exists(child);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ends[0]);
    if (!was_there) {
        test_skip("no tracing instance can be made here: runs in the lab");
        return;
    }
    for (int tries = 0; tries < 100 && instance_exists(child); tries++)
        nanosleep(&pause, NULL);
    CU_ASSERT_FALSE(instance_exists(child));
}

static void probe_says_what_works(void)
{
    struct counter_status *list = NULL;
    unsigned count = 0;

    CU_ASSERT_EQUAL_FATAL(counters_probe(&list, &count), 0);
    CU_ASSERT(count > 0);
    for (unsigned i = 0; i < count; i++) {
        CU_ASSERT(*list[i].source && *list[i].detail);
        CU_ASSERT(!list[i].works || *list[i].name);
    }
    free(list);
}

TEST_SUITE(counters, {"PMU events exist in libpfm4", pmu_events_exist},
           {"a statistics file parses", stats_file_parses},
           {"a statistics file is not believed", stats_file_is_not_believed},
           {"histograms parse", histograms_parse},
           {"histograms are not believed", histograms_are_not_believed},
           {"exit reasons have names", exit_reasons_have_names},
           {"page faults agree with getrusage",
            page_faults_agree_with_getrusage},
           {"unknown sources are refused", unknown_sources_are_refused},
           {"statistics count exits", statistics_count_exits},
           {"statistics agree with debugfs", statistics_agree_with_debugfs},
           {"stats, PAPI and histogram agree", sources_agree},
           {"absent is not zero", absent_is_not_zero},
           {"no instance stays after a kill", nothing_stays_after_a_kill},
           {"the probe says what works", probe_says_what_works});
