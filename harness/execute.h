/* Carries a plan out: a child a run here, one boot of each lab. */
#ifndef HARNESS_EXECUTE_H
#define HARNESS_EXECUTE_H

#include "base/why.h"
#include "harness/plan.h"
#include "harness/results.h"

#include <signal.h>

struct execution {
    const struct plan *plan;
    const char *folder; /* of the results */
    struct results *results;
    bool switch_kvm; /* may turn the host's ept/npt switch for a run */
    const volatile sig_atomic_t *stop;
    unsigned done, failed, unsupported; /* runs, counted here */
};

/* 0, -EINTR when *stop was set, or a negative errno with a sentence for what
 * keeps the rest from running (the results cannot be written, say). A failed
 * run is a row and no error. */
int execute(struct execution *execution, struct why *why);

#endif
