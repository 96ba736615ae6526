/* The command line: dispatch, and nothing else. */
#include "harness/child.h"
#include "harness/commands.h"

#include <stdio.h>
#include <string.h>

static const struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"doctor", "what this machine can do, and what to do about the rest",
     cmd_doctor},
    {"list", "techniques, workloads and counters", cmd_list},
    {"run", "run workloads under techniques, write a result folder", cmd_run},
    {"lab", "the same in an emulated machine with EPT or NPT", cmd_lab},
    {"model", "compute translations where nothing can measure them", cmd_model},
    {"trace", "record a workload's accesses for the model", cmd_trace},
    {"walk", "one translation explained, entry by entry", cmd_walk},
    {"audit", "instructions that tell a guest kernel it is not the host",
     cmd_audit},
    {"kvm", "show or turn the host's ept/npt switch", cmd_kvm},
    {"compare", "page faults under shadow paging, measured and modelled",
     cmd_compare},
    {"published", "figures of the literature and the model's", cmd_published},
    {"figures", "draw the figures of a result folder again", cmd_figures},
    {"one-run", NULL, cmd_one_run}, /* not for people: see child.h */
};

#define COMMANDS (sizeof commands / sizeof commands[0])

static void help(FILE *to)
{
    fputs("Usage: memvirt COMMAND [OPTION...]\n\n"
          "A testbed for memory virtualization on x86-64.\n\n",
          to);
    for (size_t i = 0; i < COMMANDS; i++)
        if (commands[i].summary)
            fprintf(to, "  %-9s %s\n", commands[i].name, commands[i].summary);
    fputs("\n'memvirt COMMAND --help' has the options and examples.\n\n"
          "Examples:\n"
          "  memvirt doctor\n"
          "  memvirt run -t native,shadow -w gups --size 16M --reps 5\n"
          "  memvirt lab -- run -t shadow,nested -w invlpg,cr3,cpuid\n",
          to);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        help(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") ||
        !strcmp(argv[1], "-h")) {
        help(stdout);
        return 0;
    }
    for (size_t i = 0; i < COMMANDS; i++)
        if (!strcmp(argv[1], commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "memvirt: there is no command '%s'; see 'memvirt --help'\n",
            argv[1]);
    return 2;
}
