/*
 * Exits by reason, counted and timed in the kernel: histogram triggers on
 * kvm:kvm_exit and kvm:kvm_entry in a tracing instance of our own, limited to
 * our vCPU threads. Nothing is recorded, so nothing is lost.
 *
 * The time of a reason is what `perf kvm stat` reports: from the exit to the
 * next entry on the same vCPU thread, the VMM's work included. A synthetic
 * event carries it from one tracepoint to the histogram by reason. The guest's
 * marks are counted but not timed, since between such an exit and the next
 * entry counters are read.
 */
#include "harness/counters/exit_reasons.h"
#include "harness/counters/hist.h"
#include "harness/counters/source.h"
#include "harness/guard.h"
#include "workloads/abi.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tracefs.h>
#include <unistd.h>

#define INSTANCE_PREFIX "memvirt-"
#define EVENT_PREFIX    "memvirt_"

#define REASON_KEYS "isa,exit_reason"
#define PID_KEYS    "common_pid"
#define TIME_KEYS   "isa,reason"

/* Counted per event, without keys of their own. */
static const char *const mmu_events[] = {
    "fast_page_fault",          "kvm_mmu_get_page",
    "kvm_mmu_prepare_zap_page", "kvm_mmu_set_spte",
    "kvm_mmu_split_huge_page",  "kvm_mmu_spte_requested",
    "kvm_mmu_sync_page",        "kvm_mmu_unsync_page",
    "kvm_mmu_zap_all_fast",     "kvm_tdp_mmu_spte_changed",
    "mark_mmio_spte",
};
#define MMU_EVENTS (sizeof mmu_events / sizeof mmu_events[0])

struct snapshot {
    struct hist reasons, times;
    uint64_t mmu[MMU_EVENTS];
};

struct trace_state {
    struct notes *notes;
    struct tracefs_instance *instance;
    struct guard *guard;
    char event[32];  /* the synthetic event */
    char *condition; /* "(common_pid == 1 || ...)" */
    bool exits, timed;
    bool mmu[MMU_EVENTS];
    struct snapshot before, after;
};

/* What the guard process needs, without allocating. */
struct leftovers {
    char instance[256];
    char entry_triggers[320];
    char exit_triggers[320];
    char time_triggers[320];
    char synthetic_events[256];
    char remove_event[48];
};

/* Opening a trigger file to write it anew removes its triggers. */
static void remove_triggers(const char *path)
{
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
}

/*
 * Variables keep an instance busy, and references keep variables; a synthetic
 * event whose triggers vanish with their instance stays busy for good. So from
 * the last to the first.
 */
static void remove_leftovers(void *arg)
{
    const struct leftovers *l = arg;
    int fd;

    remove_triggers(l->time_triggers);
    remove_triggers(l->entry_triggers);
    remove_triggers(l->exit_triggers);
    rmdir(l->instance);
    fd = open(l->synthetic_events, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, l->remove_event, strlen(l->remove_event)) < 0) {
        /* Nobody is left to tell. */
    }
    close(fd);
}

static int leftovers_of(long pid, struct leftovers *l)
{
    const char *top = tracefs_tracing_dir();

    if (!top || strlen(top) > 128)
        return -ENOENT;
    snprintf(l->instance, sizeof l->instance,
             "%s/instances/" INSTANCE_PREFIX "%ld", top, pid);
    snprintf(l->entry_triggers, sizeof l->entry_triggers,
             "%s/events/kvm/kvm_entry/trigger", l->instance);
    snprintf(l->exit_triggers, sizeof l->exit_triggers,
             "%s/events/kvm/kvm_exit/trigger", l->instance);
    snprintf(l->time_triggers, sizeof l->time_triggers,
             "%s/events/synthetic/" EVENT_PREFIX "%ld/trigger", l->instance,
             pid);
    snprintf(l->synthetic_events, sizeof l->synthetic_events,
             "%s/synthetic_events", top);
    snprintf(l->remove_event, sizeof l->remove_event, "!" EVENT_PREFIX "%ld\n",
             pid);
    return 0;
}

/* Instances of processes that were killed together with their guard. */
static int sweep_one(const char *name, void *unused)
{
    struct leftovers l;
    char *end;
    long pid;

    (void)unused;
    if (strncmp(name, INSTANCE_PREFIX, strlen(INSTANCE_PREFIX)))
        return 0;
    pid = strtol(name + strlen(INSTANCE_PREFIX), &end, 10);
    if (pid > 0 && !*end && kill((pid_t)pid, 0) && errno == ESRCH &&
        !leftovers_of(pid, &l))
        remove_leftovers(&l);
    return 0;
}

static int check_histograms(struct why *why)
{
    char *readme = tracefs_instance_file_read(NULL, "README", NULL);
    bool has = readme && strstr(readme, "hist:keys=");
    int err = errno;

    free(readme);
    if (has)
        return 0;
    if (readme)
        return why_set(why, ENOTSUP,
                       "the kernel has no histogram triggers "
                       "(CONFIG_HIST_TRIGGERS)");
    return why_set(why, err ? err : ENOENT,
                   "tracefs cannot be read: %s (run as root; mount -t tracefs "
                   "tracefs /sys/kernel/tracing)",
                   strerror(err ? err : ENOENT));
}

static int trace_open(void **state, struct notes *notes, struct why *why)
{
    struct trace_state *t;
    int err;

    tracefs_set_loglevel(TEP_LOG_NONE);
    if (!tracefs_tracing_dir())
        return why_set(why, ENOENT,
                       "no tracefs: run as root, mount -t tracefs tracefs "
                       "/sys/kernel/tracing");
    err = check_histograms(why);
    if (err)
        return err;
    t = calloc(1, sizeof *t);
    if (!t)
        return why_set(why, ENOMEM, "out of memory");
    t->notes = notes;
    tracefs_instances_walk(sweep_one, NULL);
    *state = t;
    return 0;
}

static void free_snapshot(struct snapshot *s)
{
    hist_free(&s->reasons);
    hist_free(&s->times);
}

static void remove_instance(struct trace_state *t)
{
    struct leftovers l;

    free_snapshot(&t->before);
    free_snapshot(&t->after);
    free(t->condition);
    t->condition = NULL;
    if (!t->instance)
        return;
    tracefs_instance_free(t->instance);
    t->instance = NULL;
    if (!leftovers_of(getpid(), &l))
        remove_leftovers(&l);
    guard_dismiss(t->guard);
    t->guard = NULL;
}

static void trace_close(void *state)
{
    remove_instance(state);
    free(state);
}

static int make_condition(struct trace_state *t, const struct counters_vm *vm)
{
    size_t bytes = 0;
    FILE *stream = open_memstream(&t->condition, &bytes);

    if (!stream)
        return -ENOMEM;
    for (unsigned i = 0; i < vm->vcpus; i++)
        fprintf(stream, "%scommon_pid == %d", i ? " || " : "(",
                (int)vm->vcpu_tids[i]);
    fputs(")", stream);
    return fclose(stream) ? -ENOMEM : 0;
}

static int append_trigger(struct trace_state *t, const char *system,
                          const char *event, const char *trigger)
{
    return tracefs_event_file_append(t->instance, system, event, "trigger",
                                     trigger) < 0
               ? -EIO
               : 0;
}

/* For our vCPU threads only. */
static int set_trigger(struct trace_state *t, const char *system,
                       const char *event, const char *trigger)
{
    char *text;
    int err;

    if (asprintf(&text, "%s if %s", trigger, t->condition) < 0)
        return -ENOMEM;
    err = append_trigger(t, system, event, text);
    free(text);
    return err;
}

#define REASON_TRIGGER "hist:keys=" REASON_KEYS ":size=2048"
#define START_TRIGGER                        \
    "hist:keys=" PID_KEYS ":memvirt_isa=isa" \
    ",memvirt_reason=exit_reason"            \
    ",memvirt_start=common_timestamp"

static int set_end_trigger(struct trace_state *t)
{
    char *trigger;
    int err;

    if (asprintf(&trigger,
                 "hist:keys=" PID_KEYS
                 ":memvirt_i=$memvirt_isa,memvirt_r=$memvirt_reason"
                 ",memvirt_ns=common_timestamp-$memvirt_start"
                 ":onmatch(kvm.kvm_exit).%s($memvirt_i,$memvirt_r,$memvirt_ns)",
                 t->event) < 0)
        return -ENOMEM;
    err = set_trigger(t, "kvm", "kvm_entry", trigger);
    free(trigger);
    return err;
}

/*
 * An I/O exit's info1 has the port in bits 31:16 (SDM vol. 3, table 28-5, the
 * exit qualification; APM vol. 2, 15.10.2, EXITINFO1). No other reason's info1
 * lies in this range.
 */
#define MARKS_FIRST ((uint64_t)GUEST_PORT_MARK << 16)
#define MARKS_LAST  (MARKS_FIRST | 0xffff)

static int set_start_trigger(struct trace_state *t)
{
    char *trigger;
    int err;

    if (asprintf(&trigger,
                 START_TRIGGER " if %s && (info1 < %" PRIu64
                               " || info1 > %" PRIu64 ")",
                 t->condition, MARKS_FIRST, MARKS_LAST) < 0)
        return -ENOMEM;
    err = append_trigger(t, "kvm", "kvm_exit", trigger);
    free(trigger);
    return err;
}

static int set_timing(struct trace_state *t)
{
    char *definition;
    int err;

    snprintf(t->event, sizeof t->event, EVENT_PREFIX "%d", (int)getpid());
    if (asprintf(&definition, "%s u32 isa; u32 reason; u64 ns\n", t->event) < 0)
        return -ENOMEM;
    err = tracefs_instance_file_append(NULL, "synthetic_events", definition) < 0
              ? -EIO
              : 0;
    free(definition);
    if (!err)
        err = set_start_trigger(t);
    if (!err)
        err = set_end_trigger(t);
    if (!err && tracefs_event_file_append(
                    t->instance, "synthetic", t->event, "trigger",
                    "hist:keys=" TIME_KEYS ":vals=ns:size=2048") < 0)
        err = -EIO;
    return err;
}

static void set_triggers(struct trace_state *t)
{
    t->exits = !set_trigger(t, "kvm", "kvm_exit", REASON_TRIGGER);
    if (!t->exits)
        notes_add(t->notes, "kvm_trace", "vm_exit by reason",
                  "no histogram on kvm:kvm_exit: load the KVM module");
    t->timed = t->exits && !set_timing(t);
    if (t->exits && !t->timed)
        notes_add(t->notes, "kvm_trace", "time by reason",
                  "the kernel has no synthetic events "
                  "(CONFIG_SYNTH_EVENTS)");
    for (unsigned i = 0; i < MMU_EVENTS; i++) {
        t->mmu[i] =
            !set_trigger(t, "kvmmmu", mmu_events[i], "hist:keys=" PID_KEYS);
        if (!t->mmu[i])
            notes_add(t->notes, "kvm_trace", mmu_events[i],
                      "this kernel has no tracepoint kvmmmu:%s", mmu_events[i]);
    }
}

static int trace_watch(void *state, const struct counters_vm *vm,
                       struct why *why)
{
    struct trace_state *t = state;
    struct leftovers l;
    char name[32];
    int err;

    remove_instance(t);
    err = make_condition(t, vm);
    if (!err)
        err = leftovers_of(getpid(), &l);
    if (err)
        return why_set(why, -err, "%s", strerror(-err));
    err = guard_start(&t->guard, remove_leftovers, &l, why);
    if (err)
        return err;
    snprintf(name, sizeof name, INSTANCE_PREFIX "%d", (int)getpid());
    t->instance = tracefs_instance_create(name);
    if (!t->instance) {
        err = errno ? errno : EIO;
        guard_dismiss(t->guard);
        t->guard = NULL;
        return why_set(why, err, "cannot make a tracing instance: %s (root?)",
                       strerror(err));
    }
    set_triggers(t);
    return 0;
}

static int read_hist(struct trace_state *t, const char *system,
                     const char *event, const char *keys, struct hist *hist)
{
    char *text =
        tracefs_event_file_read(t->instance, system, event, "hist", NULL);
    int err;

    hist_free(hist);
    if (!text)
        return -EIO;
    err = hist_parse(text, keys, hist);
    free(text);
    return err;
}

static int take_snapshot(struct trace_state *t, struct snapshot *s)
{
    struct hist hist;
    int err = 0;

    if (t->exits)
        err = read_hist(t, "kvm", "kvm_exit", REASON_KEYS, &s->reasons);
    if (!err && t->timed)
        err = read_hist(t, "synthetic", t->event, TIME_KEYS, &s->times);
    for (unsigned i = 0; !err && i < MMU_EVENTS; i++) {
        if (!t->mmu[i])
            continue;
        hist = (struct hist){0};
        err = read_hist(t, "kvmmmu", mmu_events[i], PID_KEYS, &hist);
        s->mmu[i] = hist.hits;
        hist_free(&hist);
    }
    return err;
}

static int trace_begin(void *state)
{
    struct trace_state *t = state;

    return t->instance ? take_snapshot(t, &t->before) : -EIO;
}

static int trace_end(void *state)
{
    struct trace_state *t = state;

    return take_snapshot(t, &t->after);
}

static const struct hist_entry *same_keys(const struct hist *hist,
                                          const struct hist_entry *entry)
{
    for (unsigned i = 0; i < hist->count; i++)
        if (!memcmp(hist->entries[i].keys, entry->keys, sizeof entry->keys))
            return &hist->entries[i];
    return NULL;
}

/* How far the reason's time moved; unknown when none of its exits was timed. */
static struct maybe_u64 time_between(const struct trace_state *t,
                                     const struct hist_entry *reason)
{
    const struct hist_entry none = {0};
    const struct hist_entry *was = same_keys(&t->before.times, reason);
    const struct hist_entry *is = same_keys(&t->after.times, reason);

    was = was ? was : &none;
    if (!t->timed || t->after.times.dropped || !is ||
        is->hitcount == was->hitcount)
        return (struct maybe_u64){0};
    return (struct maybe_u64){.known = true, .value = is->value - was->value};
}

static int report_exits(struct trace_state *t, struct rows *rows)
{
    int err = 0;

    for (unsigned i = 0; !err && i < t->after.reasons.count; i++) {
        const struct hist_entry *is = &t->after.reasons.entries[i];
        const struct hist_entry *was = same_keys(&t->before.reasons, is);
        uint64_t count = is->hitcount - (was ? was->hitcount : 0);
        struct exit_row row;
        char name[40];

        if (!count)
            continue;
        exit_row_fill(&row, "kvm_trace",
                      exit_reason_name(is->keys[0], is->keys[1], name), count);
        row.total_ns = time_between(t, is);
        err = rows_add_exit(rows, &row);
    }
    return err;
}

/* Silence of the tracepoint is a row of its own only to counters.c, which
 * compares it with KVM's statistics. */
static int report_silence(struct rows *rows)
{
    struct exit_row row;

    exit_row_fill(&row, "kvm_trace", SOURCE_SILENCE, 0);
    return rows_add_exit(rows, &row);
}

static int trace_report(void *state, struct rows *rows)
{
    struct trace_state *t = state;
    struct counter_row row;
    int err = 0;

    if (t->exits && t->after.reasons.dropped)
        notes_add(t->notes, "kvm_trace", "vm_exit by reason",
                  "the kernel's histogram dropped %" PRIu64 " exits",
                  t->after.reasons.dropped);
    else if (t->exits && t->after.reasons.hits == t->before.reasons.hits)
        err = report_silence(rows);
    else if (t->exits)
        err = report_exits(t, rows);
    for (unsigned i = 0; !err && i < MMU_EVENTS; i++) {
        if (!t->mmu[i])
            continue;
        counter_row_fill(&row, "kvm_trace", "vm", mmu_events[i],
                         (double)(t->after.mmu[i] - t->before.mmu[i]),
                         "events");
        err = rows_add_counter(rows, &row);
    }
    return err;
}

const struct source source_kvm_trace = {
    .name = "kvm_trace",
    .open = trace_open,
    .close = trace_close,
    .watch_vm = trace_watch,
    .begin = trace_begin,
    .end = trace_end,
    .report = trace_report,
};
