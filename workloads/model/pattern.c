/*
 * Accesses without data, whose miss rates can be calculated: reads of a working
 * set that is mapped like any other.
 */
#include "workloads/measure.h"
#include "workloads/memory/zipf.h"
#include "workloads/model/tracer.h"

#include <errno.h>

struct pattern {
    uint64_t base, bytes, pages;
    unsigned shift; /* of a page */
    uint64_t operations;
    uint64_t rng;
};

/* Page p, at a random word of it. */
static inline uint64_t word_of(struct pattern *p, uint64_t page)
{
    uint64_t random = wl_random(&p->rng) >> 8;

    return p->base + (page << p->shift) +
           (random & ((1ull << p->shift) - 1) & ~7ull);
}

/* Every page as likely as any other. */
static void uniform(struct pattern *p)
{
    for (uint64_t i = p->operations; i; i--)
        tracer_user(word_of(p, wl_pick(&p->rng, p->pages)), MMU_READ, p->shift);
}

/* Page after page, round and round. */
static void cyclic(struct pattern *p)
{
    uint64_t page = 0;

    for (uint64_t i = p->operations; i; i--) {
        tracer_user(word_of(p, page), MMU_READ, p->shift);
        if (++page == p->pages)
            page = 0;
    }
}

/* Word after word, round and round. */
static void sequential(struct pattern *p)
{
    uint64_t at = 0;

    for (uint64_t i = p->operations; i; i--) {
        tracer_user(p->base + at, MMU_READ, p->shift);
        at += 8;
        if (at == p->bytes)
            at = 0;
    }
}

/* Pages whose popularity follows Zipf's law with exponent 1. */
static void zipf(struct pattern *p)
{
    struct zipf law;

    if (p->pages > ZIPF_COUNT_MAX)
        tracer_fail(EINVAL, "pattern:zipf takes up to 2^32 - 1 pages: ask for "
                            "a smaller --size");
    zipf_init(&law, p->pages);
    for (uint64_t i = p->operations; i; i--)
        tracer_user(word_of(p, zipf_place(&law, zipf_rank(&law, &p->rng))),
                    MMU_READ, p->shift);
}

#define PATTERN(id, text)                      \
    const struct workload pattern_##id = {     \
        .name = "pattern:" #id,                \
        .summary = text,                       \
        .operation = "load",                   \
        .class = WL_MEMORY,                    \
        .default_working_set_bytes = 64 << 20, \
        .default_operations = 2 << 20,         \
        .max_vcpus = 1,                        \
    };
#include "workloads/model/pattern.def"
#undef PATTERN

static void accesses(const struct workload *which, struct pattern *p)
{
#define PATTERN(id, text)       \
    if (which == &pattern_##id) \
        id(p);
#include "workloads/model/pattern.def"
#undef PATTERN
}

static struct pattern map_pattern(const struct wl_params *params)
{
    struct pattern p = {
        .bytes = wl_round_up(params->working_set_bytes, params->page_bytes),
        .shift = pt_shift(pt_leaf_level(params->page_bytes)),
        .operations = params->operations,
        .rng = wl_stream(params->seed, 0),
    };

    p.pages = p.bytes >> p.shift;
    p.base = space_map(&tracer->kernel, tracer_space(), 0, p.bytes,
                       params->page_bytes, WL_PROT_READ | WL_PROT_WRITE, false);
    tracer_leave_kernel();
    if (!p.base)
        tracer_fail(ENOMEM, "no room for the working set: ask for a smaller "
                            "--size");
    tracer->page_shift = p.shift;
    return p;
}

static void first_touch(const struct pattern *p)
{
    model_phase_begin(WL_FIRST_TOUCH);
    for (uint64_t i = 0; i < p->pages; i++)
        tracer_user(p->base + (i << p->shift), MMU_WRITE, p->shift);
    model_phase_end(WL_FIRST_TOUCH, p->pages, p->pages);
}

void model_run_pattern(const struct workload *pattern,
                       const struct wl_params *params)
{
    struct pattern p = map_pattern(params);

    if (p.pages <= p.operations)
        first_touch(&p);
    model_phase_begin(WL_STEADY);
    accesses(pattern, &p);
    model_phase_end(WL_STEADY, p.operations, 0);
}
