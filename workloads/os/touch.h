/* What the workloads on operating-system operations share. */
#ifndef WORKLOADS_OS_TOUCH_H
#define WORKLOADS_OS_TOUCH_H

#include "workloads/measure.h"

/* A range of whole pages. */
struct range {
    volatile unsigned char *base;
    uint64_t bytes;
    uint64_t page_bytes;
};

/* The working set rounded up to whole pages; not mapped yet. */
static inline struct range range_of(const struct wl_env *env)
{
    uint64_t page_bytes = env->params->page_bytes;

    return (struct range){
        NULL, wl_round_up(env->params->working_set_bytes, page_bytes),
        page_bytes};
}

static inline struct range range_map(const struct wl_env *env,
                                     enum wl_map_flags flags)
{
    struct range range = range_of(env);

    range.base = wl_map_or_fail(env, range.bytes, range.page_bytes, flags);
    return range;
}

/* One store, or load, a page. */
static inline void range_write(const struct range *range, uint64_t value)
{
    for (uint64_t i = 0; i < range->bytes; i += range->page_bytes)
        *(volatile uint64_t *)(range->base + i) = value;
}

static inline uint64_t range_read(const struct range *range)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < range->bytes; i += range->page_bytes)
        sum += *(volatile uint64_t *)(range->base + i);
    return sum;
}

static inline void range_protect(const struct wl_env *env,
                                 const struct range *range, unsigned prot)
{
    if (env->os->protect(env, (void *)range->base, range->bytes, prot))
        env->os->fail(env, "cannot change the protection of the working set");
}

/* A loop of operations on one CPU that returns a checksum. */
typedef uint64_t os_loop(const struct wl_env *env, struct range *range,
                         uint64_t operations);

/* WL_STEADY: a tenth of the operations unmeasured, then all of them. */
static inline void os_steady(const struct wl_env *env, os_loop *loop,
                             struct range *range)
{
    uint64_t operations = env->params->operations, begin, end, sum;

    loop(env, range, operations / 10 + 1);
    env->os->phase_begin(env, WL_STEADY);
    begin = wl_tsc();
    sum = loop(env, range, operations);
    end = wl_tsc();
    env->os->phase_end(env, WL_STEADY, operations, begin, end, sum);
}

#endif
