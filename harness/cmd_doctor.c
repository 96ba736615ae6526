/* memvirt doctor: what this machine can do, and what would help it. */
#include "harness/commands.h"
#include "harness/doctor.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

static const char help[] =
    "Usage: memvirt doctor [--json]\n"
    "\n"
    "Shows what this machine can do for memvirt: KVM, counters (each started\n"
    "and read once), page sizes, topology, the lab's tools. For each thing\n"
    "that is missing: its effect on results and what would fix it.\n"
    "\n"
    "  --json  the same as one JSON object\n"
    "\n"
    "Examples:\n"
    "  memvirt doctor\n"
    "  memvirt doctor --json | jq '.findings[] | select(.state == "
    "\"missing\")'\n";

static int print_json(const struct doctor *doctor)
{
    json_t *json = doctor_json(doctor);
    int err = !json || json_dumpf(json, stdout, JSON_INDENT(2));

    json_decref(json);
    putchar('\n');
    return err;
}

int cmd_doctor(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'},
                                            {"json", no_argument, NULL, 'j'},
                                            {NULL, 0, NULL, 0}};
    struct doctor doctor;
    int option, json = 0;

    optind = 0;
    while ((option = getopt_long(argc, argv, "hj", options, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (option != 'j')
            return 2;
        json = 1;
    }
    if (optind < argc) {
        fprintf(stderr,
                "memvirt doctor: '%s' is not understood (memvirt doctor "
                "--help)\n",
                argv[optind]);
        return 2;
    }
    if (doctor_examine(&doctor)) {
        fprintf(stderr, "memvirt doctor: out of memory\n");
        return 1;
    }
    if (json)
        json = print_json(&doctor);
    else
        doctor_print(&doctor, stdout);
    doctor_free(&doctor);
    return json || fflush(stdout) ? 1 : 0;
}
