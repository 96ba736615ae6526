/*
 * Runs a workload as a Linux process: the native baseline.
 *
 * Differences from the guest that a reader of results must know: a process
 * carries the C library's mappings into every fork, a switch between two
 * processes is two system calls (futex wake and wait) on one CPU, and demand
 * paging includes what Linux does besides (memory cgroups, LRU lists, rmap).
 * Where 2 MiB pages are transparent ones, what a child writes to is copied in
 * 4 KiB pages: Linux does so since 5.8.
 */
#ifndef WORKLOADS_LINUX_PROCESS_H
#define WORKLOADS_LINUX_PROCESS_H

#include "base/why.h"
#include "workloads/api.h"

/* Either function may be NULL. They are called on the thread that called
 * wl_linux_run, never in a child process. */
struct wl_linux_hooks {
    void (*phase_begin)(void *arg, enum wl_phase phase);
    void (*phase_end)(void *arg, enum wl_phase phase, uint64_t operations,
                      uint64_t tsc_begin, uint64_t tsc_end, uint64_t checksum);
    void *arg;
};

struct wl_linux_found {
    /* The page size the kernel used for the working set, read back from
     * /proc/self/smaps; 0 where it cannot be told, or there is none. */
    uint64_t page_bytes;
};

/*
 * Runs `workload` with parameters that workload_check has passed. `hooks` and
 * `found` may be NULL. Everything the workload mapped, started or changed in
 * this process is undone on return.
 *
 * Returns 0, or with a sentence in `why`: -ENOTSUP when this machine lacks
 * what the run needs (pages of the size, say), -ENOMEM, or -ECANCELED when
 * the workload gave up for another reason.
 *
 * parallel() pins its threads to CPUs of their own among those the caller may
 * run on; where these are fewer than threads, it leaves placement to the
 * scheduler.
 */
int wl_linux_run(const struct workload *workload,
                 const struct wl_params *params,
                 const struct wl_linux_hooks *hooks,
                 struct wl_linux_found *found, struct why *why);

#endif
