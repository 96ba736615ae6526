/*
 * shootdown: one CPU takes and gives back write access to the working set
 * while all others read it.
 *
 * Measures TLB shootdown: every reader holds translations of these pages, so
 * that taking access must interrupt them all and wait. With one CPU it is
 * the same without anyone to interrupt: the baseline. What the readers lose
 * does not show, only what the changing CPU waits. More vCPUs than CPUs measure
 * the scheduler.
 */
#include "workloads/os/touch.h"

struct shootdown {
    struct range range;
    uint64_t operations;
    uint64_t begin, end; /* of the changes, all readers running */
    uint64_t sum;
    uint32_t readers;
    uint32_t stop;
    uint32_t failed;
};

static void read_until_stopped(struct shootdown *work)
{
    __atomic_fetch_add(&work->readers, 1, __ATOMIC_ACQ_REL);
    while (!__atomic_load_n(&work->stop, __ATOMIC_ACQUIRE))
        range_read(&work->range);
}

/* Must not fail the run before the readers have stopped. */
static void change(const struct wl_env *env, struct shootdown *work)
{
    struct range *range = &work->range;
    void *base = (void *)range->base;

    for (uint64_t i = 0; i < work->operations; i++) {
        if (env->os->protect(env, base, range->bytes, WL_PROT_READ) ||
            env->os->protect(env, base, range->bytes,
                             WL_PROT_READ | WL_PROT_WRITE)) {
            work->failed = 1;
            return;
        }
        range_write(range, i);
        work->sum += range_read(range);
    }
}

static void shootdown_member(const struct wl_env *env, void *arg, unsigned id)
{
    struct shootdown *work = arg;

    if (id) {
        read_until_stopped(work);
        return;
    }
    while (__atomic_load_n(&work->readers, __ATOMIC_ACQUIRE) + 1 <
           env->params->vcpus)
        __builtin_ia32_pause();
    work->begin = wl_tsc();
    change(env, work);
    work->end = wl_tsc();
    __atomic_store_n(&work->stop, 1, __ATOMIC_RELEASE);
}

static void shootdown_once(const struct wl_env *env, struct shootdown *work,
                           uint64_t operations)
{
    work->operations = operations;
    work->sum = 0;
    work->readers = work->stop = work->failed = 0;
    if (env->params->vcpus == 1)
        shootdown_member(env, work, 0);
    else if (env->os->parallel(env, shootdown_member, work))
        env->os->fail(env, "cannot start as many CPUs: ask for fewer --vcpus");
    if (work->failed)
        env->os->fail(env, "cannot change the protection of the working set");
}

static void shootdown_run(const struct wl_env *env)
{
    uint64_t operations = env->params->operations;
    struct shootdown work;

    wl_check(env, 1, 0);
    work.range = range_map(env, WL_POPULATE);
    shootdown_once(env, &work, operations / 10 + 1);
    env->os->phase_begin(env, WL_STEADY);
    shootdown_once(env, &work, operations);
    env->os->phase_end(env, WL_STEADY, operations, work.begin, work.end,
                       work.sum);
}

const struct workload workload_shootdown = {
    .name = "shootdown",
    .summary = "changes of protection that other CPUs must be told of",
    .operation = "pair of changes",
    .class = WL_MMU,
    .default_working_set_bytes = 64 << 10,
    .default_operations = 500,
    .run = shootdown_run,
};
