/*
 * Ordinary instructions that write where the CPU can't: a traced page table.
 * Nobody else writes there meanwhile, since every write comes here and here
 * is one vCPU at a time; so LOCK needs nothing more.
 */
#include "vmm/monitor/core.h"

/* ---- Arithmetic: results and RFLAGS (SDM vol. 1, appendix A) ------------ */

static uint64_t mask_of(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << 8 * size) - 1;
}

static uint64_t result_flags(uint64_t value, unsigned size)
{
    uint64_t flags = 0;

    value &= mask_of(size);
    if (!value)
        flags |= RFLAGS_ZF;
    if (value >> (8 * size - 1) & 1)
        flags |= RFLAGS_SF;
    if (!__builtin_parity((unsigned)value & 0xff))
        flags |= RFLAGS_PF;
    return flags;
}

/* a + b + carry; a subtraction passes ~b and inverts the carry's meaning. */
static uint64_t add(uint64_t a, uint64_t b, unsigned carry, unsigned size,
                    uint64_t *flags)
{
    uint64_t mask = mask_of(size), sum = a + b + carry, top = 8 * size - 1;
    uint64_t carries = (a & b) | ((a | b) & ~sum);

    *flags = result_flags(sum, size);
    if (carries >> top & 1)
        *flags |= RFLAGS_CF;
    if (carries >> 3 & 1)
        *flags |= RFLAGS_AF;
    if (((a ^ sum) & (b ^ sum)) >> top & 1)
        *flags |= RFLAGS_OF;
    return sum & mask;
}

static uint64_t subtract(uint64_t a, uint64_t b, unsigned borrow, unsigned size,
                         uint64_t *flags)
{
    uint64_t value = add(a, ~b & mask_of(size), !borrow, size, flags);

    *flags ^= RFLAGS_CF | RFLAGS_AF;
    return value;
}

struct result {
    uint64_t value, flags, changed; /* the flags that it defines */
};

static struct result compute(unsigned op, uint64_t a, uint64_t b, bool carry,
                             unsigned size)
{
    struct result r = {.changed = RFLAGS_ARITHMETIC};
    uint64_t bit = 1ull << (b & (8 * size - 1));

    switch (op) {
    case INSN_ADD:
    case INSN_ADC:
    case INSN_XADD:
        r.value = add(a, b, op == INSN_ADC && carry, size, &r.flags);
        break;
    case INSN_SUB:
    case INSN_SBB:
        r.value = subtract(a, b, op == INSN_SBB && carry, size, &r.flags);
        break;
    case INSN_INC:
        r.value = add(a, 1, 0, size, &r.flags);
        r.changed &= ~RFLAGS_CF;
        break;
    case INSN_DEC:
        r.value = subtract(a, 1, 0, size, &r.flags);
        r.changed &= ~RFLAGS_CF;
        break;
    case INSN_NEG:
        r.value = subtract(0, a, 0, size, &r.flags);
        break;
    case INSN_NOT:
        r = (struct result){.value = ~a};
        break;
    case INSN_BTS:
    case INSN_BTR:
    case INSN_BTC:
        r.value = op == INSN_BTS   ? a | bit
                  : op == INSN_BTR ? a & ~bit
                                   : a ^ bit;
        r.flags = a & bit ? RFLAGS_CF : 0;
        r.changed = RFLAGS_CF;
        break;
    default: /* AND, OR, XOR */
        r.value = op == INSN_AND ? a & b : op == INSN_OR ? a | b : a ^ b;
        r.flags = result_flags(r.value, size);
    }
    r.value &= mask_of(size);
    return r;
}

static void take_flags(struct mon_cpu *cpu, const struct result *r)
{
    cpu->frame.rflags =
        (cpu->frame.rflags & ~r->changed) | (r->flags & r->changed);
}

/* ---- One destination --------------------------------------------------- */

static int modify(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    uint64_t a, b = 0;
    struct result r;

    if (mon_get_operand(m, cpu, insn, 0, &a) ||
        mon_get_operand(m, cpu, insn, 1, &b))
        return RAISED;
    r = compute(insn->op, a, b, cpu->frame.rflags & RFLAGS_CF,
                insn->operand[0].size);
    if (mon_set_operand(m, cpu, insn, 0, r.value))
        return RAISED;
    if (insn->op == INSN_XADD)
        mon_set_operand(m, cpu, insn, 1, a);
    take_flags(cpu, &r);
    return 0;
}

/* A bit string in memory: a register's bit offset reaches beyond the operand
 * (SDM vol. 2, BTS). The monitor leaves those to the CPU. */
static bool is_bit_string(const struct insn *insn)
{
    return insn->op >= INSN_BTS && insn->op <= INSN_BTC &&
           insn->operand[1].kind == INSN_OPERAND_REG;
}

static int move(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    uint64_t value;

    if (mon_get_operand(m, cpu, insn, 1, &value))
        return RAISED;
    return mon_set_operand(m, cpu, insn, 0, value);
}

static int exchange(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    uint64_t a, b;

    if (mon_get_operand(m, cpu, insn, 0, &a) ||
        mon_get_operand(m, cpu, insn, 1, &b))
        return RAISED;
    /* The memory operand first: only that can fault. */
    if (insn->operand[0].kind == INSN_OPERAND_MEMORY)
        return mon_set_operand(m, cpu, insn, 0, b) ||
                       mon_set_operand(m, cpu, insn, 1, a)
                   ? RAISED
                   : 0;
    return mon_set_operand(m, cpu, insn, 1, a) ||
                   mon_set_operand(m, cpu, insn, 0, b)
               ? RAISED
               : 0;
}

static int compare_exchange(struct mon *m, struct mon_cpu *cpu,
                            const struct insn *insn)
{
    unsigned size = insn->operand[0].size;
    uint64_t old, value, accumulator = mon_get_reg(cpu, 0, size);
    struct result r = {.changed = RFLAGS_ARITHMETIC};

    if (mon_get_operand(m, cpu, insn, 0, &old) ||
        mon_get_operand(m, cpu, insn, 1, &value))
        return RAISED;
    subtract(accumulator, old, 0, size, &r.flags);
    /* The destination is written in either case (SDM vol. 2, CMPXCHG). */
    if (mon_set_operand(m, cpu, insn, 0, r.flags & RFLAGS_ZF ? value : old))
        return RAISED;
    if (!(r.flags & RFLAGS_ZF))
        mon_set_reg(cpu, 0, size, old);
    take_flags(cpu, &r);
    return 0;
}

static int compare_exchange_pair(struct mon *m, struct mon_cpu *cpu,
                                 const struct insn *insn)
{
    unsigned half = insn->size / 2;
    uint64_t at = mon_address(m, cpu, insn), old[2] = {0};
    uint64_t value[2] = {mon_get_reg(cpu, 3, half), mon_get_reg(cpu, 1, half)};
    bool equal;

    if (half == 8 && at & 15)
        return mon_raise_error(cpu, VECTOR_GP, 0);
    if (mon_read(m, cpu, at, &old[0], half) ||
        mon_read(m, cpu, at + half, &old[1], half))
        return RAISED;
    equal = old[0] == mon_get_reg(cpu, 0, half) &&
            old[1] == mon_get_reg(cpu, 2, half);
    if (mon_probe_write(m, cpu, at, 2 * half))
        return RAISED;
    if (equal && (mon_write(m, cpu, at, &value[0], half) ||
                  mon_write(m, cpu, at + half, &value[1], half)))
        return RAISED;
    if (!equal) {
        mon_set_reg(cpu, 0, half, old[0]);
        mon_set_reg(cpu, 2, half, old[1]);
    }
    cpu->frame.rflags =
        (cpu->frame.rflags & ~RFLAGS_ZF) | (equal ? RFLAGS_ZF : 0);
    return 0;
}

/* ---- Strings and the stack --------------------------------------------- */

/* So many at once; then the instruction starts over with what is left, as
 * after an interrupt. */
#define STRING_MAX 512

static int string_once(struct mon *m, struct mon_cpu *cpu,
                       const struct insn *insn)
{
    uint64_t step = insn->size, value = cpu->frame.rax, base = 0;

    if (cpu->frame.rflags & RFLAGS_DF)
        step = -step;
    if (insn->op == INSN_MOVS) {
        if (insn->segment == INSN_FS || insn->segment == INSN_GS)
            base = m->ops.get_base(cpu, insn->segment);
        if (mon_read(m, cpu, base + cpu->frame.rsi, &value, insn->size))
            return RAISED;
    }
    if (mon_write(m, cpu, cpu->frame.rdi, &value, insn->size))
        return RAISED;
    cpu->frame.rdi += step;
    if (insn->op == INSN_MOVS)
        cpu->frame.rsi += step;
    return 0;
}

static int string(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    if (!(insn->flags & (INSN_REP | INSN_REPNE)))
        return string_once(m, cpu, insn);
    for (unsigned i = 0; i < STRING_MAX && cpu->frame.rcx; i++) {
        if (string_once(m, cpu, insn))
            return RAISED;
        cpu->frame.rcx--;
    }
    return cpu->frame.rcx ? JUMPED : 0;
}

static int push(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    uint64_t value, rsp = cpu->frame.rsp - insn->size;

    if (mon_get_operand(m, cpu, insn, 0, &value))
        return RAISED;
    if (insn->operand[0].kind == INSN_OPERAND_IMM)
        value = (uint64_t)insn->imm;
    if (mon_write(m, cpu, rsp, &value, insn->size))
        return RAISED;
    cpu->frame.rsp = rsp;
    return 0;
}

static int call(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    uint64_t next = cpu->frame.rip + insn->length, target;

    if (insn->operand[0].kind == INSN_OPERAND_IMM)
        target = next + (uint64_t)insn->imm;
    else if (mon_get_operand(m, cpu, insn, 0, &target))
        return RAISED;
    if (!mmu_canonical(target, 4))
        return mon_raise_error(cpu, VECTOR_GP, 0);
    if (mon_write(m, cpu, cpu->frame.rsp - 8, &next, 8))
        return RAISED;
    cpu->frame.rsp -= 8;
    cpu->frame.rip = target;
    return JUMPED;
}

static int pop(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    uint64_t value = 0, rsp = cpu->frame.rsp;

    if (mon_read(m, cpu, rsp, &value, insn->size))
        return RAISED;
    cpu->frame.rsp = rsp + insn->size; /* the address may be by RSP */
    if (mon_set_operand(m, cpu, insn, 0, value)) {
        cpu->frame.rsp = rsp;
        return RAISED;
    }
    return 0;
}

static int by_op(struct mon *m, struct mon_cpu *cpu, const struct insn *insn)
{
    switch (insn->op) {
    case INSN_MOV:
    case INSN_MOVNTI:
        return move(m, cpu, insn);
    case INSN_XCHG:
        return exchange(m, cpu, insn);
    case INSN_CMPXCHG:
        return compare_exchange(m, cpu, insn);
    case INSN_CMPXCHG8B:
        return compare_exchange_pair(m, cpu, insn);
    case INSN_STOS:
    case INSN_MOVS:
        return string(m, cpu, insn);
    case INSN_PUSH:
        return push(m, cpu, insn);
    case INSN_POP:
        return pop(m, cpu, insn);
    case INSN_CALL:
        return call(m, cpu, insn);
    default:
        return modify(m, cpu, insn);
    }
}

bool mon_can_store(const struct insn *insn)
{
    if (insn->flags & INSN_ADDRESS_32 &&
        (insn->op == INSN_STOS || insn->op == INSN_MOVS))
        return false;
    return insn->op >= INSN_MOV && insn->op <= INSN_CALL &&
           !is_bit_string(insn);
}

int mon_emulate_store(struct mon *m, struct mon_cpu *cpu,
                      const struct insn *insn)
{
    int result = by_op(m, cpu, insn);

    if (!result)
        cpu->frame.rip += insn->length;
    return result == RAISED ? RAISED : 0;
}
