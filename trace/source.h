/* Where a stream of events comes from: a workload in process, a pattern, a
 * trace. */
#ifndef TRACE_SOURCE_H
#define TRACE_SOURCE_H

#include "base/why.h"
#include "trace/event.h"

struct event_source {
    struct event_guest guest; /* valid once the source is open */
    /* Up to `room` words of whole events in order; room is at least
     * EVENT_WORDS_MAX. Returns how many, 0 when EVENT_END was given before, or
     * a negative errno with the sentence (a trace: file, position, cause). */
    long (*read)(struct event_source *source, uint64_t *words, size_t room,
                 struct why *why);
    /* Frees the source. */
    void (*close)(struct event_source *source);
};

#endif
