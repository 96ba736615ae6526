/* What this machine can do for memvirt, as a list of findings. */
#ifndef HARNESS_DOCTOR_H
#define HARNESS_DOCTOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

enum finding_state {
    FINDING_OK,
    FINDING_NOTE,    /* works, but colours results */
    FINDING_MISSING, /* with its effect on results and, if any, its cure */
};

struct finding {
    char area[16]; /* kvm, machine, counters, pages, ... */
    char name[64];
    enum finding_state state;
    char found[256];
    char effect[256];
    char cure[256];
};

struct doctor {
    struct finding *findings;
    unsigned count;
};

/* Looks at everything; 0 or -ENOMEM. Takes about a second: counters are
 * started and read. */
int doctor_examine(struct doctor *doctor);
void doctor_free(struct doctor *doctor);

void doctor_print(const struct doctor *doctor, FILE *stream);

/* {"findings": [{"area": ..., "name": ..., "state": "ok" | "note" |
 * "missing", "found": ..., "effect": ..., "cure": ...}]}; empty texts are left
 * out. NULL without memory. */
json_t *doctor_json(const struct doctor *doctor);

#endif
