/*
 * A process that outlives its parent just long enough to clean up after it:
 * against SIGKILL, a crash, or Ctrl-C at the wrong moment.
 */
#ifndef HARNESS_GUARD_H
#define HARNESS_GUARD_H

#include "base/why.h"

struct guard;

/*
 * Starts the process. When the caller ends, however it ends, the process runs
 * cleanup(arg) and ends too. It is no child of the caller (nothing to wait
 * for), shares no file descriptors with it, and ignores terminal signals.
 * `cleanup` runs on a copy of the caller's memory made now. When the caller
 * has threads, `cleanup` keeps to async-signal-safe functions.
 * 0 or a negative errno.
 */
int guard_start(struct guard **guard, void (*cleanup)(void *arg), void *arg,
                struct why *why);

/* Sends the process away without cleaning up: the caller has done it. */
void guard_dismiss(struct guard *guard);

#endif
