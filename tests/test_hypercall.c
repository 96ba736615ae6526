/*
 * Hypercalls (workloads/hypercall.h) of guests that mean harm, on the monitor's
 * core without a CPU.
 */
#include "directpt/direct.h"
#include "mmu/entry.h"
#include "tests/monitor_guest.h"
#include "tests/test.h"
#include "workloads/hypercall.h"

#include <errno.h>
#include <string.h>

/* Tables for direct paging: as the guest's own, but all of it user pages, and
 * themselves not writable. */
#define L4       0x200000ull
#define L3       0x201000ull
#define L2       0x202000ull
#define L1       0x203000ull
#define USER     0x204000ull /* a PML4 without the kernel's half */
#define BATCH_PA 0x240000ull
#define BATCH    (MG_KERNEL + BATCH_PA)
#define START_PA 0x241000ull
#define RW       (PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D)
#define ENTRY    (MG_KERNEL + MG_CODE)

static uint64_t *word(struct mg *g, uint64_t pa)
{
    return (uint64_t *)(void *)(g->ram + pa);
}

static void make_tables(struct mg *g)
{
    word(g, L4)[511] = L3 | RW;
    word(g, L3)[510] = L2 | RW;
    word(g, L2)[1] = L1 | RW;
    word(g, L2)[0] = 0 | RW | PTE_PS;
    for (unsigned i = 0; i < PT_ENTRIES; i++)
        word(g, L1)[i] = (L4 + i * PAGE_4K) | (i < 32 ? RW & ~PTE_RW : RW);
}

static struct mg *guest(unsigned cpus)
{
    struct mg *g = mg_create_pv(cpus);

    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    make_tables(g);
    return g;
}

static int64_t call(struct mg *g, unsigned id, enum hypercall number,
                    uint64_t a, uint64_t b)
{
    struct mon_cpu *cpu = mg_cpu(g, id);

    cpu->frame.rax = number;
    cpu->frame.rdi = a;
    cpu->frame.rsi = b;
    mg_trap(g, id, MON_VECTOR_SYSCALL, 0, 0);
    return (int64_t)cpu->frame.rax;
}

static int64_t start(struct mg *g, unsigned id, uint64_t root)
{
    const struct pv_start start = {.root = root, .syscall_entry = ENTRY};

    memcpy(g->ram + START_PA, &start, sizeof start);
    return call(g, id, HC_START, MG_KERNEL + START_PA, 0);
}

static enum direct_type type_of(const struct mg *g, uint64_t pa)
{
    return g->mon.direct.frames[pa / PAGE_4K].type;
}

/* A table that is validated while the guest can write to it is none. */
static void nothing_before_start(void)
{
    struct mg *g = guest(1);

    CU_ASSERT_EQUAL(call(g, 0, HC_PIN, L4, 4), -EINVAL);
    CU_ASSERT_EQUAL(call(g, 0, HC_PIN, L1, 1), -EINVAL);
    CU_ASSERT_EQUAL(call(g, 0, HC_UNPIN, L4, 0), -EINVAL);
    CU_ASSERT_EQUAL(call(g, 0, HC_CLEAR, L1, 0), -EINVAL);
    CU_ASSERT_EQUAL(call(g, 0, HC_SET_ROOTS, L4, L4), -EINVAL);
    CU_ASSERT_EQUAL(call(g, 0, HC_UPDATE, BATCH, 1), -EINVAL);
    CU_ASSERT_EQUAL(call(g, 0, HC_FLUSH, 0, 0), -EINVAL);
    CU_ASSERT_EQUAL(call(g, 0, HC_IRET, 0, 0), -EINVAL);
    CU_ASSERT_EQUAL(call(g, 0, (enum hypercall)1000, 0, 0), -ENOSYS);
    for (uint64_t table = L4; table <= L1; table += PAGE_4K)
        CU_ASSERT_EQUAL(type_of(g, table), DIRECT_NONE);
    CU_ASSERT_EQUAL(mg_cpu(g, 0)->end, MON_END_NONE);
    mg_destroy(g);
}

/* One vCPU left on shadow tables could write to what the others walk. */
static void all_vcpus_start_together(void)
{
    struct mg *g = guest(3);
    struct mon_cpu *other = mg_cpu(g, 1);
    unsigned level;

    /* It has a page mapped writable that becomes a table. */
    mg_trap(g, 1, 14, PF_W | PF_U, MG_KERNEL + L1);
    CU_ASSERT(mg_leaf(g, 1, MG_KERNEL + L1, &level) & PTE_RW);
    other->in_guest = true;
    CU_ASSERT_EQUAL(start(g, 0, L4), 0);
    CU_ASSERT_EQUAL(type_of(g, L1), DIRECT_L1);
    CU_ASSERT_EQUAL(g->kicks, 1);
    CU_ASSERT_FALSE(other->in_guest);
    for (unsigned i = 0; i < 3; i++) {
        CU_ASSERT(mg_cpu(g, i)->direct);
        CU_ASSERT_EQUAL(mg_cpu(g, i)->cr3, L4);
        // HELD
    }
    CU_ASSERT_EQUAL(g->mon.direct.frames[L4 / PAGE_4K].count, 6);
    mg_destroy(g);
}

TEST_SUITE(hypercall, {"nothing before start", nothing_before_start},
           {"all vCPUs start together", all_vcpus_start_together});
