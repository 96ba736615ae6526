/*
 * Our exits by reason against `perf kvm stat` on the same run. It needs a KVM
 * with its tracepoints and perf, so on most machines it runs in the lab.
 */
#include "harness/counters/counters.h"
#include "harness/image.h"
#include "tests/test.h"
#include "vmm/vm.h"

#include <ctype.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define DATA "/tmp/memvirt-perf.data"

extern char **environ;

struct watched {
    struct counters *counters;
    pid_t perf;
};

/* perf needs a while until its events count. */
static pid_t start_perf(void)
{
    char tid[16], file[] = DATA;
    char *argv[] = {"perf", "kvm", "--host", "stat", "record",
                    "-o",   file,  "-t",     tid,    NULL};
    pid_t perf = -1;

    snprintf(tid, sizeof tid, "%d", gettid());
    if (posix_spawnp(&perf, "perf", NULL, NULL, argv, environ))
        return -1;
    sleep(3);
    return perf;
}

static void on_ready(struct vm *vm, void *arg)
{
    struct watched *watched = arg;
    struct counters_vm counted = {
        .vm_fd = vm_fd(vm),
        .vcpu_fds = vm_vcpu_fds(vm),
        .vcpu_tids = vm_vcpu_tids(vm),
        .vcpus = vm_vcpus(vm),
    };

    counters_watch_vm(watched->counters, &counted);
    watched->perf = start_perf();
    counters_begin(watched->counters);
}

static bool run_watched(struct rows *rows)
{
    struct guest_config config = {.workload = "cpuid", .operations = 500};
    struct watched watched = {NULL, -1};
    struct vm_config vm_config = {
        .ram_bytes = 32 << 20,
        .vcpus = 1,
        .time_limit_s = 60,
        .hooks = {.ready = on_ready},
        .arg = &watched,
    };
    struct why why = {""};
    const void *image;
    struct vm *vm;
    size_t bytes;
    int status = 0;

    CU_ASSERT_FATAL(!counters_open_only(&watched.counters, "kvm_trace"));
    CU_ASSERT_FATAL(!image_open(image_default_path(), &image, &bytes, &why));
    CU_ASSERT_FATAL(!vm_create(&vm, &vm_config, &why));
    CU_ASSERT_EQUAL(vm_load(vm, image, bytes, &config, &why), 0);
    CU_ASSERT_EQUAL(vm_run(vm, &why), 0);
    counters_end(watched.counters, rows);
    if (watched.perf > 0) {
        kill(watched.perf, SIGINT);
        waitpid(watched.perf, &status, 0);
    }
    vm_destroy(vm);
    counters_close(watched.counters);
    image_close(image, bytes);
    return watched.perf > 0;
}

/* "excp_pf" for perf's "PF excp", "invlpg" for "invlpg": lower case, parts
 * in our order. */
static void our_name(const char *perfs, char *name, size_t room)
{
    char lower[64];
    size_t i;

    for (i = 0; perfs[i] && i + 1 < sizeof lower; i++)
        lower[i] = perfs[i] == ' ' || perfs[i] == '-'
                       ? '_'
                       : (char)tolower((unsigned char)perfs[i]);
    lower[i] = 0;
    if (i > 5 && !strcmp(lower + i - 5, "_excp"))
        snprintf(name, room, "excp_%.*s", (int)i - 5, lower);
    else
        snprintf(name, room, "%s", lower);
}

static long ours(const struct rows *rows, const char *reason)
{
    for (unsigned i = 0; i < rows->exit_count; i++)
        if (!strcmp(rows->exits[i].source, "kvm_trace") &&
            !strcmp(rows->exits[i].reason, reason))
            return (long)rows->exits[i].count;
    return 0;
}

/* Report lines: "  VM-EXIT   samples  samples%  time% ...". perf pairs each
 * exit with the entry that follows it, so the run's last one, the exit port,
 * is not among perf's. */
static unsigned compare(char *report, const struct rows *rows)
{
    unsigned compared = 0;

    for (char *line = strtok(report, "\n"); line; line = strtok(NULL, "\n")) {
        char name[64], reason[80], *end;
        unsigned long samples;
        double percent;

        line += strspn(line, " ");
        end = strstr(line, "  "); /* names have single spaces at most */
        if (!end || sscanf(end, " %lu %lf%%", &samples, &percent) != 2)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(end - line), line);
        our_name(name, reason, sizeof reason);
        if (!strcmp(reason, "io"))
            samples++;
        CU_ASSERT_EQUAL(ours(rows, reason), (long)samples);
        if (ours(rows, reason) != (long)samples)
            printf("(%s: perf %lu, ours %ld) ", name, samples,
                   ours(rows, reason));
        compared++;
    }
    return compared;
}

static void equal_to_perf(void)
{
    struct rows rows = {NULL, 0, NULL, 0};
    char *report;

    if (access("/sys/kernel/tracing/events/kvm/kvm_exit/hist", F_OK) ||
        test_shell(&report, "perf version")) {
        test_skip("needs perf and a kernel with histograms on kvm_exit: the "
                  "lab has both");
        return;
    }
    free(report);
    if (run_watched(&rows) && ours(&rows, "io")) {
        test_shell(&report, "perf kvm --host -i " DATA " stat report");
        CU_ASSERT(compare(report, &rows) >= 2);
        free(report);
        unlink(DATA);
    } else {
        test_skip("this KVM's exits reach no tracepoint");
    }
    rows_free(&rows);
}

TEST_SUITE(perf_kvm_stat, {"exits by reason equal perf's", equal_to_perf});
