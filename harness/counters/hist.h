/*
 * Histogram triggers as the kernel prints them (Linux
 * Documentation/trace/histogram.rst): a text that we do not believe.
 */
#ifndef HARNESS_COUNTERS_HIST_H
#define HARNESS_COUNTERS_HIST_H

#include <stdint.h>

#define HIST_KEYS_MAX 2

struct hist_entry {
    uint64_t keys[HIST_KEYS_MAX]; /* in the order of the trigger's keys */
    uint64_t hitcount;
    uint64_t value; /* the first value but the hit count, else 0 */
};

struct hist {
    struct hist_entry *entries;
    unsigned count;
    uint64_t hits;
    uint64_t dropped; /* not 0: the entries are incomplete */
};

/*
 * Reads, from a `hist` file with one or more triggers, the one whose trigger
 * line begins with `hist:keys=<keys>:`. -ENOENT without such a trigger,
 * -EPROTO for a text that ends early or does not parse, -ENOMEM.
 */
int hist_parse(const char *text, const char *keys, struct hist *hist);
void hist_free(struct hist *hist);

#endif
