/*
 * What only the monitor's image has: start, the way back into the guest, and
 * what the core asks of the CPU at CPL 0.
 */
#include "vmm/monitor/monitor.h"

#include <errno.h>

#define MSR_FS_BASE    0xc0000100u
#define MSR_GS_BASE    0xc0000101u
#define MSR_APIC_BASE  0x1bu
#define MSR_X2APIC_EOI 0x80bu
#define MSR_X2APIC_SVR 0x80fu
#define MSR_X2APIC_ICR 0x830u
#define APIC_ON_X2     (3u << 10)
#define APIC_SVR_ON    0x1ffu

_Static_assert(sizeof(struct mon_frame) == MON_CPU_FRAME_END &&
                   offsetof(struct mon_frame, vector) == MON_FRAME_VECTOR &&
                   offsetof(struct mon_frame, cs) == MON_FRAME_CS &&
                   offsetof(struct mon_cpu, frame) == 0 &&
                   offsetof(struct mon_cpu, stack_top) == MON_CPU_STACK &&
                   offsetof(struct mon_cpu, syscall_rsp) ==
                       MON_CPU_SYSCALL_RSP &&
                   offsetof(struct mon_cpu, self) == MON_CPU_SELF,
               "what entry.S knows");
_Static_assert(sizeof(struct mon_cpu) <= MON_CPU_STATE_BYTES &&
                   sizeof(struct mon) <= MON_CONFIG - MON_SHARED,
               "layout.h has room");

void monitor_start(struct mon_cpu *cpu);
void monitor_trapped(struct mon_cpu *cpu);
void monitor_interrupted(const struct mon_frame *frame);

static inline struct mon *the_monitor(void)
{
    return (struct mon *)(MON_BASE + MON_SHARED);
}

static inline const struct mon_config *the_config(void)
{
    return (const struct mon_config *)(MON_BASE + MON_CONFIG);
}

/* ---- Instructions ------------------------------------------------------ */

static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t lo, hi;

    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)value),
                     "d"((uint32_t)(value >> 32))
                     : "memory");
}

static inline void write_cr3(uint64_t value)
{
    __asm__ volatile("movq %0, %%cr3" ::"r"(value) : "memory");
}

static void load_gdt(struct mon_cpu *cpu)
{
    const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed))
    gdtr = {sizeof cpu->gdt[0] - 1, (uint64_t)cpu->gdt[cpu->user_gdt]};

    __asm__ volatile("lgdt %0" ::"m"(gdtr));
    cpu->loaded_user_gdt = cpu->user_gdt;
}

/* ---- For the core ------------------------------------------------------ */

static void call(enum mon_call call)
{
    out32(MON_PORT, call);
}

static int decode(struct mon_cpu *cpu, uint64_t pa, const uint8_t *bytes,
                  unsigned count, struct insn *insn)
{
    cpu->call_pa = pa;
    cpu->call_count = (uint8_t)count;
    for (unsigned i = 0; i < count; i++)
        cpu->call_bytes[i] = bytes[i];
    call(MON_CALL_DECODE);
    *insn = cpu->call_insn;
    return insn->length ? 0 : -ENODATA;
}

static int translator(struct mon_cpu *cpu)
{
    call(MON_CALL_TRANSLATOR);
    return cpu->call_error;
}

static uint32_t port_io(struct mon_cpu *cpu, uint16_t port, unsigned bytes,
                        bool out, uint32_t value)
{
    (void)cpu;
    if (out && bytes == 1)
        __asm__ volatile("outb %b0, %1" ::"a"(value), "d"(port));
    else if (out && bytes == 2)
        __asm__ volatile("outw %w0, %1" ::"a"(value), "d"(port));
    else if (out)
        __asm__ volatile("outl %0, %1" ::"a"(value), "d"(port) : "memory");
    else if (bytes == 1)
        __asm__ volatile("inb %1, %b0" : "+a"(value) : "d"(port));
    else if (bytes == 2)
        __asm__ volatile("inw %1, %w0" : "+a"(value) : "d"(port));
    else
        __asm__ volatile("inl %1, %0" : "=a"(value) : "d"(port) : "memory");
    return value;
}

static uint64_t get_base(struct mon_cpu *cpu, unsigned segment)
{
    (void)cpu;
    return rdmsr(segment == INSN_FS ? MSR_FS_BASE : MSR_GS_BASE);
}

static void set_base(struct mon_cpu *cpu, unsigned segment, uint64_t base)
{
    (void)cpu;
    wrmsr(segment == INSN_FS ? MSR_FS_BASE : MSR_GS_BASE, base);
}

static uint16_t get_selector(struct mon_cpu *cpu, unsigned segment)
{
    uint16_t value = 0;

    (void)cpu;
    switch (segment) {
    case INSN_ES:
        __asm__ volatile("movw %%es, %0" : "=r"(value));
        break;
    case INSN_DS:
        __asm__ volatile("movw %%ds, %0" : "=r"(value));
        break;
    case INSN_FS:
        __asm__ volatile("movw %%fs, %0" : "=r"(value));
        break;
    case INSN_GS:
        __asm__ volatile("movw %%gs, %0" : "=r"(value));
        break;
    }
    return value;
}

/* By the GDT of the guest's kernel, which may not be the one that is loaded. */
static void set_selector(struct mon_cpu *cpu, unsigned segment, uint16_t value)
{
    if (cpu->loaded_user_gdt) {
        cpu->user_gdt = false;
        load_gdt(cpu);
    }
    switch (segment) {
    case INSN_ES:
        __asm__ volatile("movw %0, %%es" ::"r"(value));
        break;
    case INSN_DS:
        __asm__ volatile("movw %0, %%ds" ::"r"(value));
        break;
    case INSN_FS:
        __asm__ volatile("movw %0, %%fs" ::"r"(value));
        break;
    case INSN_GS:
        __asm__ volatile("movw %0, %%gs" ::"r"(value));
        break;
    }
}

static void kick(struct mon_cpu *cpu)
{
    wrmsr(MSR_X2APIC_ICR, (uint64_t)cpu->id << 32 | MON_VECTOR_KICK);
}

static void wait(struct mon_cpu *cpu)
{
    (void)cpu;
    __asm__ volatile("sti\n\thlt\n\tcli" ::: "memory");
}

static void relax(struct mon_cpu *cpu)
{
    (void)cpu;
    __builtin_ia32_pause();
}

static uint64_t tsc(void)
{
    uint32_t lo, hi;

    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (uint64_t)hi << 32 | lo;
}

static const struct mon_ops own_ops = {
    .decode = decode,
    .port = port_io,
    .get_base = get_base,
    .set_base = set_base,
    .get_selector = get_selector,
    .set_selector = set_selector,
    .kick = kick,
    .wait = wait,
    .relax = relax,
    .tsc = tsc,
    .translator = translator,
};

/* ---- Back into the guest ----------------------------------------------- */

/* Others that wait for our flush wait until it is done, or no longer when we
 * are not in the guest. */
static void flush(struct mon_cpu *cpu)
{
    bool wanted;

    __atomic_store_n(&cpu->in_guest, true, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&cpu->held, __ATOMIC_SEQ_CST)) {
        __atomic_store_n(&cpu->in_guest, false, __ATOMIC_SEQ_CST);
        __builtin_ia32_pause();
        __atomic_store_n(&cpu->in_guest, true, __ATOMIC_SEQ_CST);
    }
    wanted = __atomic_load_n(&cpu->flush_wanted, __ATOMIC_SEQ_CST);
    if (wanted || cpu->cr3 != cpu->loaded_cr3 ||
        cpu->flush_pages > MON_FLUSH_PAGES) {
        write_cr3(cpu->cr3);
        cpu->loaded_cr3 = cpu->cr3;
    } else {
        for (unsigned i = 0; i < cpu->flush_pages; i++)
            __asm__ volatile("invlpg (%0)" ::"r"(cpu->flush_page[i])
                             : "memory");
    }
    cpu->flush_pages = 0;
    if (wanted)
        __atomic_store_n(&cpu->flush_wanted, false, __ATOMIC_SEQ_CST);
}

static void leave(struct mon_cpu *cpu)
{
    while (cpu->end)
        call(MON_CALL_END); /* which does not return */
    if (cpu->user_gdt != cpu->loaded_user_gdt)
        load_gdt(cpu);
    if (cpu->cr0 != cpu->loaded_cr0) {
        __asm__ volatile("movq %0, %%cr0" ::"r"(cpu->cr0));
        cpu->loaded_cr0 = cpu->cr0;
    }
    flush(cpu);
}

static void handle(struct mon_cpu *cpu)
{
    __atomic_store_n(&cpu->in_guest, false, __ATOMIC_SEQ_CST);
    if (the_config()->assist)
        mon_trap(the_monitor(), cpu);
    else
        call(MON_CALL_TRAP);
    leave(cpu);
}

void monitor_trapped(struct mon_cpu *cpu)
{
    if (cpu->frame.vector == 14)
        __asm__ volatile("movq %%cr2, %0" : "=r"(cpu->fault_address));
    else if (cpu->frame.vector == MON_VECTOR_KICK)
        wrmsr(MSR_X2APIC_EOI, 0);
    handle(cpu);
    /* Another vCPU wrote to code while this one was on its way. */
    while (__atomic_load_n(&cpu->bt.stale, __ATOMIC_SEQ_CST)) {
        cpu->frame.vector = MON_VECTOR_KICK;
        handle(cpu);
    }
}

/* At CPL 0 only a kick can be: while a vCPU waits. */
void monitor_interrupted(const struct mon_frame *frame)
{
    struct mon_cpu *cpu;

    if (frame->vector == MON_VECTOR_KICK) {
        wrmsr(MSR_X2APIC_EOI, 0);
        return;
    }
    /* Every stack of a vCPU lies in its part. */
    cpu = (struct mon_cpu *)((uint64_t)frame & ~(uint64_t)(MON_CPU_BYTES - 1));
    cpu->end = MON_END_OWN_FAULT;
    cpu->end_a = frame->vector;
    cpu->end_b = frame->rip;
    cpu->own_fault = *frame;
    leave(cpu);
}

/* ---- Start ------------------------------------------------------------- */

static void start_monitor(struct mon *m)
{
    uint8_t *window = (uint8_t *)MON_WINDOW;

    if (mon_init(m, the_config(), &own_ops, window, window + (1ull << 32),
                 (uint8_t *)MON_BASE))
        for (;;)
            call(MON_CALL_END);
}

/* vCPU 0 sets up what all share; the others wait. */
void monitor_start(struct mon_cpu *cpu)
{
    struct mon *m = the_monitor();

    if (the_config()->cpus > 1) {
        wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_ON_X2);
        wrmsr(MSR_X2APIC_SVR, APIC_SVR_ON);
    }
    if (the_config()->assist) {
        if (!cpu->id)
            start_monitor(m);
        while (!__atomic_load_n(&m->shadow, __ATOMIC_ACQUIRE))
            __builtin_ia32_pause();
        mon_start_cpu(m, cpu);
    }
    leave(cpu);
}
