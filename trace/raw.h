/* Bare accesses from somewhere that knows no page tables: another tool's
 * trace. An operating system has to be put under them (workloads/model/). */
#ifndef TRACE_RAW_H
#define TRACE_RAW_H

#include "base/why.h"

#include <stddef.h>
#include <stdint.h>

struct raw_access {
    uint64_t va; /* canonical, in the lower half */
    uint32_t bytes;
    uint8_t access; /* enum mmu_access */
    uint8_t reserved[3];
};

struct raw_source {
    /* Up to `room` accesses in order; how many, 0 at the end, or a negative
     * errno with the sentence: file, position and cause. */
    long (*read)(struct raw_source *source, struct raw_access *out, size_t room,
                 struct why *why);
    /* Frees the source. */
    void (*close)(struct raw_source *source);
};

#endif
