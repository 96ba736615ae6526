/* Events the guest takes: exceptions, interrupts, SYSCALL. */
#include "vmm/monitor/core.h"

#define ERROR_EXT 1u
#define ERROR_IDT 2u

#define TSS_RSP0 4
#define TSS_IST1 36

struct gate {
    uint64_t handler;
    uint16_t cs;
    unsigned ist, type, dpl;
    bool present;
};

/* SDM vol. 3A, 6.14.1. */
static struct gate gate_of(const uint64_t d[2])
{
    return (struct gate){
        .handler = (d[0] & 0xffff) | (d[0] >> 32 & 0xffff0000) | d[1] << 32,
        .cs = (uint16_t)(d[0] >> 16),
        .ist = d[0] >> 32 & 7,
        .type = d[0] >> 40 & 31,
        .dpl = d[0] >> 45 & 3,
        .present = d[0] >> 47 & 1,
    };
}

static int read_gate(struct mon *m, struct mon_cpu *cpu, uint8_t vector,
                     enum mon_event event, bool from_user, struct gate *gate)
{
    uint32_t error =
        vector * 8u | ERROR_IDT | (event == MON_EVENT_SOFTWARE ? 0 : ERROR_EXT);
    uint64_t d[2];

    if (vector * 16u + 15 > cpu->v.idt_limit)
        return mon_raise_error(cpu, VECTOR_GP, error);
    if (mon_read(m, cpu, cpu->v.idt_base + vector * 16u, d, sizeof d))
        return RAISED;
    *gate = gate_of(d);
    if ((gate->type != 14 && gate->type != 15) ||
        (event == MON_EVENT_SOFTWARE && from_user && gate->dpl < 3))
        return mon_raise_error(cpu, VECTOR_GP, error);
    if (!gate->present)
        return mon_raise_error(cpu, VECTOR_NP, error);
    return 0;
}

/* SDM vol. 3A, 6.14.2 to 6.14.5. */
static int find_stack(struct mon *m, struct mon_cpu *cpu,
                      const struct gate *gate, bool from_user, uint64_t *rsp)
{
    unsigned offset = gate->ist ? TSS_IST1 + 8 * (gate->ist - 1) : TSS_RSP0;

    *rsp = cpu->frame.rsp;
    if (gate->ist || from_user) {
        if (offset + 7 > cpu->v.tr_limit)
            return mon_raise_error(cpu, VECTOR_TS, cpu->v.tr & ~3u);
        if (mon_read(m, cpu, cpu->v.tr_base + offset, rsp, 8))
            return RAISED;
    }
    if (!mmu_canonical(*rsp, 4))
        return mon_raise_error(cpu, VECTOR_SS, 0);
    *rsp &= ~15ull;
    return 0;
}

static int push_frame(struct mon *m, struct mon_cpu *cpu,
                      const struct gate *gate, bool from_user, bool has_error,
                      uint32_t error)
{
    unsigned skip = has_error ? 0 : 1;
    uint64_t slot[6] = {error,           cpu->frame.rip, cpu->v.cs,
                        mon_rflags(cpu), cpu->frame.rsp, cpu->v.ss};
    unsigned bytes = (6 - skip) * 8;
    uint64_t rsp;

    if (find_stack(m, cpu, gate, from_user, &rsp))
        return RAISED;
    if (mon_write(m, cpu, rsp - bytes, slot + skip, bytes))
        return RAISED;
    cpu->frame.rsp = rsp - bytes;
    return 0;
}

static int deliver(struct mon *m, struct mon_cpu *cpu, uint8_t vector,
                   bool has_error, uint32_t error, enum mon_event event,
                   bool from_user)
{
    uint64_t flags = mon_rflags(cpu);
    struct gate gate = {0};

    if (read_gate(m, cpu, vector, event, from_user, &gate) ||
        push_frame(m, cpu, &gate, from_user, has_error, error))
        return RAISED;
    if (!mmu_canonical(gate.handler, 4))
        return mon_raise_error(cpu, VECTOR_GP, 0);
    flags &= ~(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM);
    if (gate.type == 14)
        flags &= ~RFLAGS_IF;
    cpu->frame.rip = gate.handler;
    mon_set_cs_ss(cpu, gate.cs & ~3u, from_user ? 0 : cpu->v.ss);
    mon_set_rflags(m, cpu, flags);
    return 0;
}

/* The guest's IDT, TSS and stacks are its kernel's: its CPL changes first, and
 * back when the delivery fails. */
int mon_deliver(struct mon *m, struct mon_cpu *cpu, uint8_t vector,
                bool has_error, uint32_t error, enum mon_event event)
{
    bool from_user = cpu->v.user;
    uint16_t cs = cpu->v.cs, ss = cpu->v.ss;

    cpu->v.user = false;
    if (from_user && mon_update_mode(m, cpu))
        return RAISED;
    if (!deliver(m, cpu, vector, has_error, error, event, from_user)) {
        if (cpu->direct && vector == VECTOR_PF)
            mon_write(m, cpu, cpu->pv_cr2, &cpu->v.cr2, 8);
        return 0;
    }
    cpu->v.user = from_user;
    mon_set_cs_ss(cpu, cs, ss);
    if (from_user)
        mon_update_mode(m, cpu);
    return RAISED;
}

static bool contributory(uint8_t vector)
{
    return vector == VECTOR_DE || (vector >= VECTOR_TS && vector <= VECTOR_GP);
}

/* SDM vol. 3A, 6.15, interrupt 8: which pairs make a double fault. */
static bool makes_double(uint8_t first, uint8_t second)
{
    if (first == VECTOR_PF)
        return second == VECTOR_PF || contributory(second);
    return contributory(first) && contributory(second);
}

/* A fault while an exception is delivered is one more exception. */
void mon_deliver_exception(struct mon *m, struct mon_cpu *cpu)
{
    int first = -1;

    while (cpu->exception.pending && !cpu->end) {
        struct mon_exception e = cpu->exception;

        cpu->exception.pending = false;
        if (e.vector == VECTOR_PF && m->config.trace)
            mon_log_fault(m, cpu, e.address, e.error);
        if (first == VECTOR_DF) {
            mon_end(cpu, MON_END_TRIPLE_FAULT, cpu->frame.rip, e.vector);
            return;
        }
        if (first >= 0 && makes_double((uint8_t)first, e.vector))
            e = (struct mon_exception){.has_error = true, .vector = VECTOR_DF};
        first = e.vector;
        if (e.vector == VECTOR_PF)
            cpu->v.cr2 = e.address;
        mon_deliver(m, cpu, e.vector, e.has_error, e.error, MON_EVENT_FAULT);
    }
}

/* SDM vol. 2, SYSCALL; it is no event for the IDT. */
int mon_syscall(struct mon *m, struct mon_cpu *cpu)
{
    uint64_t flags = mon_rflags(cpu);
    uint16_t cs = (uint16_t)(cpu->v.star >> 32) & ~3u;
    bool from_user = cpu->v.user;

    if (m->config.pv && !from_user)
        return mon_hypercall(m, cpu);
    if (cpu->direct)
        return mon_direct_syscall(m, cpu);
    cpu->traps[MON_SYSCALL]++;
    if (!(cpu->v.efer & EFER_SCE)) {
        cpu->frame.rip -= 2;
        return mon_raise(cpu, VECTOR_UD);
    }
    cpu->frame.rcx = cpu->frame.rip;
    cpu->frame.r11 = flags & ~RFLAGS_RF;
    cpu->frame.rip = cpu->v.lstar;
    cpu->v.user = false;
    mon_set_cs_ss(cpu, cs, (uint16_t)(cs + 8));
    mon_set_rflags(m, cpu, (flags & ~cpu->v.fmask) | RFLAGS_FIXED);
    return from_user ? mon_update_mode(m, cpu) : 0;
}
