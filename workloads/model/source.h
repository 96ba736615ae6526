/*
 * Streams of events (trace/event.h) made in process: workloads instrumented at
 * compile time, patterns of accesses without data, and bare accesses from
 * somewhere else. The guest kernel's own address-space code, compiled for the
 * host, is the operating system under all of them, so that stores to page
 * tables, faults, flushes and switches are those of the real guest.
 *
 * What is in the stream: loads and stores of the workload to memory it mapped,
 * and what the kernel does to page tables, reference counts and frames. What
 * is not: instruction fetches, the workload's stack and constants, the
 * kernel's stack and variables, the number of instructions.
 *
 * The stream opens with the stores of the kernel's boot tables and the MOV CR3
 * that turns them on; then come the tables of the first process and its CR3.
 * Patterns have WL_FIRST_TOUCH (unless there are more pages than operations:
 * pages then appear as they are accessed) and WL_STEADY; bare accesses are one
 * WL_STEADY.
 *
 * Each source is a child process of the thread that opened it, and dies with
 * that thread.
 */
#ifndef WORKLOADS_MODEL_SOURCE_H
#define WORKLOADS_MODEL_SOURCE_H

#include "trace/raw.h"
#include "trace/source.h"
#include "workloads/api.h"

/* What the accesses run on; all 0 is 4 levels, no PCIDs, enough memory. */
struct model_guest {
    unsigned levels; /* 4 or 5; 0: 4 */
    bool pcid;
    uint64_t ram_bytes; /* 0: as much as the workload can need; sparse */
};

/* All that can be opened by name, ended by NULL: the user-level workloads of
 * the catalog and the patterns, pattern:uniform, pattern:cyclic,
 * pattern:sequential and pattern:zipf, whose `run` is NULL. */
const struct workload *const *model_catalog(void);

/* NULL when there is none of this name. */
const struct workload *model_find(const char *name);

/* What is 0 in `params` and `guest` (which may be NULL) gets its default.
 * -EINVAL, -ENOTSUP or -ENOMEM with the sentence: no such name, a nano
 * benchmark of the guest's kernel, more than one vCPU, parameters that
 * workload_check (workloads/catalog.h) refuses, a guest that can't be. What
 * goes wrong later, an access that no guest would survive say, is read's. */
int model_open(struct event_source **source, const char *name,
               const struct wl_params *params, const struct model_guest *guest,
               struct why *why);

/* Bare accesses in one range over the whole user half, which pages of
 * `page_bytes` fill on demand. `raw` is the source's from here on, whatever is
 * returned; another process reads it. ram_bytes 0: 256 GiB. */
int model_open_raw(struct event_source **source, struct raw_source *raw,
                   uint64_t page_bytes, const struct model_guest *guest,
                   struct why *why);

#endif
