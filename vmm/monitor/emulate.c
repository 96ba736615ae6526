/* Operands, and the instructions that need no file of their own. */
#include "vmm/monitor/core.h"
#include "workloads/abi.h"

/* Where register `reg` (ModR/M's numbers) is in the frame. */
static uint64_t *gpr(struct mon_cpu *cpu, unsigned reg)
{
    static const uint8_t at[16] = {14, 12, 11, 13, 20, 8, 10, 9,
                                   7,  6,  5,  4,  3,  2, 1,  0};

    return (uint64_t *)&cpu->frame + at[reg & 15];
}

static uint64_t mask_of(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << 8 * size) - 1;
}

uint64_t mon_get_reg(const struct mon_cpu *cpu, unsigned reg, unsigned size)
{
    if (reg & INSN_REG_HIGH)
        return *gpr((struct mon_cpu *)cpu, reg & 3) >> 8 & 0xff;
    return *gpr((struct mon_cpu *)cpu, reg) & mask_of(size);
}

/* A 32-bit result clears the upper half, smaller ones leave the rest (SDM
 * vol. 1, 3.4.1.1). */
void mon_set_reg(struct mon_cpu *cpu, unsigned reg, unsigned size,
                 uint64_t value)
{
    uint64_t *to;

    if (reg & INSN_REG_HIGH) {
        to = gpr(cpu, reg & 3);
        *to = (*to & ~0xff00ull) | (value & 0xff) << 8;
        return;
    }
    to = gpr(cpu, reg);
    if (size >= 4)
        *to = value & mask_of(size);
    else
        *to = (*to & ~mask_of(size)) | (value & mask_of(size));
}

uint64_t mon_address(struct mon *m, struct mon_cpu *cpu,
                     const struct insn *insn)
{
    uint64_t address = (uint64_t)insn->disp;

    if (insn->base == INSN_REG_RIP)
        address += cpu->frame.rip + insn->length;
    else if (insn->base != INSN_REG_NONE)
        address += mon_get_reg(cpu, insn->base, 8);
    if (insn->index != INSN_REG_NONE)
        address += mon_get_reg(cpu, insn->index, 8) * insn->scale;
    if (insn->flags & INSN_ADDRESS_32)
        address = (uint32_t)address;
    if (insn->segment == INSN_FS || insn->segment == INSN_GS)
        address += m->ops.get_base(cpu, insn->segment);
    return address;
}

int mon_get_operand(struct mon *m, struct mon_cpu *cpu, const struct insn *insn,
                    unsigned n, uint64_t *value)
{
    const struct insn_operand *o = &insn->operand[n];
    unsigned size = o->size && o->size <= 8 ? o->size : 8;

    *value = 0;
    switch (o->kind) {
    case INSN_OPERAND_REG:
        *value = mon_get_reg(cpu, o->reg, size);
        return 0;
    case INSN_OPERAND_IMM:
        *value = (uint64_t)insn->imm & mask_of(size);
        return 0;
    case INSN_OPERAND_MEMORY:
        return mon_read(m, cpu, mon_address(m, cpu, insn), value, size);
    default:
        return 0;
    }
}

int mon_set_operand(struct mon *m, struct mon_cpu *cpu, const struct insn *insn,
                    unsigned n, uint64_t value)
{
    const struct insn_operand *o = &insn->operand[n];
    unsigned size = o->size && o->size <= 8 ? o->size : 8;

    if (o->kind == INSN_OPERAND_REG)
        mon_set_reg(cpu, o->reg, size, value);
    else if (o->kind == INSN_OPERAND_MEMORY)
        return mon_write(m, cpu, mon_address(m, cpu, insn), &value, size);
    return 0;
}

/* ---- Flags and ports --------------------------------------------------- */

static int pushf(struct mon *m, struct mon_cpu *cpu, unsigned size)
{
    uint64_t flags = mon_rflags(cpu) & ~(RFLAGS_VM | RFLAGS_RF);
    uint64_t rsp = cpu->frame.rsp - size;

    if (mon_write(m, cpu, rsp, &flags, size))
        return RAISED;
    cpu->frame.rsp = rsp;
    return 0;
}

static int popf(struct mon *m, struct mon_cpu *cpu, unsigned size)
{
    uint64_t flags = 0, loadable = RFLAGS_LOADABLE & mask_of(size);

    if (mon_read(m, cpu, cpu->frame.rsp, &flags, size))
        return RAISED;
    cpu->frame.rsp += size;
    mon_set_rflags(m, cpu, (mon_rflags(cpu) & ~loadable) | (flags & loadable));
    return 0;
}

/* The VMM's devices only take (workloads/abi.h). Where nothing is, writes go
 * nowhere and reads give ones: that needs no VMM. Our own port is for the guest
 * such a one. */
static uint32_t access_port(struct mon *m, struct mon_cpu *cpu, uint16_t port,
                            unsigned size, bool out, uint32_t value)
{
    bool device = port == GUEST_PORT_CONSOLE || port == GUEST_PORT_EXIT ||
                  port == GUEST_PORT_MARK;

    return device && out ? m->ops.port(cpu, port, size, out, value) : ~0u;
}

static int port_io(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    bool out = insn->op == INSN_OUT;
    uint64_t port = 0;
    uint32_t value = (uint32_t)mon_get_reg(cpu, 0, insn->size);

    mon_get_operand(m, cpu, insn, 0, &port);
    value = access_port(m, cpu, (uint16_t)port, insn->size, out, value);
    if (!out)
        mon_set_reg(cpu, 0, insn->size, value);
    return 0;
}

/* One at a time: with REP it is executed again until RCX is 0. */
static int string_io(struct mon *m, struct mon_cpu *cpu,
                     const struct insn *insn)
{
    bool out = insn->op == INSN_OUTS, rep = insn->flags & INSN_REP;
    uint64_t step = insn->size;
    uint16_t port = (uint16_t)cpu->frame.rdx;
    uint32_t value = 0;

    if (rep && !cpu->frame.rcx)
        return 0;
    if (cpu->frame.rflags & RFLAGS_DF)
        step = -step;
    if (out && mon_read(m, cpu, cpu->frame.rsi, &value, insn->size))
        return RAISED;
    if (!out && mon_probe_write(m, cpu, cpu->frame.rdi, insn->size))
        return RAISED;
    value = access_port(m, cpu, port, insn->size, out, value);
    if (!out && mon_write(m, cpu, cpu->frame.rdi, &value, insn->size))
        return RAISED;
    if (out)
        cpu->frame.rsi += step;
    else
        cpu->frame.rdi += step;
    return rep && --cpu->frame.rcx ? JUMPED : 0;
}

/* Waits for an interrupt; without one that could come the guest has halted
 * for good. */
static int halt(struct mon *m, struct mon_cpu *cpu)
{
    if (!(cpu->v.flags & RFLAGS_IF) || m->config.cpus < 2)
        return mon_end(cpu, MON_END_HALTED, 0, 0);
    while (!mon_interrupt_pending(cpu)) {
        mon_unlock(m);
        m->ops.wait(cpu);
        mon_lock(m, cpu);
        if (cpu->end)
            return RAISED;
    }
    return 0;
}

static int rdtsc(struct mon *m, struct mon_cpu *cpu, bool p)
{
    uint64_t tsc = m->ops.tsc();

    mon_set_reg(cpu, 0, 4, (uint32_t)tsc);
    mon_set_reg(cpu, 2, 4, tsc >> 32);
    if (p)
        mon_set_reg(cpu, 1, 4, cpu->v.tsc_aux);
    return 0;
}

/* The frame that is pushed returns behind the instruction; a fault on the way
 * leaves RIP at it. */
static int software_interrupt(struct mon *m, struct mon_cpu *cpu,
                              const struct insn *insn)
{
    uint64_t rip = cpu->frame.rip;

    cpu->frame.rip += insn->length;
    if (!mon_deliver(m, cpu, insn->number, false, 0, MON_EVENT_SOFTWARE))
        return JUMPED;
    cpu->frame.rip = rip;
    return RAISED;
}

static int by_op(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    switch (insn->op) {
    case INSN_HLT:
        return halt(m, cpu);
    case INSN_CLI:
        cpu->v.flags &= ~RFLAGS_IF;
        return 0;
    case INSN_STI:
        cpu->v.sti_shadow = !(cpu->v.flags & RFLAGS_IF);
        cpu->v.flags |= RFLAGS_IF;
        return 0;
    case INSN_PUSHF:
        return pushf(m, cpu, insn->size);
    case INSN_POPF:
        return popf(m, cpu, insn->size);
    case INSN_IN:
    case INSN_OUT:
        return port_io(m, cpu, insn);
    case INSN_INS:
    case INSN_OUTS:
        return string_io(m, cpu, insn);
    case INSN_RDTSC:
    case INSN_RDTSCP:
        return rdtsc(m, cpu, insn->op == INSN_RDTSCP);
    case INSN_RDPID:
        return mon_set_operand(m, cpu, insn, 0, cpu->v.tsc_aux);
    case INSN_WBINVD:
        return 0;
    case INSN_RDPMC: /* no counters */
        return mon_raise_error(cpu, VECTOR_GP, 0);
    case INSN_XSETBV: /* CR4.OSXSAVE can't be set */
    case INSN_MONITOR:
    case INSN_MWAIT:
        return mon_raise(cpu, VECTOR_UD);
    case INSN_INT:
        return software_interrupt(m, cpu, insn);
    case INSN_UNDEFINED:
        return mon_raise(cpu, VECTOR_UD);
    default:
        return mon_end(cpu, MON_END_INSTRUCTION, cpu->frame.rip, 0);
    }
}

int mon_emulate(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    int result;

    cpu->v.sti_shadow = false;
    cpu->traps[insn->op < INSN_OPS ? insn->op : INSN_UNDEFINED]++;
    switch (insn->op) {
    case INSN_MOV_FROM_CR ... INSN_INVPCID:
    case INSN_RDMSR:
    case INSN_WRMSR:
    case INSN_SWAPGS:
    case INSN_SMSW:
        result = mon_emulate_control(m, cpu, insn);
        break;
    case INSN_LGDT ... INSN_LTR:
    case INSN_SYSRET:
    case INSN_SGDT ... INSN_STR:
    case INSN_LAR ... INSN_RET_FAR:
    case INSN_IRET:
        result = mon_emulate_segment(m, cpu, insn);
        break;
    default:
        result = by_op(m, cpu, insn);
        break;
    }
    if (!result)
        cpu->frame.rip += insn->length;
    return result == RAISED ? RAISED : 0;
}
