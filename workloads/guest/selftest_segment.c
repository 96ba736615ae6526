/* The self-test: descriptor tables, selectors, far transfers (SDM vol. 3A,
 * chapters 3 and 5). */
#include "workloads/guest/selftest.h"

#define VECTOR_NP 11
#define VECTOR_SS 12
#define VECTOR_GP 13

#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101

#define SEL_BEYOND 0x1f8 /* not in the GDT */
#define SEL_SPARE  LDT_SEL
#define DATA_0     0x00cf93000000ffffull /* flat, DPL 0 */
#define DATA_3     0x00cff3000000ffffull
#define PRESENT    (1ull << 47)
#define LOW_PAGE   0x20000000ull
#define JMP_RAX    0xe0ffu /* jmp *%rax */

#define PROBE(name) uint64_t probe_##name(uint64_t arg)
PROBE(mov_ss);
PROBE(mov_ds);
PROBE(mov_fs);
PROBE(lldt);
PROBE(ltr);
PROBE(far_jmp_at);
PROBE(far_call_at);
PROBE(far_call_end);
PROBE(far_ret_to);
PROBE(far_ret_to_at);
PROBE(iret_to);
PROBE(iret_to_at);
uint64_t probe_far_jmp(uint64_t pointer);
uint64_t probe_far_call(uint64_t pointer);
uint64_t probe_far_ret(uint64_t unused);
uint64_t probe_far_ret_32(uint64_t address);

struct pseudo_descriptor {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

/* ---- Table registers --------------------------------------------------- */

static uint16_t sldt(void)
{
    uint16_t selector;

    __asm__ volatile("sldt %0" : "=r"(selector));
    return selector;
}

static void table_registers(struct selftest *t)
{
    struct cpu *cpu = selftest_cpu(t);
    struct pseudo_descriptor gdtr = {0}, idtr = {0};
    uint16_t tr = 0;
    uint64_t wide = ~0ull;

    __asm__ volatile("lldt %w0" ::"r"(0)); /* a reset leaves a limit */
    __asm__ volatile("sgdt %0" : "=m"(gdtr));
    check(t, "SGDT", "limit", gdtr.limit, sizeof cpu->gdt - 1);
    check(t, "SGDT", "base", gdtr.base - (uint64_t)cpu->gdt, 0);
    __asm__ volatile("sidt %0" : "=m"(idtr));
    check(t, "SIDT", "limit", idtr.limit, sizeof cpu->kernel->idt - 1);
    check(t, "SIDT", "base", idtr.base - (uint64_t)cpu->kernel->idt, 0);
    __asm__ volatile("str %0" : "=m"(tr));
    check(t, "STR to memory", "", tr, TSS_SEL);
    __asm__ volatile("str %k0" : "=r"(wide));
    check(t, "STR to a register", "", wide, TSS_SEL);
    check(t, "TSS descriptor", "busy", cpu->gdt[TSS_SEL / 8] >> 40 & 31, 11);
    check(t, "SLDT", "at first", sldt(), 0);
    check_fault(t, "LTR of a busy TSS", probe_ltr, TSS_SEL, VECTOR_GP, TSS_SEL);
    check_fault(t, "LTR of data", probe_ltr, KERNEL_SS, VECTOR_GP, KERNEL_SS);
    check_fault(t, "LLDT of data", probe_lldt, KERNEL_SS, VECTOR_GP, KERNEL_SS);
}

/* Another GDT and IDT than those in use, of the same content. */
static void loaded_tables(struct selftest *t)
{
    struct cpu *cpu = selftest_cpu(t);
    struct pseudo_descriptor first = {0}, seen = {0};
    struct pseudo_descriptor shorter;

    __asm__ volatile("sgdt %0" : "=m"(first));
    shorter = (struct pseudo_descriptor){TSS_SEL + 15, first.base};
    __asm__ volatile("lgdt %1; sgdt %0" : "=m"(seen) : "m"(shorter));
    check(t, "LGDT", "limit", seen.limit, TSS_SEL + 15);
    check_fault(t, "selector beyond a shorter GDT", probe_mov_ds, LDT_SEL,
                VECTOR_GP, LDT_SEL);
    __asm__ volatile("lgdt %0" ::"m"(first));
    __asm__ volatile("sidt %0" : "=m"(first));
    shorter = (struct pseudo_descriptor){0x1ff, first.base};
    __asm__ volatile("lidt %1; sidt %0" : "=m"(seen) : "m"(shorter));
    check(t, "LIDT", "limit", seen.limit, 0x1ff);
    check(t, "LIDT", "base", seen.base - (uint64_t)cpu->kernel->idt, 0);
    __asm__ volatile("lidt %0" ::"m"(first));
}

/* ---- Selectors --------------------------------------------------------- */

#define SELECTOR_ACCESS(name)                                    \
    static uint64_t read_##name(void)                            \
    {                                                            \
        uint64_t value;                                          \
                                                                 \
        __asm__ volatile("movl %%" #name ", %k0" : "=r"(value)); \
        return value;                                            \
    }                                                            \
    static void write_##name(uint64_t value)                     \
    {                                                            \
        __asm__ volatile("movl %k0, %%" #name ::"r"(value));     \
    }
SELECTOR_ACCESS(ds)
SELECTOR_ACCESS(es)
SELECTOR_ACCESS(fs)
SELECTOR_ACCESS(gs)
SELECTOR_ACCESS(ss)

static uint64_t read_cs(void)
{
    uint64_t value;

    __asm__ volatile("movl %%cs, %k0" : "=r"(value));
    return value;
}

static void each_selector(struct selftest *t)
{
    static const struct {
        const char *name;
        uint64_t (*read)(void);
        void (*write)(uint64_t value);
    } registers[] = {{"DS", read_ds, write_ds},
                     {"ES", read_es, write_es},
                     {"FS", read_fs, write_fs},
                     {"GS", read_gs, write_gs}};
    static const uint16_t values[] = {0, 3, KERNEL_SS, USER_SS, KERNEL_CS};

    for (unsigned i = 0; i < 4; i++) {
        for (unsigned v = 0; v < 5; v++) {
            registers[i].write(values[v]);
            check_or(t, "MOV to and from", registers[i].name,
                     registers[i].read(), values[v],
                     values[v] == 3 ? DEVIATION_MONITOR_NULL : DEVIATION_NONE,
                     0);
        }
        registers[i].write(KERNEL_SS);
    }
}

static uint64_t push_pop_fs(uint64_t value)
{
    uint64_t seen;

    __asm__ volatile("pushq %1; popq %%fs; pushq %%fs; popq %0"
                     : "=r"(seen)
                     : "r"(value)
                     : "memory");
    return seen;
}

static uint64_t load_far_gs(uint32_t offset, uint16_t selector)
{
    const struct {
        uint32_t offset;
        uint16_t selector;
    } pointer = {offset, selector};
    uint64_t seen;

    __asm__ volatile("lgsl %1, %k0" : "=r"(seen) : "m"(pointer));
    return seen;
}

static void selectors(struct selftest *t)
{
    check(t, "MOV from", "CS", read_cs(), KERNEL_CS);
    check(t, "MOV from", "SS", read_ss(), KERNEL_SS);
    each_selector(t);
    check(t, "PUSH and POP", "FS", push_pop_fs(USER_SS), USER_SS);
    write_fs(0);
    check(t, "LGS", "the offset", load_far_gs(0x12345678, USER_SS), 0x12345678);
    check(t, "LGS", "GS", read_gs(), USER_SS);
    write_gs(0);
    write_ss(0);
    check(t, "MOV to and from", "SS, null", read_ss(), 0);
    write_ss(KERNEL_SS);
    check_fault(t, "SS with RPL 3", probe_mov_ss, KERNEL_SS | 3, VECTOR_GP,
                KERNEL_SS);
    check_fault(t, "SS of DPL 3", probe_mov_ss, USER_SS & ~3u, VECTOR_GP,
                USER_SS & ~3u);
    check_fault(t, "SS of code", probe_mov_ss, KERNEL_CS, VECTOR_GP, KERNEL_CS);
    check_fault(t, "DS beyond the GDT", probe_mov_ds, SEL_BEYOND, VECTOR_GP,
                SEL_BEYOND);
    check_fault(t, "DS of a TSS", probe_mov_ds, TSS_SEL, VECTOR_GP, TSS_SEL);
    check_fault(t, "DS in no LDT", probe_mov_ds, 0x14, VECTOR_GP, 0x14);
}

/* A descriptor with its base (SDM vol. 3A, 3.4.5). */
static uint64_t with_base(uint64_t descriptor, uint32_t base)
{
    return descriptor | (base & 0xffffffull) << 16 |
           (uint64_t)(base >> 24) << 56;
}

static void descriptors(struct selftest *t)
{
    volatile uint64_t *spare = &selftest_cpu(t)->gdt[SEL_SPARE / 8];
    uint64_t gs = rdmsr(MSR_GS_BASE);

    *spare = with_base(DATA_0, 0x12345678);
    write_fs(SEL_SPARE);
    check(t, "a descriptor's base", "in FS", rdmsr(MSR_FS_BASE), 0x12345678);
    write_gs(SEL_SPARE);
    check(t, "a descriptor's base", "in GS", rdmsr(MSR_GS_BASE), 0x12345678);
    wrmsr(MSR_FS_BASE, 0xffffffff87654321);
    check(t, "FS base written", "selector", read_fs(), SEL_SPARE);
    *spare = DATA_0 & ~PRESENT;
    check_fault(t, "DS not present", probe_mov_ds, SEL_SPARE, VECTOR_NP,
                SEL_SPARE);
    check_fault(t, "SS not present", probe_mov_ss, SEL_SPARE, VECTOR_SS,
                SEL_SPARE);
    *spare = DATA_3 & ~(1ull << 40);
    write_ds(SEL_SPARE | 3);
    check(t, "a descriptor", "accessed", *spare, DATA_3);
    write_ds(KERNEL_SS);
    write_fs(0);
    write_gs(0);
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, gs);
    *spare = 0;
}

/* One data descriptor in an LDT. */
static void local_table(struct selftest *t)
{
    struct cpu *cpu = selftest_cpu(t);
    uint64_t table[1] = {with_base(DATA_3, 0x00abcdef)};
    struct caught c;

    cpu->gdt[LDT_SEL / 8] =
        with_base(0x0000820000000007, (uint32_t)(uint64_t)table);
    cpu->gdt[LDT_SEL / 8 + 1] = (uint64_t)table >> 32;
    __asm__ volatile("lldt %w0" ::"r"(LDT_SEL) : "memory");
    check(t, "LLDT", "SLDT", sldt(), LDT_SEL);
    selftest_catch(t, &c, probe_mov_fs, 7);
    check_or(t, "FS from the LDT", "vector (none)", c.frame.vector, VECTOR_NONE,
             DEVIATION_MONITOR_LDT, VECTOR_GP);
    check_or(t, "FS from the LDT", "selector", read_fs(), 7,
             DEVIATION_MONITOR_LDT, 0);
    check_or(t, "FS from the LDT", "base", rdmsr(MSR_FS_BASE), 0xabcdef,
             DEVIATION_MONITOR_LDT, 0);
    check_fault(t, "FS beyond the LDT", probe_mov_fs, 15, VECTOR_GP, 12);
    write_fs(0);
    __asm__ volatile("lldt %w0" ::"r"(0));
    check(t, "LLDT of null", "SLDT", sldt(), 0);
    wrmsr(MSR_FS_BASE, 0);
    cpu->gdt[LDT_SEL / 8] = cpu->gdt[LDT_SEL / 8 + 1] = 0;
}

/* ---- What LAR and its like say ----------------------------------------- */

#define LAR_BITS 0xf0ff00u /* 19:16 are undefined (SDM vol. 2, LAR) */
#define REFUSED  0xbad
#define UNTRIED  ~0ull

static uint64_t lar(uint32_t selector)
{
    uint32_t value = 0;
    bool ok;

    __asm__ volatile("larl %2, %1" : "=@ccz"(ok), "+r"(value) : "r"(selector));
    return ok ? value & LAR_BITS : REFUSED;
}

static uint64_t lsl(uint32_t selector)
{
    uint32_t value = 0;
    bool ok;

    __asm__ volatile("lsll %2, %1" : "=@ccz"(ok), "+r"(value) : "r"(selector));
    return ok ? value : REFUSED;
}

static uint64_t verify(uint32_t selector)
{
    bool r, w;

    __asm__ volatile("verr %w1" : "=@ccz"(r) : "r"(selector));
    __asm__ volatile("verw %w1" : "=@ccz"(w) : "r"(selector));
    return r | w << 1;
}

static void access_rights(struct selftest *t)
{
    static const struct {
        const char *name;
        uint16_t selector;
        uint64_t lar, lsl, verify;
    } cases[] = {
        {"kernel code", KERNEL_CS, 0xa09b00, 0xffffffff, 1},
        {"kernel data", KERNEL_SS, 0xc09300, 0xffffffff, 3},
        {"user code", USER_CS, 0xa0fb00, 0xffffffff, 1},
        {"user data", USER_SS, 0xc0f300, 0xffffffff, 3},
        {"kernel data, RPL 3", KERNEL_SS | 3, REFUSED, REFUSED, 0},
        {"TSS", TSS_SEL, 0x008b00, 0x67, 0},
        {"null", 0, REFUSED, REFUSED, 0},
        {"beyond the GDT", SEL_BEYOND, REFUSED, REFUSED, 0},
    };

    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint16_t selector = cases[i].selector;
        bool skip = selftest_expects(t, DEVIATION_PVM_EMULATOR);

        check_or(t, "LAR", cases[i].name, skip ? UNTRIED : lar(selector),
                 cases[i].lar, DEVIATION_PVM_EMULATOR, UNTRIED);
        check_or(t, "LSL", cases[i].name, skip ? UNTRIED : lsl(selector),
                 cases[i].lsl, DEVIATION_PVM_EMULATOR, UNTRIED);
        check_or(t, "VERR, VERW", cases[i].name,
                 skip ? UNTRIED : verify(selector), cases[i].verify,
                 DEVIATION_PVM_EMULATOR, UNTRIED);
    }
}

/* ---- Far transfers ----------------------------------------------------- */

struct far_pointer {
    uint32_t offset;
    uint16_t selector;
};

static void check_far_fault(struct selftest *t, const char *name,
                            uint16_t selector, uint64_t error)
{
    const struct far_pointer to = {LOW_PAGE, selector};
    struct caught c;

    selftest_catch(t, &c, probe_far_jmp, (uint64_t)&to);
    check_trap(t, name, &c, VECTOR_GP, error, (uint64_t)probe_far_jmp_at);
}

/* A far pointer has 32 bits of address unless the CPU is Intel's, so these go
 * to a low page, which leads back. */
static void far_transfers(struct selftest *t)
{
    struct kernel *k = selftest_cpu(t)->kernel;
    uint64_t *entry = space_kernel_entry(k, LOW_PAGE, 1);
    uint64_t pa = phys_alloc(k, 1);
    bool skip = selftest_expects(t, DEVIATION_TCG_FAR);
    const struct far_pointer to = {LOW_PAGE, KERNEL_CS};
    struct caught c;

    *(uint16_t *)phys_to_virt(pa) = JMP_RAX;
    pt_write(k, entry, pa | PTE_P | PTE_A | KERNEL_US);
    pt_sync(k);
    check(t, "JMP FAR", "CS", probe_far_jmp((uint64_t)&to), KERNEL_CS);
    check_or(t, "CALL FAR", "what it pushed",
             skip ? UNTRIED
                  : probe_far_call((uint64_t)&to) -
                        (uint32_t)(uint64_t)probe_far_call_end,
             (uint64_t)KERNEL_CS << 32, DEVIATION_TCG_FAR, UNTRIED);
    check(t, "RET FAR", "RSP", probe_far_ret(0), 0);
    check_or(t, "RET FAR, 32 bits", "RSP",
             skip ? UNTRIED : probe_far_ret_32(LOW_PAGE), 0, DEVIATION_TCG_FAR,
             UNTRIED);
    check_far_fault(t, "JMP FAR, null", 0, 0);
    check_far_fault(t, "JMP FAR, data", KERNEL_SS, KERNEL_SS);
    check_far_fault(t, "JMP FAR, beyond the GDT", SEL_BEYOND, SEL_BEYOND);
    check_far_fault(t, "JMP FAR, DPL 3", USER_CS & ~3u, USER_CS & ~3u);
    selftest_catch(t, &c, probe_far_ret_to, SEL_BEYOND);
    check_trap(t, "RET FAR, beyond the GDT", &c, VECTOR_GP, SEL_BEYOND,
               (uint64_t)probe_far_ret_to_at);
    selftest_catch(t, &c, probe_iret_to, SEL_BEYOND);
    check_trap(t, "IRET, beyond the GDT", &c, VECTOR_GP, SEL_BEYOND,
               (uint64_t)probe_iret_to_at);
    selftest_catch(t, &c, probe_iret_to, KERNEL_SS);
    /* The error: CS becomes data, from which the next fetch faults. */
    check_trap_or(
        t, DEVIATION_PVM_IRET, "IRET, data", &c,
        (struct outcome){VECTOR_GP, KERNEL_SS, (uint64_t)probe_iret_to_at},
        (struct outcome){VECTOR_GP, 0, (uint64_t)probe_iret_to_at + 2});
    pt_write(k, entry, 0);
    pt_sync(k);
    invlpg(LOW_PAGE);
    phys_free(k, pa, 1);
}

void selftest_segments(struct selftest *t)
{
    table_registers(t);
    loaded_tables(t);
    selectors(t);
    descriptors(t);
    local_table(t);
    access_rights(t);
    far_transfers(t);
}
