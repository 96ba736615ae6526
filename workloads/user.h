/* Declares every user-level workload of workloads/user.def. */
#ifndef WORKLOADS_USER_H
#define WORKLOADS_USER_H

#include "workloads/api.h"

#define USER(id) extern const struct workload workload_##id;
#include "workloads/user.def"
#undef USER

#endif
