/* The guest kernel's code that computes, as a process: the same object files,
 * run directly. */
#include "workloads/compute/compute.h"

#include "workloads/measure.h"

#define WARM_UP 2

static void measure(const struct wl_env *env, compute_function *function)
{
    const struct wl_params *params = env->params;
    struct compute_page *page;
    uint64_t begin, end, sum;

    wl_check(env, 0, 1);
    page = wl_map_or_fail(env, sizeof *page, params->page_bytes, WL_POPULATE);
    function(page, WARM_UP, params->seed);
    env->os->phase_begin(env, WL_STEADY);
    begin = wl_tsc();
    sum = function(page, params->operations, params->seed);
    end = wl_tsc();
    env->os->phase_end(env, WL_STEADY, params->operations, begin, end, sum);
}

#define COMPUTE(id, text, op, count)               \
    static void run_##id(const struct wl_env *env) \
    {                                              \
        measure(env, id);                          \
    }                                              \
    extern const struct workload workload_##id;    \
    const struct workload workload_##id = {        \
        .name = #id,                               \
        .summary = text,                           \
        .operation = op,                           \
        .class = WL_COMPUTE,                       \
        .default_operations = count,               \
        .max_vcpus = 1,                            \
        .run = run_##id,                           \
    };
#include "workloads/compute/compute.def"
#undef COMPUTE
