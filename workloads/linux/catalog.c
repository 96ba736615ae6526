#include "workloads/catalog.h"

#include "base/parse.h"
#include "workloads/limits.h"
#include "workloads/user.h"

#include <errno.h>
#include <string.h>

#define NANO(id, text, op, count, bytes)       \
    static const struct workload nano_##id = { \
        .name = #id,                           \
        .summary = text,                       \
        .operation = op,                       \
        .class = WL_NANO,                      \
        .default_operations = count,           \
        .default_working_set_bytes = bytes,    \
        .max_vcpus = 1,                        \
    };
#include "workloads/guest/nano.def"
#undef NANO

#define TEST(id, text, op, count)              \
    static const struct workload test_##id = { \
        .name = #id,                           \
        .summary = text,                       \
        .operation = op,                       \
        .class = WL_TEST,                      \
        .default_operations = count,           \
        .max_vcpus = 1,                        \
    };
#include "workloads/guest/test.def"
#undef TEST

#define COMPUTE(id, text, op, count) extern const struct workload workload_##id;
#include "workloads/compute/compute.def"
#undef COMPUTE

static const struct workload *const catalog[] = {
#define NANO(id, text, op, count, bytes) &nano_##id,
#include "workloads/guest/nano.def"
#undef NANO
#define COMPUTE(id, text, op, count) &workload_##id,
#include "workloads/compute/compute.def"
#undef COMPUTE
#define USER(id) &workload_##id,
#include "workloads/user.def"
#undef USER
#define TEST(id, text, op, count) &test_##id,
#include "workloads/guest/test.def"
#undef TEST
    NULL,
};

const struct workload *const *workload_catalog(void)
{
    return catalog;
}

const struct workload *workload_find(const char *name)
{
    for (const struct workload *const *w = catalog; *w; w++)
        if (!strcmp((*w)->name, name))
            return *w;
    return NULL;
}

static void fill_defaults(const struct workload *workload,
                          struct wl_params *params)
{
    if (!workload->default_working_set_bytes || !params->working_set_bytes)
        params->working_set_bytes = workload->default_working_set_bytes;
    if (!params->page_bytes)
        params->page_bytes = WL_PAGE_4K;
    if (!params->operations)
        params->operations = workload->default_operations;
    if (!params->seed)
        params->seed = 1;
    if (!params->vcpus)
        params->vcpus = 1;
}

int workload_check(const struct workload *workload, struct wl_params *params,
                   struct why *why)
{
    unsigned most = workload->max_vcpus ? workload->max_vcpus : WL_VCPUS_MAX;
    char size[32];

    fill_defaults(workload, params);
    if (!wl_page_size_known(params->page_bytes))
        return why_set(why, EINVAL,
                       "pages of %s do not exist: ask for 4K, 2M or 1G",
                       format_size(params->page_bytes, size, sizeof size));
    if (params->vcpus > most)
        return why_set(
            why, EINVAL, "%s runs on at most %u vCPU%s: %u are too many",
            workload->name, most, most == 1 ? "" : "s", params->vcpus);
    if (!workload->default_working_set_bytes)
        return 0;
    if (params->working_set_bytes < WL_PAGE_4K)
        return why_set(
            why, EINVAL,
            "a working set of %s is less than a page: ask for 4K "
            "or more",
            format_size(params->working_set_bytes, size, sizeof size));
    if (params->working_set_bytes > WL_BYTES_MAX)
        return why_set(
            why, EINVAL,
            "a working set of %s is more than half of the address "
            "space: ask for 64T or less",
            format_size(params->working_set_bytes, size, sizeof size));
    return 0;
}
