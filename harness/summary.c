#include "harness/summary.h"

#include "base/parse.h"
#include "harness/groups.h"
#include "harness/table.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* From this many working sets on, a workload is a sweep. */
#define SWEEP_MIN 3

#define TOP_EXITS 3

enum column {
    WORKLOAD,
    SIZE,
    PAGE,
    VCPUS,
    PHASE,
    TECHNIQUE,
    PROFILE,
    LEVELS,
    WALKS,
    REFERENCES,
    COST,
    COST_INTERVAL,
    OVER,
    OVER_INTERVAL,
    EXITS,
    REASONS,
    COLUMNS,
};

struct row {
    const struct group *group;
    unsigned workload; /* in order of appearance */
    char cells[COLUMNS][192];
};

/* The rows of one platform, and which columns say anything there. */
struct grid {
    const char *platform;
    struct row *rows;
    size_t count;
    bool shown[COLUMNS];
    char titles[COLUMNS][32];
    int widths[COLUMNS];
};

/* ---- Cells ------------------------------------------------------------- */

/* Four significant digits, no exponent for what is large. */
static const char *number(double value, char *buffer, size_t room)
{
    double unit;

    if (fabs(value) < 9999.5) {
        snprintf(buffer, room, "%.4g", value);
    } else {
        unit = pow(10, floor(log10(fabs(value))) - 3);
        snprintf(buffer, room, "%.0f", round(value / unit) * unit);
    }
    return buffer;
}

static void estimate_cells(const struct estimate *e, char value[192],
                           char interval[192])
{
    char low[64], high[64];

    if (!e->count)
        return;
    number(e->value, value, 64);
    if (e->count > 1)
        snprintf(interval, 192, "[%s, %s]", number(e->low, low, sizeof low),
                 number(e->high, high, sizeof high));
}

static void page_cell(const struct group *g, char cell[192])
{
    char guest[24], host[24];

    if (!g->guest_page_bytes)
        return;
    format_size(g->guest_page_bytes, guest, sizeof guest);
    format_size(g->host_page_bytes, host, sizeof host);
    if (!g->host_page_bytes || !strcmp(g->technique, "native"))
        snprintf(cell, 192, "%s", guest);
    else
        snprintf(cell, 192, "%s/%s", guest, host);
}

static void reasons_cell(const struct group *g, char cell[192])
{
    unsigned shown = 0;
    size_t at = 0;

    for (size_t i = 0; i < g->exit_count && shown < TOP_EXITS; i++) {
        const struct group_exit *exit = &g->exits[i];
        char count[64];

        if (!strcmp(exit->reason, "all") || exit->per_operation.value <= 0)
            continue;
        at += (size_t)snprintf(
            cell + at, 192 - at, "%s%.40s %.20s", shown ? ", " : "",
            exit->reason,
            number(exit->per_operation.value, count, sizeof count));
        shown++;
    }
}

/* Of the model: misses of every TLB, and what each costs in references. */
static void walk_cells(const struct group *g, char walks[192],
                       char references[192])
{
    const struct group_counter *misses = group_counter(g, "model", "walks");
    const struct group_counter *all = group_counter(g, "model", "references");

    if (!misses || !all)
        return;
    number(misses->per_operation, walks, 64);
    if (misses->value > 0)
        number(all->value / misses->value, references, 64);
}

static void fill_row(struct row *row, const struct group *g)
{
    char ignored[192];

    row->group = g;
    snprintf(row->cells[WORKLOAD], 192, "%s", g->workload);
    if (g->working_set_bytes)
        format_size(g->working_set_bytes, row->cells[SIZE], 192);
    page_cell(g, row->cells[PAGE]);
    snprintf(row->cells[VCPUS], 192, "%u", g->vcpus);
    snprintf(row->cells[PHASE], 192, "%s", g->phase);
    group_technique(g, row->cells[TECHNIQUE], 192);
    snprintf(row->cells[PROFILE], 192, "%s", g->cpu_profile);
    snprintf(row->cells[LEVELS], 192, "%s", g->levels);
    walk_cells(g, row->cells[WALKS], row->cells[REFERENCES]);
    estimate_cells(&g->cost, row->cells[COST], row->cells[COST_INTERVAL]);
    estimate_cells(&g->over_native, row->cells[OVER],
                   row->cells[OVER_INTERVAL]);
    estimate_cells(&g->vm_exits, row->cells[EXITS], ignored);
    reasons_cell(g, row->cells[REASONS]);
}

/* ---- Order ------------------------------------------------------------- */

/* The place of `name` in a NULL-ended list; unknown names come last. */
static int place(const char *name, const char *const *list)
{
    int i = 0;

    while (list[i] && strcmp(list[i], name))
        i++;
    return i;
}

static int compare(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int by_order(const void *a, const void *b)
{
    static const char *const phases[] = {"init", "first_touch", "steady", NULL};
    static const char *const techniques[] = {
        "native", "emulation", "shadow", "nested", "agile", "flat", NULL};
    const struct group *x = ((const struct row *)a)->group,
                       *y = ((const struct row *)b)->group;
    const int orders[] = {
        compare(((const struct row *)a)->workload,
                ((const struct row *)b)->workload),
        compare(x->working_set_bytes, y->working_set_bytes),
        compare(x->guest_page_bytes, y->guest_page_bytes),
        compare(x->vcpus, y->vcpus),
        place(x->phase, phases) - place(y->phase, phases),
        place(x->technique, techniques) - place(y->technique, techniques),
        compare(x->host_page_bytes, y->host_page_bytes),
        strcmp(x->kvm, y->kvm),
        strcmp(x->cpu_profile, y->cpu_profile),
        strcmp(x->levels, y->levels),
        strcmp(x->shadow_policy, y->shadow_policy),
    };

    for (unsigned i = 0; i < sizeof orders / sizeof orders[0]; i++)
        if (orders[i])
            return orders[i];
    return 0;
}

static unsigned first_of_workload(const struct groups *groups, const char *name)
{
    unsigned i = 0;

    while (strcmp(groups->groups[i].workload, name))
        i++;
    return i;
}

static bool measured(const struct group *g, const char *platform)
{
    return !strcmp(g->platform, platform) &&
           g->runs > g->failed + g->unsupported;
}

/* ---- The table --------------------------------------------------------- */

/* Text of the folder, on one line and without what a terminal would obey. */
static void print_plain(FILE *to, const char *text)
{
    for (; *text; text++)
        fputc((unsigned char)*text < ' ' || *text == 0x7f ? ' ' : *text, to);
}

static bool right_aligned(unsigned column)
{
    return column == SIZE || column == VCPUS ||
           (column >= WALKS && column <= EXITS);
}

/* A column without a number is left out, unless its absence says something;
 * one vCPU is what everyone expects. */
static void choose_columns(struct grid *grid)
{
    const char *unit = group_cost_unit(grid->platform);
    static const char *const titles[COLUMNS] = {
        [WORKLOAD] = "workload",
        [SIZE] = "size",
        [PAGE] = "guest/host page",
        [VCPUS] = "vCPUs",
        [PHASE] = "phase",
        [TECHNIQUE] = "technique",
        [PROFILE] = "CPU",
        [LEVELS] = "levels",
        [WALKS] = "walks/op",
        [REFERENCES] = "refs/walk",
        [COST_INTERVAL] = "95 %",
        [OVER] = "x native",
        [OVER_INTERVAL] = "95 %",
        [EXITS] = "VM exits/op",
        [REASONS] = "most frequent exits/op",
    };

    for (unsigned c = 0; c < COLUMNS; c++) {
        for (size_t i = 0; i < grid->count; i++)
            grid->shown[c] |= c == VCPUS ? grid->rows[i].group->vcpus > 1
                                         : grid->rows[i].cells[c][0] != 0;
        if (titles[c])
            snprintf(grid->titles[c], sizeof grid->titles[c], "%s", titles[c]);
    }
    snprintf(grid->titles[COST], sizeof grid->titles[COST], "%s/op", unit);
    grid->shown[EXITS] = true;
    grid->shown[COST] = grid->shown[OVER] = *unit;
}

static void measure_columns(struct grid *grid)
{
    for (unsigned c = 0; c < COLUMNS; c++) {
        grid->widths[c] = (int)strlen(grid->titles[c]);
        for (size_t i = 0; i < grid->count; i++) {
            char *cell = grid->rows[i].cells[c];

            if (!*cell)
                strcpy(cell, "-");
            if ((int)strlen(cell) > grid->widths[c])
                grid->widths[c] = (int)strlen(cell);
        }
    }
}

static void print_cells(const struct grid *grid, char (*cells)[192], FILE *to)
{
    for (unsigned c = 0; c < COLUMNS; c++) {
        const char *text = cells ? cells[c] : grid->titles[c];
        int pad = grid->widths[c] - (int)strlen(text);

        if (!grid->shown[c])
            continue;
        fprintf(to, "  %*s", right_aligned(c) ? pad : 0, "");
        print_plain(to, text);
        if (!right_aligned(c) && c != REASONS)
            fprintf(to, "%*s", pad, "");
    }
    fputc('\n', to);
}

/* ---- Platforms --------------------------------------------------------- */

static void print_flavours(const struct grid *grid, FILE *to)
{
    bool any = false;

    for (size_t i = 0; i < grid->count; i++) {
        const char *kvm = grid->rows[i].group->kvm;
        bool seen = !*kvm;

        for (size_t j = 0; j < i; j++)
            seen |= !strcmp(kvm, grid->rows[j].group->kvm);
        if (seen)
            continue;
        fputs(any ? ", " : "", to);
        print_plain(to, kvm);
        any = true;
    }
    fputs(any ? "" : "without KVM", to);
}

static void print_heading(const struct grid *grid, FILE *to)
{
    print_plain(to, grid->platform);
    if (!strcmp(grid->platform, "host")) {
        fputs(": time measured on this machine (", to);
        print_flavours(grid, to);
        fputs(")\n", to);
    } else if (!strcmp(grid->platform, "lab-svm")) {
        fputs(": instructions counted in an emulated AMD machine under "
              "deterministic -icount; no times\n",
              to);
    } else if (!strcmp(grid->platform, "lab-vmx")) {
        fputs(": exit counts only, of an emulated Intel machine; its times "
              "mean nothing\n",
              to);
    } else if (!strcmp(grid->platform, platform_name(PLATFORM_MODEL))) {
        fputs(": computed by the translation model, nothing measured; cycles "
              "are those of translation alone\n",
              to);
    } else {
        fputs(": exit counts only\n", to);
    }
}

/* Working sets of a workload on a platform, told apart by size only. */
static unsigned working_sets(const struct groups *groups, const struct group *g)
{
    unsigned count = 0;

    for (size_t i = 0; i < groups->count; i++) {
        const struct group *x = &groups->groups[i];
        bool seen = strcmp(x->workload, g->workload) ||
                    strcmp(x->platform, g->platform);

        for (size_t j = 0; !seen && j < i; j++)
            seen = !strcmp(groups->groups[j].workload, x->workload) &&
                   groups->groups[j].working_set_bytes == x->working_set_bytes;
        count += !seen;
    }
    return count;
}

/* The table is for reading: building data structures is left to runs.csv, and
 * so are the first touches of a sweep over many working sets. */
static bool worth_a_row(const struct groups *groups, const struct group *g)
{
    if (!strcmp(g->phase, "init"))
        return false;
    return strcmp(g->phase, "first_touch") ||
           working_sets(groups, g) <= SWEEP_MIN;
}

static bool has_note(const struct group *g, const char *platform)
{
    return measured(g, platform) && !g->failed && !g->unsupported &&
           *g->message;
}

/* What a reader must know of numbers that stand in the table, once each. */
static void print_notes(const struct groups *groups, const char *platform,
                        FILE *to)
{
    for (size_t i = 0; i < groups->count; i++) {
        const struct group *g = &groups->groups[i];
        unsigned alike = 0;
        bool first = has_note(g, platform);

        for (size_t j = 0; first && j < groups->count; j++) {
            const struct group *x = &groups->groups[j];
            bool same =
                has_note(x, platform) && !strcmp(x->message, g->message);

            first = !(same && j < i);
            alike += same;
        }
        if (!first)
            continue;
        fputs("  note: ", to);
        print_plain(to, g->message);
        fprintf(to, " (%u %s)\n", alike, alike == 1 ? "row" : "rows");
    }
}

static int print_platform(const struct groups *groups, const char *platform,
                          FILE *to, struct why *why)
{
    struct grid grid = {.platform = platform};
    unsigned left_out = 0;

    grid.rows = calloc(groups->count, sizeof *grid.rows);
    if (!grid.rows)
        return why_set(why, ENOMEM, "out of memory for the table");
    for (size_t i = 0; i < groups->count; i++) {
        const struct group *g = &groups->groups[i];
        struct row *row = &grid.rows[grid.count];

        if (!measured(g, platform))
            continue;
        if (!worth_a_row(groups, g)) {
            left_out++;
            continue;
        }
        fill_row(row, g);
        row->workload = first_of_workload(groups, g->workload);
        grid.count++;
    }
    qsort(grid.rows, grid.count, sizeof *grid.rows, by_order);
    choose_columns(&grid);
    measure_columns(&grid);
    print_heading(&grid, to);
    print_cells(&grid, NULL, to);
    for (size_t i = 0; i < grid.count; i++)
        print_cells(&grid, grid.rows[i].cells, to);
    if (left_out)
        fprintf(to,
                "  (%u more in runs.csv: init phases, first touches of "
                "sweeps)\n",
                left_out);
    print_notes(groups, platform, to);
    fputc('\n', to);
    free(grid.rows);
    return 0;
}

static int print_platforms(const struct groups *groups, FILE *to,
                           struct why *why)
{
    int err = 0;

    for (size_t i = 0; !err && i < groups->count; i++) {
        const char *platform = groups->groups[i].platform;
        bool seen = !measured(&groups->groups[i], platform);

        for (size_t j = 0; !seen && j < i; j++)
            seen = measured(&groups->groups[j], platform);
        if (!seen)
            err = print_platform(groups, platform, to, why);
    }
    return err;
}

/* ---- What did not run -------------------------------------------------- */

struct failure {
    const char *status, *message, *platform, *technique, *workload;
    size_t row;
    unsigned runs;
};

static int by_message(const void *a, const void *b)
{
    const struct failure *x = a, *y = b;
    int order = strcmp(x->status, y->status);

    if (!order)
        order = strcmp(x->message, y->message);
    return order ? order : compare(x->row, y->row);
}

static int by_row(const void *a, const void *b)
{
    return compare(((const struct failure *)a)->row,
                   ((const struct failure *)b)->row);
}

static size_t read_failures(const struct table *runs, struct failure *failures)
{
    size_t count = 0;

    for (size_t i = 0; i < table_rows(runs); i++) {
        struct failure f = {
            .status = table_cell(runs, i, table_column(runs, "status")),
            .message = table_cell(runs, i, table_column(runs, "message")),
            .platform = table_cell(runs, i, table_column(runs, "platform")),
            .technique = table_cell(runs, i, table_column(runs, "technique")),
            .workload = table_cell(runs, i, table_column(runs, "workload")),
            .row = i,
            .runs = 1,
        };

        if (strcmp(f.status, "ok"))
            failures[count++] = f;
    }
    return count;
}

/* Each message once, where it came first. */
static size_t merge_failures(struct failure *failures, size_t count)
{
    size_t kept = 0;

    qsort(failures, count, sizeof *failures, by_message);
    for (size_t i = 0; i < count; i++) {
        struct failure *last = kept ? &failures[kept - 1] : NULL;

        if (last && !strcmp(last->status, failures[i].status) &&
            !strcmp(last->message, failures[i].message))
            last->runs++;
        else
            failures[kept++] = failures[i];
    }
    qsort(failures, kept, sizeof *failures, by_row);
    return kept;
}

static void print_failure(const struct failure *f, FILE *to)
{
    fprintf(to, "  %u %s ", f->runs, f->runs == 1 ? "run" : "runs");
    print_plain(to, f->status);
    fprintf(to, " (%s", f->runs == 1 ? "" : "first: ");
    print_plain(to, f->platform);
    fputc(' ', to);
    print_plain(to, f->technique);
    fputc(' ', to);
    print_plain(to, f->workload);
    fputs("): ", to);
    print_plain(to, *f->message ? f->message : "no reason given");
    fputc('\n', to);
}

static int print_failures(const char *folder, FILE *to, struct why *why)
{
    struct failure *failures;
    struct table *runs;
    char path[4200];
    size_t count;
    int err;

    snprintf(path, sizeof path, "%s/runs.csv", folder);
    err = table_read(&runs, path, why);
    if (err)
        return err;
    failures = calloc(table_rows(runs) + 1, sizeof *failures);
    if (failures) {
        count = merge_failures(failures, read_failures(runs, failures));
        if (count)
            fputs("Not measured:\n", to);
        for (size_t i = 0; i < count; i++)
            print_failure(&failures[i], to);
    } else {
        err = why_set(why, ENOMEM, "out of memory for the table");
    }
    free(failures);
    table_free(runs);
    return err;
}

int summary_print(const char *folder, FILE *to, struct why *why)
{
    struct groups groups;
    int err = groups_read(&groups, folder, why);

    if (err)
        return err;
    if (!groups.count)
        fprintf(to, "%s has no runs yet.\n", folder);
    err = print_platforms(&groups, to, why);
    if (!err)
        err = print_failures(folder, to, why);
    groups_free(&groups);
    return err;
}
