/*
 * What a source of counters is to counters.c: one row of a table. Adding a
 * source is adding a file with a struct source and naming it there.
 */
#ifndef HARNESS_COUNTERS_SOURCE_H
#define HARNESS_COUNTERS_SOURCE_H

#include "harness/counters/counters.h"

/* What could not be counted, and why: a growing list. */
struct notes {
    struct counter_status *list;
    unsigned count;
};

/* Remembers that `name` of `source` is absent. Without memory the note is
 * lost, nothing else. */
void notes_add(struct notes *notes, const char *source, const char *name,
               const char *format, ...) __attribute__((format(printf, 4, 5)));

struct source {
    const char *name;

    /* 0 and the source's own state; otherwise a negative errno and the
     * reason: the source is absent. `notes` lives as long as the state. */
    int (*open)(void **state, struct notes *notes, struct why *why);
    void (*close)(void *state);

    /* 0, or a negative errno and the reason: the source is closed. */
    int (*watch_vm)(void *state, const struct counters_vm *vm, struct why *why);

    /* Snapshots. A failure leaves the phase without this source's rows. */
    int (*begin)(void *state);
    int (*end)(void *state);

    /* Appends what lies between the last begin and end. */
    int (*report)(void *state, struct rows *rows);
};

extern const struct source source_kvm_stats;
extern const struct source source_papi;
extern const struct source source_kvm_trace;

/* The reason of an exit row with count 0 that says no tracepoint fired at all;
 * counters.c judges it and never passes it on. */
#define SOURCE_SILENCE "-"

/* Formats into the fixed text fields of rows. */
void exit_row_fill(struct exit_row *row, const char *source, const char *reason,
                   uint64_t count);
void counter_row_fill(struct counter_row *row, const char *source,
                      const char *scope, const char *name, double value,
                      const char *unit);

#endif
