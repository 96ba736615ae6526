/* The virtual local APIC, as much of an x2APIC as sends and takes
 * interprocessor interrupts (SDM vol. 3A, 10.12). */
#include "vmm/monitor/core.h"

enum {
    MSR_APIC_BASE = 0x1b,
    X2APIC_ID = 0x802,
    X2APIC_VERSION = 0x803,
    X2APIC_TPR = 0x808,
    X2APIC_EOI = 0x80b,
    X2APIC_SVR = 0x80f,
    X2APIC_ICR = 0x830,
    X2APIC_LVT_TIMER = 0x832,
    X2APIC_SELF_IPI = 0x83f,
};

#define APIC_BASE_X2 (1u << 10)

bool mon_msr_is_apic(uint32_t msr)
{
    return msr == MSR_APIC_BASE || (msr >= 0x800 && msr <= 0x8ff);
}

static int highest(const uint64_t bits[4])
{
    for (int i = 3; i >= 0; i--)
        if (bits[i])
            return i * 64 + 63 - __builtin_clzll(bits[i]);
    return -1;
}

/* Nothing was sent since the last look that found nothing. */
static bool quiet(const struct mon_cpu *cpu)
{
    return !__atomic_load_n(&cpu->v.irr_any, __ATOMIC_ACQUIRE);
}

static void irr_copy(const struct mon_cpu *cpu, uint64_t irr[4])
{
    for (unsigned i = 0; i < 4; i++)
        irr[i] = __atomic_load_n(&cpu->v.irr[i], __ATOMIC_ACQUIRE);
}

int mon_apic_read(struct mon *m, struct mon_cpu *cpu, uint32_t msr,
                  uint64_t *value)
{
    (void)m;
    *value = 0;
    if (msr != MSR_APIC_BASE && !(cpu->v.apic_base & APIC_BASE_X2))
        return mon_raise_error(cpu, VECTOR_GP, 0);
    switch (msr) {
    case MSR_APIC_BASE:
        *value = cpu->v.apic_base;
        return 0;
    case X2APIC_ID:
        *value = cpu->id;
        return 0;
    case X2APIC_VERSION:
        *value = 0x50014;
        return 0;
    case X2APIC_TPR:
        *value = cpu->v.cr8 << 4;
        return 0;
    case X2APIC_SVR:
        *value = cpu->v.apic_svr;
        return 0;
    case X2APIC_ICR:
        *value = cpu->v.apic_icr;
        return 0;
    case X2APIC_LVT_TIMER:
        *value = cpu->v.apic_lvt_timer;
        return 0;
    default:
        return mon_raise_error(cpu, VECTOR_GP, 0);
    }
}

static void send(struct mon *m, struct mon_cpu *to, uint8_t vector)
{
    __atomic_fetch_or(&to->v.irr[vector / 64], 1ull << vector % 64,
                      __ATOMIC_SEQ_CST);
    __atomic_store_n(&to->v.irr_any, true, __ATOMIC_SEQ_CST);
    if (to != m->current)
        m->ops.kick(to);
}

/* Fixed delivery to physical destinations; what else there is, nobody here
 * would take. */
static int send_icr(struct mon *m, struct mon_cpu *cpu, uint64_t icr)
{
    unsigned shorthand = icr >> 18 & 3, mode = icr >> 8 & 7;
    uint32_t destination = (uint32_t)(icr >> 32);

    cpu->v.apic_icr = icr;
    if (mode)
        return 0;
    for (unsigned i = 0; i < m->config.cpus; i++) {
        bool me = i == cpu->id;
        bool taken = shorthand == 0   ? destination == i || destination == ~0u
                     : shorthand == 1 ? me
                                      : !me || shorthand == 2;

        if (taken)
            send(m, mon_cpu(m, i), (uint8_t)icr);
    }
    return 0;
}

int mon_apic_write(struct mon *m, struct mon_cpu *cpu, uint32_t msr,
                   uint64_t value)
{
    int isr = highest(cpu->v.isr);

    if (msr != MSR_APIC_BASE && !(cpu->v.apic_base & APIC_BASE_X2))
        return mon_raise_error(cpu, VECTOR_GP, 0);
    switch (msr) {
    case MSR_APIC_BASE:
        cpu->v.apic_base = value;
        return 0;
    case X2APIC_TPR:
        cpu->v.cr8 = value >> 4 & 15;
        return 0;
    case X2APIC_EOI:
        if (isr >= 0)
            cpu->v.isr[isr / 64] &= ~(1ull << isr % 64);
        return 0;
    case X2APIC_SVR:
        cpu->v.apic_svr = value;
        return 0;
    case X2APIC_ICR:
        return send_icr(m, cpu, value);
    case X2APIC_LVT_TIMER:
        cpu->v.apic_lvt_timer = value;
        return 0;
    case X2APIC_SELF_IPI:
        send(m, cpu, (uint8_t)value);
        return 0;
    default:
        return mon_raise_error(cpu, VECTOR_GP, 0);
    }
}

/* The vector that may be delivered now, or -1 (SDM vol. 3A, 10.8.3). */
static int deliverable(const struct mon_cpu *cpu)
{
    uint64_t irr[4];
    int isr, vector;

    if (quiet(cpu))
        return -1;
    isr = highest(cpu->v.isr);
    irr_copy(cpu, irr);
    vector = highest(irr);
    if (vector < 16 || (isr >= 0 && vector / 16 <= isr / 16) ||
        (unsigned)vector / 16 <= cpu->v.cr8)
        return -1;
    return vector;
}

bool mon_interrupt_pending(const struct mon_cpu *cpu)
{
    return deliverable(cpu) >= 0;
}

bool mon_interrupt(struct mon *m, struct mon_cpu *cpu)
{
    int vector = deliverable(cpu);
    uint64_t irr[4];

    if (vector < 0 || !(cpu->v.flags & RFLAGS_IF) || cpu->v.sti_shadow)
        return false;
    __atomic_fetch_and(&cpu->v.irr[vector / 64], ~(1ull << vector % 64),
                       __ATOMIC_SEQ_CST);
    cpu->v.isr[vector / 64] |= 1ull << vector % 64;
    /* Cleared first: what is sent from here on sets it again. */
    __atomic_store_n(&cpu->v.irr_any, false, __ATOMIC_SEQ_CST);
    irr_copy(cpu, irr);
    if (highest(irr) >= 0)
        __atomic_store_n(&cpu->v.irr_any, true, __ATOMIC_SEQ_CST);
    mon_deliver(m, cpu, (uint8_t)vector, false, 0, MON_EVENT_FAULT);
    return true;
}
