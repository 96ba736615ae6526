/* A plan carried out in one boot of an emulated machine (docs/lab.md). */
#ifndef HARNESS_LAB_H
#define HARNESS_LAB_H

#include "base/why.h"
#include "harness/plan.h"
#include "harness/progress.h"

#include <signal.h>

struct lab_job {
    enum platform lab;
    const struct plan *plan; /* runs of this lab only */
    unsigned first_id;       /* of its rows (harness/results.h) */
    const volatile sig_atomic_t *stop;
    unsigned failed; /* out: runs that failed */
};

/*
 * Boots the machine, runs the plan there, and leaves the result folder it
 * wrote as `folder`/run. The lab's steps are steps of `progress`. -EINTR when
 * *stop was set; -EIO with a sentence when the lab itself failed, and then
 * there is no result folder.
 */
int lab_run(struct lab_job *job, const char *folder, struct progress *progress,
            struct why *why);

#endif
