#include "vmm/decode.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <string.h>

/* ---- Which operation --------------------------------------------------- */

#define SAME(name) [ZYDIS_MNEMONIC_##name] = INSN_##name

/* Mnemonics that are one operation whatever their operands. */
static const uint8_t plain_ops[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    SAME(HLT),
    SAME(CLI),
    SAME(STI),
    SAME(LMSW),
    SAME(CLTS),
    SAME(INVLPG),
    SAME(INVPCID),
    SAME(RDMSR),
    SAME(WRMSR),
    SAME(LGDT),
    SAME(LIDT),
    SAME(LLDT),
    SAME(LTR),
    SAME(SWAPGS),
    SAME(SYSRET),
    SAME(WBINVD),
    [ZYDIS_MNEMONIC_INVD] = INSN_WBINVD,
    SAME(IN),
    SAME(OUT),
    [ZYDIS_MNEMONIC_INSB] = INSN_INS,
    [ZYDIS_MNEMONIC_INSW] = INSN_INS,
    [ZYDIS_MNEMONIC_INSD] = INSN_INS,
    [ZYDIS_MNEMONIC_OUTSB] = INSN_OUTS,
    [ZYDIS_MNEMONIC_OUTSW] = INSN_OUTS,
    [ZYDIS_MNEMONIC_OUTSD] = INSN_OUTS,
    SAME(XSETBV),
    SAME(RDTSC),
    SAME(RDTSCP),
    SAME(RDPID),
    SAME(RDPMC),
    SAME(MONITOR),
    SAME(MWAIT),
    SAME(SGDT),
    SAME(SIDT),
    SAME(SLDT),
    SAME(STR),
    SAME(SMSW),
    [ZYDIS_MNEMONIC_PUSHF] = INSN_PUSHF,
    [ZYDIS_MNEMONIC_PUSHFQ] = INSN_PUSHF,
    [ZYDIS_MNEMONIC_POPF] = INSN_POPF,
    [ZYDIS_MNEMONIC_POPFQ] = INSN_POPF,
    SAME(LAR),
    SAME(LSL),
    SAME(VERR),
    SAME(VERW),
    [ZYDIS_MNEMONIC_LSS] = INSN_LOAD_FAR,
    [ZYDIS_MNEMONIC_LFS] = INSN_LOAD_FAR,
    [ZYDIS_MNEMONIC_LGS] = INSN_LOAD_FAR,
    [ZYDIS_MNEMONIC_INT] = INSN_INT,
    [ZYDIS_MNEMONIC_INT1] = INSN_INT,
    [ZYDIS_MNEMONIC_INT3] = INSN_INT,
    [ZYDIS_MNEMONIC_IRET] = INSN_IRET,
    [ZYDIS_MNEMONIC_IRETD] = INSN_IRET,
    [ZYDIS_MNEMONIC_IRETQ] = INSN_IRET,
    SAME(ADD),
    SAME(OR),
    SAME(ADC),
    SAME(SBB),
    SAME(AND),
    SAME(SUB),
    SAME(XOR),
    SAME(INC),
    SAME(DEC),
    SAME(NOT),
    SAME(NEG),
    SAME(BTS),
    SAME(BTR),
    SAME(BTC),
    SAME(XCHG),
    SAME(XADD),
    SAME(CMPXCHG),
    [ZYDIS_MNEMONIC_CMPXCHG8B] = INSN_CMPXCHG8B,
    [ZYDIS_MNEMONIC_CMPXCHG16B] = INSN_CMPXCHG8B,
    SAME(MOVNTI),
    [ZYDIS_MNEMONIC_STOSB] = INSN_STOS,
    [ZYDIS_MNEMONIC_STOSW] = INSN_STOS,
    [ZYDIS_MNEMONIC_STOSD] = INSN_STOS,
    [ZYDIS_MNEMONIC_STOSQ] = INSN_STOS,
    [ZYDIS_MNEMONIC_MOVSB] = INSN_MOVS,
    [ZYDIS_MNEMONIC_MOVSW] = INSN_MOVS,
    [ZYDIS_MNEMONIC_MOVSD] = INSN_MOVS,
    [ZYDIS_MNEMONIC_MOVSQ] = INSN_MOVS,
};

static bool is_class(const ZydisDecodedOperand *o, ZydisRegisterClass class)
{
    return o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           ZydisRegisterGetClass(o->reg.value) == class;
}

static unsigned number_of(const ZydisDecodedOperand *o)
{
    return (unsigned)ZydisRegisterGetId(o->reg.value);
}

/* MOV is four instructions. */
static unsigned mov_op(const ZydisDecodedOperand *o, struct insn *insn)
{
    static const struct {
        ZydisRegisterClass class;
        uint8_t from, to;
    } kinds[] = {
        {ZYDIS_REGCLASS_CONTROL, INSN_MOV_FROM_CR, INSN_MOV_TO_CR},
        {ZYDIS_REGCLASS_DEBUG, INSN_MOV_FROM_DR, INSN_MOV_TO_DR},
        {ZYDIS_REGCLASS_SEGMENT, INSN_MOV_FROM_SEG, INSN_MOV_TO_SEG},
    };

    for (unsigned i = 0; i < 3; i++)
        for (unsigned n = 0; n < 2; n++) {
            if (!is_class(&o[n], kinds[i].class))
                continue;
            insn->number = (uint8_t)number_of(&o[n]);
            return n ? kinds[i].from : kinds[i].to;
        }
    return INSN_MOV;
}

static bool is_far(const ZydisDecodedInstruction *z)
{
    return z->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

static unsigned op_of(const ZydisDecodedInstruction *z,
                      const ZydisDecodedOperand *o, struct insn *insn)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return mov_op(o, insn);
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
        if (!is_class(&o[0], ZYDIS_REGCLASS_SEGMENT))
            return z->mnemonic == ZYDIS_MNEMONIC_PUSH ? INSN_PUSH : INSN_POP;
        insn->number = (uint8_t)number_of(&o[0]);
        return z->mnemonic == ZYDIS_MNEMONIC_PUSH ? INSN_PUSH_SEG
                                                  : INSN_POP_SEG;
    case ZYDIS_MNEMONIC_CALL:
        return is_far(z) ? INSN_CALL_FAR : INSN_CALL;
    case ZYDIS_MNEMONIC_JMP:
        return is_far(z) ? INSN_JMP_FAR : INSN_UNSUPPORTED;
    case ZYDIS_MNEMONIC_RET:
        return is_far(z) ? INSN_RET_FAR : INSN_UNSUPPORTED;
    case ZYDIS_MNEMONIC_MOVSD: /* the string one: SSE2's has this name too */
        return z->meta.category == ZYDIS_CATEGORY_STRINGOP ? INSN_MOVS
                                                           : INSN_UNSUPPORTED;
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
        return INSN_UNDEFINED;
    default:
        return plain_ops[z->mnemonic] ? plain_ops[z->mnemonic]
                                      : INSN_UNSUPPORTED;
    }
}

/* ---- Operands ---------------------------------------------------------- */

static uint8_t reg_of(ZydisRegister reg)
{
    if (reg == ZYDIS_REGISTER_NONE)
        return INSN_REG_NONE;
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
        return INSN_REG_RIP;
    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
        return INSN_REG_HIGH | (uint8_t)(reg - ZYDIS_REGISTER_AH);
    if (ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_GPR8 &&
        reg > ZYDIS_REGISTER_BH)
        return (uint8_t)(reg - ZYDIS_REGISTER_SPL + 4);
    return (uint8_t)ZydisRegisterGetId(reg);
}

static uint8_t segment_of(ZydisRegister segment)
{
    return segment == ZYDIS_REGISTER_NONE
               ? INSN_DS
               : (uint8_t)(segment - ZYDIS_REGISTER_ES);
}

/* With mod 0 a SIB's base of 5 is none but a displacement, R13's number
 * included (SDM vol. 2, table 2-3 and 2.2.1.2). Zydis 4.0 takes it for R13D
 * when addresses have 32 bits. */
static bool has_no_base(const ZydisDecodedInstruction *z)
{
    return z->attributes & ZYDIS_ATTRIB_HAS_SIB && !z->raw.modrm.mod &&
           (z->raw.sib.base & 7) == 5;
}

static void take_memory(const ZydisDecodedInstruction *z,
                        const ZydisDecodedOperand *o, struct insn *insn)
{
    insn->segment = segment_of(o->mem.segment);
    insn->base = has_no_base(z) ? INSN_REG_NONE : reg_of(o->mem.base);
    insn->index = reg_of(o->mem.index);
    insn->scale = o->mem.scale ? o->mem.scale : 1;
    insn->disp = has_no_base(z)                 ? z->raw.disp.value
                 : o->mem.disp.has_displacement ? o->mem.disp.value
                                                : 0;
}

static void take_operand(const ZydisDecodedInstruction *z,
                         const ZydisDecodedOperand *o, struct insn *insn,
                         unsigned n)
{
    struct insn_operand *to = &insn->operand[n];

    to->size = (uint8_t)(o->size / 8);
    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        to->kind = INSN_OPERAND_REG;
        to->reg = reg_of(o->reg.value);
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        to->kind = INSN_OPERAND_IMM;
        insn->imm = o->imm.value.s;
        /* A source is extended to its destination's size (SDM vol. 1, 3.7.1);
         * the bytes that encode it are no size of anything. */
        if (n)
            to->size = insn->operand[0].size;
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        to->kind = INSN_OPERAND_MEMORY;
        take_memory(z, o, insn);
        break;
    default:
        break;
    }
}

/* Explicit operands in order, but those that `number` already says. */
static void take_operands(const ZydisDecodedInstruction *z,
                          const ZydisDecodedOperand *o, struct insn *insn)
{
    unsigned n = 0;

    for (unsigned i = 0; i < z->operand_count_visible && n < 2; i++) {
        if (is_class(&o[i], ZYDIS_REGCLASS_CONTROL) ||
            is_class(&o[i], ZYDIS_REGCLASS_DEBUG) ||
            is_class(&o[i], ZYDIS_REGCLASS_SEGMENT))
            continue;
        /* IN and OUT name the accumulator; the port is the operand. */
        if ((insn->op == INSN_IN && i == 0) || (insn->op == INSN_OUT && i == 1))
            continue;
        take_operand(z, &o[i], insn, n++);
    }
}

/* The one memory operand of a string instruction is its source. */
static void take_string_segment(const ZydisDecodedInstruction *z,
                                const ZydisDecodedOperand *o, struct insn *insn)
{
    insn->segment = INSN_DS;
    for (unsigned i = 0; i < z->operand_count; i++)
        if (o[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            reg_of(o[i].mem.base) == 6)
            insn->segment = segment_of(o[i].mem.segment);
}

/* Ports are at most 32 bits wide, with REX.W too (SDM vol. 2, INS, OUTS). */
static uint8_t string_size(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_OUTSB:
        return 1;
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSD:
        return 4;
    default:
        return (uint8_t)(z->operand_width / 8);
    }
}

static uint8_t size_of(const ZydisDecodedInstruction *z,
                       const ZydisDecodedOperand *o, const struct insn *insn)
{
    switch (insn->op) {
    case INSN_IN:
        return (uint8_t)(o[0].size / 8);
    case INSN_OUT:
        return (uint8_t)(o[1].size / 8);
    case INSN_STOS:
    case INSN_MOVS:
    case INSN_INS:
    case INSN_OUTS:
        return string_size(z);
    case INSN_PUSH:
    case INSN_POP:
    case INSN_PUSHF:
    case INSN_POPF:
    case INSN_PUSH_SEG:
    case INSN_POP_SEG:
        return z->operand_width == 16 ? 2 : 8;
    case INSN_CMPXCHG8B:
        return z->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B ? 16 : 8;
    default:
        return (uint8_t)(z->operand_width / 8);
    }
}

static uint8_t vector_of(const ZydisDecodedInstruction *z,
                         const struct insn *insn)
{
    return z->mnemonic == ZYDIS_MNEMONIC_INT3   ? 3
           : z->mnemonic == ZYDIS_MNEMONIC_INT1 ? 1
                                                : (uint8_t)insn->imm;
}

static uint8_t far_segment(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_LSS   ? INSN_SS
           : mnemonic == ZYDIS_MNEMONIC_LFS ? INSN_FS
                                            : INSN_GS;
}

static uint8_t flags_of(const ZydisDecodedInstruction *z)
{
    const ZydisInstructionAttributes a = z->attributes;

    return (a & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE) ? INSN_REP : 0) |
           (a & ZYDIS_ATTRIB_HAS_REPNE ? INSN_REPNE : 0) |
           (a & ZYDIS_ATTRIB_HAS_LOCK ? INSN_LOCK : 0) |
           (z->address_width == 32 ? INSN_ADDRESS_32 : 0);
}

/* ---- The whole --------------------------------------------------------- */

static void take(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o,
                 struct insn *insn)
{
    insn->length = z->length;
    insn->op = (uint8_t)op_of(z, o, insn);
    take_operands(z, o, insn);
    insn->size = size_of(z, o, insn);
    insn->flags = flags_of(z);
    if (insn->op == INSN_INT)
        insn->number = vector_of(z, insn);
    else if (insn->op == INSN_LOAD_FAR)
        insn->number = far_segment(z->mnemonic);
    else if (insn->op == INSN_STOS || insn->op == INSN_MOVS ||
             insn->op == INSN_OUTS)
        take_string_segment(z, o, insn);
}

int decode_insn(const uint8_t *bytes, size_t count, struct insn *insn)
{
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction z;
    ZydisDecoder decoder;
    ZyanStatus status;

    *insn = (struct insn){.length = 1,
                          .op = INSN_UNDEFINED,
                          .segment = INSN_DS,
                          .base = INSN_REG_NONE,
                          .index = INSN_REG_NONE,
                          .scale = 1};
    if (count > INSN_BYTES_MAX)
        count = INSN_BYTES_MAX;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64,
                     ZYDIS_STACK_WIDTH_64);
    status = ZydisDecoderDecodeFull(&decoder, bytes, count, &z, operands);
    if (status == ZYDIS_STATUS_NO_MORE_DATA && count < INSN_BYTES_MAX)
        return -ENODATA;
    if (ZYAN_SUCCESS(status))
        take(&z, operands, insn);
    memcpy(insn->bytes, bytes, count < insn->length ? count : insn->length);
    return 0;
}

static const char *const names[INSN_OPS] = {
    [INSN_UNDEFINED] = "undefined",
    [INSN_UNSUPPORTED] = "unsupported",
    [INSN_HLT] = "hlt",
    [INSN_CLI] = "cli",
    [INSN_STI] = "sti",
    [INSN_MOV_FROM_CR] = "mov_from_cr",
    [INSN_MOV_TO_CR] = "mov_to_cr",
    [INSN_MOV_FROM_DR] = "mov_from_dr",
    [INSN_MOV_TO_DR] = "mov_to_dr",
    [INSN_LMSW] = "lmsw",
    [INSN_CLTS] = "clts",
    [INSN_INVLPG] = "invlpg",
    [INSN_INVPCID] = "invpcid",
    [INSN_RDMSR] = "rdmsr",
    [INSN_WRMSR] = "wrmsr",
    [INSN_LGDT] = "lgdt",
    [INSN_LIDT] = "lidt",
    [INSN_LLDT] = "lldt",
    [INSN_LTR] = "ltr",
    [INSN_SWAPGS] = "swapgs",
    [INSN_SYSRET] = "sysret",
    [INSN_WBINVD] = "wbinvd",
    [INSN_IN] = "in",
    [INSN_OUT] = "out",
    [INSN_INS] = "ins",
    [INSN_OUTS] = "outs",
    [INSN_XSETBV] = "xsetbv",
    [INSN_RDTSC] = "rdtsc",
    [INSN_RDTSCP] = "rdtscp",
    [INSN_RDPID] = "rdpid",
    [INSN_RDPMC] = "rdpmc",
    [INSN_MONITOR] = "monitor",
    [INSN_MWAIT] = "mwait",
    [INSN_SGDT] = "sgdt",
    [INSN_SIDT] = "sidt",
    [INSN_SLDT] = "sldt",
    [INSN_STR] = "str",
    [INSN_SMSW] = "smsw",
    [INSN_PUSHF] = "pushf",
    [INSN_POPF] = "popf",
    [INSN_LAR] = "lar",
    [INSN_LSL] = "lsl",
    [INSN_VERR] = "verr",
    [INSN_VERW] = "verw",
    [INSN_MOV_FROM_SEG] = "mov_from_seg",
    [INSN_MOV_TO_SEG] = "mov_to_seg",
    [INSN_PUSH_SEG] = "push_seg",
    [INSN_POP_SEG] = "pop_seg",
    [INSN_LOAD_FAR] = "load_far_pointer",
    [INSN_CALL_FAR] = "call_far",
    [INSN_JMP_FAR] = "jmp_far",
    [INSN_RET_FAR] = "ret_far",
    [INSN_INT] = "int",
    [INSN_IRET] = "iret",
    [INSN_MOV] = "mov",
    [INSN_ADD] = "add",
    [INSN_OR] = "or",
    [INSN_ADC] = "adc",
    [INSN_SBB] = "sbb",
    [INSN_AND] = "and",
    [INSN_SUB] = "sub",
    [INSN_XOR] = "xor",
    [INSN_INC] = "inc",
    [INSN_DEC] = "dec",
    [INSN_NOT] = "not",
    [INSN_NEG] = "neg",
    [INSN_BTS] = "bts",
    [INSN_BTR] = "btr",
    [INSN_BTC] = "btc",
    [INSN_XCHG] = "xchg",
    [INSN_XADD] = "xadd",
    [INSN_CMPXCHG] = "cmpxchg",
    [INSN_CMPXCHG8B] = "cmpxchg8b",
    [INSN_MOVNTI] = "movnti",
    [INSN_STOS] = "stos",
    [INSN_MOVS] = "movs",
    [INSN_PUSH] = "push",
    [INSN_POP] = "pop",
    [INSN_CALL] = "call",
};

const char *insn_op_name(unsigned op)
{
    return op < INSN_OPS ? names[op] : NULL;
}

bool insn_is_sensitive(const struct insn *insn)
{
    switch (insn->op) {
    case INSN_RDTSCP: /* IA32_TSC_AUX is the guest's in the monitor only */
    case INSN_RDPID:
    case INSN_SGDT ... INSN_VERW:
    case INSN_MOV_FROM_SEG ... INSN_IRET:
        return true;
    default:
        return false;
    }
}
