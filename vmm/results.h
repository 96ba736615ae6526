/* The results page as the guest left it, which is not trusted. */
#ifndef VMM_RESULTS_H
#define VMM_RESULTS_H

#include "base/why.h"
#include "workloads/abi.h"

#include <stddef.h>

/*
 * Copies the page once (the guest may still write to it) and checks the copy:
 * magic, version, state, phases known and in bounds, time not running
 * backwards, and the message ends and is printable (other bytes become '?').
 * 0, or -EINVAL with a sentence. A guest that has not finished is no error
 * here: state tells.
 */
int guest_results_read(const volatile void *page, size_t bytes,
                       struct guest_results *results, struct why *why);

#endif
