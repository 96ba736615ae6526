/*
 * What a workload asks of its operating system (workloads/api.h), answered by
 * the guest kernel's code. The workload's data is ordinary memory of the host
 * at the addresses the kernel chose.
 */
#include "workloads/model/tracer.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

/* The sanitizer's shadow is around these addresses, and the gap within it is
 * a mapping that is to be replaced. */
#ifdef __SANITIZE_ADDRESS__
#define MAP_AT MAP_FIXED
#else
#define MAP_AT MAP_FIXED_NOREPLACE
#endif

static void data_map(uint64_t at, uint64_t bytes, uint64_t page_bytes)
{
    void *want = (void *)at;

    if (at < DATA_START || at > DATA_END || bytes > DATA_END - at)
        tracer_fail(ENOTSUP, "instrumented workloads map 31 TiB at most: ask "
                             "for a smaller --size");
    if (mmap(want, bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_AT, -1,
             0) != want)
        tracer_fail(ENOMEM,
                    "cannot map %" PRIu64 " MiB at the guest's "
                    "address 0x%" PRIx64 ": %s",
                    bytes >> 20, at, strerror(errno));
    /* The host's page size makes no difference but in speed; where the guest
     * has large pages, a workload may touch one word of each. */
    madvise(want, bytes,
            page_bytes == PAGE_4K ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static uint64_t page_bytes_at(uint64_t va)
{
    const struct space *space = tracer_space();

    for (const struct vma *v = space->vmas; v < space->vmas + VMAS_MAX; v++)
        if (va >= v->start && va < v->end)
            return v->page_bytes;
    return PAGE_4K;
}

static void *os_map(const struct wl_env *env, uint64_t bytes,
                    uint64_t page_bytes, enum wl_map_flags flags)
{
    uint64_t at =
        space_map(&tracer->kernel, tracer_space(), 0, bytes, page_bytes,
                  WL_PROT_READ | WL_PROT_WRITE, flags & WL_POPULATE);

    (void)env;
    tracer_leave_kernel();
    if (at)
        data_map(at, (bytes + page_bytes - 1) & ~(page_bytes - 1), page_bytes);
    return (void *)at;
}

static int os_unmap(const struct wl_env *env, void *addr, uint64_t bytes)
{
    uint64_t page_bytes = page_bytes_at((uint64_t)addr);
    int err =
        space_unmap(&tracer->kernel, tracer_space(), (uint64_t)addr, bytes);

    (void)env;
    tracer_leave_kernel();
    if (err)
        return err;
    return munmap(addr, (bytes + page_bytes - 1) & ~(page_bytes - 1)) ? -errno
                                                                      : 0;
}

/* The host needs no protection: every access asks the guest's tables. */
static int os_protect(const struct wl_env *env, void *addr, uint64_t bytes,
                      unsigned prot)
{
    int err = space_protect(&tracer->kernel, tracer_space(), (uint64_t)addr,
                            bytes, prot & 3);

    (void)env;
    tracer_leave_kernel();
    return err;
}

static int os_on_segv(const struct wl_env *env,
                      int (*handler)(const struct wl_env *env, void *addr,
                                     void *arg),
                      void *arg)
{
    struct tracer_process *p = &tracer->process[tracer->current];

    p->segv = handler;
    p->segv_arg = arg;
    p->env = env;
    return 0;
}

static long os_fork(const struct wl_env *env)
{
    (void)env;
    return process_fork();
}

__attribute__((noreturn)) static void os_exit_child(const struct wl_env *env,
                                                    int status)
{
    (void)env;
    process_exit(status);
}

static int os_wait_child(const struct wl_env *env, long child, int *status)
{
    (void)env;
    return process_wait(child, status);
}

static void os_yield(const struct wl_env *env)
{
    (void)env;
    process_yield();
}

/* Changes nothing in memory. */
static void os_null_call(const struct wl_env *env)
{
    (void)env;
}

/* A source refuses more than one vCPU. */
static int os_parallel(const struct wl_env *env,
                       void (*fn)(const struct wl_env *env, void *arg,
                                  unsigned id),
                       void *arg)
{
    fn(env, arg, 0);
    return 0;
}

void model_phase_begin(enum wl_phase phase)
{
    tracer_event(EVENT_PHASE_BEGIN, phase);
}

void model_phase_end(enum wl_phase phase, uint64_t operations,
                     uint64_t checksum)
{
    tracer_event(EVENT_PHASE_END, phase);
    *tracer->next++ = operations;
    *tracer->next++ = checksum;
}

static void os_phase_begin(const struct wl_env *env, enum wl_phase phase)
{
    (void)env;
    model_phase_begin(phase);
}

static void os_phase_end(const struct wl_env *env, enum wl_phase phase,
                         uint64_t operations, uint64_t tsc_begin,
                         uint64_t tsc_end, uint64_t checksum)
{
    (void)env;
    (void)tsc_begin;
    (void)tsc_end;
    model_phase_end(phase, operations, checksum);
}

__attribute__((noreturn)) static void os_fail(const struct wl_env *env,
                                              const char *why)
{
    (void)env;
    tracer_fail(ECANCELED, "%s", why);
}

static const struct wl_os model_os = {
    .map = os_map,
    .unmap = os_unmap,
    .protect = os_protect,
    .on_segv = os_on_segv,
    .fork = os_fork,
    .exit_child = os_exit_child,
    .wait_child = os_wait_child,
    .yield = os_yield,
    .null_call = os_null_call,
    .parallel = os_parallel,
    .phase_begin = os_phase_begin,
    .phase_end = os_phase_end,
    .fail = os_fail,
};

/* workloads/table.c once more, of instrumented objects (Makefile). */
extern const struct workload *const wl_traced_workloads[];

void model_run_workload(const struct workload *workload,
                        const struct wl_params *params)
{
    const struct wl_env env = {params, &model_os, NULL};
    const struct workload *const *traced = wl_traced_workloads;

    while ((*traced)->name && strcmp((*traced)->name, workload->name) != 0)
        traced++;
    if (!(*traced)->name)
        tracer_fail(ENOENT, "%s is not among the instrumented workloads: a bug",
                    workload->name);
    (*traced)->run(&env);
}
