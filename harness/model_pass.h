/* One pass: a stream of events once through, and the machines that follow it,
 * each with its rows. */
#ifndef HARNESS_MODEL_PASS_H
#define HARNESS_MODEL_PASS_H

#include "harness/model_plan.h"
#include "harness/results.h"

#include <signal.h>

/* How far a pass is, every second or so. */
struct model_watch {
    void (*tell)(void *arg, const struct model_pass *pass, uint64_t accesses);
    void *arg;
    const volatile sig_atomic_t *stop; /* not 0: -EINTR */
};

/* Adds the rows of every machine to the results. A machine that fails is a
 * failed row and is counted in `failed`; so are all of a pass whose stream
 * fails, without the phases before, and the pass returns the stream's error
 * and sentence. */
int model_pass_run(const struct model_pass *pass, struct results *results,
                   const struct model_watch *watch, unsigned *failed,
                   struct why *why);

#endif
