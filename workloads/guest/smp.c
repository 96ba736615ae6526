/*
 * Other CPUs: they sleep until parallel() gives them a user function to run,
 * and flush their TLBs when another CPU changed the tables (TLB shootdown).
 * Interprocessor interrupts go through the x2APIC (SDM vol. 3A, 10.12).
 */
#include "workloads/guest/kernel.h"

#define MSR_APIC_BASE  0x1b
#define MSR_X2APIC_EOI 0x80b
#define MSR_X2APIC_SVR 0x80f
#define MSR_X2APIC_ICR 0x830
#define APIC_BASE_X2   (1u << 10)
#define APIC_BASE_ON   (1u << 11)
#define APIC_SVR_ON    0x1ffu
#define ICR_ALL_BUT_ME (3u << 18)

void smp_init_cpu(const struct kernel *k)
{
    if (k->config.vcpus < 2)
        return;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2 | APIC_BASE_ON);
    wrmsr(MSR_X2APIC_SVR, APIC_SVR_ON);
}

void smp_end_of_interrupt(void)
{
    wrmsr(MSR_X2APIC_EOI, 0);
}

static void interrupt_others(uint8_t vector)
{
    wrmsr(MSR_X2APIC_ICR, ICR_ALL_BUT_ME | vector);
}

/* ---- Work -------------------------------------------------------------- */

static void run_work(struct cpu *cpu)
{
    struct kernel *k = cpu->kernel;
    struct trap_frame frame = process_user_frame(
        cpu->id, k->work.entry, k->work.arg0, k->work.arg1, cpu->id);

    cpu->running_user = true; /* from here on it must be told of flushes */
    space_switch(k, &cpu->process->space);
    enter_user(&frame);
}

static void idle(struct cpu *cpu)
{
    struct kernel *k = cpu->kernel;

    while (cpu->generation == k->work.generation)
        idle_until_interrupt();
    cpu->generation = k->work.generation;
    run_work(cpu);
}

void smp_enter(struct kernel *k, unsigned id)
{
    struct cpu *cpu = &k->cpus[id];

    while (!k->cpus_up)
        __builtin_ia32_pause();
    *(struct cpu **)boot_stacks[id] = cpu;
    load_first_root((uint64_t)k->kernel_root - DIRECT_BASE);
    trap_init_cpu(k, cpu, (uint64_t)boot_stacks[id] + KERNEL_STACK_BYTES);
    smp_init_cpu(k);
    pv_start(k, cpu);
    __atomic_fetch_add(&k->cpus_up, 1, __ATOMIC_SEQ_CST);
    idle(cpu);
    __builtin_unreachable();
}

void smp_start_work(struct cpu *cpu, uint64_t entry, uint64_t arg0,
                    uint64_t arg1)
{
    struct kernel *k = cpu->kernel;

    while (k->cpus_up < k->config.vcpus)
        __builtin_ia32_pause();
    if (k->config.vcpus < 2)
        return;
    k->work.entry = entry;
    k->work.arg0 = arg0;
    k->work.arg1 = arg1;
    k->work.running = k->config.vcpus - 1;
    __atomic_fetch_add(&k->work.generation, 1, __ATOMIC_SEQ_CST);
    interrupt_others(VECTOR_WAKE);
}

void smp_wait_work(struct cpu *cpu)
{
    while (cpu->kernel->work.running) {
        kernel_unlock(cpu);
        __builtin_ia32_pause();
        kernel_lock(cpu);
    }
}

/* Back to idle, on an empty kernel stack. */
void smp_work_done(struct cpu *cpu)
{
    struct kernel *k = cpu->kernel;

    cpu->running_user = false;
    load_kernel_root(k);
    kernel_unlock(cpu);
    __atomic_fetch_sub(&k->work.running, 1, __ATOMIC_SEQ_CST);
    idle(cpu);
    __builtin_unreachable();
}

/* ---- Shootdown --------------------------------------------------------- */

void smp_answer_shootdown(struct cpu *cpu)
{
    struct shootdown *s = &cpu->kernel->shootdown;

    if (!cpu->shootdown)
        return;
    cpu->shootdown = false;
    if (s->end - s->start > 33 * s->page_bytes)
        flush_tlb_own();
    else
        for (uint64_t va = s->start; va < s->end; va += s->page_bytes)
            invlpg(va);
    __atomic_fetch_sub(&s->pending, 1, __ATOMIC_SEQ_CST);
}

/* The caller holds the kernel lock, so there is one shootdown at a time; a
 * CPU that waits for the lock answers from there. */
void smp_flush_others(struct kernel *k, uint64_t start, uint64_t end,
                      uint64_t page_bytes)
{
    struct cpu *me = this_cpu();
    unsigned others = 0;

    for (unsigned i = 0; i < k->config.vcpus; i++)
        others += &k->cpus[i] != me && (k->cpus[i].running_user || !i);
    if (k->config.vcpus < 2 || !others || !k->work.running)
        return;
    k->shootdown.start = start;
    k->shootdown.end = end;
    k->shootdown.page_bytes = page_bytes;
    k->shootdown.pending = others;
    for (unsigned i = 0; i < k->config.vcpus; i++)
        if (&k->cpus[i] != me && (k->cpus[i].running_user || !i))
            k->cpus[i].shootdown = true;
    interrupt_others(VECTOR_SHOOTDOWN);
    while (k->shootdown.pending)
        __builtin_ia32_pause();
}
