/* The table of user-level workloads that a guest program is built with. */
#include "workloads/user.h"

static const struct workload end_of_table;

const struct workload *const wl_user_workloads[] = {
#define USER(id) &workload_##id,
#include "workloads/user.def"
#undef USER
    &end_of_table,
    NULL,
};
