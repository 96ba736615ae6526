/* `memvirt published`: figures of the literature beside what the model
 * computes, one row each, or beside what the lab measures. Nothing in the model
 * is fitted to them. */
#include "harness/commands.h"
#include "harness/execute.h"
#include "harness/groups.h"
#include "harness/model_pass.h"
#include "harness/model_plan.h"
#include "harness/nano_published.h"
#include "harness/progress.h"
#include "harness/run_set.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "Usage: memvirt published [-o DIR]\n"
    "       memvirt published --nanobenchmarks [-o DIR | FOLDER]\n"
    "\n"
    "Computes what published figures can be compared with, and prints them\n"
    "side by side: published, modelled, their ratio. The computation is kept\n"
    "as a result folder. Takes about two minutes. docs/published.md discusses\n"
    "every row.\n"
    "\n"
    "--nanobenchmarks: those of Adams and Agesen (ASPLOS 2006). Runs them in "
    "the\n"
    "lab, a minute, or takes them from a result folder that is there; "
    "prints\n"
    "what binary translation and VT-x cost then, what bt and KVM cost here, "
    "and\n"
    "whether bt is cheaper and dearer for the same operations.\n"
    "\n"
    "Examples:\n"
    "  memvirt published\n"
    "  memvirt published -o results/literature\n"
    "  memvirt published --nanobenchmarks -o results/nanobenchmarks\n"
    "  memvirt published --nanobenchmarks results/nanobenchmarks\n";

#define CPU      "skylake-sp" /* of which Cascade Lake, vMitosis's, is one */
#define UNCACHED "uncached"

/* ---- What the model computes --------------------------------------------- */

static const struct model_request requests[] = {
    {.techniques = "native,shadow,nested,agile,flat",
     .workloads = "seq,stride,random,chase,gups,zipf,btree,hashjoin,bfs",
     .cpus = CPU,
     .sizes = "256M",
     .operations = 1000000,
     .large_percent = 100},
    {.techniques = "native,shadow,nested,flat",
     .workloads = "gups",
     .cpus = UNCACHED,
     .sizes = "4M",
     .levels = "4+4,5+5",
     .operations = 100000,
     .large_percent = 100},
};
#define REQUESTS (sizeof requests / sizeof requests[0])

static void note(void *arg, const struct model_pass *pass, uint64_t accesses)
{
    char text[120];

    snprintf(text, sizeof text, "%.40s: %.1f million accesses", pass->label,
             (double)accesses / 1e6);
    progress_note(arg, text);
}

static int compute(const struct model_plan *plan, struct progress *progress,
                   struct results *results, struct why *why)
{
    const struct model_watch watch = {note, progress, run_set_stop()};
    unsigned failed = 0;
    int err = 0;

    for (size_t i = 0; !err && i < plan->pass_count; i++) {
        err = model_pass_run(&plan->passes[i], results, &watch, &failed, why);
        progress_step(progress, plan->passes[i].label);
    }
    return err;
}

static int compute_all(struct results *results, struct why *why)
{
    struct model_plan plans[REQUESTS];
    struct progress progress;
    size_t passes = 0, made = 0;
    int err = 0;

    for (; !err && made < REQUESTS; made++) {
        err = model_plan_make(&plans[made], &requests[made], why);
        passes += plans[made].pass_count;
    }
    progress_start(&progress, passes);
    for (size_t i = 0; !err && i < made; i++)
        err = compute(&plans[i], &progress, results, why);
    progress_end(&progress);
    while (made)
        model_plan_free(&plans[--made]);
    return err;
}

/* ---- What is looked up in it --------------------------------------------- */

/* NULL: every workload, the mean over them; every phase. */
struct place {
    const char *workload, *phase, *cpu, *levels;
};

static bool takes(const struct group *g, const struct place *at,
                  const char *technique)
{
    return !strcmp(g->technique, technique) &&
           (!at->workload || !strcmp(g->workload, at->workload)) &&
           (!at->phase || !strcmp(g->phase, at->phase)) &&
           !strcmp(g->cpu_profile, at->cpu) && g->levels[0] == at->levels[0];
}

static double counted(const struct group *g, const char *name)
{
    const struct group_counter *counter = group_counter(g, "model", name);

    return counter ? counter->value : 0;
}

/* The mean over workloads of a counter over another, a walk or an operation;
 * NAN when there is none. */
static double mean(const struct groups *groups, const struct place *at,
                   const char *technique, const char *over, const char *under)
{
    double sum = 0;
    unsigned count = 0;

    for (size_t i = 0; i < groups->count; i++) {
        const struct group *g = &groups->groups[i];
        double below = takes(g, at, technique) ? counted(g, under) : 0;

        if (below <= 0)
            continue;
        sum += counted(g, over) / below;
        count++;
    }
    return count ? sum / count : NAN;
}

/* Translation cycles of everything together, NAN when there are none. */
static double sum(const struct groups *groups, const struct place *at,
                  const char *technique)
{
    double cycles = 0;

    for (size_t i = 0; i < groups->count; i++)
        if (takes(&groups->groups[i], at, technique))
            cycles += counted(&groups->groups[i], "cycles_total");
    return cycles > 0 ? cycles : NAN;
}

/* ---- The rows ------------------------------------------------------------ */

enum quantity {
    REFERENCES,     /* a walk */
    CYCLES_NESTED,  /* translation cycles, nested over shadow */
    CYCLES_SHADOW,  /* the other way round */
    WALKING_NESTED, /* cycles of walks alone, nested over shadow */
    FLAT_SAVES,     /* walk cycles that flat saves of nested's, percent */
    AGILE_BEATS,    /* cycles below the better of shadow and nested, % */
};

static const struct row {
    const char *source, *what, *unit;
    double published;
    bool remembered; /* from memory: not verified */
    enum quantity quantity;
    const char *technique; /* REFERENCES */
    struct place at;
} rows[] = {
#define ANY(cpu_, levels_)            \
    {                                 \
        NULL, "steady", cpu_, levels_ \
    }
#define ONE(workload_, phase_)      \
    {                               \
        workload_, phase_, CPU, "4" \
    }
    {"Bhargava, ASPLOS'08", "references a walk, native, nothing cached",
     "references", 4, false, REFERENCES, "native", ANY(UNCACHED, "4")},
    {"Bhargava, ASPLOS'08", "the same, nested", "references", 24, false,
     REFERENCES, "nested", ANY(UNCACHED, "4")},
    {"Gandhi, ISCA'16", "the same, shadow", "references", 4, false, REFERENCES,
     "shadow", ANY(UNCACHED, "4")},
    {"formula, 5 levels", "the same, nested, 5 + 5 levels", "references", 35,
     false, REFERENCES, "nested", ANY(UNCACHED, "5")},
    {"Park, ASPLOS'22", "references a walk, native, mean of workloads",
     "references", 1.5, false, REFERENCES, "native", ANY(CPU, "4")},
    {"Park, ASPLOS'22", "the same, nested", "references", 4.4, false,
     REFERENCES, "nested", ANY(CPU, "4")},
    {"Gandhi, ISCA'16", "references a walk, agile (4 to 5)", "references", 4.5,
     true, REFERENCES, "agile", ANY(CPU, "4")},
    {"Gandhi, ISCA'16",
     "agile below the better of nested and shadow",
     "%",
     12,
     false,
     AGILE_BEATS,
     NULL,
     {NULL, NULL, CPU, "4"}},
    {"Ahn, ISCA'12", "flat below nested", "%", 7, false, FLAT_SAVES, NULL,
     ANY(CPU, "4")},
    {"vMitosis, ASPLOS'21", "gups, run: nested / shadow, run time", "x", 1.94,
     false, CYCLES_NESTED, NULL, ONE("gups", "steady")},
    {"vMitosis, ASPLOS'21", "gups, run: nested / shadow, time in walks", "x",
     2.17, false, WALKING_NESTED, NULL, ONE("gups", "steady")},
    {"vMitosis, ASPLOS'21", "btree, run: nested / shadow, run time", "x", 1.45,
     false, CYCLES_NESTED, NULL, ONE("btree", "steady")},
    {"vMitosis, ASPLOS'21", "btree, run: nested / shadow, time in walks", "x",
     2.07, false, WALKING_NESTED, NULL, ONE("btree", "steady")},
    {"vMitosis, ASPLOS'21", "gups, initialisation: shadow / nested", "x", 3.21,
     false, CYCLES_SHADOW, NULL, ONE("gups", "first_touch")},
    {"vMitosis, ASPLOS'21", "btree, initialisation: shadow / nested", "x", 1.94,
     false, CYCLES_SHADOW, NULL, ONE("btree", "first_touch")},
};
#define ROWS (sizeof rows / sizeof rows[0])

static double total(const struct groups *g, const struct place *at,
                    const char *technique)
{
    return mean(g, at, technique, "cycles_total", "accesses");
}

static double walking(const struct groups *g, const struct place *at,
                      const char *technique)
{
    return mean(g, at, technique, "cycles_walk", "accesses");
}

/* NAN: not available. */
static double modelled(const struct groups *g, const struct row *row)
{
    const struct place *at = &row->at;
    double shadow = total(g, at, "shadow"), nested = total(g, at, "nested");

    switch (row->quantity) {
    case REFERENCES:
        return mean(g, at, row->technique, "references", "walks");
    case CYCLES_NESTED:
        return nested / shadow;
    case CYCLES_SHADOW:
        return shadow / nested;
    case WALKING_NESTED:
        return walking(g, at, "nested") / walking(g, at, "shadow");
    case FLAT_SAVES:
        return 100 * (1 - walking(g, at, "flat") / walking(g, at, "nested"));
    default:
        return 100 * (1 - sum(g, at, "agile") /
                              fmin(sum(g, at, "shadow"), sum(g, at, "nested")));
    }
}

/* What was not computed is not there; a ratio of it neither. */
static void print_row(const struct row *row, double value)
{
    const char *unit = *row->unit == 'r' ? "" : row->unit;

    printf("  %-20s  %-45s %9.2f%-2s%1s", row->source, row->what,
           row->published, unit, row->remembered ? "M" : "");
    if (isnan(value))
        printf(" %9s   %6s\n", "-", "-");
    else
        printf(" %9.2f%-2s %6.2f\n", value, unit, value / row->published);
}

static int print_rows(const char *folder, struct why *why)
{
    struct groups groups;
    int err = groups_read(&groups, folder, why);

    if (err)
        return err;
    printf("Published figures and the model's (%s, 256 MiB; nothing is fitted; "
           "M: from memory, not verified)\n\n"
           "  %-20s  %-45s %12s %9s   %6s\n",
           CPU, "source", "figure", "published", "modelled", "ratio");
    for (size_t i = 0; i < ROWS; i++)
        print_row(&rows[i], modelled(&groups, &rows[i]));
    printf("\n  run time: the model has translation alone, published figures "
           "the whole program.\n"
           "  DMT's constants (ASPLOS'24) are the profile's own: cycles of a "
           "walk's read that\n"
           "  hits a paging-structure cache 1, L1 4, L2 14, LLC 54, memory "
           "200.\n\nResults: %s\n",
           folder);
    groups_free(&groups);
    return 0;
}

static int run_model(const char *asked, struct why *why)
{
    struct results *results;
    struct why close_why;
    char text[4200];
    const char *folder = run_set_folder(asked, "-published", text, sizeof text);
    int err = run_set_open(&results, folder, why);

    if (err)
        return err;
    err = compute_all(results, why);
    if (results_close(results, &close_why) && !err)
        err = why_set(why, EIO, "%s", close_why.text);
    return err ? err : print_rows(folder, why);
}

/* ---- The nanobenchmarks -------------------------------------------------- */

static int print_nanos(const char *folder, struct why *why)
{
    struct groups groups;
    int err = groups_read(&groups, folder, why);

    if (err)
        return err;
    nano_published_print(&groups, stdout);
    printf("\nResults: %s\n", folder);
    groups_free(&groups);
    return 0;
}

static int run_lab(const struct plan *plan, const char *folder, struct why *why)
{
    struct execution execution = {
        .plan = plan, .folder = folder, .stop = run_set_stop()};
    struct why close_why;
    int err = run_set_open(&execution.results, folder, why);

    if (err)
        return err;
    err = execute(&execution, why);
    if (err == -EINTR)
        why_set(why, EINTR, "interrupted; what there is is in %s", folder);
    if (results_close(execution.results, &close_why) && !err)
        err = why_set(why, EIO, "%s", close_why.text);
    return err;
}

static int run_nanos(const char *asked, struct why *why)
{
    struct plan plan = {NULL, 0, 0};
    char text[4200];
    const char *folder =
        run_set_folder(asked, "-nanobenchmarks", text, sizeof text);
    int err = nano_published_plan(&plan, why);

    if (!err)
        err = run_lab(&plan, folder, why);
    plan_free(&plan);
    return err ? err : print_nanos(folder, why);
}

/* ---- Arguments ----------------------------------------------------------- */

struct arguments {
    const char *output, *folder;
    bool nanobenchmarks;
};

static const struct option options[] = {
    {"nanobenchmarks", no_argument, NULL, 'n'},
    {"output", required_argument, NULL, 'o'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* 0 to go on, otherwise an exit status + 1. */
static int parse_arguments(int argc, char **argv, struct arguments *arguments)
{
    int option;

    optind = 1;
    while ((option = getopt_long(argc, argv, "o:h", options, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 1;
        }
        if (option == '?')
            return 3;
        if (option == 'n')
            arguments->nanobenchmarks = true;
        else
            arguments->output = optarg;
    }
    if (arguments->nanobenchmarks && !arguments->output && optind < argc)
        arguments->folder = argv[optind++];
    if (optind == argc)
        return 0;
    fprintf(stderr,
            "memvirt published: unexpected '%s'; see 'memvirt published "
            "--help'\n",
            argv[optind]);
    return 3;
}

int cmd_published(int argc, char **argv)
{
    struct arguments arguments = {NULL, NULL, false};
    int status = parse_arguments(argc, argv, &arguments), err;
    struct why why = {""};

    if (status)
        return status - 1;
    if (arguments.folder)
        err = print_nanos(arguments.folder, &why);
    else if (arguments.nanobenchmarks)
        err = run_nanos(arguments.output, &why);
    else
        err = run_model(arguments.output, &why);
    if (err)
        fprintf(stderr, "memvirt published: %s\n", why.text);
    return err == -EINTR && *run_set_stop() ? 128 + *run_set_stop() : err != 0;
}
