#include "harness/counters/papi_events.h"

/*
 * The names are libpfm4's, which follow Intel's event lists (SDM vol. 3,
 * chapter 20) and AMD's processor programming references. PERF_COUNT_* are
 * the kernel's own generic events, which exist for processors that libpfm4
 * does not know yet.
 */
const struct papi_metric papi_metrics[] = {
    {PAPI_SOFTWARE, "page_faults", "events", {"PAGE-FAULTS"}},
    {PAPI_SOFTWARE, "context_switches", "events", {"CONTEXT-SWITCHES"}},

    /* Few: closing a tracepoint costs some 35 ms (an RCU grace period), and
     * PAPI opens a set anew for each event that is added. The histograms of
     * kvm_trace count the others. */
    {PAPI_TRACEPOINT, "kvm_exit", "events", {"kvm:kvm_exit"}},
    {PAPI_TRACEPOINT, "kvm_page_fault", "events", {"kvm:kvm_page_fault"}},

    {PAPI_CLOCKS, "cycles", "cycles", {"PERF_COUNT_HW_CPU_CYCLES"}},
    {PAPI_CLOCKS,
     "instructions",
     "instructions",
     {"PERF_COUNT_HW_INSTRUCTIONS"}},

    /* Loads that missed every TLB level and walked to the end: Intel from
     * Nehalem to Sapphire Rapids. */
    {PAPI_TRANSLATION,
     "dtlb_load_misses",
     "events",
     {"DTLB_LOAD_MISSES:WALK_COMPLETED", "PERF_COUNT_HW_CACHE_DTLB:READ:MISS"}},
    /* Loads and stores together: AMD Zen 1 to 4 (L1 DTLB reloads that missed
     * the L2 TLB too), family 15h, family 10h; Nehalem, Westmere. */
    {PAPI_TRANSLATION,
     "dtlb_misses",
     "events",
     {"L1_DTLB_MISS:TLB_RELOAD_1G_L2_MISS:TLB_RELOAD_2M_L2_MISS:"
      "TLB_RELOAD_COALESCED_PAGE_MISS:TLB_RELOAD_4K_L2_MISS",
      "UNIFIED_TLB_MISS:4K_DATA:2M_DATA:1GB_DATA",
      "L1_DTLB_AND_L2_DTLB_MISS:ALL", "DTLB_MISSES:WALK_COMPLETED"}},
    /* Cycles a walker is busy for loads: Skylake and later, Sandy Bridge to
     * Broadwell, Westmere. */
    {PAPI_TRANSLATION,
     "dtlb_load_walk_cycles",
     "cycles",
     {"DTLB_LOAD_MISSES:WALK_ACTIVE", "DTLB_LOAD_MISSES:WALK_DURATION",
      "DTLB_LOAD_MISSES:WALK_CYCLES"}},
    /* Walks of all kinds: Knights Landing, Silvermont, Goldmont, Core 2. */
    {PAPI_TRANSLATION, "page_walk_cycles", "cycles", {"PAGE_WALKS:CYCLES"}},
    {PAPI_TRANSLATION,
     "dtlb_store_misses",
     "events",
     {"DTLB_STORE_MISSES:WALK_COMPLETED",
      "PERF_COUNT_HW_CACHE_DTLB:WRITE:MISS"}},
    {PAPI_TRANSLATION,
     "dtlb_store_walk_cycles",
     "cycles",
     {"DTLB_STORE_MISSES:WALK_ACTIVE", "DTLB_STORE_MISSES:WALK_DURATION"}},
    {PAPI_TRANSLATION,
     "itlb_misses",
     "events",
     {"ITLB_MISSES:WALK_COMPLETED",
      "L1_ITLB_MISS_L2_ITLB_MISS:COALESCED4K:IF1G:IF2M:IF4K",
      "L1_ITLB_MISS_L2_ITLB_MISS:IF1G:IF2M:IF4K",
      "PERF_COUNT_HW_CACHE_ITLB:READ:MISS"}},
    {PAPI_TRANSLATION,
     "itlb_walk_cycles",
     "cycles",
     {"ITLB_MISSES:WALK_ACTIVE", "ITLB_MISSES:WALK_DURATION",
      "ITLB_MISSES:WALK_CYCLES"}},
};
const unsigned papi_metric_count = sizeof papi_metrics / sizeof papi_metrics[0];

/* PAPI's default domain is user only, in which tracepoints read 0 without an
 * error: privilege is always written out. */
const struct papi_scope papi_scopes[] = {
    {"host", ":u=1:k=1", 1 << PAPI_SOFTWARE, 0},
    {"guest_user", ":u=1:k=0:mg=1:mh=0", 1 << PAPI_CLOCKS, 1},
    {"guest", ":u=1:k=1:mg=1:mh=0", 1 << PAPI_TRANSLATION, 1},
    {"guest_kernel", ":u=0:k=1:mg=1:mh=0", 1 << PAPI_CLOCKS, 1},
    {"host", ":u=1:k=1:mg=0:mh=1", 1 << PAPI_CLOCKS | 1 << PAPI_TRANSLATION, 0},
    {"vm", ":u=1:k=1", 1 << PAPI_TRACEPOINT, 1},
};
const unsigned papi_scope_count = sizeof papi_scopes / sizeof papi_scopes[0];
