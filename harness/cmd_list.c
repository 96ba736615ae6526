/* `memvirt list`: techniques, workloads and counters. */
#include "base/parse.h"
#include "harness/commands.h"
#include "harness/counters/counters.h"
#include "harness/technique.h"
#include "workloads/catalog.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char list_help[] =
    "Usage: memvirt list [techniques] [workloads] [counters]\n"
    "\n"
    "Lists what can be asked for: techniques and where each runs, workloads\n"
    "with their defaults, and the counters that count on this machine.\n"
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

static bool wanted(int argc, char **argv, const char *what)
{
    bool any = argc < 2;

    for (int i = 1; i < argc; i++)
        any |= !strcmp(argv[i], what);
    return any;
}

int cmd_list(int argc, char **argv)
{
    static const char *const topics[] = {"techniques", "workloads", "counters"};
    int status = 0;

    for (int i = 1; i < argc; i++) {
        bool known = false;

        if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help")) {
            fputs(list_help, stdout);
            return 0;
        }
        for (unsigned t = 0; t < 3; t++)
            known |= !strcmp(argv[i], topics[t]);
        if (!known) {
            fprintf(stderr,
                    "memvirt list: there is no list of '%s': "
                    "techniques, workloads, counters\n",
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
    if (wanted(argc, argv, topics[2])) {
        putchar('\n');
        status = list_counters();
    }
    return status;
}
