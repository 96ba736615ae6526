#include "harness/groups.h"

#include "base/parse.h"
#include "harness/table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is known of a row of runs.csv besides its group. */
struct run {
    const char *id;
    size_t group;
    double operations; /* 0: none, or the run is not ok */
    size_t slot;       /* among its group's runs that counted exits */
};

/* A vm_exit row of a run that is ok. */
struct sample {
    size_t group, run;
    unsigned rank; /* of its source: 0 is the best */
    const char *reason;
    double per_operation;
};

struct reader {
    const char *folder;
    struct groups *groups;
    struct why *why;
    struct table *runs_csv, *exits_csv, *counters_csv;
    struct run *runs; /* sorted by id once all are read */
    size_t run_count;
    struct sample *samples;
    size_t sample_count;
};

#define NO_SLOT SIZE_MAX
#define STATS   1 /* rank of kvm_stats */

static const char *const sources[] = {"kvm_trace", "kvm_stats", "papi",
                                      "model"};
#define SOURCES (sizeof sources / sizeof sources[0])

const char *group_cost_unit(const char *platform)
{
    if (!strcmp(platform, "host"))
        return "ns";
    if (!strcmp(platform, platform_name(PLATFORM_MODEL)))
        return "cycles";
    return strcmp(platform, "lab-svm") ? "" : "instructions";
}

static int out_of_memory(const struct reader *r)
{
    return why_set(r->why, ENOMEM, "out of memory for the results of %s",
                   r->folder);
}

/* ---- Cells ------------------------------------------------------------- */

static int open_table(struct reader *r, const char *file, struct table **table)
{
    char path[4200];

    snprintf(path, sizeof path, "%s/%s", r->folder, file);
    return table_read(table, path, r->why);
}

static int check_columns(const struct reader *r, const struct table *table,
                         const char *file, const char *const *names)
{
    for (; *names; names++)
        if (table_column(table, *names) < 0)
            return why_set(r->why, EINVAL,
                           "%s/%s has no column '%s': it was not written by "
                           "this version of memvirt",
                           r->folder, file, *names);
    return 0;
}

static int text_cell(const struct reader *r, size_t row, const char *column,
                     char *to, size_t room)
{
    const char *cell =
        table_cell(r->runs_csv, row, table_column(r->runs_csv, column));

    if (strlen(cell) >= room)
        return why_set(r->why, EINVAL,
                       "%s/runs.csv, row %zu: '%.40s...' is too long for a %s",
                       r->folder, row + 1, cell, column);
    strcpy(to, cell);
    return 0;
}

/* 0 for an empty cell. */
static int count_cell(const struct reader *r, size_t row, const char *column,
                      uint64_t max, uint64_t *value)
{
    const char *cell =
        table_cell(r->runs_csv, row, table_column(r->runs_csv, column));
    struct why why;
    int err;

    *value = 0;
    if (!*cell)
        return 0;
    err = parse_number(cell, column, 0, max, value, &why);
    return err ? why_set(r->why, EINVAL, "%s/runs.csv, row %zu: %s", r->folder,
                         row + 1, why.text)
               : 0;
}

/* ---- runs.csv ---------------------------------------------------------- */

static int read_key(const struct reader *r, size_t row, struct group *key)
{
    const struct {
        const char *column;
        char *to;
        size_t room;
    } texts[] = {
        {"platform", key->platform, sizeof key->platform},
        {"kvm", key->kvm, sizeof key->kvm},
        {"technique", key->technique, sizeof key->technique},
        {"mmu", key->mmu, sizeof key->mmu},
        {"workload", key->workload, sizeof key->workload},
        {"phase", key->phase, sizeof key->phase},
        {"shadow_policy", key->shadow_policy, sizeof key->shadow_policy},
        {"cpu_profile", key->cpu_profile, sizeof key->cpu_profile},
        {"levels", key->levels, sizeof key->levels},
        {"assist", key->assist, sizeof key->assist},
        {"bt_adaptive", key->bt_adaptive, sizeof key->bt_adaptive},
    };
    const struct {
        const char *column;
        uint64_t *to;
    } counts[] = {
        {"working_set_bytes", &key->working_set_bytes},
        {"guest_page_bytes", &key->guest_page_bytes},
        {"host_page_bytes", &key->host_page_bytes},
        {"shadow_roots", &key->shadow_roots},
        {"bt_cache_bytes", &key->bt_cache_bytes},
    };
    uint64_t vcpus;
    int err;

    memset(key, 0, sizeof *key);
    err = count_cell(r, row, "vcpus", UINT32_MAX, &vcpus);
    key->vcpus = (unsigned)vcpus;
    for (unsigned i = 0; !err && i < sizeof texts / sizeof texts[0]; i++)
        err = text_cell(r, row, texts[i].column, texts[i].to, texts[i].room);
    for (unsigned i = 0; !err && i < sizeof counts / sizeof counts[0]; i++)
        err = count_cell(r, row, counts[i].column, UINT64_MAX, counts[i].to);
    return err;
}

/* Everything before `runs` is the key; a key is zeroed before it is filled,
 * so its bytes compare. */
_Static_assert(offsetof(struct group, runs) ==
                   offsetof(struct group, vcpus) + sizeof(unsigned),
               "no padding before the end of the key");

static struct group *find_group(struct reader *r, const struct group *key)
{
    struct groups *all = r->groups;
    struct group *grown;

    for (size_t i = 0; i < all->count; i++)
        if (!memcmp(&all->groups[i], key, offsetof(struct group, runs)))
            return &all->groups[i];
    if (!(all->count & (all->count - 1))) {
        grown = realloc(all->groups,
                        (all->count ? 2 * all->count : 1) * sizeof *grown);
        if (!grown)
            return NULL;
        all->groups = grown;
    }
    all->groups[all->count] = *key;
    return &all->groups[all->count++];
}

static int add_cost(struct group *group, double cost)
{
    unsigned count = group->cost.count;

    if (!(count & (count - 1))) {
        double *grown = realloc(group->costs,
                                (count ? 2 * (size_t)count : 1) * sizeof cost);

        if (!grown)
            return -ENOMEM;
        group->costs = grown;
    }
    group->costs[group->cost.count++] = cost;
    return 0;
}

/* A run that is not ok is counted, but its numbers are not: it may have
 * measured half of what it says. */
static int take_status(const struct reader *r, size_t row, struct group *group,
                       bool *ok)
{
    const struct table *t = r->runs_csv;
    const char *status = table_cell(t, row, table_column(t, "status"));

    *ok = !strcmp(status, "ok");
    if (!strcmp(status, "failed"))
        group->failed++;
    else if (!strcmp(status, "unsupported"))
        group->unsupported++;
    else if (!*ok)
        return why_set(r->why, EINVAL,
                       "%s/runs.csv, row %zu: there is no status '%.40s'",
                       r->folder, row + 1, status);
    group->runs++;
    if (!group->message[0])
        snprintf(group->message, sizeof group->message, "%s",
                 table_cell(t, row, table_column(t, "message")));
    return 0;
}

static int read_run(struct reader *r, size_t row)
{
    const struct table *t = r->runs_csv;
    struct run *run = &r->runs[row];
    double operations, wall_ns;
    struct group key, *group;
    bool ok;
    int err = read_key(r, row, &key);

    if (err)
        return err;
    group = find_group(r, &key);
    if (!group)
        return out_of_memory(r);
    *run = (struct run){
        .id = table_cell(t, row, table_column(t, "run_id")),
        .group = (size_t)(group - r->groups->groups),
    };
    err = take_status(r, row, group, &ok);
    if (err || !ok ||
        !table_number(t, row, table_column(t, "operations"), &operations) ||
        operations <= 0)
        return err;
    run->operations = operations;
    if (!*group_cost_unit(group->platform) ||
        !table_number(t, row, table_column(t, "wall_ns"), &wall_ns) ||
        wall_ns < 0)
        return 0;
    return add_cost(group, wall_ns / operations) ? out_of_memory(r) : 0;
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct run *)a)->id, ((const struct run *)b)->id);
}

static int read_runs(struct reader *r)
{
    static const char *const columns[] = {"run_id",
                                          "platform",
                                          "kvm",
                                          "technique",
                                          "mmu",
                                          "workload",
                                          "phase",
                                          "working_set_bytes",
                                          "guest_page_bytes",
                                          "vcpus",
                                          "host_page_bytes",
                                          "operations",
                                          "wall_ns",
                                          "status",
                                          "message",
                                          NULL};
    int err = open_table(r, "runs.csv", &r->runs_csv);

    if (err)
        return err;
    err = check_columns(r, r->runs_csv, "runs.csv", columns);
    r->run_count = table_rows(r->runs_csv);
    r->runs = calloc(r->run_count + 1, sizeof *r->runs);
    if (!err && !r->runs)
        err = out_of_memory(r);
    for (size_t i = 0; !err && i < r->run_count; i++)
        err = read_run(r, i);
    if (!err)
        qsort(r->runs, r->run_count, sizeof *r->runs, by_id);
    return err;
}

/* ---- Costs ------------------------------------------------------------- */

/* "4" and "4+5": what the guest of the one has is what the other has. */
static bool same_guest_levels(const char *a, const char *b)
{
    return strcspn(a, "+") == strcspn(b, "+") &&
           !strncmp(a, b, strcspn(a, "+"));
}

static bool is_baseline(const struct group *native, const struct group *g)
{
    return !strcmp(native->technique, "native") && native->cost.count &&
           !strcmp(native->platform, g->platform) &&
           !strcmp(native->workload, g->workload) &&
           !strcmp(native->phase, g->phase) &&
           native->working_set_bytes == g->working_set_bytes &&
           native->guest_page_bytes == g->guest_page_bytes &&
           native->vcpus == g->vcpus &&
           !strcmp(native->cpu_profile, g->cpu_profile) &&
           same_guest_levels(native->levels, g->levels);
}

/* Of several, the one on the same host page. */
static const struct group *find_native(const struct groups *all,
                                       const struct group *g)
{
    const struct group *found = NULL;

    for (size_t i = 0; i < all->count; i++) {
        const struct group *native = &all->groups[i];

        if (!is_baseline(native, g))
            continue;
        if (native->host_page_bytes == g->host_page_bytes)
            return native;
        if (!found)
            found = native;
    }
    return found;
}

static int estimate_costs(struct reader *r)
{
    struct groups *all = r->groups;
    int err = 0;

    for (size_t i = 0; !err && i < all->count; i++) {
        struct group *g = &all->groups[i];
        const struct group *native = find_native(all, g);

        err = stats_median(g->costs, g->cost.count, &g->cost);
        if (!err && native && native != g && strcmp(g->technique, "native"))
            err = stats_ratio(g->costs, g->cost.count, native->costs,
                              native->cost.count, &g->over_native);
    }
    return err ? out_of_memory(r) : 0;
}

/* ---- exits.csv --------------------------------------------------------- */

static unsigned source_rank(const char *source)
{
    unsigned rank = 0;

    while (rank < SOURCES && strcmp(sources[rank], source))
        rank++;
    return rank;
}

static void read_exit(struct reader *r, size_t row)
{
    const struct table *t = r->exits_csv;
    struct run key = {.id = table_cell(t, row, table_column(t, "run_id"))};
    const struct run *run =
        bsearch(&key, r->runs, r->run_count, sizeof key, by_id);
    unsigned rank = source_rank(table_cell(t, row, table_column(t, "source")));
    double count;

    /* A crash may leave details without their run. */
    if (!run || run->operations <= 0 || rank == SOURCES ||
        strcmp(table_cell(t, row, table_column(t, "kind")), "vm_exit") ||
        !table_number(t, row, table_column(t, "count"), &count) || count < 0)
        return;
    r->samples[r->sample_count++] = (struct sample){
        .group = run->group,
        .run = (size_t)(run - r->runs),
        .rank = rank,
        .reason = table_cell(t, row, table_column(t, "reason")),
        .per_operation = count / run->operations,
    };
}

static int by_reason(const void *a, const void *b)
{
    const struct sample *x = a, *y = b;

    if (x->group != y->group)
        return x->group < y->group ? -1 : 1;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return strcmp(x->reason, y->reason);
}

static int read_exits(struct reader *r)
{
    static const char *const columns[] = {"run_id", "kind",  "source",
                                          "reason", "count", NULL};
    int err = open_table(r, "exits.csv", &r->exits_csv);

    if (!err)
        err = check_columns(r, r->exits_csv, "exits.csv", columns);
    if (err)
        return err;
    r->samples = calloc(table_rows(r->exits_csv) + 1, sizeof *r->samples);
    if (!r->samples)
        return out_of_memory(r);
    for (size_t i = 0; i < table_rows(r->exits_csv); i++)
        read_exit(r, i);
    qsort(r->samples, r->sample_count, sizeof *r->samples, by_reason);
    return 0;
}

/* ---- Exits ------------------------------------------------------------- */

/* One group's samples, the best source's first. */
struct slice {
    const struct sample *samples;
    size_t count;  /* of all sources */
    size_t best;   /* of the best source */
    unsigned runs; /* that the best source counted */
};

static void take_slot(struct reader *r, struct slice *s,
                      const struct sample *sample)
{
    struct run *run = &r->runs[sample->run];

    if (run->slot == NO_SLOT)
        run->slot = s->runs++;
}

/* A tracepoint that counted nothing leaves no row: where KVM's statistics
 * say that there was no exit, that is a count of 0. */
static struct slice slice_of(struct reader *r, size_t from)
{
    struct slice s = {.samples = r->samples + from};
    const struct sample *at = s.samples;

    while (from + s.count < r->sample_count && at[s.count].group == at->group)
        r->runs[at[s.count++].run].slot = NO_SLOT;
    while (s.best < s.count && at[s.best].rank == at->rank)
        take_slot(r, &s, &at[s.best++]);
    for (size_t i = s.best; i < s.count; i++)
        if (at[i].rank == STATS && at[i].per_operation == 0)
            take_slot(r, &s, &at[i]);
    return s;
}

/* Takes the samples of one reason from `at` on, adds them to `totals`, and
 * returns how many it took, or a negative errno. */
static long take_reason(const struct reader *r, const struct slice *s,
                        size_t at, struct group_exit *exit, double *totals)
{
    const struct sample *first = &s->samples[at];
    double *values = calloc(s->runs + 1, sizeof *values);
    size_t taken = 0;
    int err;

    if (!values)
        return -ENOMEM;
    snprintf(exit->kind, sizeof exit->kind, "vm_exit");
    snprintf(exit->source, sizeof exit->source, "%s", sources[first->rank]);
    snprintf(exit->reason, sizeof exit->reason, "%s", first->reason);
    for (; at + taken < s->best && !strcmp(first[taken].reason, first->reason);
         taken++) {
        size_t slot = r->runs[first[taken].run].slot;

        values[slot] += first[taken].per_operation;
        totals[slot] += first[taken].per_operation;
    }
    err = stats_median(values, s->runs, &exit->per_operation);
    free(values);
    return err ? err : (long)taken;
}

static int by_frequency(const void *a, const void *b)
{
    const struct group_exit *x = a, *y = b;

    if (x->per_operation.value != y->per_operation.value)
        return x->per_operation.value > y->per_operation.value ? -1 : 1;
    return strcmp(x->reason, y->reason);
}

/* KVM's own total where it is, else the sum over the reasons. */
static int estimate_total(const struct slice *s, const double *totals,
                          struct estimate *out)
{
    double *all = calloc(s->count + 1, sizeof *all);
    unsigned count = 0;
    int err;

    if (!all)
        return -ENOMEM;
    for (size_t i = 0; i < s->count; i++)
        if (s->samples[i].rank == STATS && !strcmp(s->samples[i].reason, "all"))
            all[count++] = s->samples[i].per_operation;
    err = count ? stats_median(all, count, out)
                : stats_median(totals, s->runs, out);
    free(all);
    return err;
}

static int estimate_group_exits(const struct reader *r, const struct slice *s)
{
    struct group *group = &r->groups->groups[s->samples->group];
    double *totals = calloc(s->runs + 1, sizeof *totals);
    long taken = 0;
    int err;

    group->exits = calloc(s->best + 1, sizeof *group->exits);
    if (!totals || !group->exits)
        taken = -ENOMEM;
    for (size_t at = 0; taken >= 0 && at < s->best; at += (size_t)taken) {
        taken = take_reason(r, s, at, &group->exits[group->exit_count], totals);
        group->exit_count += taken > 0;
    }
    err = taken < 0 ? (int)taken : estimate_total(s, totals, &group->vm_exits);
    if (!err)
        qsort(group->exits, group->exit_count, sizeof *group->exits,
              by_frequency);
    free(totals);
    return err;
}

static int estimate_exits(struct reader *r)
{
    int err = 0;

    for (size_t at = 0; !err && at < r->sample_count;) {
        struct slice s = slice_of(r, at);

        err = estimate_group_exits(r, &s);
        at += s.count;
    }
    return err ? out_of_memory(r) : 0;
}

/* ---- counters.csv ------------------------------------------------------ */

#define CYCLES "cycles_total"

void group_technique(const struct group *g, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s%s%s%s%s", g->technique,
             *g->shadow_policy ? " " : "", g->shadow_policy,
             strcmp(g->assist, "off") ? "" : ", assist off",
             strcmp(g->bt_adaptive, "off") ? "" : ", adaptive off");
}

const struct group_counter *group_counter(const struct group *group,
                                          const char *source, const char *name)
{
    for (size_t i = 0; i < group->counter_count; i++)
        if (!strcmp(group->counters[i].name, name) &&
            !strcmp(group->counters[i].source, source))
            return &group->counters[i];
    return NULL;
}

static int add_counter(struct group *group, const struct group_counter *counter)
{
    struct group_counter *grown;

    if (group_counter(group, counter->source, counter->name))
        return 0;
    grown =
        reallocarray(group->counters, group->counter_count + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    group->counters = grown;
    grown[group->counter_count++] = *counter;
    return 0;
}

/* The cycles of the model's rows are their cost. */
static int read_counter(struct reader *r, size_t row)
{
    const struct table *t = r->counters_csv;
    struct run key = {.id = table_cell(t, row, table_column(t, "run_id"))};
    const struct run *run =
        bsearch(&key, r->runs, r->run_count, sizeof key, by_id);
    const char *source = table_cell(t, row, table_column(t, "source"));
    struct group_counter counter;
    struct group *group;
    int err;

    if (!run || run->operations <= 0 ||
        strlen(source) >= sizeof counter.source ||
        !table_number(t, row, table_column(t, "value"), &counter.value))
        return 0;
    strcpy(counter.source, source);
    snprintf(counter.name, sizeof counter.name, "%s",
             table_cell(t, row, table_column(t, "name")));
    counter.per_operation = counter.value / run->operations;
    group = &r->groups->groups[run->group];
    err = add_counter(group, &counter);
    if (!err && !strcmp(source, "model") && !strcmp(counter.name, CYCLES))
        err = add_cost(group, counter.per_operation);
    return err ? out_of_memory(r) : 0;
}

static int read_counters(struct reader *r)
{
    static const char *const columns[] = {"run_id", "source", "name", "value",
                                          NULL};
    int err = open_table(r, "counters.csv", &r->counters_csv);

    if (!err)
        err = check_columns(r, r->counters_csv, "counters.csv", columns);
    for (size_t i = 0; !err && i < table_rows(r->counters_csv); i++)
        err = read_counter(r, i);
    return err;
}

int groups_read(struct groups *groups, const char *folder, struct why *why)
{
    struct reader r = {.folder = folder, .groups = groups, .why = why};
    int err;

    *groups = (struct groups){NULL, 0};
    err = read_runs(&r);
    if (!err)
        err = read_exits(&r);
    if (!err)
        err = read_counters(&r);
    if (!err)
        err = estimate_costs(&r);
    if (!err)
        err = estimate_exits(&r);
    table_free(r.runs_csv);
    table_free(r.exits_csv);
    table_free(r.counters_csv);
    free(r.runs);
    free(r.samples);
    if (err)
        groups_free(groups);
    return err;
}

void groups_free(struct groups *groups)
{
    for (size_t i = 0; i < groups->count; i++) {
        free(groups->groups[i].costs);
        free(groups->groups[i].exits);
        free(groups->groups[i].counters);
    }
    free(groups->groups);
    *groups = (struct groups){NULL, 0};
}
