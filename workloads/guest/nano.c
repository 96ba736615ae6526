/*
 * The kernel nanobenchmarks: one CPU or kernel operation, `operations` times
 * in a loop. Seven are those of Adams & Agesen, "A Comparison of Software and
 * Hardware Techniques for x86 Virtualization", ASPLOS 2006, section 6.3. Each
 * is warmed up by two operations, so that what is counted is the steady cost;
 * the loop itself is two instructions an operation.
 */
#include "workloads/guest/kernel.h"

#define PORT_DIAGNOSTIC 0x80
#define VECTOR_DE       0
#define VECTOR_PF       14
#define WARM_UP         2

typedef void nano_function(struct cpu *cpu, uint64_t operations);

static void nano_in(struct cpu *cpu, uint64_t operations)
{
    (void)cpu;
    for (; operations; operations--)
        __asm__ volatile("inb %0, %%al" ::"N"(PORT_DIAGNOSTIC) : "rax");
}

static void nano_out(struct cpu *cpu, uint64_t operations)
{
    (void)cpu;
    for (; operations; operations--)
        out8(PORT_DIAGNOSTIC, 0);
}

static void nano_cr8wr(struct cpu *cpu, uint64_t operations)
{
    (void)cpu;
    for (; operations; operations--)
        __asm__ volatile("movq %0, %%cr8" ::"r"(0ull));
}

static __attribute__((noinline)) void callee(void)
{
    __asm__ volatile("");
}

static void nano_callret(struct cpu *cpu, uint64_t operations)
{
    (void)cpu;
    for (; operations; operations--)
        callee();
}

static void nano_pgfault(struct cpu *cpu, uint64_t operations)
{
    uint64_t nowhere = NANO_BASE;

    cpu->expected_trap = VECTOR_PF + 1;
    cpu->expected_length = 2; /* 8a 07 */
    for (; operations; operations--)
        __asm__ volatile(".byte 0x8a, 0x07" /* movb (%%rdi), %%al */
                         ::"D"(nowhere)
                         : "rax", "memory");
    cpu->expected_trap = 0;
}

static void nano_divzero(struct cpu *cpu, uint64_t operations)
{
    cpu->expected_trap = VECTOR_DE + 1;
    cpu->expected_length = 2; /* f6 f1 */
    for (; operations; operations--)
        __asm__ volatile(".byte 0xf6, 0xf1" /* divb %%cl */
                         ::"a"(1),
                         "c"(0)
                         : "memory");
    cpu->expected_trap = 0;
}

/* One entry, there before anything else happens. */
static inline void change(struct kernel *k, uint64_t *entry, uint64_t value)
{
    pt_write(k, entry, value);
    __asm__ volatile("" ::: "memory");
    pt_sync(k);
}

/* A page of the kernel's own, its entry returned and its two frames in pa. */
static uint64_t *nano_page(struct kernel *k, uint64_t pa[2])
{
    uint64_t *entry = space_kernel_entry(k, NANO_BASE, 1);

    for (unsigned i = 0; i < 2; i++) {
        if (!pa[i])
            pa[i] = phys_alloc(k, 1);
        if (!pa[i] || !entry)
            kernel_panic("the VM has too little memory");
        pa[i] |= PTE_P | PTE_RW | KERNEL_US | PTE_A | PTE_D;
    }
    change(k, entry, pa[0]);
    invlpg(NANO_BASE);
    *(volatile uint64_t *)NANO_BASE = 0;
    return entry;
}

static void nano_ptemod(struct cpu *cpu, uint64_t operations)
{
    uint64_t pa[2] = {0, 0};
    uint64_t *entry = nano_page(cpu->kernel, pa);

    for (; operations; operations--)
        change(cpu->kernel, entry, pa[operations & 1]);
}

/* An operation is BATCH entries changed, each to another frame, a flush, and a
 * load from each page. */
#define BATCH      1000
#define BATCH_BASE (NANO_BASE + (32ull << 30))

static void nano_ptebatch(struct cpu *cpu, uint64_t operations)
{
    struct kernel *k = cpu->kernel;
    uint64_t pa[2] = {0, 0}, *table[2];

    nano_page(k, pa);
    for (unsigned i = 0; i < 2; i++) {
        table[i] = space_kernel_entry(k, BATCH_BASE + i * PAGE_2M, 1);
        if (!table[i])
            kernel_panic("the VM has too little memory");
    }
    for (; operations; operations--) {
        for (unsigned i = 0; i < BATCH; i++)
            pt_write(k, &table[i / PT_ENTRIES][i % PT_ENTRIES],
                     pa[operations & 1]);
        pt_sync(k);
        flush_tlb_own();
        for (unsigned i = 0; i < BATCH; i++)
            (void)*(volatile uint8_t *)(BATCH_BASE + i * PAGE_4K);
    }
}

/* The new entries are not accessed yet, as those of a page that was never
 * touched: a shadow MMU that prefetches only accessed pages has to take the
 * fault. */
static void nano_remap(struct cpu *cpu, uint64_t operations)
{
    uint64_t pa[2] = {0, 0};
    uint64_t *entry = nano_page(cpu->kernel, pa);

    for (; operations; operations--) {
        change(cpu->kernel, entry, pa[operations & 1] & ~(PTE_A | PTE_D));
        invlpg(NANO_BASE);
        (void)*(volatile uint64_t *)NANO_BASE;
    }
}

/* Pages that are mapped, accessed and dirty in the tables, and were never
 * touched: a shadow MMU has to fill each. So far apart that none is filled
 * together with another. The warm-up maps them all and takes the first. */
#define HIDDEN_STEP (64ull << 10)
#define HIDDEN_BASE (NANO_BASE + (64ull << 30))

static void map_hidden(struct kernel *k)
{
    uint64_t pa[2] = {0, 0};

    nano_page(k, pa);
    for (uint64_t i = 0; i < k->config.operations + WARM_UP; i++) {
        uint64_t *entry =
            space_kernel_entry(k, HIDDEN_BASE + i * HIDDEN_STEP, 1);

        if (!entry)
            kernel_panic("the VM has too little memory");
        change(k, entry, pa[0]);
    }
}

static void nano_hidden(struct cpu *cpu, uint64_t operations)
{
    uint64_t va = HIDDEN_BASE + WARM_UP * HIDDEN_STEP;

    if (operations == WARM_UP) {
        map_hidden(cpu->kernel);
        va = HIDDEN_BASE;
    }
    for (; operations; operations--, va += HIDDEN_STEP)
        (void)*(volatile uint8_t *)va;
}

static void nano_invlpg(struct cpu *cpu, uint64_t operations)
{
    uint64_t pa[2] = {0, 0};

    nano_page(cpu->kernel, pa);
    for (; operations; operations--)
        invlpg(NANO_BASE);
}

static void nano_cr3(struct cpu *cpu, uint64_t operations)
{
    uint64_t cr3 = read_cr3();

    (void)cpu;
    for (; operations; operations--)
        write_cr3(cr3);
}

static void nano_cpuid(struct cpu *cpu, uint64_t operations)
{
    uint32_t r[4];

    (void)cpu;
    for (; operations; operations--)
        cpuid(0, 0, r);
}

/* Bochs's debugger stops here; every CPU takes it for nothing. */
static inline void magic_breakpoint(void)
{
    __asm__ volatile("xchgw %%bx, %%bx" ::: "memory");
}

/* `operations` pages of the configured size, spread over the working set so
 * that none shares its page table with another more than it must. Between the
 * two breakpoints there is nothing but the loads: Bochs prints what the page
 * walker reads for them. */
static void nano_walk(struct cpu *cpu, uint64_t operations)
{
    struct kernel *k = cpu->kernel;
    uint64_t page = k->config.page_bytes;
    unsigned level = pt_leaf_level(page);
    uint64_t step = k->config.working_set_bytes / operations & ~(page - 1);

    step = step < page ? page : step;
    for (uint64_t i = 0; i < operations; i++) {
        uint64_t *entry = space_kernel_entry(k, NANO_BASE + i * step, level);
        uint64_t pa = entry && !*entry ? phys_alloc(k, level) : 0;

        if (!entry || (!*entry && !pa))
            kernel_panic("the VM has too little memory");
        if (pa)
            change(k, entry,
                   pa | PTE_P | PTE_RW | KERNEL_US | (level > 1 ? PTE_PS : 0));
        *(volatile uint8_t *)(NANO_BASE + i * step) = 1;
    }
    write_cr3(read_cr3());
    magic_breakpoint();
    for (uint64_t i = 0; i < operations; i++)
        (void)*(volatile uint8_t *)(NANO_BASE + i * step);
    magic_breakpoint();
}

/* nano_syscall is user code: the user program runs it. */
#define nano_syscall NULL

static const struct {
    const char *name;
    nano_function *run;
} nanos[] = {
#define NANO(name, summary, operation, operations, bytes) {#name, nano_##name},
#include "workloads/guest/nano.def"
#undef NANO
};

static void measure(struct cpu *cpu, nano_function *run)
{
    struct kernel *k = cpu->kernel;
    uint64_t operations = k->config.operations, begin, end;

    run(cpu, WARM_UP);
    kernel_phase_begin(k, WL_STEADY);
    begin = wl_tsc();
    run(cpu, operations);
    end = wl_tsc();
    kernel_phase_end(k, WL_STEADY, operations, begin, end, 0);
}

bool nano_run(struct cpu *cpu, const char *name)
{
    for (unsigned i = 0; i < sizeof nanos / sizeof nanos[0]; i++) {
        if (!nanos[i].run || !same_text(nanos[i].name, name))
            continue;
        measure(cpu, nanos[i].run);
        return true;
    }
    return false;
}
