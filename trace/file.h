/*
 * Traces: an event stream in a file or a pipe, compressed and checksummed.
 * docs/traces.md has the format. Neither side seeks, and each keeps a few MiB
 * however long the stream is.
 */
#ifndef TRACE_FILE_H
#define TRACE_FILE_H

#include "base/why.h"
#include "trace/source.h"

#include <jansson.h>
#include <stdio.h>

struct trace_header {
    struct event_guest guest;
    /* An object: where the stream comes from, as trace_origin makes it. At
     * most 60 KiB as text. */
    json_t *origin;
};

/* What `origin` says: the workload or pattern, its parameters (an object, may
 * be NULL; the reference is taken), the seed, and memvirt's version where the
 * build knows it. NULL without memory. */
json_t *trace_origin(const char *workload, json_t *parameters, uint64_t seed);

struct trace_writer;

/*
 * Begins a trace at `path`, or on standard output when it is "-". A regular
 * file appears under its name when it is whole and not before. `header` is the
 * caller's. -EINVAL for a guest that cannot be, -E2BIG for too long an origin,
 * -errno of opening and writing, -ENOMEM.
 */
int trace_writer_open(const char *path, const struct trace_header *header,
                      struct trace_writer **writer, struct why *why);

/* The same into an open file, closed at the end, that sentences call `name`. */
int trace_writer_open_file(FILE *file, const char *name,
                           const struct trace_header *header,
                           struct trace_writer **writer, struct why *why);

/* Appends `count` words, whole events. -EINVAL for what trace/check.h forbids,
 * -errno of writing. After an error only trace_writer_abandon makes sense. */
int trace_writer_write(struct trace_writer *writer, const uint64_t *words,
                       size_t count, struct why *why);

/* Writes what is left and gives the file its name. Frees the writer in any
 * case; when it fails there is no file. -EINVAL when EVENT_END is missing. */
int trace_writer_close(struct trace_writer *writer, struct why *why);

/* Frees the writer and removes what it wrote; NULL does nothing. */
void trace_writer_abandon(struct trace_writer *writer);

/*
 * Opens the trace at `path`, or standard input when it is "-". Sentences have
 * the file, block and event, and the cause: -EINVAL for what is no trace,
 * another version, damaged, truncated, or against trace/check.h. Nothing of a
 * block is given before all of it was found right.
 */
int trace_reader_open(const char *path, struct event_source **source,
                      struct why *why);

/* The same from an open file, which close closes. */
int trace_reader_open_file(FILE *file, const char *name,
                           struct event_source **source, struct why *why);

/* Where a trace comes from: an object, valid until the source is closed. */
const json_t *trace_reader_origin(const struct event_source *source);

#endif
