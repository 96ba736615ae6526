#include "workloads/guest/audit.h"

#include "workloads/audit.h"
#include "workloads/guest/selftest.h"

#define MSR_LSTAR          0xc0000082
#define MSR_GS_BASE        0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

#define CR0_TS       (1ull << 3)
#define CR4_FSGSBASE (1ull << 16)
#define LOW_PAGE     0x20000000ull
#define JMP_RAX      0xe0ffu

extern const uint8_t audit_syscall_target[];

static const struct {
    const char *name;
    uint64_t (*run)(uint64_t arg);
} instructions[] = {
#define AUDIT(id, name, listed) {name, audit_##id},
#include "workloads/audit.def"
#undef AUDIT
};

struct far_pointer {
    uint32_t offset;
    uint16_t selector;
};

/* ---- A state that a kernel of its own machine would find --------------- */

static bool has_fsgsbase(void)
{
    uint32_t r[4];

    cpuid(0, 0, r);
    if (r[0] < 7)
        return false;
    cpuid(7, 0, r);
    return r[1] & 1;
}

static uint64_t set_task_switched(void)
{
    uint64_t cr0;

    __asm__ volatile("movq %%cr0, %0" : "=r"(cr0));
    cr0 |= CR0_TS;
    __asm__ volatile("movq %0, %%cr0" ::"r"(cr0) : "memory");
    return cr0;
}

/* An empty LDT, whose selector SLDT shows. */
static void load_ldt(struct cpu *cpu)
{
    cpu->gdt[LDT_SEL / 8] = 0x0000820000000007;
    cpu->gdt[LDT_SEL / 8 + 1] = 0;
    __asm__ volatile("lldt %w0" ::"r"(LDT_SEL) : "memory");
}

static void map_low_page(struct kernel *k)
{
    uint64_t *entry = space_kernel_entry(k, LOW_PAGE, 1);
    uint64_t pa = phys_alloc(k, 1);

    *(uint16_t *)phys_to_virt(pa) = JMP_RAX;
    pt_write(k, entry, pa | PTE_P | PTE_A | KERNEL_US);
    pt_sync(k);
}

/* What the instruction is to give, the state for it made. */
static uint64_t prepare(struct cpu *cpu, enum audit_instruction instruction,
                        const uint64_t *swapped)
{
    switch (instruction) {
    case AUDIT_sgdt:
        return (uint64_t)cpu->gdt;
    case AUDIT_sidt:
        return (uint64_t)cpu->kernel->idt;
    case AUDIT_sldt:
        load_ldt(cpu);
        return LDT_SEL;
    case AUDIT_smsw:
        return set_task_switched() & 0xffff;
    case AUDIT_popf:
    case AUDIT_iretq:
        return 0x3000;
    case AUDIT_lar:
        return 0xa09b00;
    case AUDIT_lsl:
        return 0xffffffff;
    case AUDIT_verr:
        return 3;
    case AUDIT_push:
        __asm__ volatile("movl %0, %%gs" ::"r"(KERNEL_SS));
        return KERNEL_SS;
    case AUDIT_pop:
        return KERNEL_SS;
    case AUDIT_call:
    case AUDIT_jmp:
    case AUDIT_ret:
    case AUDIT_mov:
        return KERNEL_CS;
    case AUDIT_int:
        trap_set_gate(cpu->kernel, 0x80, GATE_INTERRUPT, 0);
        return AUDIT_INT_MARK;
    case AUDIT_str:
        return TSS_SEL;
    case AUDIT_syscall:
        wrmsr(MSR_LSTAR, (uint64_t)audit_syscall_target);
        return AUDIT_SYSCALL_MARK;
    case AUDIT_swapgs:
        wrmsr(MSR_GS_BASE, 0);
        wrmsr(MSR_KERNEL_GS_BASE, (uint64_t)swapped);
        return AUDIT_SWAPPED;
    case AUDIT_rdgsbase:
        write_cr4(read_cr4() | CR4_FSGSBASE);
        wrmsr(MSR_GS_BASE, AUDIT_GS_BASE);
        return AUDIT_GS_BASE;
    case AUDIT_cr8:
        return AUDIT_TASK_PRIORITY;
    default: /* PUSHF, CLI: the kernel has interrupts off */
        return 0;
    }
}

/* ---- Running ----------------------------------------------------------- */

static void record(struct kernel *k, enum audit_instruction instruction,
                   const struct caught *c, uint64_t value, uint64_t expected)
{
    struct guest_results *results = k->results;

    if (results->audits >= GUEST_AUDITS_MAX)
        kernel_panic("the audit has too many instructions");
    results->audit[results->audits] = (struct guest_audit){
        .instruction = instruction,
        .vector = (uint32_t)c->frame.vector,
        .value = value,
        .expected = expected,
    };
    __atomic_store_n(&results->audits, results->audits + 1, __ATOMIC_RELEASE);
}

static void audit(struct cpu *cpu, enum audit_instruction instruction)
{
    const struct far_pointer far = {LOW_PAGE, KERNEL_CS};
    const uint64_t swapped = AUDIT_SWAPPED;
    uint64_t expected = prepare(cpu, instruction, &swapped), value;
    struct caught c = {.frame.vector = VECTOR_NONE};

    cpu->caught = &c;
    value = catch_trap(&c, instructions[instruction].run, (uint64_t)&far);
    cpu->caught = NULL;
    /* A trap is what INT n is for. */
    if (instruction == AUDIT_int && c.frame.vector == AUDIT_INT_MARK) {
        value = AUDIT_INT_MARK;
        c.frame.vector = VECTOR_NONE;
    }
    record(cpu->kernel, instruction, &c, value, expected);
}

bool audit_run(struct cpu *cpu, const char *name)
{
    struct kernel *k = cpu->kernel;
    uint64_t begin;

    if (!same_text(name, "audit"))
        return false;
    map_low_page(k);
    kernel_phase_begin(k, WL_STEADY);
    begin = wl_tsc();
    for (uint64_t i = k->config.operations - 1; i < AUDIT_INSTRUCTIONS; i++) {
        /* SYSRET would leave the kernel. */
        if (i == AUDIT_sysret || (i == AUDIT_rdgsbase && !has_fsgsbase()))
            continue;
        audit(cpu, (enum audit_instruction)i);
    }
    kernel_phase_end(k, WL_STEADY, k->results->audits, begin, wl_tsc(), 0);
    return true;
}
