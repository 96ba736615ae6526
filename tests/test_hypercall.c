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
#include <stdbool.h>
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
#define IDT_PA   0x6000ull
#define TSS_PA   0x8000ull
#define CR2_PA   0x9000ull
#define STACK    (MG_KERNEL + 0x120000)
#define SLOT     (MON_BASE + 0x100000) /* the monitor's */
#define NOWHERE  (MG_KERNEL + 0x8000000)

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

static uint64_t handler(unsigned vector)
{
    return MG_KERNEL + 0x110000 + vector * 16;
}

/* Interrupt gates for all exceptions, and a stack for those of user code. */
static void make_events(struct mg *g, unsigned id)
{
    struct mon_cpu *cpu = mg_cpu(g, id);

    for (unsigned vector = 0; vector < 32; vector++) {
        uint64_t at = handler(vector);

        word(g, IDT_PA)[2 * vector] = (at & 0xffff) | 0x08ull << 16 |
                                      0x8eull << 40 | (at >> 16 & 0xffff) << 48;
        word(g, IDT_PA)[2 * vector + 1] = at >> 32;
    }
    memcpy(g->ram + TSS_PA + 4, &(uint64_t){STACK}, 8);
    cpu->v.idt_base = MG_KERNEL + IDT_PA;
    cpu->v.tr_base = MG_KERNEL + TSS_PA;
    cpu->v.star = 0x08ull << 32;
    cpu->frame.rsp = STACK;
    cpu->frame.rip = ENTRY;
}

static struct mg *guest(unsigned cpus)
{
    struct mg *g = mg_create_pv(cpus);

    CU_ASSERT_PTR_NOT_NULL_FATAL(g);
    make_tables(g);
    for (unsigned i = 0; i < cpus; i++)
        make_events(g, i);
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

static int64_t start_at(struct mg *g, unsigned id, uint64_t root,
                        uint64_t entry)
{
    const struct pv_start start = {
        .root = root,
        .syscall_entry = entry,
        .cr2 = (uint64_t *)(MG_KERNEL + CR2_PA),
    };

    memcpy(g->ram + START_PA, &start, sizeof start);
    return call(g, id, HC_START, MG_KERNEL + START_PA, 0);
}

static int64_t start(struct mg *g, unsigned id, uint64_t root)
{
    return start_at(g, id, root, ENTRY);
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
    CU_ASSERT(g->held);
    CU_ASSERT_FALSE(other->in_guest);
    for (unsigned i = 0; i < 3; i++) {
        CU_ASSERT(mg_cpu(g, i)->direct);
        CU_ASSERT_EQUAL(mg_cpu(g, i)->cr3, L4);
        // HELD
    }
    CU_ASSERT_EQUAL(g->mon.direct.frames[L4 / PAGE_4K].count, 6);
    mg_destroy(g);
}

static struct mg *started(void)
{
    struct mg *g = guest(1);

    CU_ASSERT_EQUAL_FATAL(start(g, 0, L4), 0);
    return g;
}

/* The exception arrived, for the SYSCALL itself, and the next may come. */
static bool raised(struct mg *g, unsigned vector, uint64_t address)
{
    struct mon_cpu *cpu = mg_cpu(g, 0);
    uint64_t *pushed = word(g, cpu->frame.rsp - MG_KERNEL);
    bool yes = cpu->end == MON_END_NONE && cpu->frame.rip == handler(vector) &&
               pushed[1] == ENTRY - 2 &&
               (vector != 14 || *word(g, CR2_PA) == address);

    cpu->frame.rip = ENTRY;
    cpu->frame.rsp = STACK;
    return yes;
}

static void refused_start_changes_nothing(void)
{
    struct mg *g = guest(2);
    uint64_t shadow = mg_cpu(g, 1)->cr3;

    word(g, L1)[3] |= PTE_RW;
    CU_ASSERT_EQUAL(start(g, 0, L4), -EBUSY);
    word(g, L1)[3] = MG_PA | RW; /* the monitor's memory */
    CU_ASSERT_EQUAL(start(g, 0, L4), -EFAULT);
    word(g, L1)[3] = 0;
    CU_ASSERT_EQUAL(start(g, 0, L4 + 8), -EINVAL);
    CU_ASSERT_EQUAL(start(g, 0, MG_RAM), -EFAULT);
    CU_ASSERT_EQUAL(start(g, 0, UINT64_MAX), -EINVAL);
    CU_ASSERT_EQUAL(start_at(g, 0, L4, 1ull << 63), -EINVAL);
    word(g, L4)[MON_SLOT] = L3 | RW;
    CU_ASSERT_EQUAL(start(g, 0, L4), -EINVAL);
    for (unsigned i = 0; i < 2; i++) {
        CU_ASSERT_FALSE(mg_cpu(g, i)->direct);
        CU_ASSERT_FALSE(mg_cpu(g, i)->held);
    }
    CU_ASSERT_EQUAL(mg_cpu(g, 1)->cr3, shadow);
    for (uint64_t table = L4; table <= L1; table += PAGE_4K)
        CU_ASSERT_EQUAL(type_of(g, table), DIRECT_NONE);
    mg_destroy(g);
}

/* One reference too many for the second vCPU. */
static void start_of_some_is_undone(void)
{
    struct mg *g = guest(3);
    struct direct_frame *root = &g->mon.direct.frames[L4 / PAGE_4K];

    root->type = DIRECT_L4;
    root->count = UINT16_MAX - 3;
    CU_ASSERT_EQUAL(start(g, 0, L4), -EMFILE);
    CU_ASSERT_EQUAL(root->count, UINT16_MAX - 3);
    for (unsigned i = 0; i < 3; i++)
        CU_ASSERT_FALSE(mg_cpu(g, i)->direct);
    mg_destroy(g);
}

/* A vCPU that is slow to start finds itself on the tables of the first. */
static void a_late_vcpu(void)
{
    struct mg *g = guest(2);
    struct mon_cpu *late = mg_cpu(g, 1);

    CU_ASSERT_EQUAL(start(g, 0, L4), 0);
    mon_start_cpu(&g->mon, late);
    CU_ASSERT_EQUAL(late->cr3, L4);
    CU_ASSERT_EQUAL(late->v.cr3, L4);
    CU_ASSERT_EQUAL(late->end, MON_END_NONE);
    make_events(g, 1);
    CU_ASSERT_EQUAL(start(g, 1, L4), 0);
    CU_ASSERT_EQUAL(late->pv_syscall, ENTRY);
    CU_ASSERT_EQUAL(call(g, 1, HC_FLUSH, 0, 0), 0);
    CU_ASSERT_EQUAL(g->mon.direct.frames[L4 / PAGE_4K].count, 4);
    mg_destroy(g);
}

static void batch(struct mg *g, unsigned i, uint64_t entry, uint64_t value)
{
    word(g, BATCH_PA)[2 * i] = entry;
    word(g, BATCH_PA)[2 * i + 1] = value;
}

static void a_batch_ends_at_what_is_refused(void)
{
    struct mg *g = started();
    uint64_t before = word(g, L1)[43];

    batch(g, 0, L1 + 40 * 8, 0x300000 | RW);
    batch(g, 1, L1 + 41 * 8, 0);
    batch(g, 2, L1 + 42 * 8, L1 | RW);
    batch(g, 3, L1 + 43 * 8, 0);
    CU_ASSERT_EQUAL(call(g, 0, HC_UPDATE, BATCH, 4), 2);
    CU_ASSERT_EQUAL(word(g, L1)[40], 0x300000 | RW);
    CU_ASSERT_EQUAL(word(g, L1)[41], 0);
    CU_ASSERT_NOT_EQUAL(word(g, L1)[42], L1 | RW);
    CU_ASSERT_EQUAL(word(g, L1)[43], before);
    batch(g, 0, L4 + MON_SLOT * 8, 0);
    CU_ASSERT_EQUAL(call(g, 0, HC_UPDATE, BATCH, 1), 0);
    batch(g, 0, L1 + 44 * 8, (MG_PA + MON_SHARED) | RW);
    CU_ASSERT_EQUAL(call(g, 0, HC_UPDATE, BATCH, 1), 0);
    batch(g, 0, BATCH_PA, 0);
    CU_ASSERT_EQUAL(call(g, 0, HC_UPDATE, BATCH, 1), 0);
    CU_ASSERT_EQUAL(call(g, 0, HC_UPDATE, BATCH, 0), 0);
    mg_destroy(g);
}

static void batches_out_of_bounds(void)
{
    struct mg *g = started();
    uint64_t last = BATCH + PAGE_4K - 16;

    batch(g, 0, 0, L1 + 40 * 8); /* one, 8 bytes on */
    CU_ASSERT_EQUAL(call(g, 0, HC_UPDATE, BATCH + 8, 1), 0);
    CU_ASSERT_NOT_EQUAL(word(g, L1)[40], 0);
    batch(g, 0, L1 + 40 * 8, 0);
    CU_ASSERT_EQUAL(call(g, 0, HC_UPDATE, BATCH, PV_UPDATES_MAX + 1), 0);
    CU_ASSERT_EQUAL(call(g, 0, HC_UPDATE, BATCH, UINT64_MAX), 0);
    CU_ASSERT_NOT_EQUAL(word(g, L1)[40], 0);
    call(g, 0, HC_UPDATE, NOWHERE, 1);
    CU_ASSERT(raised(g, 14, NOWHERE));
    call(g, 0, HC_UPDATE, SLOT, 1);
    CU_ASSERT(raised(g, 14, SLOT));
    call(g, 0, HC_UPDATE, 1ull << 63, 1);
    CU_ASSERT(raised(g, 13, 0));
    call(g, 0, HC_START, NOWHERE, 0);
    CU_ASSERT(raised(g, 14, NOWHERE));
    /* What comes before the fault is done; the last page of all has no next. */
    batch(g, 255, L1 + 41 * 8, 0);
    word(g, L1)[65] = 0; /* as if never mapped: BATCH's next page */
    call(g, 0, HC_UPDATE, last, 2);
    CU_ASSERT(raised(g, 14, last + 16));
    CU_ASSERT_EQUAL(word(g, L1)[41], 0);
    call(g, 0, HC_UPDATE, UINT64_MAX - 15, 2);
    CU_ASSERT(raised(g, 14, UINT64_MAX - 15));
    mg_destroy(g);
}

/* A page fault whose address can't be told is a double fault. */
static void nowhere_for_cr2(void)
{
    static const uint64_t bad[] = {0, SLOT, 1ull << 63, UINT64_MAX - 3,
                                   MG_KERNEL + L1};

    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct mg *g = started();

        mg_cpu(g, 0)->pv_cr2 = bad[i];
        call(g, 0, HC_UPDATE, NOWHERE, 1);
        CU_ASSERT_EQUAL(mg_cpu(g, 0)->end, MON_END_NONE);
        CU_ASSERT_EQUAL(mg_cpu(g, 0)->frame.rip, handler(8));
        mg_destroy(g);
    }
}

/* A root stays valid until the CPU that ran on it has come back. */
static void roots_in_use(void)
{
    struct mg *g = started();
    struct mon_cpu *cpu = mg_cpu(g, 0);

    word(g, USER)[0] = 0;
    CU_ASSERT_EQUAL(call(g, 0, HC_SET_ROOTS, L4, BATCH_PA), -EBUSY);
    CU_ASSERT_EQUAL(call(g, 0, HC_SET_ROOTS, L3, L4), -EBUSY);
    CU_ASSERT_EQUAL(call(g, 0, HC_SET_ROOTS, L4, USER), 0);
    CU_ASSERT_EQUAL(cpu->cr3, L4);
    CU_ASSERT_EQUAL(cpu->user_root, USER);
    CU_ASSERT_EQUAL(call(g, 0, HC_CLEAR, USER, 0), -EBUSY);
    CU_ASSERT_EQUAL(call(g, 0, HC_SET_ROOTS, L4, L4), 0);
    CU_ASSERT_EQUAL(type_of(g, USER), DIRECT_L4);
    CU_ASSERT_NOT_EQUAL(word(g, USER)[MON_SLOT], 0);
    CU_ASSERT_EQUAL(call(g, 0, HC_CLEAR, USER, 0), 0);
    CU_ASSERT_EQUAL(type_of(g, USER), DIRECT_NONE);
    CU_ASSERT_EQUAL(word(g, USER)[MON_SLOT], 0);
    CU_ASSERT_EQUAL(call(g, 0, HC_UNPIN, L4, 0), -EINVAL);
    CU_ASSERT_EQUAL(g->mon.direct.frames[L4 / PAGE_4K].count, 2);
    CU_ASSERT_EQUAL(call(g, 0, HC_PIN, L4, UINT64_MAX), -EINVAL);
    CU_ASSERT_EQUAL(call(g, 0, HC_PIN, L4, 1ull << 32 | 4), -EINVAL);
    CU_ASSERT_EQUAL(cpu->end, MON_END_NONE);
    mg_destroy(g);
}

static void iret_to(struct mg *g, const struct pv_frame *frame)
{
    memcpy(g->ram + START_PA, frame, sizeof *frame);
    mg_cpu(g, 0)->frame.rsp = MG_KERNEL + START_PA;
    call(g, 0, HC_IRET, 0, 0);
}

/* What the CPU would refuse to return to is the guest's fault; what it has no
 * opinion of (RSP) the guest finds out. The CPU's own CS is CPL 3's always. */
static void iret_with_bad_frames(void)
{
    struct mg *g = started();
    struct mon_cpu *cpu = mg_cpu(g, 0);
    struct pv_frame f = {
        .rip = ENTRY, .cs = 0x08, .rflags = ~0ull, .rsp = SLOT, .ss = 0};

    cpu->gdt[0][1] = 0x00affb000000ffff;
    iret_to(g, &f);
    CU_ASSERT_EQUAL(cpu->frame.rip, ENTRY);
    CU_ASSERT_EQUAL(cpu->frame.rsp, SLOT);
    CU_ASSERT_EQUAL(cpu->frame.cs & 3, 3);
    CU_ASSERT_EQUAL(cpu->frame.ss & 3, 3);
    /* No IOPL, VM, VIF, VIP for the real CPU. */
    CU_ASSERT_EQUAL(cpu->frame.rflags & 0x1a3000, 0);
    CU_ASSERT_EQUAL(cpu->frame.rflags >> 22, 0);
    f.rip = 1ull << 63;
    iret_to(g, &f);
    CU_ASSERT_EQUAL(cpu->frame.rip, handler(13));
    f.rip = ENTRY;
    f.cs = 0x1c0; /* the monitor's own */
    iret_to(g, &f);
    CU_ASSERT_EQUAL(cpu->frame.rip, handler(13));
    cpu->frame.rsp = SLOT;
    call(g, 0, HC_IRET, 0, 0);
    CU_ASSERT_EQUAL(cpu->end, MON_END_TRIPLE_FAULT); /* no stack for it */
    mg_destroy(g);
}

/* User code has no hypercalls; its SYSCALL finds the kernel's stack, or none.
 */
static void syscall_of_user_code(void)
{
    struct mg *g = started();
    struct mon_cpu *cpu = mg_cpu(g, 0);

    cpu->v.user = true;
    cpu->frame.rip = MG_USER;
    CU_ASSERT_EQUAL(call(g, 0, HC_CLEAR, 0x300000, 0), HC_CLEAR);
    CU_ASSERT_FALSE(cpu->v.user);
    CU_ASSERT_EQUAL(cpu->frame.rip, ENTRY);
    CU_ASSERT_EQUAL(cpu->frame.rsp, STACK - 40);
    CU_ASSERT_EQUAL(word(g, STACK - 40 - MG_KERNEL)[0], MG_USER);
    memcpy(g->ram + TSS_PA + 4, &(uint64_t){SLOT}, 8);
    cpu->v.user = true;
    call(g, 0, HC_CLEAR, 0x300000, 0);
    CU_ASSERT_EQUAL(cpu->end, MON_END_TRIPLE_FAULT);
    mg_destroy(g);
}

TEST_SUITE(hypercall, {"nothing before start", nothing_before_start},
           {"all vCPUs start together", all_vcpus_start_together},
           {"refused start changes nothing", refused_start_changes_nothing},
           {"start of some is undone", start_of_some_is_undone},
           {"a late vCPU", a_late_vcpu},
           {"a batch ends at what is refused", a_batch_ends_at_what_is_refused},
           {"batches out of bounds", batches_out_of_bounds},
           {"nowhere for CR2", nowhere_for_cr2}, {"roots in use", roots_in_use},
           {"IRET with bad frames", iret_with_bad_frames},
           {"SYSCALL of user code", syscall_of_user_code});
