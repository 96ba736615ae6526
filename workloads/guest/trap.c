/* Descriptor tables and the one place every trap arrives at. */
#include "workloads/guest/paging.h"
#include "workloads/guest/selftest.h"

#define VECTOR_PF 14

#define MSR_STAR           0xc0000081
#define MSR_LSTAR          0xc0000082
#define MSR_FMASK          0xc0000084
#define MSR_KERNEL_GS_BASE 0xc0000102

#define RFLAGS_TF (1u << 8)
#define RFLAGS_IF (1u << 9)
#define RFLAGS_DF (1u << 10)
#define RFLAGS_AC (1u << 18)

struct pseudo_descriptor {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

/* Flat 64-bit code and data descriptors (SDM vol. 3A, 3.4.5). */
static void load_gdt(struct cpu *cpu)
{
    uint64_t tss = (uint64_t)&cpu->tss;
    uint64_t *gdt = cpu->gdt;
    struct pseudo_descriptor gdtr = {sizeof cpu->gdt - 1, (uint64_t)gdt};

    gdt[KERNEL_CS / 8] = 0x00af9b000000ffff;
    gdt[KERNEL_SS / 8] = 0x00cf93000000ffff;
    gdt[USER_SS / 8] = 0x00cff3000000ffff;
    gdt[USER_CS / 8] = 0x00affb000000ffff;
    gdt[TSS_SEL / 8] = (sizeof cpu->tss - 1) | (tss & 0xffffff) << 16 |
                       0x89ull << 40 | (tss >> 24 & 0xff) << 56;
    gdt[TSS_SEL / 8 + 1] = tss >> 32;
    cpu->tss.iopb = sizeof cpu->tss;
    __asm__ volatile("lgdt %0\n\t"
                     "pushq %1\n\t"
                     "leaq 1f(%%rip), %%rax\n\t"
                     "pushq %%rax\n\t"
                     "lretq\n"
                     "1:\n\t"
                     "movl %2, %%eax\n\t"
                     "movl %%eax, %%ss\n\t"
                     "movl %%eax, %%ds\n\t"
                     "movl %%eax, %%es\n\t"
                     "movl %3, %%eax\n\t"
                     "ltr %%ax"
                     :
                     : "m"(gdtr), "i"(KERNEL_CS), "i"(KERNEL_SS), "i"(TSS_SEL)
                     : "rax", "memory");
}

void trap_set_gate(struct kernel *k, unsigned vector, unsigned type,
                   unsigned ist)
{
    uint64_t stub = (uint64_t)trap_stubs[vector];

    k->idt[vector][0] = (stub & 0xffff) | (uint64_t)KERNEL_CS << 16 |
                        (uint64_t)ist << 32 | (uint64_t)type << 40 |
                        (stub >> 16 & 0xffff) << 48;
    k->idt[vector][1] = stub >> 32;
}

/* Interrupt gates: the kernel runs with interrupts off.
 * Only the vectors in use: filling 256 gates is real work for a KVM that
 * emulates CPL0. */
static void load_idt(struct kernel *k)
{
    static const uint8_t used[] = {VECTOR_WAKE, VECTOR_SHOOTDOWN};
    struct pseudo_descriptor idtr = {sizeof k->idt - 1, (uint64_t)k->idt};

    if (!k->idt[0][0]) {
        for (unsigned vector = 0; vector < 32; vector++)
            trap_set_gate(k, vector, GATE_INTERRUPT, 0);
        for (unsigned i = 0; i < sizeof used; i++)
            trap_set_gate(k, used[i], GATE_INTERRUPT, 0);
    }
    __asm__ volatile("lidt %0" ::"m"(idtr));
}

void cpu_set_stack(struct cpu *cpu, uint64_t stack_top)
{
    cpu->kernel_rsp = stack_top;
    cpu->tss.rsp[0] = stack_top;
}

void trap_init_cpu(struct kernel *k, struct cpu *cpu, uint64_t stack_top)
{
    load_gdt(cpu);
    load_idt(k);
    cpu_set_stack(cpu, stack_top);
    wrmsr(MSR_STAR, (uint64_t)(USER_SS - 8) << 48 | (uint64_t)KERNEL_CS << 32);
    wrmsr(MSR_LSTAR, (uint64_t)syscall_entry);
    wrmsr(MSR_FMASK, RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_AC);
    wrmsr(MSR_KERNEL_GS_BASE, (uint64_t)cpu);
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT |
              (k->pcid ? CR4_PCIDE : 0));
}

/* "kernel trap 14 at ... cr2 ...", without a printf. */
static void panic_trap(const struct trap_frame *frame)
{
    char text[GUEST_MESSAGE_MAX] = "trap 0x";
    const struct {
        const char *name;
        uint64_t value;
    } parts[] = {{"", frame->vector},
                 {" error 0x", frame->error},
                 {" rip 0x", frame->rip},
                 {" rsp 0x", frame->rsp},
                 {" cr2 0x", read_cr2()}};
    char *at = text + 7;

    for (unsigned i = 0; i < 5; i++) {
        int shift = 60;

        for (const char *c = parts[i].name; *c; c++)
            *at++ = *c;
        while (shift && !(parts[i].value >> shift))
            shift -= 4;
        for (; shift >= 0; shift -= 4)
            *at++ = "0123456789abcdef"[parts[i].value >> shift & 15];
    }
    *at = 0;
    kernel_panic(text);
}

/* One KVM without VT-x runs SYSCALL without leaving CPL3: it jumps to LSTAR
 * with RCX and R11 set, and the fetch there, from a supervisor page, faults.
 * That is a system call all the same. */
static bool is_syscall(struct kernel *k, struct trap_frame *frame)
{
    enum guest_syscall_path path = GUEST_SYSCALL_INSN;

    if (frame->vector == VECTOR_PF && frame->rip == (uint64_t)syscall_entry) {
        frame->rip = frame->rcx;
        frame->rflags = frame->r11;
        path = GUEST_SYSCALL_FAULT;
    } else if (frame->vector != VECTOR_SYSCALL) {
        return false;
    }
    k->results->syscall_path = path;
    return true;
}

static void trap_from_user(struct cpu *cpu, struct trap_frame *frame)
{
    uint64_t cr2 = frame->vector == VECTOR_PF ? read_cr2() : 0;

    kernel_lock(cpu);
    if (is_syscall(cpu->kernel, frame))
        frame->rax = process_syscall(cpu, frame);
    else if (frame->vector == VECTOR_PF)
        process_page_fault(cpu, frame, cr2);
    else if (!selftest_user_trap(cpu, frame, cr2))
        panic_trap(frame);
    pt_sync(cpu->kernel);
    kernel_unlock(cpu);
}

void trap(struct trap_frame *frame)
{
    struct cpu *cpu = this_cpu();

    if (cpu->caught) {
        selftest_caught(cpu, frame);
    } else if (cpu->paging_trap) {
        paging_trapped(cpu, frame);
    } else if (frame->vector == VECTOR_WAKE ||
               frame->vector == VECTOR_SHOOTDOWN) {
        smp_answer_shootdown(cpu);
        smp_end_of_interrupt();
    } else if (frame->cs & 3) {
        trap_from_user(cpu, frame);
    } else if (cpu->expected_trap == frame->vector + 1) {
        frame->rip += cpu->expected_length;
    } else if (frame->vector == VECTOR_PF && cpu->process &&
               read_cr2() < USER_STACK) {
        process_page_fault(cpu, frame, read_cr2());
    } else {
        panic_trap(frame);
    }
}
