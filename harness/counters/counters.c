#include "harness/counters/counters.h"

#include "base/parse.h"
#include "harness/counters/probe_vm.h"
#include "harness/counters/source.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In the order they are opened. PAPI's counters see the system calls with
 * which the others are read, so PAPI is the innermost. */
static const struct source *const table[] = {
    &source_papi,
    &source_kvm_stats,
    &source_kvm_trace,
};

#define SOURCES (sizeof table / sizeof table[0])

struct slot {
    void *state; /* NULL: absent */
    bool whole;  /* both snapshots of this phase succeeded */
};

struct counters {
    struct slot slots[SOURCES];
    struct notes notes;
    bool watching;
};

void notes_add(struct notes *notes, const char *source, const char *name,
               const char *format, ...)
{
    struct counter_status *grown, *note;
    va_list args;

    for (unsigned i = 0; i < notes->count; i++)
        if (!strcmp(notes->list[i].source, source) &&
            !strcmp(notes->list[i].name, name))
            return;
    grown = reallocarray(notes->list, notes->count + 1u, sizeof *grown);
    if (!grown)
        return;
    notes->list = grown;
    note = &grown[notes->count++];
    *note = (struct counter_status){0};
    snprintf(note->source, sizeof note->source, "%s", source);
    snprintf(note->name, sizeof note->name, "%s", name);
    va_start(args, format);
    vsnprintf(note->detail, sizeof note->detail, format, args);
    va_end(args);
}

void exit_row_fill(struct exit_row *row, const char *source, const char *reason,
                   uint64_t count)
{
    *row = (struct exit_row){.kind = "vm_exit", .count = count};
    snprintf(row->source, sizeof row->source, "%s", source);
    snprintf(row->reason, sizeof row->reason, "%s", reason);
}

void counter_row_fill(struct counter_row *row, const char *source,
                      const char *scope, const char *name, double value,
                      const char *unit)
{
    *row = (struct counter_row){.value = value};
    snprintf(row->source, sizeof row->source, "%s", source);
    snprintf(row->scope, sizeof row->scope, "%s", scope);
    snprintf(row->name, sizeof row->name, "%s", name);
    snprintf(row->unit, sizeof row->unit, "%s", unit);
}

static void drop_source(struct counters *c, unsigned i, const char *reason)
{
    notes_add(&c->notes, table[i]->name, "", "%s", reason);
    table[i]->close(c->slots[i].state);
    c->slots[i].state = NULL;
}

static void open_source(struct counters *c, unsigned i)
{
    struct why why = {""};

    if (!table[i]->open(&c->slots[i].state, &c->notes, &why))
        return;
    c->slots[i].state = NULL;
    notes_add(&c->notes, table[i]->name, "", "%s", why.text);
}

static int want_source(const char *name, void *arg, struct why *why)
{
    bool *wanted = arg;

    for (unsigned i = 0; i < SOURCES; i++)
        if (!strcmp(table[i]->name, name)) {
            wanted[i] = true;
            return 0;
        }
    return why_set(why, EINVAL, "'%s' is no source of counters", name);
}

int counters_open_only(struct counters **counters, const char *names)
{
    bool wanted[SOURCES] = {false};
    struct counters *c;

    if (names && parse_list(names, "counters", want_source, wanted, NULL))
        return -EINVAL;
    c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    for (unsigned i = 0; i < SOURCES; i++)
        if (!names || wanted[i])
            open_source(c, i);
    *counters = c;
    return 0;
}

int counters_open(struct counters **counters)
{
    return counters_open_only(counters, NULL);
}

int counters_watch_vm(struct counters *counters, const struct counters_vm *vm)
{
    struct why why = {""};

    counters->watching = true;
    for (unsigned i = 0; i < SOURCES; i++)
        if (counters->slots[i].state &&
            table[i]->watch_vm(counters->slots[i].state, vm, &why))
            drop_source(counters, i, why.text);
    return 0;
}

int counters_begin(struct counters *counters)
{
    for (unsigned i = SOURCES; i-- > 0;) {
        struct slot *slot = &counters->slots[i];

        slot->whole = slot->state && !table[i]->begin(slot->state);
    }
    return 0;
}

/*
 * A zero needs a witness. A tracepoint that this KVM never reaches reads 0
 * like one that had nothing to count; KVM's own statistics tell them apart.
 */
struct witness {
    const char *counter;
    const char *statistic; /* 0 there too: the counter's 0 is a count */
};

static const struct witness witnesses[] = {
    {"kvm_page_fault", "pf_taken"},
};

static bool stats_value(const struct rows *rows, const char *name,
                        double *value)
{
    for (unsigned i = 0; i < rows->exit_count; i++)
        if (!strcmp(rows->exits[i].source, "kvm_stats") &&
            !strcmp(name, "exits")) {
            *value = (double)rows->exits[i].count;
            return true;
        }
    for (unsigned i = 0; i < rows->counter_count; i++)
        if (!strcmp(rows->counters[i].source, "kvm_stats") &&
            !strcmp(rows->counters[i].name, name)) {
            *value = rows->counters[i].value;
            return true;
        }
    return false;
}

static bool zero_is_witnessed(const struct rows *rows, const char *statistic)
{
    double value;

    return stats_value(rows, statistic, &value) && value == 0;
}

static const char *witness_of(const char *counter)
{
    for (unsigned i = 0; i < sizeof witnesses / sizeof witnesses[0]; i++)
        if (!strcmp(witnesses[i].counter, counter))
            return witnesses[i].statistic;
    return NULL;
}

static bool exit_stays(struct counters *c, const struct rows *rows,
                       const struct exit_row *row)
{
    bool silence = !strcmp(row->reason, SOURCE_SILENCE);

    if (row->count || !strcmp(row->source, "kvm_stats"))
        return true;
    if (zero_is_witnessed(rows, "exits"))
        return !silence;
    notes_add(&c->notes, row->source, silence ? "vm_exit by reason" : "vm_exit",
              "this KVM does not reach the kvm:kvm_exit tracepoint (its "
              "statistics count exits, the tracepoint none)");
    return false;
}

static bool counter_stays(struct counters *c, const struct rows *rows,
                          const struct counter_row *row)
{
    const char *statistic = witness_of(row->name);

    if (row->value != 0 || !statistic || !strcmp(row->source, "kvm_stats") ||
        zero_is_witnessed(rows, statistic))
        return true;
    notes_add(&c->notes, row->source, row->name,
              "reads 0 where KVM's statistic %s does not: this KVM does not "
              "reach the tracepoint",
              statistic);
    return false;
}

/* Guest cycles or instructions say that the PMU tells guest from host at all;
 * on a KVM without hardware virtualization it does not. */
static bool guest_scope_counts(const struct rows *rows)
{
    for (unsigned i = 0; i < rows->counter_count; i++) {
        const struct counter_row *row = &rows->counters[i];

        if (!strcmp(row->source, "papi") && !strncmp(row->scope, "guest", 5) &&
            (!strcmp(row->name, "instructions") ||
             !strcmp(row->name, "cycles")) &&
            row->value > 0)
            return true;
    }
    return false;
}

static int move_proven(struct counters *c, const struct rows *from,
                       struct rows *to)
{
    bool guest = guest_scope_counts(from);
    int err = 0;

    for (unsigned i = 0; !err && i < from->exit_count; i++)
        if (exit_stays(c, from, &from->exits[i]))
            err = rows_add_exit(to, &from->exits[i]);
    for (unsigned i = 0; !err && i < from->counter_count; i++) {
        const struct counter_row *row = &from->counters[i];

        if (!strcmp(row->source, "papi") && !guest &&
            !strncmp(row->scope, "guest", 5))
            notes_add(&c->notes, "papi", row->name,
                      "the PMU counted nothing in guest mode although a guest "
                      "ran: this KVM does not use it");
        else if (counter_stays(c, from, row))
            err = rows_add_counter(to, row);
    }
    return err;
}

static int compare_exits(const void *a, const void *b)
{
    const struct exit_row *x = a, *y = b;
    int order = strcmp(x->kind, y->kind);

    order = order ? order : strcmp(x->source, y->source);
    return order ? order : strcmp(x->reason, y->reason);
}

static int compare_counters(const void *a, const void *b)
{
    const struct counter_row *x = a, *y = b;
    int order = strcmp(x->source, y->source);

    order = order ? order : strcmp(x->scope, y->scope);
    return order ? order : strcmp(x->name, y->name);
}

static void sort_rows(struct rows *rows)
{
    if (rows->exit_count)
        qsort(rows->exits, rows->exit_count, sizeof *rows->exits,
              compare_exits);
    if (rows->counter_count)
        qsort(rows->counters, rows->counter_count, sizeof *rows->counters,
              compare_counters);
}

int counters_end(struct counters *counters, struct rows *rows)
{
    struct rows found = {0};
    int err = 0;

    for (unsigned i = 0; i < SOURCES; i++) {
        struct slot *slot = &counters->slots[i];

        slot->whole &= slot->state && !table[i]->end(slot->state);
    }
    for (unsigned i = 0; !err && i < SOURCES; i++)
        if (counters->slots[i].whole)
            err = table[i]->report(counters->slots[i].state, &found);
    sort_rows(&found);
    if (!err)
        err = move_proven(counters, &found, rows);
    rows_free(&found);
    return err;
}

void counters_close(struct counters *counters)
{
    if (!counters)
        return;
    for (unsigned i = SOURCES; i-- > 0;)
        if (counters->slots[i].state)
            table[i]->close(counters->slots[i].state);
    free(counters->notes.list);
    free(counters);
}

/* Long enough to tell a count from noise, short enough for a KVM that
 * emulates the guest's kernel mode in software. */
#define PROBE_EXITS 200u

static int probe_run_counted(struct counters *c, struct rows *rows)
{
    struct probe_vm vm;
    struct counters_vm counted;
    struct why why = {""};
    int err = probe_vm_open(&vm, &why);

    if (err) {
        notes_add(&c->notes, "kvm_stats", "", "%s", why.text);
        notes_add(&c->notes, "kvm_trace", "", "%s", why.text);
        counters_begin(c);
        return counters_end(c, rows);
    }
    counted = probe_vm_counted(&vm);
    counters_watch_vm(c, &counted);
    counters_begin(c);
    err = probe_vm_run(&vm, PROBE_CPUID, PROBE_EXITS, &why);
    if (err) {
        notes_add(&c->notes, "kvm_stats", "", "%s", why.text);
        notes_add(&c->notes, "kvm_trace", "", "%s", why.text);
    }
    err = counters_end(c, rows);
    probe_vm_close(&vm);
    return err;
}

static int status_push(struct notes *list, const char *source, const char *name,
                       const char *detail)
{
    unsigned before = list->count;

    notes_add(list, source, name, "%s", detail);
    if (list->count > before)
        list->list[before].works = true;
    return 0;
}

/* Rows became counters that work; their reasons are one counter. */
static void rows_to_status(const struct rows *rows, struct notes *list)
{
    for (unsigned i = 0; i < rows->exit_count; i++)
        status_push(list, rows->exits[i].source,
                    strcmp(rows->exits[i].reason, "all") ? "vm_exit by reason"
                                                         : "vm_exit",
                    rows->exits[i].total_ns.known ? "counted and timed"
                                                  : "counted");
    for (unsigned i = 0; i < rows->counter_count; i++) {
        const struct counter_row *row = &rows->counters[i];
        char name[96];

        snprintf(name, sizeof name, strcmp(row->scope, "vm") ? "%s (%s)" : "%s",
                 row->name, row->scope);
        status_push(list, row->source, name, "counted");
    }
}

int counters_probe(struct counter_status **list, unsigned *count)
{
    struct notes all = {0};
    struct counters *c;
    struct rows rows = {0};
    int err = counters_open(&c);

    if (err)
        return err;
    err = probe_run_counted(c, &rows);
    if (!err) {
        rows_to_status(&rows, &all);
        for (unsigned i = 0; i < c->notes.count; i++)
            notes_add(&all, c->notes.list[i].source, c->notes.list[i].name,
                      "%s", c->notes.list[i].detail);
    }
    rows_free(&rows);
    counters_close(c);
    *list = all.list;
    *count = all.count;
    return err;
}
