/* What the readers of foreign formats share; trace/import.h is for others. */
#ifndef TRACE_FORMATS_H
#define TRACE_FORMATS_H

#include "mmu/walk.h"
#include "trace/import.h"
#include "trace/input.h"

#define IMPORT_QUEUE 8 /* accesses of one line or record, at most */
#define IMPORT_TEXT  65536u

struct import;

struct import_format {
    const char *name;
    const char *unit; /* what `position` counts */
    /* Reads one line or record, with import_add; 1, 0 at the end, or a
     * negative errno. */
    int (*next)(struct import *import, struct why *why);
    const char *none; /* the cure when there are no accesses */
};

struct import {
    struct raw_source source;
    const struct import_format *format;
    struct input *input;
    struct trace_import_options options;
    uint64_t position, given;
    struct raw_access queue[IMPORT_QUEUE];
    unsigned queued, taken;
    /* The formats' own. */
    uint64_t pc;             /* memtrace: behind the last instruction */
    bool open, instructions; /* memtrace: inside a file; one was seen */
    size_t at, end;          /* of the text */
    uint8_t text[IMPORT_TEXT];
};

extern const struct import_format import_lackey, import_champsim,
    import_memtrace;

/* Queues an access after checking it. */
int import_add(struct import *import, enum mmu_access access, uint64_t va,
               uint64_t bytes, struct why *why);

/* -EINVAL, with file, position and the cause. */
int import_wrong(const struct import *import, struct why *why,
                 const char *cause);

/* The next record of `bytes` bytes, in the text; 1, 0 at the end, or a
 * negative errno, also for a part of one. */
int import_record(struct import *import, size_t bytes, const uint8_t **record,
                  struct why *why);

/* Moves what was not consumed of the text to its start and reads more behind
 * it; how many bytes came. */
long import_refill(struct import *import, struct why *why);

#endif
