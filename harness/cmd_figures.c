/* memvirt figures: draw the figures of a result folder again. */
#include "harness/commands.h"
#include "harness/figures.h"

#include <getopt.h>
#include <stdio.h>

static const char help[] =
    "Usage: memvirt figures DIR\n"
    "\n"
    "Draws the figures of a result folder again, from its runs.csv and\n"
    "exits.csv, with gnuplot. Each is DIR/figures/NAME-PLATFORM.svg and .png,\n"
    "and .dat has the numbers behind it:\n"
    "\n"
    "  overhead   cost over native, by workload and technique\n"
    "  exits      VM exits an operation, by reason\n"
    "  nano       cost of the guest kernel's nanobenchmarks\n"
    "  phases     cost by phase: building, first touch, steady\n"
    "  miss-cost  time an access against the working set, and TLB reach\n"
    "\n"
    "A figure the folder has no rows for is left out.\n"
    "\n"
    "Examples:\n"
    "  memvirt figures results/nano\n"
    "  memvirt run --no-figures -o results/a && memvirt figures results/a\n";

static int usage(const char *complaint)
{
    fprintf(stderr, "memvirt figures: %s; see 'memvirt figures --help'\n",
            complaint);
    return 2;
}

int cmd_figures(int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct why why = {""};
    int option;

    opterr = 0;
    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (option != 'h')
            return usage("it has no options but --help");
        fputs(help, stdout);
        return 0;
    }
    if (argc - optind != 1)
        return usage(argc == optind ? "which result folder?"
                                    : "one result folder at a time");
    if (figures_draw(argv[optind], &why)) {
        fprintf(stderr, "memvirt figures: %s\n", why.text);
        return 1;
    }
    printf("Figures: %s/figures\n", argv[optind]);
    return 0;
}
