/*
 * The paging test: batches of cases built, performed and compared with the
 * walker's word (paging.h).
 *
 * While EFER.NXE is clear, the direct map's XD bits are reserved ones: what a
 * batch needs is reached at KERNEL_BASE, whose entries have none.
 */
#include "workloads/guest/paging.h"

#define VECTOR_DE 0
#define VECTOR_PF 14

#define MSR_FS_BASE 0xc0000100
#define MSR_EFER    0xc0000080
#define CR4_PGE     (1ull << 7)
#define CR4_PKE     (1ull << 22)
#define RFLAGS_AC   (1u << 18)

/* Frames that cases map: two large ones, so that a wrong address shows; each
 * holds a page that is only written and one that is only read, which keeps
 * emulators from taking every write for self-modifying code. */
#define REGIONS        2
#define PAGE_CODE      0x5000
#define PAGE_DATA      0x3000
#define TAG(region)    (0x7a600000u + (region))
#define CODE_TAG_AT    1 /* in paging_page: its number */
#define DATA_TAG_AT    64
#define DESCRIPTOR_AT  128                   /* whose base is the number */
#define WRITTEN(index) (0x800 + 4 * (index)) /* a word for each case */

enum disagreement {
    AGREED,
    FAULT_OR_NOT,
    ERROR_CODE,
    CR2,
    DATA,
    ENTRIES,
    DISAGREEMENTS
};

/* Known errors of what the test runs on (docs/platforms.md), each with what
 * the manual says. A case counts as one of them only when the CPU did exactly
 * what the error would make of it. */
enum exemption {
    G_IN_PML4E,         /* APM vol. 2, 5.3.3: must be zero */
    IMPLICIT_AC,        /* SDM vol. 3A, 4.6.1: AC counts for explicit ones */
    IMPLICIT_LIVELOCK,  /* the same, and the access ends in #PF */
    SLOT_256,           /* SDM vol. 3A, 4.7: P clear when an entry's is */
    RESERVED_WITHOUT_P, /* SDM vol. 3A, 4.7: RSVD is set only if P is */
    EXEMPTIONS
};

static const struct {
    const char *name;
    unsigned where; /* enum guest_flags */
} exemptions[] = {
    [G_IN_PML4E] = {"G in a PML4E ignored", GUEST_WALKED_BY_TCG},
    [IMPLICIT_AC] = {"implicit accesses with AC allowed", GUEST_WALKED_BY_TCG},
    [IMPLICIT_LIVELOCK] = {"implicit accesses with AC not tried",
                           GUEST_SHADOWED},
    [SLOT_256] = {"CPL3 accesses through PML4E 256 refused", GUEST_UNDER_PVM},
    [RESERVED_WITHOUT_P] = {"reserved-bit faults without P",
                            GUEST_WALKED_BY_TCG},
};

struct batch {
    struct paging_control control;
    struct paging_case cases[PT_ENTRIES];
    uint64_t va[PT_ENTRIES];
    struct paging_trap traps[PT_ENTRIES];
    /* By level: the tables as built, and as the walker leaves them. */
    uint64_t built[CASE_LEVELS + 1][PT_ENTRIES];
    uint64_t expected[CASE_LEVELS + 1][PT_ENTRIES];
};

struct paging {
    struct paging_plan plan;
    struct cpu *cpu;
    uint64_t cr0, cr4, efer;
    uint64_t tables[CASE_LEVELS + 1]; /* physical */
    uint64_t regions[REGIONS];        /* physical */
    uint64_t user_stubs;              /* virtual */
    struct batch batch;

    uint64_t batches, done, faults, wrong[DISAGREEMENTS], exempt[EXEMPTIONS];
    char first[2 * GUEST_MESSAGE_MAX]; /* disagreement */
};

static void *low(uint64_t pa)
{
    return (void *)(KERNEL_BASE + pa);
}

static uint64_t low_frame(struct kernel *k, unsigned level)
{
    uint64_t pa = phys_alloc(k, level);

    if (!pa || pa + (1ull << pt_shift(level)) > PAGE_1G)
        kernel_panic("the paging test needs memory below 1 GiB");
    return pa;
}

/* ---- Set-up ------------------------------------------------------------ */

static struct paging_features find_features(void)
{
    struct paging_features f = {0};
    uint32_t r[4];

    cpuid(0, 0, r);
    f.amd = r[1] == 0x68747541; /* "Auth" */
    if (r[0] >= 7) {
        cpuid(7, 0, r);
        f.smep = r[1] >> 7 & 1;
        f.smap = r[1] >> 20 & 1;
        f.pku = r[2] >> 3 & 1;
    }
    cpuid(0x80000001, 0, r);
    f.pages_1g = r[3] >> 26 & 1;
    cpuid(0x80000008, 0, r);
    f.physical_bits = r[0] & 0xff;
    return f;
}

static void copy(uint8_t *to, const uint8_t *from, const uint8_t *end)
{
    while (from < end)
        *to++ = *from++;
}

/* A descriptor with its base (SDM vol. 3A, 3.4.5). */
static uint64_t with_base(uint64_t descriptor, uint64_t base)
{
    return descriptor | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
}

static void fill_page(uint64_t pa, unsigned region)
{
    uint8_t *page = low(pa);

    copy(page, paging_page, paging_page_end);
    *(uint32_t *)(page + CODE_TAG_AT) = TAG(region);
    *(uint32_t *)(page + DATA_TAG_AT) = TAG(region);
    *(uint64_t *)(page + DESCRIPTOR_AT) =
        with_base(0x00cff3000000ffff, TAG(region));
}

/* User code that makes the accesses of CPL 3, at a slot of its own. */
static void map_user_stubs(struct kernel *k, struct paging *p)
{
    uint64_t pa = low_frame(k, 1), *root = low(p->tables[CASE_LEVELS]);
    unsigned slot = PAGING_SLOT_USER;
    uint64_t entry;

    copy(low(pa), paging_stubs, paging_stubs_end);
    entry = pa | PTE_P | PTE_US | PTE_A;
    for (unsigned level = 1; level < CASE_LEVELS; level++) {
        pa = low_frame(k, 1);
        ((uint64_t *)low(pa))[0] = entry;
        entry = pa | PTE_P | PTE_RW | PTE_US | PTE_A;
    }
    root[slot] = entry;
    p->user_stubs = (uint64_t)slot << pt_shift(CASE_LEVELS);
}

static struct paging *set_up(struct cpu *cpu)
{
    struct kernel *k = cpu->kernel;
    const struct paging_features features = find_features();
    struct paging *p = low(low_frame(k, 2));
    uint64_t *root;

    p->cpu = cpu;
    p->cr4 = read_cr4();
    p->efer = rdmsr(MSR_EFER);
    __asm__ volatile("movq %%cr0, %0" : "=r"(p->cr0));
    paging_plan_init(&p->plan, &features, k->config.seed);
    for (unsigned level = 1; level <= CASE_LEVELS; level++)
        p->tables[level] = low_frame(k, 1);
    for (unsigned i = 0; i < REGIONS; i++) {
        p->regions[i] = low_frame(k, 2);
        fill_page(p->regions[i] + PAGE_CODE, i);
        fill_page(p->regions[i] + PAGE_DATA, i);
    }
    root = low(p->tables[CASE_LEVELS]);
    root[PAGING_SLOT_KERNEL] = k->kernel_root[PAGING_SLOT_KERNEL];
    map_user_stubs(k, p);
    /* Traps from CPL 3 get a stack that nothing else is on. */
    *(struct cpu **)process_stacks[0] = cpu;
    cpu_set_stack(cpu, (uint64_t)process_stacks[0] + KERNEL_STACK_BYTES);
    return p;
}

/* ---- Building ---------------------------------------------------------- */

static unsigned slot_of(unsigned index)
{
    return index < PAGING_SLOT_USER ? index : index + 1;
}

/* The level of the entry that maps the case's page, should the walk get
 * there. */
static unsigned leaf_level(const struct paging_case *c)
{
    return c->flags[3] & PTE_PS ? 3 : c->flags[2] & PTE_PS ? 2 : 1;
}

/* Physical address of what the case accesses. */
static uint64_t target(const struct paging *p, unsigned slot)
{
    const struct paging_case *c = &p->batch.cases[slot];
    uint64_t region = p->regions[slot % REGIONS];

    if (c->implicit)
        return region + PAGE_DATA + DESCRIPTOR_AT;
    switch (c->access) {
    case MMU_READ:
        return region + PAGE_DATA + DATA_TAG_AT;
    case MMU_WRITE:
        return region + PAGE_DATA + WRITTEN(slot);
    default:
        return region + PAGE_CODE;
    }
}

/* Entries are written only when they change: a shadow MMU may have
 * write-protected them. */
static void build_case(struct paging *p, unsigned slot)
{
    struct batch *b = &p->batch;
    const struct paging_case *c = &b->cases[slot];
    uint64_t pa = target(p, slot), va = 0;
    unsigned leaf = leaf_level(c);

    for (unsigned level = CASE_LEVELS; level; level--) {
        uint64_t entry = c->flags[level];
        uint64_t *table = low(p->tables[level]);
        uint64_t page = 1ull << pt_shift(level);

        if (level > leaf)
            va |= (uint64_t)slot << pt_shift(level);
        if (level == leaf)
            va |= (uint64_t)slot << pt_shift(level) | (pa & (page - 1));
        entry |= level > leaf ? p->tables[level - 1] : pa & ~(page - 1);
        if (table[slot] != entry)
            table[slot] = entry;
        b->built[level][slot] = entry;
    }
    b->va[slot] = (uint64_t)((int64_t)(va << 16) >> 16);
    if (c->access == MMU_WRITE)
        *(volatile uint32_t *)low(pa) = 0;
}

/* ---- Performing -------------------------------------------------------- */

static void set_control(const struct paging *p, const struct paging_control *c)
{
    uint64_t cr0 = p->cr0 & ~CR0_WP, cr4 = p->cr4, efer = p->efer & ~EFER_NXE;

    cr0 |= c->wp ? CR0_WP : 0;
    cr4 |= (c->smep ? CR4_SMEP : 0) | (c->smap ? CR4_SMAP : 0) |
           (c->pke ? CR4_PKE : 0) | (c->pge ? CR4_PGE : 0);
    efer |= c->nxe ? EFER_NXE : 0;
    wrmsr(MSR_EFER, efer);
    __asm__ volatile("movq %0, %%cr0" ::"r"(cr0) : "memory");
    write_cr4(cr4);
    if (c->pke)
        __asm__ volatile(".byte 0x0f, 0x01, 0xef" /* wrpkru */
                         ::"a"(c->pkru),
                         "c"(0), "d"(0)
                         : "memory");
}

/* Turning PGE off flushes what is global as well (SDM vol. 3A, 4.10.4.1). */
static void reset_control(const struct paging *p)
{
    write_cr4(p->cr4);
    __asm__ volatile("movq %0, %%cr0" ::"r"(p->cr0) : "memory");
    wrmsr(MSR_EFER, p->efer);
}

static uint64_t stub_of(const struct paging *p, const struct paging_case *c)
{
    static const uint8_t *const stubs[] = {
        [MMU_READ] = paging_read,
        [MMU_WRITE] = paging_write,
        [MMU_FETCH] = paging_fetch,
    };
    uint64_t stub = (uint64_t)(c->implicit ? paging_segment : stubs[c->access]);

    return c->user ? p->user_stubs + stub - (uint64_t)paging_stubs : stub;
}

static bool expects(const struct paging *p, enum exemption e)
{
    return p->cpu->kernel->config.flags & exemptions[e].where;
}

/* KVM takes the word of EFLAGS.AC that the CPU does not: each shows the other
 * the same fault for ever. */
static bool never_ends(const struct paging *p, const struct paging_case *c)
{
    return expects(p, IMPLICIT_LIVELOCK) && c->implicit &&
           p->batch.control.smap && p->batch.control.ac;
}

/* An LDT of one descriptor at va. */
static void load_ldt(struct cpu *cpu, uint64_t va)
{
    cpu->gdt[LDT_SEL / 8] = with_base(0x0000820000000007, va);
    cpu->gdt[LDT_SEL / 8 + 1] = va >> 32;
    __asm__ volatile("lldt %%ax" ::"a"(LDT_SEL) : "memory");
}

static void perform(struct paging *p, unsigned slot)
{
    const struct paging_case *c = &p->batch.cases[slot];
    struct paging_trap *trap = &p->batch.traps[slot];
    struct trap_frame frame;

    if (never_ends(p, c))
        return;
    frame.rdi = p->batch.va[slot];
    frame.rax = TAG(slot);
    frame.rcx = 0;
    frame.rip = stub_of(p, c);
    frame.cs = c->user ? USER_CS : KERNEL_CS;
    frame.ss = c->user ? USER_SS : KERNEL_SS;
    frame.rflags = 2 | (p->batch.control.ac ? RFLAGS_AC : 0);
    if (c->implicit)
        load_ldt(p->cpu, frame.rdi);
    p->cpu->paging_trap = trap;
    paging_access(&frame, &trap->resume_rsp);
    if (c->implicit && trap->vector == VECTOR_DE)
        trap->rax = rdmsr(MSR_FS_BASE);
}

void paging_trapped(struct cpu *cpu, struct trap_frame *frame)
{
    struct paging_trap *trap = cpu->paging_trap;

    cpu->paging_trap = NULL;
    trap->vector = frame->vector;
    trap->error = frame->error;
    trap->cr2 = read_cr2();
    trap->rax = frame->rax;
    frame->rip = (uint64_t)paging_resume;
    frame->cs = KERNEL_CS;
    frame->ss = KERNEL_SS;
    frame->rsp = trap->resume_rsp;
    frame->rflags = 2;
}

/* ---- The walker's word ------------------------------------------------- */

static uint64_t *expected_entry(struct paging *p, uint64_t pa)
{
    for (unsigned level = 1; level <= CASE_LEVELS; level++)
        if ((pa & PTE_ADDR) == p->tables[level])
            return &p->batch.expected[level][pa % PAGE_4K / 8];
    return NULL;
}

static int read_expected(void *arg, uint64_t pa, uint64_t *entry)
{
    const uint64_t *from = expected_entry(arg, pa);

    if (from)
        *entry = *from;
    return from ? 0 : -1;
}

static int set_expected(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    (void)old;
    *expected_entry(arg, pa) |= bits;
    return 0;
}

static void expect_no_change(struct batch *b, unsigned slot)
{
    for (unsigned level = 1; level <= CASE_LEVELS; level++)
        b->expected[level][slot] = b->built[level][slot];
}

static void ask_walker(struct paging *p, unsigned slot, bool g_reserved,
                       bool implicit, struct mmu_walk *walk)
{
    const struct paging_features *f = &p->plan.features;
    const struct paging_control *c = &p->batch.control;
    const struct mmu_memory memory = {read_expected, set_expected, p};
    const struct mmu_request request = {
        .va = p->batch.va[slot],
        .access = p->batch.cases[slot].access,
        .user = p->batch.cases[slot].user,
        .implicit = implicit,
    };
    const struct mmu_state state = {
        .cr3 = p->tables[CASE_LEVELS],
        .levels = CASE_LEVELS,
        .physical_bits = f->physical_bits,
        .wp = c->wp,
        .nxe = c->nxe,
        .smep = c->smep,
        .smap = c->smap,
        .pke = c->pke,
        .ac = c->ac,
        .pages_1g = f->pages_1g,
        .g_reserved = g_reserved,
        .pkru = c->pkru,
    };

    expect_no_change(&p->batch, slot);
    mmu_walk(&state, &memory, &request, walk);
}

/* ---- Comparing --------------------------------------------------------- */

/* Whether the access that was let through got to the case's page. */
static bool data_reached(const struct paging *p, unsigned slot,
                         const struct mmu_walk *walk)
{
    uint64_t pa = target(p, slot);

    if (walk->pa != pa)
        return false;
    if (p->batch.cases[slot].access == MMU_WRITE)
        return *(const volatile uint32_t *)low(pa) == TAG(slot);
    return (uint32_t)p->batch.traps[slot].rax == TAG(slot % REGIONS);
}

/* A CPU may set the accessed flags of entries it used in a walk that ends in a
 * fault (SDM vol. 3A, 4.8); of any other entry, and when there is no fault,
 * every bit is certain. */
static uint64_t uncertain(const struct mmu_walk *walk, unsigned level)
{
    if (walk->outcome != MMU_PAGE_FAULT)
        return 0;
    for (unsigned i = 0; i < walk->references; i++)
        if (walk->reference[i].level == level &&
            walk->reference[i].entry & PTE_P)
            return PTE_A;
    return 0;
}

static bool entries_agree(const struct paging *p, unsigned slot,
                          const struct mmu_walk *walk)
{
    for (unsigned level = 1; level <= CASE_LEVELS; level++) {
        const volatile uint64_t *table = low(p->tables[level]);
        uint64_t differ = table[slot] ^ p->batch.expected[level][slot];

        if (differ & ~uncertain(walk, level))
            return false;
    }
    return true;
}

static enum disagreement compare(const struct paging *p, unsigned slot,
                                 const struct mmu_walk *walk)
{
    const struct paging_trap *trap = &p->batch.traps[slot];
    bool fault = walk->outcome == MMU_PAGE_FAULT;

    if ((!fault && walk->outcome != MMU_OK) ||
        trap->vector != (fault ? VECTOR_PF : VECTOR_DE))
        return FAULT_OR_NOT;
    if (fault && trap->error != (unsigned)walk->error)
        return ERROR_CODE;
    if (fault && trap->cr2 != p->batch.va[slot])
        return CR2;
    if (!fault && !data_reached(p, slot, walk))
        return DATA;
    return entries_agree(p, slot, walk) ? AGREED : ENTRIES;
}

/* ---- Saying so --------------------------------------------------------- */

static char *put(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
    *at = 0;
    return at;
}

static char *put_hex(char *at, uint64_t value)
{
    int shift = 60;

    while (shift && !(value >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        *at++ = "0123456789abcdef"[value >> shift & 15];
    *at = 0;
    return at;
}

static char *put_number(char *at, uint64_t value)
{
    char digits[20];
    unsigned count = 0;

    do
        digits[count++] = (char)('0' + value % 10);
    while (value /= 10);
    while (count)
        *at++ = digits[--count];
    *at = 0;
    return at;
}

static char *put_control(char *at, const struct paging_control *c)
{
    const struct {
        bool on;
        const char *name;
    } bits[] = {{c->wp, " WP"},     {c->nxe, " NXE"}, {c->smep, " SMEP"},
                {c->smap, " SMAP"}, {c->ac, " AC"},   {c->pke, " PKE"}};

    for (unsigned i = 0; i < 6; i++)
        if (bits[i].on)
            at = put(at, bits[i].name);
    return at;
}

/* "write at CPL3, WP NXE, entries 27 27 27 65: walker #PF 7, CPU 3". */
static void describe(const struct paging *p, unsigned slot,
                     const struct mmu_walk *walk, char *at)
{
    static const char *const accesses[] = {"read", "write", "fetch"};
    const struct paging_case *c = &p->batch.cases[slot];
    const struct paging_trap *trap = &p->batch.traps[slot];

    at = put(at, accesses[c->access]);
    at = put(at, c->implicit ? " of a descriptor" : "");
    at = put(at, c->user ? " CPL3" : " CPL0");
    at = put_control(at, &p->batch.control);
    at = put(at, ", entries");
    for (unsigned level = CASE_LEVELS; level; level--) {
        const volatile uint64_t *table = low(p->tables[level]);

        at = put_hex(put(at, " "), c->flags[level]);
        at = put_hex(put(at, ">"), table[slot] & 0xfff);
    }
    at = put(at, ": walker ");
    at = walk->outcome == MMU_PAGE_FAULT
             ? put_hex(put(at, "#PF "), (uint64_t)walk->error)
             : put(at, "ok");
    at = put(at, ", CPU ");
    if (trap->vector == VECTOR_PF)
        put_hex(put(at, "#PF "), trap->error);
    else
        put_number(put(at, "vector "), trap->vector);
}

static int fetch_bit(const struct paging *p)
{
    return p->batch.control.nxe || p->batch.control.smep ? PF_I : 0;
}

/* What the walker says with the known error `e` made. False when the error has
 * no part in this case. */
static bool ask_with_error(struct paging *p, unsigned slot, enum exemption e,
                           struct mmu_walk *walk)
{
    const struct paging_case *c = &p->batch.cases[slot];
    bool manual = e == RESERVED_WITHOUT_P || !expects(p, G_IN_PML4E);
    bool implicit = c->implicit && e != IMPLICIT_AC;

    if ((e == G_IN_PML4E && !(c->flags[CASE_LEVELS] & PTE_G)) ||
        (e == IMPLICIT_AC && !(c->implicit && !c->user)) ||
        (e == SLOT_256 && !(slot == PT_ENTRIES / 2 && c->user)))
        return false;
    ask_walker(p, slot, p->plan.features.amd && manual, implicit, walk);
    if (expects(p, RESERVED_WITHOUT_P) && walk->error & PF_RS)
        walk->error &= ~PF_P;
    if (e == SLOT_256) {
        expect_no_change(&p->batch, slot);
        walk->outcome = MMU_PAGE_FAULT;
        walk->error = PF_U | (c->access == MMU_WRITE ? PF_W : 0) |
                      (c->access == MMU_FETCH ? fetch_bit(p) : 0);
    }
    return true;
}

static bool exempt(struct paging *p, unsigned slot)
{
    struct mmu_walk walk;

    for (unsigned e = 0; e < EXEMPTIONS; e++) {
        if (!expects(p, e) || !ask_with_error(p, slot, e, &walk) ||
            compare(p, slot, &walk) != AGREED)
            continue;
        p->exempt[e]++;
        return true;
    }
    return false;
}

static void judge(struct paging *p, unsigned slot)
{
    const struct paging_case *c = &p->batch.cases[slot];
    struct mmu_walk walk;
    enum disagreement kind;

    if (never_ends(p, c)) {
        p->exempt[IMPLICIT_LIVELOCK]++;
        return;
    }
    ask_walker(p, slot, p->plan.features.amd, c->implicit, &walk);
    p->done++;
    p->faults += walk.outcome == MMU_PAGE_FAULT;
    kind = compare(p, slot, &walk);
    if (kind != AGREED && exempt(p, slot))
        return;
    p->wrong[kind]++;
    if (kind != AGREED && !p->first[0])
        describe(p, slot, &walk, p->first);
}

/* ---- The run ----------------------------------------------------------- */

static void run_batch(struct paging *p, uint64_t number, unsigned count)
{
    uint64_t kernel_root = read_cr3();
    struct batch *b = &p->batch;

    paging_plan_control(&p->plan, number, &b->control);
    for (unsigned i = 0; i < count; i++) {
        paging_plan_case(&p->plan, number, &b->control, i,
                         &b->cases[slot_of(i)]);
        build_case(p, slot_of(i));
    }
    set_control(p, &b->control);
    write_cr3(p->tables[CASE_LEVELS]);
    for (unsigned i = 0; i < count; i++)
        perform(p, slot_of(i));
    write_cr3(kernel_root);
    reset_control(p);
    for (unsigned i = 0; i < count; i++)
        judge(p, slot_of(i));
}

static char *put_missing(char *at, const struct paging_features *f)
{
    const struct {
        bool there;
        const char *name;
    } features[] = {{f->smep, " SMEP"},
                    {f->smap, " SMAP"},
                    {f->pku, " PKU"},
                    {f->pages_1g, " 1G pages"}};
    bool any = false;

    for (unsigned i = 0; i < 4; i++) {
        if (features[i].there)
            continue;
        at = put(put(at, any ? "," : "; this CPU has no"), features[i].name);
        any = true;
    }
    return at;
}

/* The verdict becomes the run's message. */
static void report(struct kernel *k, const struct paging *p)
{
    static const char *const kinds[] = {
        [FAULT_OR_NOT] = " fault ", [ERROR_CODE] = " code ", [CR2] = " CR2 ",
        [DATA] = " data ",          [ENTRIES] = " A/D ",
    };
    char text[4 * GUEST_MESSAGE_MAX], *at = text;
    uint64_t wrong = 0;

    for (unsigned i = 1; i < DISAGREEMENTS; i++)
        wrong += p->wrong[i];
    if (wrong) {
        at = put_number(at, wrong);
        at = put(at, " cases disagree,");
        for (unsigned i = 1; i < DISAGREEMENTS; i++)
            if (p->wrong[i])
                at = put_number(put(at, kinds[i]), p->wrong[i]);
        at = put(put(at, "; first: "), p->first);
        kernel_panic(text);
    }
    at = put(put_number(at, p->done), " cases, ");
    if (p->batches >= paging_plan_batches(&p->plan))
        at = put(at, "every systematic one among them, ");
    at = put(put_number(at, p->faults), " faults, no disagreement");
    for (unsigned e = 0; e < EXEMPTIONS; e++)
        if (p->exempt[e])
            at = put(put(put_number(put(at, ", "), p->exempt[e]), " "),
                     exemptions[e].name);
    put_missing(at, &p->plan.features);
    for (unsigned i = 0; i < GUEST_MESSAGE_MAX - 1 && text[i]; i++)
        k->results->message[i] = text[i];
}

bool paging_run(struct cpu *cpu, const char *name)
{
    struct kernel *k = cpu->kernel;
    uint64_t left = k->config.operations, begin;
    struct paging *p;

    for (unsigned i = 0; i < sizeof "paging"; i++)
        if (name[i] != "paging"[i])
            return false;
    if (KERNEL_US)
        kernel_unsupported("the paging test writes page tables itself, which a "
                           "paravirtualized kernel cannot");
    p = set_up(cpu);
    kernel_phase_begin(k, WL_STEADY);
    begin = wl_tsc();
    for (uint64_t batch = 0; left; batch++) {
        unsigned count = left < PAGING_BATCH ? (unsigned)left : PAGING_BATCH;

        run_batch(p, batch, count);
        p->batches += count == PAGING_BATCH;
        left -= count;
    }
    kernel_phase_end(k, WL_STEADY, p->done, begin, wl_tsc(), p->faults);
    report(k, p);
    return true;
}
