/*
 * The paging test (workloads/guest/paging.h): that its cases are the ones it
 * promises, and that it passes on what this machine has. The lab's suite runs
 * it under real KVM.
 */
#include "harness/table.h"
#include "tests/test.h"
#include "workloads/guest/paging_cases.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The guest kernel's object is not position-independent. */
#include "workloads/guest/paging_cases.c"

/* ---- The cases --------------------------------------------------------- */

/* Few bits of state, so that the whole plan is soon gone through. */
static const struct paging_features plain = {.pages_1g = true,
                                             .physical_bits = 40};

static uint64_t address_bits(uint64_t flags)
{
    return flags & PTE_ADDR & ~PTE_PAT_LARGE;
}

/* Bits the walker may look at, in 11 bits; reserved address bits are one. */
static unsigned signature(uint64_t flags, uint64_t pat)
{
    static const uint64_t bits[] = {PTE_P, PTE_RW, PTE_US, PTE_A,
                                    PTE_D, PTE_G,  PTE_XD};
    unsigned value = 0;

    for (unsigned i = 0; i < 7; i++)
        value |= !!(flags & bits[i]) << i;
    return value | !!address_bits(flags) << 7 | !!(flags & pat) << 8;
}

/* Whether every level but one lets everything through. */
static bool others_permissive(const struct paging_case *c, unsigned level,
                              unsigned leaf)
{
    for (unsigned l = leaf; l <= CASE_LEVELS; l++) {
        uint64_t flags = c->flags[l] & ~PTE_A;

        if (l != level &&
            flags != (permissive | (l == leaf && l > 1 ? PTE_PS : 0)))
            return false;
    }
    return true;
}

struct coverage {
    unsigned level; /* whose bits vary */
    unsigned leaf;  /* of the page below or at it */
    uint64_t pat;   /* what the ninth bit is */
    unsigned signatures;
};

/* Goes through the whole plan and counts, in one state, the combinations of
 * one entry's bits, access and CPL that came up. */
static unsigned combinations(const struct paging_plan *plan,
                             const struct coverage *what, unsigned state)
{
    static bool seen[512 * ACCESSES];
    unsigned count = 0;

    memset(seen, 0, sizeof seen);
    for (uint64_t b = 0; b < paging_plan_batches(plan); b++) {
        struct paging_control control;
        struct paging_case c;

        paging_plan_control(plan, b, &control);
        if ((unsigned)(control.wp + 2 * control.nxe) != state || b % 4 == 3)
            continue;
        for (unsigned i = 0; i < PAGING_BATCH; i++) {
            bool large = what->leaf > 1, *at;

            paging_plan_case(plan, b, &control, i, &c);
            if (large != !!(c.flags[what->leaf] & PTE_PS) && large)
                continue;
            if (c.implicit || !others_permissive(&c, what->level, what->leaf))
                continue;
            at = &seen[signature(c.flags[what->level], what->pat) * ACCESSES +
                       c.access * 2 + c.user];
            count += !*at;
            *at = true;
        }
    }
    return count;
}

static void every_combination(void)
{
    static const struct coverage all[] = {
        {1, 1, PTE_PAT, 512},
        {2, 2, PTE_PAT_LARGE, 512},
        {3, 3, PTE_PAT_LARGE, 512},
        {2, 1, 0, 256},
        {3, 1, 0, 256},
        {4, 1, PTE_PS, 512},
    };
    struct paging_plan plan;

    paging_plan_init(&plan, &plain, 1);
    CU_ASSERT_EQUAL(plan.controls, 4);
    for (unsigned i = 0; i < 6; i++)
        for (unsigned state = 0; state < 4; state++)
            CU_ASSERT_EQUAL(combinations(&plan, &all[i], state),
                            all[i].signatures * ACCESSES);
}

/* The rights of all levels together, with NX. */
static void every_right(void)
{
    static bool seen[4096 * ACCESSES];
    struct paging_plan plan;
    unsigned count = 0;

    paging_plan_init(&plan, &plain, 1);
    for (uint64_t b = 0; b < paging_plan_batches(&plan); b++) {
        struct paging_control control;
        struct paging_case c;

        paging_plan_control(&plan, b, &control);
        for (unsigned i = 0; control.nxe && b % 4 < 3 && i < PAGING_BATCH;
             i++) {
            uint64_t rest = 0;
            unsigned rights = 0;

            paging_plan_case(&plan, b, &control, i, &c);
            for (unsigned l = 1; l <= CASE_LEVELS; l++) {
                rest |= c.flags[l] & ~(PTE_RW | PTE_US | PTE_XD | PTE_A);
                rest |= ~c.flags[l] & PTE_P ? PTE_G : 0;
                rights = rights << 3 | (c.flags[l] & (PTE_RW | PTE_US)) |
                         c.flags[l] >> 63;
            }
            rights = rights * ACCESSES + c.access * 2 + c.user;
            if (rest != PTE_P || seen[rights])
                continue;
            seen[rights] = true;
            count++;
        }
    }
    CU_ASSERT_EQUAL(count, 4096 * ACCESSES);
}

static bool same_case(const struct paging_case *a, const struct paging_case *b)
{
    return !memcmp(a->flags + 1, b->flags + 1, sizeof a->flags - 8) &&
           a->access == b->access && a->user == b->user &&
           a->implicit == b->implicit;
}

/* A seed changes the random cases, and nothing else does. */
static void seeds_matter(void)
{
    struct paging_plan plan, again, other;
    unsigned differ[2] = {0, 0};

    paging_plan_init(&plan, &plain, 1);
    paging_plan_init(&again, &plain, 1);
    paging_plan_init(&other, &plain, 2);
    for (uint64_t b = 0; b < 8; b++) {
        struct paging_control control;
        struct paging_case c[3] = {0};

        paging_plan_control(&plan, b, &control);
        paging_plan_case(&plan, b, &control, 7, &c[0]);
        paging_plan_case(&again, b, &control, 7, &c[1]);
        paging_plan_case(&other, b, &control, 7, &c[2]);
        CU_ASSERT(same_case(&c[0], &c[1]));
        differ[b % 4 == 3] += !same_case(&c[0], &c[2]);
    }
    CU_ASSERT_EQUAL(differ[0], 0);
    CU_ASSERT_EQUAL(differ[1], 2);
}

/* ---- On this machine --------------------------------------------------- */

static const char *cell(const struct table *table, const char *column)
{
    return table_cell(table, 0, table_column(table, column));
}

/* Runs `cases` of it under a technique; false when that is not to be had. */
static bool agrees(const char *technique, unsigned cases)
{
    char *folder = test_folder(), *output, path[600];
    struct table *runs = NULL;
    struct why why;
    bool ran;
    int status = test_shell(&output,
                            "\"$MEMVIRT\" run --no-lab --no-figures "
                            "--no-counters -t %s -w paging --ops %u -o %s/r",
                            technique, cases, folder);

    snprintf(path, sizeof path, "%s/r/runs.csv", folder);
    free(folder);
    ran = !table_read(&runs, path, &why) && table_rows(runs) == 1 &&
          strcmp(cell(runs, "status"), "unsupported") != 0;
    if (ran) {
        CU_ASSERT_EQUAL(status, 0);
        CU_ASSERT_STRING_EQUAL(cell(runs, "status"), "ok");
        CU_ASSERT_PTR_NOT_NULL(
            strstr(cell(runs, "message"), "no disagreement"));
        printf("(%s: %s) ", technique, cell(runs, "message"));
    }
    table_free(runs);
    free(output);
    return ran;
}

static void qemu_agrees(void)
{
    if (!agrees("emulation", 20000))
        test_skip("no qemu-system-x86_64: 'apt install qemu-system-x86'");
}

static void kvm_agrees(void)
{
    if (!agrees("nested", 5000) && !agrees("shadow", 2000))
        test_skip("no usable /dev/kvm: the lab's suite runs it under KVM");
}

TEST_SUITE(paging, {"every combination of an entry's bits", every_combination},
           {"every combination of rights", every_right},
           {"seeds matter to random cases only", seeds_matter},
           {"QEMU's CPU does what the walker says", qemu_agrees},
           {"this machine's KVM does what the walker says", kvm_agrees});
