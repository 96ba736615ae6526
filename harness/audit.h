/*
 * `memvirt audit`: do the CPU's sensitive instructions trap where they are not
 * privileged enough? After Popek and Goldberg, "Formal Requirements for
 * Virtualizable Third Generation Architectures", CACM 17(7), 1974.
 */
#ifndef HARNESS_AUDIT_H
#define HARNESS_AUDIT_H

#include "base/why.h"
#include "harness/run.h"
#include "workloads/audit.h"

#include <signal.h>
#include <stdio.h>

enum audit_outcome {
    AUDIT_RIGHT,   /* as on a machine of its own */
    AUDIT_TRAPPED, /* an exception */
    AUDIT_WRONG,   /* it went on with something else */
    AUDIT_ENDED,   /* it ended the VM */
    AUDIT_ABSENT,  /* this CPU does not have it, or it can't be tried */
    AUDIT_OUTCOMES
};

struct audit_row {
    enum audit_outcome outcome;
    bool has_value, has_expected;
    uint64_t value, expected;
    char note[120];
};

/* One way to run a kernel's code. */
struct audit_column {
    char mode[24]; /* "CPL 3 process", or a technique */
    enum platform platform;
    struct audit_row rows[AUDIT_INSTRUCTIONS];
};

const char *audit_instruction_name(unsigned instruction);
/* One of the 17 (workloads/audit.def). */
bool audit_instruction_listed(unsigned instruction);
const char *audit_outcome_name(enum audit_outcome outcome);

/* Executes all in this process, at CPL 3. Catches their signals meanwhile: no
 * other thread may run. */
void audit_process(struct audit_column *column);
/* In the guest's kernel, one VM for all, and one more for each instruction
 * that ends it. -ENOTSUP with a sentence when the technique can't run here,
 * -EINTR when *stop was set. */
int audit_technique(enum technique technique, const volatile sig_atomic_t *stop,
                    struct audit_column *column, struct why *why);

/* A row an instruction, a column for each. */
void audit_print(const struct audit_column *columns, unsigned count,
                 FILE *file);
/* RFC 4180: instruction, listed, mode, platform, outcome, value, expected,
 * note. 0 or a negative errno. */
int audit_write_csv(const struct audit_column *columns, unsigned count,
                    FILE *file);

#endif
