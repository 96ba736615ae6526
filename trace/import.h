/*
 * Accesses from other tools' traces: Valgrind's lackey, ChampSim, DynamoRIO's
 * memtrace. docs/traces.md says what of each format is read and what each of
 * them cannot say.
 */
#ifndef TRACE_IMPORT_H
#define TRACE_IMPORT_H

#include "trace/raw.h"

#include <stdbool.h>

struct trace_import_options {
    bool fetches;    /* instruction fetches too, not only data */
    unsigned levels; /* of paging, 4 or 5; 0: 4. Sets what is canonical. */
};

/*
 * Opens the trace at `path`, or standard input when it is "-", as one of
 * trace_import_kinds. Files packed by gzip or zstd are unpacked on the way.
 * -EINVAL with the kinds for an unknown one, -errno of opening. Reading gives
 * -EINVAL with file, line or record (from 1) and cause for what is no such
 * trace, addresses that are not canonical or not in the lower half, accesses
 * of 0 or more than 16 KiB, a trace that is truncated as far as its format
 * shows, and one without accesses.
 */
int trace_import_open(const char *kind, const char *path,
                      const struct trace_import_options *options,
                      struct raw_source **source, struct why *why);

/* The names of the kinds; NULL ends them. */
extern const char *const trace_import_kinds[];

#endif
