/* What a request becomes: which runs, in which order. In the lab, so that it
 * doesn't depend on this machine. */
#include "harness/nano_published.h"
#include "harness/plan.h"
#include "tests/test.h"

#include <stdio.h>
#include <string.h>

static struct plan plan_of(struct plan_request request)
{
    struct plan plan = {NULL, 0, 0};
    struct why why = {""};

    request.lab_only = true;
    CU_ASSERT_EQUAL(plan_add(&plan, &request, &why), 0);
    CU_ASSERT_STRING_EQUAL(why.text, "");
    return plan;
}

/* "bt unsync on off": technique, policy, assist, adaptive. */
static void expect(const struct plan *plan, size_t at, const char *expected)
{
    const struct run_spec *spec = &plan->specs[at];
    char text[80];

    if (at >= plan->count) {
        CU_FAIL("too few runs");
        return;
    }
    snprintf(text, sizeof text, "%s %s %s %s", technique_name(spec->technique),
             shadow_policy_name(spec->shadow_policy),
             spec->no_assist ? "off" : "on", spec->no_adaptive ? "off" : "on");
    CU_ASSERT_STRING_EQUAL(text, expected);
    if (strcmp(text, expected))
        printf("(run %zu is '%s', not '%s') ", at, text, expected);
}

/* Each technique has the choices that it has, once each. */
static void choices(void)
{
    struct plan plan = plan_of((struct plan_request){
        .techniques = "shadow,trap,pv,bt",
        .workloads = "cpuid",
        .policies = "vtlb,traced",
        .adaptives = "on,off",
        .bt_cache_bytes = 65536,
    });

    CU_ASSERT_EQUAL(plan.count, 1 + 2 + 1 + 4);
    expect(&plan, 0, "shadow vtlb on on");
    expect(&plan, 1, "trap vtlb on on");
    expect(&plan, 2, "trap traced on on");
    expect(&plan, 3, "pv vtlb on on");
    expect(&plan, 4, "bt vtlb on on");
    expect(&plan, 5, "bt vtlb on off");
    expect(&plan, 6, "bt traced on on");
    expect(&plan, 7, "bt traced on off");
    CU_ASSERT_EQUAL(plan.specs[7].bt_cache_bytes, 65536);
    plan_free(&plan);
    plan = plan_of((struct plan_request){.techniques = "pv,bt",
                                         .workloads = "cpuid",
                                         .assists = "off,on",
                                         .adaptives = "off,on"});
    CU_ASSERT_EQUAL(plan.count, 2 + 4);
    expect(&plan, 0, "pv unsync off off");
    expect(&plan, 1, "pv unsync on off");
    expect(&plan, 2, "bt unsync off off");
    expect(&plan, 3, "bt unsync off on");
    expect(&plan, 4, "bt unsync on off");
    expect(&plan, 5, "bt unsync on on");
    plan_free(&plan);
}

static void defaults(void)
{
    struct plan plan = plan_of(
        (struct plan_request){.techniques = "bt", .workloads = "cpuid"});

    CU_ASSERT_EQUAL(plan.count, 1);
    expect(&plan, 0, "bt unsync on on");
    CU_ASSERT_EQUAL(plan.specs[0].bt_cache_bytes, 0);
    plan_free(&plan);
}

static void classes(void)
{
    struct plan plan = plan_of(
        (struct plan_request){.techniques = "bt", .workloads = "compute"});

    CU_ASSERT_EQUAL(plan.count, 3);
    CU_ASSERT_STRING_EQUAL(plan.specs[0].workload, "kcompute");
    CU_ASSERT_EQUAL(plan.specs[0].working_set_bytes, 0);
    CU_ASSERT(plan.specs[0].operations >= 10000);
    plan_free(&plan);
}

/* Every technique of a nanobenchmark, one behind the other. */
static void nanobenchmarks(void)
{
    static const enum technique order[] = {TECH_NATIVE, TECH_BT, TECH_SHADOW,
                                           TECH_NESTED};
    struct plan plan = {NULL, 0, 0};
    struct why why;

    CU_ASSERT_EQUAL(nano_published_plan(&plan, &why), 0);
    CU_ASSERT_EQUAL_FATAL(plan.count, 28);
    for (size_t i = 0; i < plan.count; i++) {
        CU_ASSERT_EQUAL(plan.specs[i].technique, order[i % 4]);
        CU_ASSERT_EQUAL(plan.specs[i].platform, PLATFORM_LAB_SVM);
        CU_ASSERT_STRING_EQUAL(plan.specs[i].workload,
                               plan.specs[i / 4 * 4].workload);
    }
    CU_ASSERT_STRING_EQUAL(plan.specs[27].workload, "ptemod");
    plan_free(&plan);
}

TEST_SUITE(plan, {"the software VMM's choices", choices},
           {"bt's defaults", defaults}, {"the class compute", classes},
           {"the published nanobenchmarks", nanobenchmarks});
