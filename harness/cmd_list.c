/* `memvirt list`: techniques, workloads and counters. */
#include "base/parse.h"
#include "harness/commands.h"
#include "harness/costs.h"
#include "harness/counters/counters.h"
#include "harness/profile.h"
#include "harness/settings.h"
#include "harness/technique.h"
#include "workloads/catalog.h"
#include "workloads/model/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char list_help[] =
    "Usage: memvirt list [techniques] [workloads] [counters] [profiles]\n"
    "\n"
    "Lists what can be asked for: techniques and where each runs, workloads\n"
    "with their defaults, the counters that count on this machine, and what\n"
    "the model has besides: patterns, CPU profiles and cost tables.\n"
    "\n"
    "Examples:\n"
    "  memvirt list\n"
    "  memvirt list workloads\n";

static void list_techniques(void)
{
    const struct workload *probe = workload_find("gups");

    puts("Techniques");
    for (enum technique t = 0; t < TECHNIQUES; t++) {
        const struct technique_ops *ops = technique_ops(t);
        struct why why = {""};
        bool here = ops && !ops->here(probe, &why);

        if (!ops) {
            printf("  %-10s in the model only: memvirt model -t %s\n",
                   technique_name(t), technique_name(t));
            continue;
        }
        printf("  %-10s %s\n", technique_name(t), ops->summary);
        if (here)
            printf("  %-10s   runs here\n", "");
        else
            printf("  %-10s   %s: %s\n", "",
                   t == TECH_EMULATION ? "no" : "in the lab", why.text);
    }
}

static void list_class(enum wl_class class, const char *title)
{
    printf("\n%s\n  %-11s %12s %10s %6s  %s\n", title, "name", "working set",
           "operations", "vcpus", "what it does");
    for (const struct workload *const *w = workload_catalog(); *w; w++) {
        char size[32] = "-", vcpus[16] = "any";

        if ((*w)->class != class)
            continue;
        if ((*w)->default_working_set_bytes)
            format_size((*w)->default_working_set_bytes, size, sizeof size);
        if ((*w)->max_vcpus)
            snprintf(vcpus, sizeof vcpus, "%u", (*w)->max_vcpus);
        printf("  %-11s %12s %10" PRIu64 " %6s  %s\n", (*w)->name, size,
               (*w)->default_operations, vcpus, (*w)->summary);
    }
}

static void list_workloads(void)
{
    puts("Workloads, with what they do by default");
    list_class(WL_NANO, "nano: one operation of the CPU or the guest kernel");
    list_class(WL_COMPUTE,
               "compute: the guest kernel computes and hardly traps");
    list_class(WL_MMU, "mmu: one operation of the operating system");
    list_class(WL_MEMORY, "memory: user programs");
    list_class(WL_TEST, "test: checks of the machine, not part of `all`");
}

static int list_counters(void)
{
    struct counter_status *list;
    unsigned count, missing = 0;

    puts("Counters, each started and read just now");
    if (counters_probe(&list, &count)) {
        fputs("memvirt list: out of memory\n", stderr);
        return 1;
    }
    for (unsigned i = 0; i < count; i++) {
        missing += !list[i].works;
        if (list[i].works)
            printf("  %-10s %s\n", list[i].source, list[i].name);
    }
    free(list);
    if (missing)
        printf("\n%u more do not count here: 'memvirt doctor' says why\n",
               missing);
    return 0;
}

/* ---- What the model has -------------------------------------------------- */

static void list_patterns(void)
{
    puts("Patterns: accesses without data, for the model only");
    for (const struct workload *const *w = model_catalog(); *w; w++)
        if (!(*w)->run)
            printf("  %-18s %s\n", (*w)->name, (*w)->summary);
}

static int list_profile(const char *name, void *arg)
{
    struct mmu_profile profile;
    struct why why;

    (void)arg;
    if (profile_load(name, &profile, &why))
        printf("  %-18s %s\n", name, why.text);
    else
        printf("  %-18s %s\n", name, profile.cpu);
    return 0;
}

static int list_cost_table(const char *name, void *arg)
{
    (void)arg;
    printf("  %-18s\n", name);
    return 0;
}

static int list_model(void)
{
    struct why why;
    int err;

    list_patterns();
    puts("\nCPU profiles of the model (--cpu)");
    err = profile_each(list_profile, NULL, &why);
    if (!err) {
        puts("\nCost tables of the model (--costs)");
        err = settings_each(COSTS_FOLDER, list_cost_table, NULL, &why);
    }
    if (err)
        fprintf(stderr, "memvirt list: %s\n", why.text);
    return err ? 1 : 0;
}

static bool wanted(int argc, char **argv, const char *what)
{
    bool any = argc < 2;

    for (int i = 1; i < argc; i++)
        any |= !strcmp(argv[i], what);
    return any;
}

int cmd_list(int argc, char **argv)
{
    static const char *const topics[] = {"techniques", "workloads", "counters",
                                         "profiles"};
    int status = 0;

    for (int i = 1; i < argc; i++) {
        bool known = false;

        if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help")) {
            fputs(list_help, stdout);
            return 0;
        }
        for (unsigned t = 0; t < sizeof topics / sizeof topics[0]; t++)
            known |= !strcmp(argv[i], topics[t]);
        if (!known) {
            fprintf(stderr,
                    "memvirt list: there is no list of '%s': "
                    "techniques, workloads, counters, profiles\n",
                    argv[i]);
            return 2;
        }
    }
    if (wanted(argc, argv, topics[0]))
        list_techniques();
    if (wanted(argc, argv, topics[1])) {
        putchar('\n');
        list_workloads();
    }
    if (wanted(argc, argv, topics[3])) {
        putchar('\n');
        status = list_model();
    }
    if (wanted(argc, argv, topics[2])) {
        putchar('\n');
        status |= list_counters();
    }
    return status;
}
