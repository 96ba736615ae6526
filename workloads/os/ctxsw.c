/*
 * ctxsw: two processes that hand the CPU to each other.
 *
 * An operation is a round trip: two switches of the address space, and after
 * each a load from every page of the working set, at the same addresses in
 * both processes, so that what a switch costs in TLB misses afterwards is in
 * the result. Each maps its working set for itself after the fork: pages
 * shared for copy-on-write would lose their size. Under Linux a switch takes
 * two system calls, in the guest one: compare techniques, and native with care.
 */
#include "workloads/os/touch.h"

static uint64_t switch_and_read(const struct wl_env *env,
                                const struct range *range, uint64_t times)
{
    uint64_t sum = 0;

    for (; times; times--) {
        env->os->yield(env);
        sum += range_read(range);
    }
    return sum;
}

/* Runs first when the parent yields; hands back as often as it is handed the
 * CPU, the last time by its end. */
static __attribute__((noreturn)) void ctxsw_child(const struct wl_env *env,
                                                  uint64_t times)
{
    struct range range = range_map(env, WL_POPULATE);

    range_write(&range, 1);
    switch_and_read(env, &range, times);
    env->os->exit_child(env, 0);
}

static void ctxsw_run(const struct wl_env *env)
{
    uint64_t operations = env->params->operations;
    uint64_t warm_up = operations / 10 + 1, begin, end, sum;
    struct range range;
    int status = -1;
    long child;

    wl_check(env, 1, 1);
    if (operations > UINT64_MAX / 2)
        env->os->fail(env, "more operations than can be counted: ask for "
                           "fewer --ops");
    child = env->os->fork(env);
    if (child < 0)
        env->os->fail(env, "cannot create a process: not enough memory, or "
                           "too many processes");
    if (child == 0)
        ctxsw_child(env, warm_up + operations);
    range = range_map(env, WL_POPULATE);
    range_write(&range, 2);
    switch_and_read(env, &range, warm_up);

    env->os->phase_begin(env, WL_STEADY);
    begin = wl_tsc();
    sum = switch_and_read(env, &range, operations);
    end = wl_tsc();
    env->os->phase_end(env, WL_STEADY, operations, begin, end, sum);
    if (env->os->wait_child(env, child, &status) || status)
        env->os->fail(env, "the other process died");
}

const struct workload workload_ctxsw = {
    .name = "ctxsw",
    .summary = "context switches between two processes",
    .operation = "round trip",
    .class = WL_MMU,
    .default_working_set_bytes = 64 << 10,
    .default_operations = 5000,
    .max_vcpus = 1,
    .run = ctxsw_run,
};
