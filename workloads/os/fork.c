/*
 * process: creates and destroys a process that does nothing.
 * forkwait: the same, and the child writes to each page of the working set.
 *
 * Both measure what a system does to page tables when a process comes and
 * goes: copying them, taking write access from the parent's pages, switching
 * address spaces twice, freeing; forkwait adds the copy-on-write faults. Then
 * the parent writes to its pages too, and takes them back. How large a process
 * is beyond the working set is the system's: a Linux process has some hundred
 * pages more than a program of the guest.
 */
#include "workloads/os/touch.h"

static uint64_t fork_and_wait(const struct wl_env *env, struct range *range,
                              int child_writes, uint64_t value)
{
    long child = env->os->fork(env);
    int status = -1;

    if (child < 0)
        env->os->fail(env, "cannot create a process: not enough memory, or "
                           "too many processes");
    if (child == 0) {
        if (child_writes)
            range_write(range, ~value);
        env->os->exit_child(env, value & 0x7f);
    }
    if (env->os->wait_child(env, child, &status) ||
        status != (int)(value & 0x7f))
        env->os->fail(env, "the child process died: not enough memory to "
                           "copy its pages?");
    range_write(range, value);
    return range_read(range) + status;
}

static uint64_t process_loop(const struct wl_env *env, struct range *range,
                             uint64_t operations)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < operations; i++)
        sum += fork_and_wait(env, range, 0, i);
    return sum;
}

static uint64_t forkwait_loop(const struct wl_env *env, struct range *range,
                              uint64_t operations)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < operations; i++)
        sum += fork_and_wait(env, range, 1, i);
    return sum;
}

static void process_run(const struct wl_env *env)
{
    struct range range;

    wl_check(env, 1, 1);
    range = range_map(env, WL_POPULATE);
    os_steady(env, process_loop, &range);
}

static void forkwait_run(const struct wl_env *env)
{
    struct range range;

    wl_check(env, 1, 1);
    range = range_map(env, WL_POPULATE);
    os_steady(env, forkwait_loop, &range);
}

const struct workload workload_process = {
    .name = "process",
    .summary = "creation and destruction of a process",
    .operation = "process",
    .class = WL_MMU,
    .default_working_set_bytes = 64 << 10,
    .default_operations = 200,
    .max_vcpus = 1,
    .run = process_run,
};

const struct workload workload_forkwait = {
    .name = "forkwait",
    .summary = "fork, copy-on-write of the working set, exit, wait",
    .operation = "process",
    .class = WL_MMU,
    .default_working_set_bytes = 64 << 10,
    .default_operations = 200,
    .max_vcpus = 1,
    .run = forkwait_run,
};
