/* What the model is to compute: passes over streams of events, and the
 * machines that follow each. */
#ifndef HARNESS_MODEL_PLAN_H
#define HARNESS_MODEL_PLAN_H

#include "harness/run.h"
#include "model/machine.h"

/* Lists as the user wrote them; NULL is the default. */
struct model_request {
    const char *techniques;  /* native, shadow, nested, agile, flat */
    const char *policies;    /* traced, unsync, vtlb */
    const char *workloads;   /* names, groups, pattern:NAME, trace:FILE, ... */
    const char *cpus;        /* profiles: names or paths */
    const char *sizes;       /* working sets */
    const char *guest_pages; /* 4K, 2M, 1G */
    const char *host_pages;  /* 4K, 2M, 1G */
    const char *levels;      /* 4, 4+4, 4+5, 5+5 */
    const char *costs;       /* a table: name or path */
    uint64_t operations, seed, ram_bytes;
    uint64_t agile_interval; /* accesses; 0: the default */
    unsigned large_percent;  /* of the host's large pages that it finds */
    bool pcid, data_in_caches, fetches;
};

enum stream_kind {
    STREAM_WORKLOAD, /* in process: a workload or a pattern */
    STREAM_TRACE,    /* of memvirt's format */
    STREAM_IMPORT,   /* of another tool's */
};

struct model_pass {
    enum stream_kind kind;
    char label[RUN_WORKLOAD_MAX]; /* the `workload` column */
    char format[16];              /* STREAM_IMPORT: lackey, ... */
    char *path;                   /* traces: the file, or "-" */
    struct wl_params params;
    unsigned levels; /* of the guest; 0: the trace's */
    bool pcid, fetches;
    uint64_t ram_bytes; /* 0: what it takes */
    struct machine_config *machines;
    size_t machine_count;
};

struct model_plan {
    struct model_pass *passes;
    size_t pass_count;
    size_t machine_count; /* of all passes */
    struct mmu_profile *profiles;
    size_t profile_count;
    struct model_costs costs;
};

/* -EINVAL, or what reading a profile or the cost table gave, with the
 * sentence. The plan is the caller's to free in any case. */
int model_plan_make(struct model_plan *plan, const struct model_request *ask,
                    struct why *why);
void model_plan_free(struct model_plan *plan);

#endif
