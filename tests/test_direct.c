/*
 * Direct paging (directpt/direct.h): random operations against an oracle that
 * knows nothing but what is in the tables, and what a random guest rarely
 * comes to.
 */
#include "directpt/direct.h"
#include "mmu/entry.h"
#include "tests/direct_oracle.h"
#include "tests/test.h"
#include "workloads/api.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__
#define STEPS 150000u
#else
#define STEPS 1000000u
#endif

/* That the random guest comes to everything. */
static void check_reached(const struct direct_guest *g)
{
    static const uint8_t reachable[ACTS][ERRORS] = {
        [ACT_STORE] = {1},
        [ACT_UPDATE] = {1, 1, 1, 1},
        [ACT_PIN] = {1, 1, 1, 1},
        [ACT_UNPIN] = {1, 1},
        [ACT_GET_ROOT] = {1, 1, 1, 1},
        [ACT_PUT_ROOT] = {1},
        [ACT_CLEAR] = {1, 1, 0, 1},
    };

    for (unsigned act = 0; act < ACTS; act++)
        for (unsigned error = 0; error < ERRORS; error++)
            CU_ASSERT_EQUAL(direct_guest_ended(g, act, error) >= STEPS / 2000,
                            reachable[act][error]);
    for (unsigned level = 0; level <= 4; level++)
        CU_ASSERT(direct_guest_most(g, level) >= 3);
    CU_ASSERT(direct_guest_flushes(g) > STEPS / 1000);
}

static void random_operations(void)
{
    struct direct_guest *g = direct_guest_new();
    const char *wrong = g ? NULL : "no memory";
    uint64_t random = 1;
    unsigned step = 0;

    for (; !wrong && step < STEPS; step++) {
        uint64_t choice = wl_random(&random);

        wrong = direct_guest_step(g, choice, wl_random(&random));
        if (!wrong && step % 65536 == 0)
            wrong = direct_guest_check_all(g);
    }
    if (wrong)
        printf("\n    step %u: %s", step, wrong);
    CU_ASSERT_PTR_NULL(wrong);
    if (!wrong)
        check_reached(g);
    direct_guest_free(g);
}

/* ---- A machine of 4 MiB ------------------------------------------------ */

#define FRAMES 1024u
#define FIXED  507u
#define RW     (PTE_P | PTE_RW | PTE_US)
#define RO     (PTE_P | PTE_US)
#define L1     (513 * PAGE_4K)
#define L2     (514 * PAGE_4K)
#define L3     (515 * PAGE_4K)
#define L4     (516 * PAGE_4K)

struct machine {
    struct direct direct;
    struct direct_frame frames[FRAMES];
    uint64_t memory[FRAMES][PT_ENTRIES];
    unsigned flushes;
};

static void flush_all(void *arg)
{
    struct machine *m = arg;

    m->flushes++;
}

static uint64_t *entry(struct machine *m, uint64_t table, unsigned index)
{
    return &m->memory[table / PAGE_4K][index];
}

/* One table of each level leads to the next. */
static struct machine *machine_new(void)
{
    struct machine *m = calloc(1, sizeof *m);
    struct direct_config config = {
        .physical_bits = 46,
        .flush_all = flush_all,
        .arg = m,
        .fixed_index = FIXED,
        .fixed_entry = 0x123456027,
    };

    if (!m)
        abort();
    config.ram[0] =
        (struct direct_ram){0, sizeof m->memory, (uint8_t *)m->memory};
    direct_init(&m->direct, &config, m->frames);
    *entry(m, L4, 0) = L3 | RW;
    *entry(m, L3, 0) = L2 | RW;
    *entry(m, L2, 0) = L1 | RW;
    return m;
}

static enum direct_type type_of(const struct machine *m, uint64_t pa)
{
    return m->frames[pa / PAGE_4K].type;
}

static void no_table_maps_itself(void)
{
    struct machine *m = machine_new();
    struct direct *d = &m->direct;

    *entry(m, L1, 5) = L1 | RW;
    CU_ASSERT_EQUAL(direct_pin(d, L4, 4), -EBUSY);
    *entry(m, L1, 5) = L1 | RO;
    *entry(m, L4, 5) = L4 | RW;
    CU_ASSERT_EQUAL(direct_pin(d, L4, 4), -EBUSY);
    CU_ASSERT_EQUAL(type_of(m, L1), DIRECT_NONE);
    *entry(m, L4, 5) = 0;
    CU_ASSERT_EQUAL(direct_pin(d, L4, 4), 0);
    for (uint64_t table = L1; table <= L4; table += PAGE_4K) {
        CU_ASSERT_EQUAL(direct_update(d, L1 + 8, table | RW), -EBUSY);
        CU_ASSERT_EQUAL(direct_update(d, L4 + 8, table | RW),
                        table == L3 ? 0 : -EBUSY);
        CU_ASSERT_EQUAL(direct_update(d, L1 + 8, table | RO), 0);
    }
    /* The large page around all of them, and the one without them. */
    CU_ASSERT_EQUAL(direct_update(d, L2 + 8, PAGE_2M | RW | PTE_PS), -EBUSY);
    CU_ASSERT_EQUAL(direct_update(d, L2 + 8, PAGE_2M | RO | PTE_PS), 0);
    CU_ASSERT_EQUAL(direct_update(d, L2 + 16, 0 | RW | PTE_PS), 0);
    CU_ASSERT_EQUAL(m->frames[511].count, 1);
    CU_ASSERT_EQUAL(m->frames[512].count, 0);
    free(m);
}

static void the_monitors_entry(void)
{
    struct machine *m = machine_new();
    struct direct *d = &m->direct;
    uint64_t at = L4 + FIXED * 8;

    *entry(m, L4, FIXED) = L3 | RW;
    CU_ASSERT_EQUAL(direct_get_root(d, L4), -EINVAL);
    CU_ASSERT_EQUAL(*entry(m, L4, FIXED), L3 | RW);
    *entry(m, L4, FIXED) = 0;
    *entry(m, L4, 511) = L3 | RW | PTE_PS;
    CU_ASSERT_EQUAL(direct_get_root(d, L4), -EINVAL);
    CU_ASSERT_EQUAL(*entry(m, L4, FIXED), 0);
    *entry(m, L4, 511) = 0;
    CU_ASSERT_EQUAL(direct_get_root(d, L4), 0);
    CU_ASSERT_EQUAL(*entry(m, L4, FIXED), 0x123456027);
    CU_ASSERT_EQUAL(direct_update(d, at, 0), -EINVAL);
    CU_ASSERT_EQUAL(direct_update(d, at, L3 | RW), -EINVAL);
    CU_ASSERT_EQUAL(direct_update(d, at, 0x123456027), 0);
    CU_ASSERT_EQUAL(*entry(m, L4, FIXED), 0x123456027);
    direct_put_root(d, L4);
    CU_ASSERT_EQUAL(*entry(m, L4, FIXED), 0);
    free(m);
}

/* A reference too many would make a count 0, and a table writable. */
static void counts_end(void)
{
    struct machine *m = machine_new();
    struct direct *d = &m->direct;
    struct direct_frame before[PT_ENTRIES];

    for (unsigned i = 0; i < UINT16_MAX; i++)
        if (direct_get_root(d, L4))
            CU_FAIL_FATAL("a reference refused");
    CU_ASSERT_EQUAL(direct_get_root(d, L4), -EMFILE);
    CU_ASSERT_EQUAL(direct_pin(d, L4, 4), -EMFILE);
    CU_ASSERT_EQUAL(m->frames[L4 / PAGE_4K].pinned, 0);
    CU_ASSERT_EQUAL(direct_update(d, L1, 300 * PAGE_4K | RW), 0);
    m->frames[300].count = UINT16_MAX;
    memcpy(before, m->frames, sizeof before);
    CU_ASSERT_EQUAL(direct_update(d, L1 + 8, 300 * PAGE_4K | RW), -EMFILE);
    CU_ASSERT_EQUAL(direct_update(d, L2 + 8, 0 | RW | PTE_PS), -EMFILE);
    for (unsigned i = 0; i < PT_ENTRIES; i++) {
        CU_ASSERT_EQUAL(m->frames[i].count, before[i].count);
        CU_ASSERT_EQUAL(m->frames[i].type, before[i].type);
    }
    CU_ASSERT_EQUAL(*entry(m, L1, 1) | *entry(m, L2, 1), 0);
    for (unsigned i = 0; i < UINT16_MAX; i++)
        direct_put_root(d, L4);
    CU_ASSERT_EQUAL(type_of(m, L1), DIRECT_NONE);
    free(m);
}

/* What a CPU may still write to becomes no table before it can't, and the
 * reverse; what it never saw needs no flush, and one is enough for all. */
static void flushes_are_few(void)
{
    struct machine *m = machine_new();
    struct direct *d = &m->direct;

    CU_ASSERT_EQUAL(direct_pin(d, L4, 4), 0);
    for (unsigned i = 0; i < 8; i++)
        CU_ASSERT_EQUAL(direct_update(d, L1 + i * 8, i * PAGE_4K | RW), 0);
    CU_ASSERT_EQUAL(direct_pin(d, 100 * PAGE_4K, 1), 0);
    CU_ASSERT_EQUAL(m->flushes, 0);
    for (unsigned i = 0; i < 8; i++)
        CU_ASSERT_EQUAL(direct_update(d, L1 + i * 8, i * PAGE_4K | RO), 0);
    CU_ASSERT_EQUAL(m->flushes, 0);
    for (unsigned i = 0; i < 8; i++)
        CU_ASSERT_EQUAL(direct_pin(d, i * PAGE_4K, 1), 0);
    CU_ASSERT_EQUAL(m->flushes, 1);
    CU_ASSERT_EQUAL(direct_unpin(d, 0), 0);
    CU_ASSERT_EQUAL(direct_unpin(d, PAGE_4K), 0);
    CU_ASSERT_EQUAL(direct_update(d, L1, 0 | RW), 0);
    CU_ASSERT_EQUAL(direct_update(d, L1 + 8, PAGE_4K | RW), 0);
    CU_ASSERT_EQUAL(m->flushes, 2);
    CU_ASSERT_EQUAL(m->flushes, d->stats.flushes);
    free(m);
}

/* Else four tables would be 511 * 512 * 512 * 512 entries of work. */
static void a_table_is_looked_at_once(void)
{
    struct machine *m = machine_new();
    struct direct *d = &m->direct;

    for (unsigned i = 0; i < PT_ENTRIES; i++) {
        *entry(m, L4, i) = i == FIXED ? 0 : L3 | RW;
        *entry(m, L3, i) = L2 | RW;
        *entry(m, L2, i) = L1 | RW;
        *entry(m, L1, i) = i * PAGE_4K | RW;
    }
    CU_ASSERT_EQUAL(direct_pin(d, L4, 4), 0);
    CU_ASSERT_EQUAL(d->stats.validated, 4);
    CU_ASSERT_EQUAL(m->frames[L3 / PAGE_4K].count, 511);
    CU_ASSERT_EQUAL(m->frames[L1 / PAGE_4K].count, 512);
    CU_ASSERT_EQUAL(m->frames[7].count, 1);
    CU_ASSERT_EQUAL(direct_unpin(d, L4), 0);
    CU_ASSERT_EQUAL(d->stats.invalidated, 4);
    for (unsigned i = 0; i < FRAMES; i++)
        CU_ASSERT_EQUAL(m->frames[i].count, 0);
    free(m);
}

static void arguments_out_of_bounds(void)
{
    static const uint64_t odd[] = {
        UINT64_MAX,      UINT64_MAX - 7,   1ull << 63 | L4,
        1ull << 52 | L4, FRAMES * PAGE_4K, 1ull << 46,
        L4 + 1,          L4 + 4092,        PAGE_1G * 4 + 0x1000};
    struct machine *m = machine_new();
    struct direct *d = &m->direct;

    CU_ASSERT_EQUAL(direct_pin(d, L4, 4), 0);
    for (unsigned i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        CU_ASSERT_EQUAL(direct_update(d, odd[i], 0), -EINVAL);
        CU_ASSERT_EQUAL(direct_pin(d, odd[i], 4), -EINVAL);
        CU_ASSERT_EQUAL(direct_unpin(d, odd[i]), -EINVAL);
        CU_ASSERT_EQUAL(direct_clear(d, odd[i]), -EINVAL);
        CU_ASSERT_NOT_EQUAL(direct_get_root(d, odd[i]), 0);
    }
    CU_ASSERT_EQUAL(direct_pin(d, 0, 0), -EINVAL);
    CU_ASSERT_EQUAL(direct_pin(d, 0, 5), -EINVAL);
    CU_ASSERT_EQUAL(direct_pin(d, 0, UINT32_MAX), -EINVAL);
    CU_ASSERT_EQUAL(direct_unpin(d, L1), -EINVAL);
    CU_ASSERT_EQUAL(direct_update(d, L1, UINT64_MAX), -EINVAL);
    CU_ASSERT_EQUAL(direct_update(d, L1, PTE_P | PTE_ADDR >> 6 << 6), -EINVAL);
    CU_ASSERT_EQUAL(direct_update(d, L1, UINT64_MAX - 1), 0);
    CU_ASSERT_EQUAL(d->stats.validated, 4);
    free(m);
}

TEST_SUITE(direct, {"random operations", random_operations},
           {"no table maps itself", no_table_maps_itself},
           {"the monitor's entry", the_monitors_entry},
           {"counts end", counts_end}, {"flushes are few", flushes_are_few},
           {"a table is looked at once", a_table_is_looked_at_once},
           {"arguments out of bounds", arguments_out_of_bounds});
