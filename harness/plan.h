/* What to run, in order: the product of lists, each run sent to where it can
 * run. */
#ifndef HARNESS_PLAN_H
#define HARNESS_PLAN_H

#include "base/why.h"
#include "harness/run.h"

#include <stddef.h>
#include <stdio.h>

/* Lists as the user wrote them; NULL is the default. */
struct plan_request {
    const char *techniques; /* names */
    const char *workloads; /* names, or nano, compute, mmu, memory, all, test */
    const char *sizes;     /* working sets */
    const char *guest_pages; /* 4K, 2M, 1G */
    const char *host_pages;  /* 4K, thp, 2M, 1G */
    const char *machines;    /* svm, vmx: the labs to use; "" for none */
    bool lab_only;
    uint64_t operations, seed, ram_bytes;
    unsigned vcpus, reps, time_limit_s;
    const char *policies;  /* shadow policies of the software VMM */
    const char *assists;   /* on, off */
    const char *adaptives; /* of bt: on, off */
    uint32_t bt_cache_bytes;
    unsigned shadow_roots;
    bool tlb_poison;
    bool pcid, uncounted, switch_kvm;
    const char *cpu, *numa, *image;
};

struct plan {
    struct run_spec *specs;
    size_t count, room;
};

/*
 * Adds the runs of a request. Order: repetition, then workload and its
 * parameters, then technique, so that techniques are interleaved in time. A
 * technique that this machine cannot do goes to the lab, and then the others
 * of the list run there too, so that there is something of the same platform
 * to compare with. -EINVAL with a sentence for what cannot be run anywhere.
 */
int plan_add(struct plan *plan, const struct plan_request *request,
             struct why *why);

/* The default experiment: what `memvirt run` does without -t and -w. */
int plan_add_default(struct plan *plan, const struct plan_request *request,
                     struct why *why);

/* One JSON object a line: how a plan travels into the lab. */
int plan_write(const struct plan *plan, FILE *file);
int plan_read(struct plan *plan, const char *path, struct why *why);

void plan_free(struct plan *plan);

#endif
