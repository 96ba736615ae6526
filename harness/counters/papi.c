/*
 * PAPI on the vCPU's thread. Several of its failures read as 0 without an
 * error, so that every counter is made to count once before it is believed:
 *
 * - the default domain is user only (see papi_scopes);
 * - a set that could not be started can still be read;
 * - libpfm4 may know the processor and the kernel have no PMU for it.
 *
 * Sets are not multiplexed. PAPI pins such a set to the PMU: it counts all
 * the time or reading it fails, and nothing is scaled.
 */
#include "harness/counters/papi_events.h"
#include "harness/counters/source.h"

#include <errno.h>
#include <papi.h>
#include <perfmon/pfmlib.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define METRICS_MAX    32
#define COUNTERS_MAX   64
#define EXERCISE_PAGES 256

/* One request: a metric in a scope. */
struct request {
    const struct papi_metric *metric;
    const struct papi_scope *scope;
};

/* A started or startable set on one thread. */
struct set {
    int id;
    long long values[COUNTERS_MAX];
};

struct papi_state {
    struct notes *notes;
    bool processor_unknown;         /* to libpfm4 */
    const char *names[METRICS_MAX]; /* the candidate that counts, or NULL */
    bool watching, built, broken;
    pid_t own;
    pid_t *others; /* vCPU threads but the calling one */
    unsigned other_count;
    struct request requests[COUNTERS_MAX];
    unsigned request_count;
    struct set *sets; /* the calling thread's, then one for each of others */
};

/* Touches fresh pages by loads, stores and instruction fetches, and sleeps:
 * what every metric but the tracepoints of KVM must notice. */
static void exercise(void)
{
    const struct timespec moment = {.tv_nsec = 20000};
    size_t bytes = EXERCISE_PAGES * 4096u;
    unsigned char *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE | PROT_EXEC,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    nanosleep(&moment, NULL);
    if (data == MAP_FAILED)
        return;
    madvise(data, bytes, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < bytes; i += 4096)
        *(volatile unsigned char *)(data + i) = 0xc3; /* ret */
    for (size_t i = 0; i < bytes; i += 4096)
        (void)*(volatile unsigned char *)(data + i);
    for (size_t i = 0; i < bytes; i += 4096)
        ((void (*)(void))(uintptr_t)(data + i))();
    munmap(data, bytes);
}

static bool is_hardware(const struct papi_metric *metric)
{
    return metric->kind == PAPI_CLOCKS || metric->kind == PAPI_TRANSLATION;
}

static bool vendor_event(const struct papi_metric *metric, const char *name)
{
    return is_hardware(metric) && strncmp(name, "PERF_COUNT_", 11);
}

/* PAPI looks for a prefix among the PMUs it found when it started, which for
 * an unknown processor do not include the kernel's events. */
static int add_event(const struct papi_state *p, int set,
                     const struct papi_metric *metric, const char *name,
                     const char *modifiers)
{
    bool prefix = !p->processor_unknown && !vendor_event(metric, name);
    char full[256];

    if ((size_t)snprintf(full, sizeof full, "%s%s%s", prefix ? "perf::" : "",
                         name, modifiers) >= sizeof full)
        return PAPI_EINVAL;
    return PAPI_add_named_event(set, full);
}

static void destroy_set(int set)
{
    if (set == PAPI_NULL)
        return;
    PAPI_cleanup_eventset(set);
    PAPI_destroy_eventset(&set);
}

static const char *proof_modifiers(const struct papi_metric *metric)
{
    return is_hardware(metric) ? ":u=1:k=1:mg=0:mh=1" : ":u=1:k=1";
}

/* What `name` counts during exercise(), or a negative PAPI error. */
static long long count_exercise(const struct papi_state *p,
                                const struct papi_metric *metric,
                                const char *name)
{
    long long value = 0;
    int set = PAPI_NULL, err = PAPI_create_eventset(&set);

    if (!err)
        err = add_event(p, set, metric, name, proof_modifiers(metric));
    if (!err)
        err = PAPI_start(set);
    if (!err) {
        exercise();
        err = PAPI_stop(set, &value);
    }
    destroy_set(set);
    return err ? err : value;
}

/* The first candidate that counts, else NULL and a note. */
static const char *choose(struct papi_state *p,
                          const struct papi_metric *metric)
{
    long long result = PAPI_ENOEVNT;

    for (unsigned i = 0; i < PAPI_CANDIDATES_MAX && metric->candidates[i];
         i++) {
        const char *name = metric->candidates[i];

        if (p->processor_unknown && vendor_event(metric, name))
            continue;
        result = count_exercise(p, metric, name);
        if (result > 0)
            return name;
    }
    if (result == 0)
        notes_add(p->notes, "papi", metric->name,
                  "started, but did not count what it was made to count");
    else if (is_hardware(metric) &&
             access("/sys/bus/event_source/devices/cpu", F_OK))
        notes_add(p->notes, "papi", metric->name,
                  "the kernel has no PMU here (in a VM: turn the virtual PMU "
                  "on, for example QEMU -cpu host,pmu=on)");
    else
        notes_add(p->notes, "papi", metric->name, "PAPI: %s",
                  PAPI_strerror((int)result));
    return NULL;
}

/* KVM's tracepoints cannot be provoked without a VM: counters.c holds their
 * zeros against KVM's statistics. */
static void prove(struct papi_state *p)
{
    for (unsigned i = 0; i < papi_metric_count && i < METRICS_MAX; i++)
        p->names[i] = papi_metrics[i].kind == PAPI_TRACEPOINT
                          ? papi_metrics[i].candidates[0]
                          : choose(p, &papi_metrics[i]);
}

/* Whether libpfm4 has a table for this processor: exits with 0 if so. */
static void __attribute__((noreturn)) ask_libpfm(void)
{
    bool known = false;

    /* Without these, a list of all tracepoints is read, slowly. */
    if (setenv("LIBPFM_DISABLED_PMUS", "perf,perf_raw", 1))
        _exit(0);
    if (pfm_initialize() == PFM_SUCCESS)
        for (int i = 0; i < PFM_PMU_MAX; i++) {
            pfm_pmu_info_t info = {.size = sizeof info};

            known |= pfm_get_pmu_info(i, &info) == PFM_SUCCESS &&
                     info.is_present && info.type == PFM_PMU_TYPE_CORE &&
                     strcmp(info.name, "ix86arch");
        }
    _exit(known ? 0 : 1);
}

/* Asked in a process of its own: PAPI must find libpfm4 untouched, and
 * libpfm4 frees twice what it is told to forget twice. */
static bool processor_known(void)
{
    pid_t child = fork();
    int status = 0;

    if (child < 0)
        return true;
    if (!child)
        ask_libpfm();
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return true;
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

/*
 * PAPI refuses software events too when libpfm4 does not know the processor.
 * Naming it any processor while PAPI initializes gets over that; afterwards
 * libpfm4 is left with the kernel's generic events alone, and no event of the
 * wrong processor is asked for (see choose).
 */
static int init_for_unknown_processor(void)
{
    int version;

    if (setenv("LIBPFM_FORCE_PMU", "amd64_fam17h_zen1", 1))
        return -1;
    version = PAPI_library_init(PAPI_VER_CURRENT);
    pfm_terminate();
    if (setenv("LIBPFM_FORCE_PMU", "perf", 1) ||
        pfm_initialize() != PFM_SUCCESS)
        version = -1;
    unsetenv("LIBPFM_FORCE_PMU");
    return version;
}

static const PAPI_component_info_t *perf_component(void)
{
    int index = PAPI_get_component_index("perf_event");

    return index < 0 ? NULL : PAPI_get_component_info(index);
}

/* PAPI had the kernel's generic events from the start only when it was not
 * talked into another processor. */
static bool has_generic_events(const PAPI_component_info_t *info)
{
    for (int i = 0; i < PAPI_PMU_MAX && info->pmu_names[i]; i++)
        if (!strcmp(info->pmu_names[i], "perf"))
            return true;
    return false;
}

/* Once in a process: PAPI does not survive being shut down and started. */
static int init_library(struct papi_state *p, struct why *why)
{
    const PAPI_component_info_t *info;
    int version = PAPI_VER_CURRENT;

    if (PAPI_is_initialized() == PAPI_NOT_INITED) {
        version = getenv("LIBPFM_FORCE_PMU") || processor_known()
                      ? PAPI_library_init(PAPI_VER_CURRENT)
                      : init_for_unknown_processor();
        if (version == PAPI_VER_CURRENT)
            PAPI_thread_init(pthread_self);
    }
    if (version != PAPI_VER_CURRENT)
        return why_set(why, ENOTSUP, "PAPI does not initialize (%d)", version);
    info = perf_component();
    if (!info || info->disabled)
        return why_set(why, ENOTSUP,
                       "PAPI cannot use perf events: %s (PAPI wants `sysctl "
                       "kernel.perf_event_paranoid=2` or lower, even as root)",
                       info ? info->disabled_reason : "no such component");
    p->processor_unknown = !has_generic_events(info);
    return 0;
}

static int papi_open(void **state, struct notes *notes, struct why *why)
{
    struct papi_state *p = calloc(1, sizeof *p);
    int err;

    if (!p)
        return why_set(why, ENOMEM, "out of memory");
    p->notes = notes;
    p->own = gettid();
    err = init_library(p, why);
    if (err) {
        free(p);
        return err;
    }
    prove(p);
    *state = p;
    return 0;
}

static void forget_sets(struct papi_state *p)
{
    for (unsigned i = 0; p->sets && i < p->other_count + 1; i++)
        destroy_set(p->sets[i].id);
    free(p->sets);
    p->sets = NULL;
    p->request_count = 0;
    p->built = p->broken = false;
}

static void papi_close(void *state)
{
    struct papi_state *p = state;

    forget_sets(p);
    free(p->others);
    free(p);
}

static int papi_watch(void *state, const struct counters_vm *vm,
                      struct why *why)
{
    struct papi_state *p = state;

    forget_sets(p);
    free(p->others);
    p->others = calloc(vm->vcpus + 1u, sizeof *p->others);
    p->other_count = 0;
    if (!p->others)
        return why_set(why, ENOMEM, "out of memory");
    for (unsigned i = 0; i < vm->vcpus; i++)
        if (vm->vcpu_tids[i] != p->own)
            p->others[p->other_count++] = vm->vcpu_tids[i];
    p->watching = true;
    return 0;
}

static const char *left_out(const struct papi_metric *metric, int err)
{
    if (err == PAPI_ECNFLCT || err == PAPI_ECOUNT)
        return "no room on the PMU beside counters of higher priority";
    if (metric->kind == PAPI_TRACEPOINT)
        return "libpfm4 does not see the tracepoint: run as root, with debugfs "
               "(mount -t debugfs none /sys/kernel/debug) and the KVM module "
               "loaded";
    return PAPI_strerror(err);
}

/* Adds what fits into the calling thread's set and remembers it. */
static void fill_set(struct papi_state *p, int set)
{
    for (unsigned s = 0; s < papi_scope_count; s++)
        for (unsigned m = 0; m < papi_metric_count; m++) {
            const struct papi_metric *metric = &papi_metrics[m];
            const struct papi_scope *scope = &papi_scopes[s];
            char label[64];
            int err;

            if (!(scope->kinds & 1u << metric->kind) || !p->names[m] ||
                (scope->guest && !p->watching) ||
                p->request_count == COUNTERS_MAX)
                continue;
            err = add_event(p, set, metric, p->names[m], scope->modifiers);
            if (!err)
                p->requests[p->request_count++] =
                    (struct request){metric, scope};
            snprintf(label, sizeof label, "%s (%s)", metric->name, scope->name);
            if (err)
                notes_add(p->notes, "papi", label, "%s", left_out(metric, err));
        }
}

/* The same events on another vCPU's thread. */
static int fill_attached(struct papi_state *p, int set, pid_t tid)
{
    int err = PAPI_assign_eventset_component(set, 0);

    if (!err)
        err = PAPI_attach(set, (unsigned long)tid);
    for (unsigned i = 0; !err && i < p->request_count; i++)
        err = add_event(p, set, p->requests[i].metric,
                        p->names[p->requests[i].metric - papi_metrics],
                        p->requests[i].scope->modifiers);
    return err;
}

static int build(struct papi_state *p)
{
    int err;

    p->built = true;
    p->sets = calloc(p->other_count + 1u, sizeof *p->sets);
    if (!p->sets)
        return -ENOMEM;
    for (unsigned i = 0; i <= p->other_count; i++)
        p->sets[i].id = PAPI_NULL;
    err = PAPI_create_eventset(&p->sets[0].id);
    if (!err)
        fill_set(p, p->sets[0].id);
    for (unsigned i = 1; !err && i <= p->other_count; i++) {
        err = PAPI_create_eventset(&p->sets[i].id);
        if (!err)
            err = fill_attached(p, p->sets[i].id, p->others[i - 1]);
    }
    if (!err)
        return 0;
    notes_add(p->notes, "papi", "",
              "PAPI cannot count on all %u vCPU threads: %s",
              p->other_count + 1, PAPI_strerror(err));
    return -EIO;
}

static int papi_begin(void *state)
{
    struct papi_state *p = state;
    int err = 0;

    if (!p->built && build(p))
        p->broken = true;
    if (p->broken || !p->request_count)
        return -EIO;
    for (unsigned i = p->other_count + 1; !err && i-- > 0;)
        err = PAPI_start(p->sets[i].id);
    if (err) {
        p->broken = true;
        notes_add(p->notes, "papi", "", "PAPI_start: %s", PAPI_strerror(err));
    }
    return err ? -EIO : 0;
}

static int papi_end(void *state)
{
    struct papi_state *p = state;
    int err = 0;

    for (unsigned i = 0; !p->broken && i <= p->other_count; i++) {
        int one = PAPI_stop(p->sets[i].id, p->sets[i].values);

        err = err ? err : one;
    }
    if (err)
        notes_add(p->notes, "papi", "",
                  "PAPI_stop: %s (another user of the PMU took its counters)",
                  PAPI_strerror(err));
    return err ? -EIO : 0;
}

static int report_one(const struct request *request, long long value,
                      struct rows *rows)
{
    struct counter_row counter;
    struct exit_row exits;

    if (value < 0)
        return 0;
    if (!strcmp(request->metric->name, "kvm_exit")) {
        exit_row_fill(&exits, "papi", "all", (uint64_t)value);
        return rows_add_exit(rows, &exits);
    }
    counter_row_fill(&counter, "papi", request->scope->name,
                     request->metric->name, (double)value,
                     request->metric->unit);
    return rows_add_counter(rows, &counter);
}

static int papi_report(void *state, struct rows *rows)
{
    const struct papi_state *p = state;
    int err = 0;

    for (unsigned i = 0; !err && i < p->request_count; i++) {
        long long sum = 0;

        for (unsigned s = 0; s <= p->other_count; s++)
            sum += p->sets[s].values[i];
        err = report_one(&p->requests[i], sum, rows);
    }
    return err;
}

const struct source source_papi = {
    .name = "papi",
    .open = papi_open,
    .close = papi_close,
    .watch_vm = papi_watch,
    .begin = papi_begin,
    .end = papi_end,
    .report = papi_report,
};
