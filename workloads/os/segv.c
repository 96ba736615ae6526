/*
 * segv: access violations that the program itself handles.
 *
 * Each operation loads from a page without access; the handler gives it
 * access and the load is tried again. When all pages of the working set have
 * had their turn, access is taken from all of them in one call, so that an
 * operation is a fault, its delivery to user code and back, one change of a
 * page's protection, and its share of the change for all. Delivery is not to
 * be had alone: how a handler gets past the load is a matter of the system.
 */
#include "workloads/os/touch.h"

struct segv {
    struct range range;
    uint64_t handled;
};

static int segv_handle(const struct wl_env *env, void *addr, void *arg)
{
    struct segv *segv = arg;
    uint64_t page_bytes = segv->range.page_bytes;
    uint64_t at = (uintptr_t)addr - (uintptr_t)segv->range.base;

    if (at >= segv->range.bytes)
        return 1;
    segv->handled++;
    return env->os->protect(
        env, (void *)(segv->range.base + at / page_bytes * page_bytes),
        page_bytes, WL_PROT_READ | WL_PROT_WRITE);
}

/* Leaves every page as it found it: without access. */
static void segv_loop(const struct wl_env *env, struct segv *segv,
                      uint64_t operations)
{
    const struct range *range = &segv->range;

    while (operations) {
        for (uint64_t i = 0; i < range->bytes && operations;
             i += range->page_bytes, operations--)
            *(volatile uint64_t *)(range->base + i);
        range_protect(env, range, WL_PROT_NONE);
    }
}

static void segv_run(const struct wl_env *env)
{
    struct segv segv = {.handled = 0};
    uint64_t operations = env->params->operations, begin, end;

    wl_check(env, 1, 1);
    segv.range = range_map(env, WL_POPULATE);
    if (env->os->on_segv(env, segv_handle, &segv))
        env->os->fail(env, "cannot handle access violations here");
    range_protect(env, &segv.range, WL_PROT_NONE);
    segv_loop(env, &segv, operations / 10 + 1);
    segv.handled = 0;

    env->os->phase_begin(env, WL_STEADY);
    begin = wl_tsc();
    segv_loop(env, &segv, operations);
    end = wl_tsc();
    env->os->phase_end(env, WL_STEADY, operations, begin, end, segv.handled);
    env->os->on_segv(env, NULL, NULL);
    if (segv.handled != operations)
        env->os->fail(env, "some accesses raised no access violation");
}

const struct workload workload_segv = {
    .name = "segv",
    .summary = "access violations handled by the program",
    .operation = "violation",
    .class = WL_MMU,
    .default_working_set_bytes = 256 << 10,
    .default_operations = 10000,
    .max_vcpus = 1,
    .run = segv_run,
};
