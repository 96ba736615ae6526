/*
 * Segments, far transfers and descriptor tables.
 *
 * The CPU's own GDT begins with the guest's descriptors, so that selectors
 * have the guest's values: all of them with DPL 3 while the guest kernel runs,
 * and only those of DPL 3 while its user code does. CS and SS of the guest
 * kernel are the exception: it believes in CPL 0, the CPU knows CPL 3.
 */
#include "vmm/monitor/core.h"

#define DESC_P          (1ull << 47)
#define DESC_S          (1ull << 44)
#define DESC_CODE       (1ull << 43)
#define DESC_CONFORM    (1ull << 42) /* code: conforming */
#define DESC_RW         (1ull << 41) /* data: writable; code: readable */
#define DESC_A          (1ull << 40)
#define DESC_L          (1ull << 53)
#define DESC_DPL        (3ull << 45)
#define DESC_DPL_OF(d)  ((unsigned)((d) >> 45) & 3)
#define DESC_TYPE_OF(d) ((unsigned)((d) >> 40) & 15)

enum { TYPE_LDT = 2, TYPE_TSS = 9, TYPE_TSS_BUSY = 11, TYPE_CALL_GATE = 12 };

/* ---- Descriptors ------------------------------------------------------- */

/* 0, RAISED, or JUMPED when the table does not reach so far. */
static int read_descriptor(struct mon *m, struct mon_cpu *cpu,
                           uint16_t selector, uint64_t *descriptor,
                           unsigned words)
{
    unsigned offset = selector & ~7u;

    if (selector & 4 || offset + words * 8 > cpu->v.gdt_limit + 1u)
        return JUMPED;
    return mon_read(m, cpu, cpu->v.gdt_base + offset, descriptor, words * 8);
}

static uint64_t kernel_view(uint64_t d)
{
    return d & DESC_P && d & DESC_S ? d | DESC_DPL | DESC_A : 0;
}

static uint64_t user_view(uint64_t d)
{
    return DESC_DPL_OF(d) == 3 ? kernel_view(d) : 0;
}

static void show(struct mon_cpu *cpu, unsigned i, uint64_t d)
{
    cpu->gdt[0][i] = kernel_view(d);
    cpu->gdt[1][i] = user_view(d);
}

int mon_load_gdt(struct mon *m, struct mon_cpu *cpu)
{
    for (unsigned i = 1; i < MON_GDT_GUEST; i++) {
        uint64_t d = 0;

        if (read_descriptor(m, cpu, (uint16_t)(i * 8), &d, 1) == RAISED)
            return RAISED;
        show(cpu, i, d);
    }
    return 0;
}

/* The guest's tables are its kernel's, whoever runs. 0, RAISED, or JUMPED as
 * above. */
static int read_as_kernel(struct mon *m, struct mon_cpu *cpu, uint16_t selector,
                          uint64_t *d)
{
    bool user = cpu->v.user;
    int result;

    if (!user)
        return read_descriptor(m, cpu, selector, d, 1);
    cpu->v.user = false;
    result = mon_update_mode(m, cpu);
    if (!result)
        result = read_descriptor(m, cpu, selector, d, 1);
    cpu->v.user = user;
    return mon_update_mode(m, cpu) ? RAISED : result;
}

bool mon_refresh_gdt(struct mon *m, struct mon_cpu *cpu, uint16_t selector)
{
    unsigned i = selector >> 3;
    uint64_t d = 0, before;

    if (selector & 4 || !i || i >= MON_GDT_GUEST)
        return false;
    before = cpu->gdt[cpu->v.user][i];
    if (read_as_kernel(m, cpu, selector, &d))
        d = 0;
    cpu->exception.pending = false;
    show(cpu, i, d);
    return cpu->gdt[cpu->v.user][i] != before;
}

static bool is_code64(uint64_t d)
{
    return d & DESC_CODE && d & DESC_L;
}

static bool is_stack(uint64_t d)
{
    return d && !(d & DESC_CODE) && d & DESC_RW;
}

static uint64_t seen(const struct mon_cpu *cpu, bool user, uint16_t selector)
{
    unsigned i = selector >> 3;

    return selector & 4 || i >= MON_GDT_GUEST ? 0 : cpu->gdt[user][i];
}

void mon_set_cs_ss(struct mon_cpu *cpu, uint16_t cs, uint16_t ss)
{
    bool real_cs = cpu->v.user && is_code64(seen(cpu, true, cs));
    bool real_ss = cpu->v.user && is_stack(seen(cpu, true, ss));

    cpu->v.cs = cs;
    cpu->v.ss = ss;
    cpu->frame.cs = real_cs ? cs | 3u : MON_GUEST_CS;
    cpu->frame.ss = real_ss ? ss | 3u : MON_GUEST_SS;
}

int mon_enter_user(struct mon *m, struct mon_cpu *cpu, uint16_t cs, uint16_t ss)
{
    cpu->v.user = true;
    mon_set_cs_ss(cpu, cs, ss);
    return mon_update_mode(m, cpu);
}

/* ---- Returns and far transfers ----------------------------------------- */

static int bad(struct mon_cpu *cpu, uint16_t selector)
{
    return mon_raise_error(cpu, VECTOR_GP, selector & ~3u);
}

/* May CS be loaded with this by a return to its RPL? */
static int check_cs(struct mon *m, struct mon_cpu *cpu, uint16_t cs)
{
    bool user = (cs & 3) == 3;

    if (!(cs & ~3))
        return bad(cpu, 0);
    if ((cs & 3) != 3 && (cs & 3))
        return bad(cpu, cs);
    if (!is_code64(seen(cpu, user, cs)))
        mon_refresh_gdt(m, cpu, cs);
    if (!is_code64(seen(cpu, user, cs)) ||
        (!user && is_code64(seen(cpu, true, cs))))
        return bad(cpu, cs);
    return 0;
}

static uint32_t absent(uint16_t selector)
{
    return selector & ~3u;
}

/* A stack for this CPL: writable data of that DPL. */
static int check_ss(struct mon *m, struct mon_cpu *cpu, uint16_t ss,
                    unsigned rpl)
{
    uint64_t d = 0;
    int result;

    if (!(ss & ~3) && rpl == 0 && (ss & 3) == 0)
        return 0;
    if ((ss & 3) != rpl || !(ss & ~3))
        return bad(cpu, ss);
    /* The usual one, without a look at the guest's table. */
    if (rpl == 3 && is_stack(seen(cpu, true, ss)))
        return 0;
    result = read_as_kernel(m, cpu, ss, &d);
    if (result == RAISED)
        return RAISED;
    if (result || !(d & DESC_S) || d & DESC_CODE || !(d & DESC_RW) ||
        DESC_DPL_OF(d) != rpl)
        return bad(cpu, ss);
    return d & DESC_P ? 0 : mon_raise_error(cpu, VECTOR_SS, absent(ss));
}

int mon_check_return(struct mon *m, struct mon_cpu *cpu, uint16_t cs,
                     uint16_t ss, uint64_t rip)
{
    if (check_cs(m, cpu, cs) || check_ss(m, cpu, ss, cs & 3))
        return RAISED;
    return mmu_canonical(rip, 4) ? 0 : mon_raise_error(cpu, VECTOR_GP, 0);
}

/* SDM vol. 2, IRET: in 64-bit mode SS:RSP is always popped. */
int mon_iret(struct mon *m, struct mon_cpu *cpu, unsigned size)
{
    uint64_t slot[5] = {0}, loadable = RFLAGS_LOADABLE | RFLAGS_RF;
    unsigned reads = size == 8 ? 1 : 5;
    unsigned bytes = size == 8 ? sizeof slot : size;

    if (cpu->frame.rflags & RFLAGS_NT) /* a task's return: none in 64 bits */
        return mon_raise_error(cpu, VECTOR_GP, 0);
    for (unsigned i = 0; i < reads; i++)
        if (mon_read(m, cpu, cpu->frame.rsp + i * size, &slot[i], bytes))
            return RAISED;
    if (size == 2)
        loadable &= 0xffff;
    if (mon_check_return(m, cpu, (uint16_t)slot[1], (uint16_t)slot[4], slot[0]))
        return RAISED;
    cpu->frame.rip = slot[0];
    cpu->frame.rsp = slot[3];
    mon_set_rflags(m, cpu,
                   (mon_rflags(cpu) & ~loadable) | (slot[2] & loadable));
    if ((slot[1] & 3) == 3) {
        if (mon_enter_user(m, cpu, (uint16_t)slot[1], (uint16_t)slot[4]))
            return RAISED;
    } else {
        mon_set_cs_ss(cpu, (uint16_t)slot[1], (uint16_t)slot[4]);
    }
    return JUMPED;
}

/* SDM vol. 2, SYSRET: attributes are fixed, the GDT is not read. */
static int sysret(struct mon *m, struct mon_cpu *cpu, unsigned size)
{
    uint16_t base = (uint16_t)(cpu->v.star >> 48);
    uint64_t flags = 0x3c7fd7;

    if (!(cpu->v.efer & EFER_SCE))
        return mon_raise(cpu, VECTOR_UD);
    if (size != 8)
        return mon_end(cpu, MON_END_SEGMENT, base, 0);
    if (!mmu_canonical(cpu->frame.rcx, 4))
        return mon_raise_error(cpu, VECTOR_GP, 0);
    cpu->frame.rip = cpu->frame.rcx;
    mon_set_rflags(m, cpu, (cpu->frame.r11 & flags) | RFLAGS_FIXED);
    if (mon_enter_user(m, cpu, (uint16_t)((base + 16) | 3),
                       (uint16_t)((base + 8) | 3)))
        return RAISED;
    return JUMPED;
}

static int go_far(struct mon *m, struct mon_cpu *cpu, uint16_t cs, uint64_t rip)
{
    cs &= ~3u;
    if (check_cs(m, cpu, cs))
        return RAISED;
    if (!mmu_canonical(rip, 4))
        return mon_raise_error(cpu, VECTOR_GP, 0);
    mon_set_cs_ss(cpu, cs, cpu->v.ss);
    cpu->frame.rip = rip;
    return JUMPED;
}

static int far_call_or_jump(struct mon *m, struct mon_cpu *cpu,
                            const struct insn *insn)
{
    uint64_t at = mon_address(m, cpu, insn), rip = 0, slot[2] = {0};
    uint64_t rsp = cpu->frame.rsp - 2 * insn->size;
    uint16_t cs = 0, old_cs = cpu->v.cs;
    int result;

    if (mon_read(m, cpu, at, &rip, insn->size) ||
        mon_read(m, cpu, at + insn->size, &cs, 2))
        return RAISED;
    if (insn->op == INSN_JMP_FAR)
        return go_far(m, cpu, cs, rip);
    slot[0] = cpu->frame.rip + insn->length;
    if (mon_probe_write(m, cpu, rsp, 2 * insn->size))
        return RAISED;
    result = go_far(m, cpu, cs, rip);
    if (result != JUMPED)
        return result;
    slot[1] = old_cs;
    if (mon_write(m, cpu, rsp, &slot[0], insn->size) ||
        mon_write(m, cpu, rsp + insn->size, &slot[1], insn->size))
        return RAISED;
    cpu->frame.rsp = rsp;
    return JUMPED;
}

static int return_far(struct mon *m, struct mon_cpu *cpu,
                      const struct insn *insn)
{
    uint64_t slot[4] = {0}, rsp = cpu->frame.rsp, size = insn->size;
    uint64_t release = insn->operand[0].kind == INSN_OPERAND_IMM
                           ? (uint64_t)insn->imm & 0xffff
                           : 0;
    bool outer;

    if (mon_read(m, cpu, rsp, &slot[0], insn->size) ||
        mon_read(m, cpu, rsp + size, &slot[1], insn->size))
        return RAISED;
    outer = (slot[1] & 3) == 3;
    if (!outer) {
        int result = check_cs(m, cpu, (uint16_t)slot[1]);

        if (!result)
            result = go_far(m, cpu, (uint16_t)slot[1], slot[0]);
        if (result == JUMPED)
            cpu->frame.rsp = rsp + 2 * size + release;
        return result;
    }
    if (mon_read(m, cpu, rsp + 2 * size + release, &slot[2], insn->size) ||
        mon_read(m, cpu, rsp + 3 * size + release, &slot[3], insn->size) ||
        check_cs(m, cpu, (uint16_t)slot[1]) ||
        check_ss(m, cpu, (uint16_t)slot[3], 3))
        return RAISED;
    if (!mmu_canonical(slot[0], 4))
        return mon_raise_error(cpu, VECTOR_GP, 0);
    cpu->frame.rip = slot[0];
    cpu->frame.rsp = slot[2] + release;
    if (mon_enter_user(m, cpu, (uint16_t)slot[1], (uint16_t)slot[3]))
        return RAISED;
    return JUMPED;
}

/* ---- Descriptor-table registers ---------------------------------------- */

static int load_table(struct mon *m, struct mon_cpu *cpu,
                      const struct insn *insn)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) value;

    if (mon_read(m, cpu, mon_address(m, cpu, insn), &value, sizeof value))
        return RAISED;
    if (!mmu_canonical(value.base, 4))
        return mon_raise_error(cpu, VECTOR_GP, 0);
    if (insn->op == INSN_LIDT) {
        cpu->v.idt_base = value.base;
        cpu->v.idt_limit = value.limit;
        return 0;
    }
    cpu->v.gdt_base = value.base;
    cpu->v.gdt_limit = value.limit;
    return mon_load_gdt(m, cpu);
}

static int store_table(struct mon *m, struct mon_cpu *cpu,
                       const struct insn *insn)
{
    bool gdt = insn->op == INSN_SGDT;
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) value = {
        gdt ? cpu->v.gdt_limit : cpu->v.idt_limit,
        gdt ? cpu->v.gdt_base : cpu->v.idt_base,
    };

    return mon_write(m, cpu, mon_address(m, cpu, insn), &value, sizeof value);
}

/* SDM vol. 2, LTR: the descriptor becomes busy. */
static int load_task(struct mon *m, struct mon_cpu *cpu, uint16_t selector)
{
    uint64_t d[2] = {0}, busy;
    int result;

    if (!(selector & ~3))
        return bad(cpu, 0);
    result = read_descriptor(m, cpu, selector, d, 2);
    if (result == JUMPED ||
        (!result && (d[0] & DESC_S || DESC_TYPE_OF(d[0]) != TYPE_TSS)))
        return bad(cpu, selector);
    if (result)
        return RAISED;
    if (!(d[0] & DESC_P))
        return mon_raise_error(cpu, VECTOR_NP, selector & ~3u);
    busy = d[0] | 2ull << 40;
    if (mon_write(m, cpu, cpu->v.gdt_base + (selector & ~7u), &busy, 8))
        return RAISED;
    cpu->v.tr = selector;
    cpu->v.tr_base = (d[0] >> 16 & 0xffffff) | (d[0] >> 56) << 24 | d[1] << 32;
    cpu->v.tr_limit = (uint32_t)((d[0] & 0xffff) | (d[0] >> 48 & 15) << 16);
    if (d[0] >> 55 & 1)
        cpu->v.tr_limit = cpu->v.tr_limit << 12 | 0xfff;
    return 0;
}

/* An LDT is noted and not used: nothing in 64-bit mode needs one. */
static int load_ldt(struct mon *m, struct mon_cpu *cpu, uint16_t selector)
{
    uint64_t d[2] = {0};
    int result = 0;

    if (selector & ~3)
        result = read_descriptor(m, cpu, selector, d, 2);
    if (result == JUMPED || (!result && selector & ~3 &&
                             (d[0] & DESC_S || DESC_TYPE_OF(d[0]) != TYPE_LDT)))
        return bad(cpu, selector);
    if (!result)
        cpu->v.ldt = selector;
    return result;
}

/* ---- What selectors allow ---------------------------------------------- */

static bool lar_knows(unsigned type)
{
    return type == TYPE_LDT || type == TYPE_TSS || type == TYPE_TSS_BUSY ||
           type == TYPE_CALL_GATE;
}

/* Whether the instruction succeeds for the descriptor, at CPL 0. */
static bool passes(const struct insn *insn, uint64_t d, unsigned rpl)
{
    bool code = d & DESC_CODE;
    unsigned type = DESC_TYPE_OF(d);

    if (!(d & DESC_S)) {
        if (insn->op == INSN_LAR)
            return lar_knows(type) && DESC_DPL_OF(d) >= rpl;
        return insn->op == INSN_LSL && lar_knows(type) &&
               type != TYPE_CALL_GATE && DESC_DPL_OF(d) >= rpl;
    }
    if (!(code && d & DESC_CONFORM) && DESC_DPL_OF(d) < rpl)
        return false;
    if (insn->op == INSN_VERR)
        return !code || d & DESC_RW;
    if (insn->op == INSN_VERW)
        return !code && d & DESC_RW;
    return true;
}

static uint64_t limit_of(uint64_t d)
{
    uint64_t limit = (d & 0xffff) | (d >> 48 & 15) << 16;

    return d >> 55 & 1 ? limit << 12 | 0xfff : limit;
}

static int ask_selector(struct mon *m, struct mon_cpu *cpu,
                        const struct insn *insn)
{
    bool two = insn->op == INSN_LAR || insn->op == INSN_LSL, ok;
    uint64_t selector, d = 0;
    int result = 0;

    if (mon_get_operand(m, cpu, insn, two, &selector))
        return RAISED;
    selector &= 0xffff;
    if (selector & ~3ull)
        result = read_descriptor(m, cpu, (uint16_t)selector, &d, 1);
    if (result == RAISED)
        return RAISED;
    ok = !result && selector & ~3ull && passes(insn, d, selector & 3);
    cpu->frame.rflags = (cpu->frame.rflags & ~RFLAGS_ZF) | (ok ? RFLAGS_ZF : 0);
    if (ok && insn->op == INSN_LAR)
        mon_set_reg(cpu, insn->operand[0].reg, insn->operand[0].size,
                    d >> 32 & 0xf0ff00);
    else if (ok && insn->op == INSN_LSL)
        mon_set_reg(cpu, insn->operand[0].reg, insn->operand[0].size,
                    limit_of(d));
    return 0;
}

/* ---- Segment registers ------------------------------------------------- */

static uint16_t selector_of(struct mon *m, struct mon_cpu *cpu, unsigned n)
{
    return n == INSN_CS   ? cpu->v.cs
           : n == INSN_SS ? cpu->v.ss
                          : m->ops.get_selector(cpu, n);
}

/* SDM vol. 2, MOV: what a data segment register may be loaded with at CPL 0. */
static int check_data(struct mon *m, struct mon_cpu *cpu, uint16_t selector,
                      uint64_t *d)
{
    int result = read_descriptor(m, cpu, selector, d, 1);
    uint64_t accessed;

    if (result == RAISED)
        return RAISED;
    if (result || !(*d & DESC_S) || (*d & DESC_CODE && !(*d & DESC_RW)) ||
        (!(*d & DESC_CODE && *d & DESC_CONFORM) &&
         DESC_DPL_OF(*d) < (selector & 3u)))
        return bad(cpu, selector);
    if (!(*d & DESC_P))
        return mon_raise_error(cpu, VECTOR_NP, absent(selector));
    accessed = *d | DESC_A;
    if (accessed == *d)
        return 0;
    return mon_write(m, cpu, cpu->v.gdt_base + (selector & ~7u), &accessed, 8);
}

/* What of the guest's the CPU can't have: LDTs, and a large GDT's end. */
static int load_data(struct mon *m, struct mon_cpu *cpu, unsigned segment,
                     uint16_t selector)
{
    uint64_t d = 0;

    if (selector & ~3u && check_data(m, cpu, selector, &d))
        return RAISED;
    if (selector >> 3 >= MON_GDT_GUEST)
        return mon_end(cpu, MON_END_SEGMENT, selector, 0);
    if (selector & ~3u)
        show(cpu, selector >> 3, d);
    m->ops.set_selector(cpu, segment, selector);
    if (m->config.trace)
        mon_log_bases(m, cpu);
    return 0;
}

static int load_selector(struct mon *m, struct mon_cpu *cpu, unsigned segment,
                         uint16_t selector)
{
    if (segment == INSN_CS)
        return mon_raise(cpu, VECTOR_UD);
    if (segment != INSN_SS)
        return load_data(m, cpu, segment, selector);
    if (check_ss(m, cpu, selector, 0))
        return RAISED;
    cpu->v.ss = selector;
    return 0;
}

static int segment_register(struct mon *m, struct mon_cpu *cpu,
                            const struct insn *insn)
{
    uint64_t value = 0, rsp = cpu->frame.rsp;
    int result;

    switch (insn->op) {
    case INSN_MOV_FROM_SEG:
        return mon_set_operand(m, cpu, insn, 0,
                               selector_of(m, cpu, insn->number));
    case INSN_PUSH_SEG:
        value = selector_of(m, cpu, insn->number);
        if (mon_write(m, cpu, rsp - insn->size, &value, insn->size))
            return RAISED;
        cpu->frame.rsp = rsp - insn->size;
        return 0;
    case INSN_POP_SEG:
        if (mon_read(m, cpu, rsp, &value, 2))
            return RAISED;
        result = load_selector(m, cpu, insn->number, (uint16_t)value);
        if (!result)
            cpu->frame.rsp = rsp + insn->size;
        return result;
    case INSN_LOAD_FAR:
        if (mon_read(m, cpu, mon_address(m, cpu, insn) + insn->size, &value, 2))
            return RAISED;
        result = load_selector(m, cpu, insn->number, (uint16_t)value);
        if (!result &&
            mon_read(m, cpu, mon_address(m, cpu, insn), &value, insn->size))
            return RAISED;
        if (!result)
            mon_set_reg(cpu, insn->operand[0].reg, insn->size, value);
        return result;
    default: /* INSN_MOV_TO_SEG */
        if (mon_get_operand(m, cpu, insn, 0, &value))
            return RAISED;
        return load_selector(m, cpu, insn->number, (uint16_t)value);
    }
}

int mon_emulate_segment(struct mon *m, struct mon_cpu *cpu,
                        const struct insn *insn)
{
    uint64_t value = 0;

    switch (insn->op) {
    case INSN_LGDT:
    case INSN_LIDT:
        return load_table(m, cpu, insn);
    case INSN_SGDT:
    case INSN_SIDT:
        return store_table(m, cpu, insn);
    case INSN_LTR:
    case INSN_LLDT:
        if (mon_get_operand(m, cpu, insn, 0, &value))
            return RAISED;
        return insn->op == INSN_LTR ? load_task(m, cpu, (uint16_t)value)
                                    : load_ldt(m, cpu, (uint16_t)value);
    case INSN_SLDT:
    case INSN_STR:
        return mon_set_operand(m, cpu, insn, 0,
                               insn->op == INSN_STR ? cpu->v.tr : cpu->v.ldt);
    case INSN_LAR:
    case INSN_LSL:
    case INSN_VERR:
    case INSN_VERW:
        return ask_selector(m, cpu, insn);
    case INSN_CALL_FAR:
    case INSN_JMP_FAR:
        return far_call_or_jump(m, cpu, insn);
    case INSN_RET_FAR:
        return return_far(m, cpu, insn);
    case INSN_IRET:
        return mon_iret(m, cpu, insn->size);
    case INSN_SYSRET:
        return sysret(m, cpu, insn->size);
    default:
        return segment_register(m, cpu, insn);
    }
}
