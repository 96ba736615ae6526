#include "workloads/api.h"
const struct workload *const wl_user_workloads[] = {0};
