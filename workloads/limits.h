/* Bounds that every user of a workload checks against. */
#ifndef WORKLOADS_LIMITS_H
#define WORKLOADS_LIMITS_H

#include <stdint.h>

#define WL_PAGE_4K (UINT64_C(1) << 12)
#define WL_PAGE_2M (UINT64_C(1) << 21)
#define WL_PAGE_1G (UINT64_C(1) << 30)

#define WL_LINE_BYTES UINT64_C(64)
#define WL_VCPUS_MAX  512u

/* Half of the 47 bits of user addresses that 4-level paging gives. */
#define WL_BYTES_MAX (UINT64_C(1) << 46)

static inline int wl_page_size_known(uint64_t bytes)
{
    return bytes == WL_PAGE_4K || bytes == WL_PAGE_2M || bytes == WL_PAGE_1G;
}

#endif
