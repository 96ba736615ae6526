/* The self-test's part in the user program. */
#ifndef WORKLOADS_GUEST_SELFTEST_USER_H
#define WORKLOADS_GUEST_SELFTEST_USER_H

#include "workloads/api.h"

void selftest_user(const struct wl_env *env);

#endif
