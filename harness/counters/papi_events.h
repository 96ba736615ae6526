/*
 * What PAPI is asked to count, as data: one row per metric, with the names it
 * has on the processors that have it, in the order of preference.
 */
#ifndef HARNESS_COUNTERS_PAPI_EVENTS_H
#define HARNESS_COUNTERS_PAPI_EVENTS_H

#define PAPI_CANDIDATES_MAX 6

enum papi_kind {
    PAPI_SOFTWARE,   /* counted by the kernel, everywhere */
    PAPI_TRACEPOINT, /* wherever the kernel lets us */
    PAPI_CLOCKS,     /* cycles and instructions, guest user and kernel apart */
    PAPI_TRANSLATION /* TLB misses and walks, guest and host apart */
};

/*
 * `candidates` are libpfm4's names without a PMU prefix; the first that this
 * machine has, and that counts when it is made to, is taken. In order of
 * priority: when the PMU has too few counters, the last ones stay out.
 */
struct papi_metric {
    enum papi_kind kind;
    const char *name; /* in counters.csv */
    const char *unit;
    const char *candidates[PAPI_CANDIDATES_MAX];
};

extern const struct papi_metric papi_metrics[];
extern const unsigned papi_metric_count;

/* Where a metric is counted: one column value of counters.csv and libpfm4's
 * modifiers for it (u, k: privilege; mg, mh: guest and host). */
struct papi_scope {
    const char *name;
    const char *modifiers;
    unsigned kinds; /* 1 << enum papi_kind */
    int guest;      /* only of use when a VM is watched */
};

/* In order of priority as well: guest scopes before the host's. */
extern const struct papi_scope papi_scopes[];
extern const unsigned papi_scope_count;

#endif
