/*
 * What a piece of translated code logs (bt/trace.h). Only MOV and LEA are
 * used, so that no flag changes. A register is logged once for as long as it
 * keeps its value, since the addresses are computed when the log is expanded.
 */
#include "bt/unit.h"

#define STATE_LOG (BT_STATE + offsetof(struct bt_state, log))
#define ACCESSES  4
#define NO_REG    16

/* A memory operand. */
struct access {
    const ZydisDecodedOperand *operand;
    struct bt_op op;
    unsigned base, index; /* registers, or NO_REG */
};

/* Registers that must be in the log before the instruction. */
struct batch {
    unsigned count;
    struct {
        uint8_t reg, word;
    } item[8];
};

static bool reads(const ZydisDecodedOperand *operand)
{
    return operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
}

static bool writes(const ZydisDecodedOperand *operand)
{
    return operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

static bool is_string(const struct unit *u)
{
    return u->insn.meta.category == ZYDIS_CATEGORY_STRINGOP;
}

static bool is_repeated(const struct unit *u)
{
    return is_string(u) &&
           u->insn.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
                                 ZYDIS_ATTRIB_HAS_REPNE);
}

static unsigned gpr_of(ZydisRegister reg)
{
    ZydisRegister wide =
        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

    return ZydisRegisterGetClass(wide) == ZYDIS_REGCLASS_GPR64
               ? (unsigned)ZydisRegisterGetId(wide)
               : NO_REG;
}

/* ---- Which accesses ---------------------------------------------------- */

/* Nothing is read or written, whatever the operand says. */
static bool touches_nothing(const struct unit *u)
{
    return u->insn.meta.category == ZYDIS_CATEGORY_NOP ||
           u->insn.meta.category == ZYDIS_CATEGORY_WIDENOP ||
           u->insn.meta.category == ZYDIS_CATEGORY_PREFETCH;
}

/* The address has a part that no whole register is. */
static bool is_beyond(const struct unit *u, const ZydisDecodedOperand *operand)
{
    bool bits = u->insn.mnemonic == ZYDIS_MNEMONIC_BT ||
                u->insn.mnemonic == ZYDIS_MNEMONIC_BTS ||
                u->insn.mnemonic == ZYDIS_MNEMONIC_BTR ||
                u->insn.mnemonic == ZYDIS_MNEMONIC_BTC;

    return operand->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
           u->insn.mnemonic == ZYDIS_MNEMONIC_XLAT ||
           (bits && u->log.operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER);
}

/* RSP as the instruction itself moves it. */
static uint64_t moved_stack(const struct unit *u,
                            const ZydisDecodedOperand *operand)
{
    bool hidden = operand->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;

    if (gpr_of(operand->mem.base) != REG_SP)
        return 0;
    if (hidden && writes(operand))
        return -(uint64_t)(operand->size / 8);
    if (!hidden && u->insn.meta.category == ZYDIS_CATEGORY_POP)
        return u->insn.operand_width / 8;
    return 0;
}

/* Zydis 4.0 takes REX.B for R13 where a SIB has no base at all, and the
 * displacement for none (SDM vol. 2, table 2-5). */
static bool has_no_base(const struct unit *u)
{
    const ZydisDecodedInstruction *insn = &u->insn;

    return insn->attributes & ZYDIS_ATTRIB_HAS_MODRM &&
           insn->raw.modrm.mod == 0 && insn->raw.modrm.rm == 4 &&
           insn->raw.sib.base == 5;
}

static void address(const struct unit *u, struct access *access)
{
    const ZydisDecodedOperand *operand = access->operand;
    struct bt_op *op = &access->op;
    bool relative = operand->mem.base == ZYDIS_REGISTER_RIP ||
                    operand->mem.base == ZYDIS_REGISTER_EIP;
    bool hidden = operand->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
    bool bare = !hidden && has_no_base(u);
    /* 64 bits, whatever the address size is. */
    bool stack = hidden && (gpr_of(operand->mem.base) == REG_SP ||
                            gpr_of(operand->mem.base) == REG_BP);

    access->base = relative || bare ? NO_REG : gpr_of(operand->mem.base);
    access->index = gpr_of(operand->mem.index);
    op->address = relative ? relative_target(u)
                  : bare   ? (uint64_t)u->insn.raw.disp.value
                           : (uint64_t)operand->mem.disp.value;
    op->address += moved_stack(u, operand);
    op->bytes = operand->size / 8;
    op->shift = (uint8_t)__builtin_ctz(operand->mem.scale | 0x100);
    if (op->shift == 8)
        op->shift = 0;
    if (u->insn.address_width == 32 && !stack)
        op->flags |= BT_OP_ADDRESS_32;
    if (operand->mem.segment == ZYDIS_REGISTER_FS)
        op->flags |= BT_OP_FS;
    if (operand->mem.segment == ZYDIS_REGISTER_GS)
        op->flags |= BT_OP_GS;
    op->base = op->index = op->value = BT_NO_WORD;
}

/* A locked one is a write, as in the instrumented workloads. */
static bool counts_as_read(const struct unit *u,
                           const ZydisDecodedOperand *operand)
{
    bool locked = u->insn.attributes & ZYDIS_ATTRIB_HAS_LOCK ||
                  u->insn.mnemonic == ZYDIS_MNEMONIC_XCHG;

    return reads(operand) && !(locked && writes(operand));
}

static void add_access(const struct unit *u, const ZydisDecodedOperand *operand,
                       bool write, struct access *access)
{
    bool user = u->bt->config.user;

    *access = (struct access){.operand = operand};
    address(u, access);
    access->op.kind = (uint8_t)(write  ? user ? EVENT_WRITE : EVENT_KERNEL_WRITE
                                : user ? EVENT_READ
                                       : EVENT_KERNEL_READ);
}

/* All reads, then all writes. */
static unsigned find_accesses(struct unit *u, struct access *access)
{
    unsigned count = 0;

    if (touches_nothing(u))
        return 0;
    for (unsigned write = 0; write < 2; write++)
        for (unsigned i = 0; i < u->insn.operand_count; i++) {
            const ZydisDecodedOperand *operand = &u->log.operand[i];

            if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY ||
                operand->mem.type == ZYDIS_MEMOP_TYPE_AGEN ||
                !(write ? writes(operand) : counts_as_read(u, operand)))
                continue;
            if (is_beyond(u, operand) || count == ACCESSES)
                bt_trace_unlogged(u->bt->config.trace);
            else
                add_access(u, operand, write, &access[count++]);
        }
    return count;
}

/* ---- Words ------------------------------------------------------------- */

static uint8_t new_word(struct unit *u)
{
    return (uint8_t)u->log.words++;
}

/* The word that has the register as it is before the instruction. */
static uint8_t want(struct unit *u, unsigned reg, struct batch *batch)
{
    if (reg == NO_REG)
        return BT_NO_WORD;
    if (u->log.word[reg] == BT_NO_WORD) {
        u->log.word[reg] = new_word(u);
        batch->item[batch->count].reg = (uint8_t)reg;
        batch->item[batch->count++].word = u->log.word[reg];
    }
    return u->log.word[reg];
}

/* What the kernel stores: a register, a constant, or what is there then. */
static void want_value(struct unit *u, struct access *access,
                       struct batch *batch)
{
    const ZydisDecodedOperand *source = &u->log.operand[1];
    bool moves = u->insn.mnemonic == ZYDIS_MNEMONIC_MOV ||
                 u->insn.mnemonic == ZYDIS_MNEMONIC_MOVNTI;
    unsigned used = 1u << access->base | 1u << access->index;

    if (access->op.kind != EVENT_KERNEL_WRITE || access->op.bytes != 8 ||
        access->operand->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
        return;
    if (moves && source->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        access->op.immediate = (int32_t)source->imm.value.s;
        access->op.flags |= BT_OP_STORE;
    } else if (moves && source->type == ZYDIS_OPERAND_TYPE_REGISTER &&
               gpr_of(source->reg.value) != NO_REG) {
        access->op.value = want(u, gpr_of(source->reg.value), batch);
        access->op.flags |= BT_OP_STORE;
    } else if (!(access->op.flags & ~BT_OP_STORE) && !moves &&
               u->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
               u->insn.raw.modrm.offset && !(u->log.written & used) &&
               (!is_relative(u) || fits_32(relative_target(u))) &&
               u->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE) {
        access->op.value = new_word(u);
        access->op.flags |= BT_OP_STORE | BT_OP_DONE;
        u->log.reload = true;
        u->log.after_word = access->op.value;
    }
}

static void want_string(struct unit *u, struct access *access, unsigned count,
                        struct batch *batch)
{
    unsigned moves = REG_SI;

    for (unsigned i = 0; i < count; i++)
        if (access[i].base == REG_DI)
            moves = REG_DI;
    u->log.after_word = new_word(u);
    u->log.after_reg = moves;
    for (unsigned i = 0; i < count; i++) {
        struct bt_op *op = &access[i].op;

        op->flags |= BT_OP_STRING | (!i && count == 2 ? BT_OP_PAIR : 0);
        op->shift = want(u, moves, batch);
        op->index = u->log.after_word;
        op->immediate = moves == REG_SI;
        if (op->kind == EVENT_KERNEL_WRITE && count == 1) {
            op->value = want(u, REG_AX, batch); /* STOS */
            op->flags |= BT_OP_STORE;
        }
    }
}

static void find_written(struct unit *u)
{
    u->log.written = 0;
    for (unsigned i = 0; i < u->insn.operand_count; i++) {
        const ZydisDecodedOperand *operand = &u->log.operand[i];

        if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER && writes(operand) &&
            gpr_of(operand->reg.value) != NO_REG)
            u->log.written |= (uint16_t)(1u << gpr_of(operand->reg.value));
    }
    if (is_string(u)) /* not all of them are operands */
        u->log.written |= 1u << REG_SI | 1u << REG_DI | 1u << REG_CX;
}

/* ---- Code -------------------------------------------------------------- */

/* One of RAX to RDI that is not in `mask`, but not RSP or RBP. */
static unsigned scratch(unsigned mask)
{
    static const uint8_t candidates[] = {REG_CX, REG_AX, REG_DX,
                                         REG_BX, REG_SI, REG_DI};
    unsigned i = 0;

    while (i + 1 < sizeof candidates && mask & 1u << candidates[i])
        i++;
    return candidates[i];
}

static void load_log(struct unit *u, unsigned reg)
{
    PUT(u, 0x48, 0x8b, (uint8_t)(reg << 3 | 5));
    put_area(u, STATE_LOG, 0);
}

/* mov %reg, ?(%to): the place of `word` in a piece that is written. */
static void log_word(struct unit *u, unsigned reg, unsigned to, unsigned word)
{
    PUT(u, (uint8_t)(0x48 | reg >> 3 << 2), 0x89,
        (uint8_t)(0x80 | (reg & 7) << 3 | to));
    u->log.site[u->log.sites++] = (struct log_site){u->at, (uint16_t)word};
    put32(u, 0);
}

/* The last word's place is touched before anything is written. */
static void put_header(struct unit *u, unsigned reg)
{
    PUT(u, 0x48, 0xc7, (uint8_t)(0x80 | reg));
    u->log.touch = u->at;
    put32(u, 0);
    put32(u, 0);
    PUT(u, 0x48, 0xc7, (uint8_t)reg); /* movq $~number, (%reg) */
    put32(u, ~u->log.number);
    PUT(u, 0x48, 0x8d, (uint8_t)(0x80 | reg << 3 | reg));
    u->log.advance = u->at;
    put32(u, 0);
    PUT(u, 0x48, 0x89, (uint8_t)(reg << 3 | 5));
    put_area(u, STATE_LOG, 0);
    u->log.piece->logged = u->at;
}

/* The first word of the piece, and what the instruction needs. */
static void put_batch(struct unit *u, const struct batch *batch, bool header)
{
    unsigned mask = 0, to;

    for (unsigned i = 0; i < batch->count; i++)
        mask |= 1u << batch->item[i].reg;
    to = scratch(mask);
    spill(u, to);
    record(u, BT_INSTRUCTION, 0, 1u << to);
    load_log(u, to);
    if (header)
        put_header(u, to);
    for (unsigned i = 0; i < batch->count; i++)
        log_word(u, batch->item[i].reg, to, batch->item[i].word);
    unspill(u, to);
}

/* mov operand, %reg: the instruction's memory operand. */
static void reload(struct unit *u, unsigned reg)
{
    const ZydisDecodedInstruction *insn = &u->insn;
    unsigned at = insn->raw.modrm.offset, end = at + 1, rex = 0x48;
    uint8_t modrm = (uint8_t)((u->bytes[at] & 0xc7) | reg << 3);

    if (is_relative(u)) {
        PUT(u, 0x48, 0x8b, (uint8_t)(reg << 3 | 4), 0x25);
        put32(u, relative_target(u));
        return;
    }
    if (insn->attributes & ZYDIS_ATTRIB_HAS_REX)
        rex |= u->bytes[insn->raw.rex.offset] & 3u;
    if (insn->raw.sib.offset)
        end = insn->raw.sib.offset + 1u;
    if (insn->raw.disp.size)
        end = insn->raw.disp.offset + insn->raw.disp.size / 8u;
    PUT(u, (uint8_t)rex, 0x8b, modrm);
    put(u, u->bytes + at + 1, end - at - 1);
}

/* ---- Pieces ------------------------------------------------------------ */

static bool open_piece(struct unit *u)
{
    struct logging *log = &u->log;

    log->piece =
        bt_trace_begin(u->bt->config.trace, u->bt->config.user, &log->number);
    if (!log->piece)
        return false;
    log->open = true;
    log->piece->gva = insn_gva(u);
    log->begin = u->guest;
    log->words = log->sites = 0;
    memset(log->word, BT_NO_WORD, sizeof log->word);
    return true;
}

static void patch(struct unit *u, uint32_t at, uint32_t value)
{
    memcpy(u->bt->code + at, &value, sizeof value);
}

void log_close(struct unit *u)
{
    struct logging *log = &u->log;
    uint32_t words = log->words;

    if (!log->open)
        return;
    log->open = false;
    patch(u, log->touch, 8 * words);
    patch(u, log->advance, 8 * (words + 1));
    for (unsigned i = 0; i < log->sites; i++)
        patch(u, log->site[i].at, 8 * (log->site[i].word - words));
    log->piece->words = (uint16_t)words;
    if (!log->piece->end)
        log->piece->end = u->at;
}

static void keep(struct unit *u, const struct access *access, unsigned count)
{
    struct bt_trace *trace = u->bt->config.trace;
    struct bt_piece *piece = u->log.piece;
    struct bt_piece_insn *insn = bt_trace_insn(trace, piece);

    insn->guest = (uint16_t)(u->guest - u->log.begin);
    insn->length = u->insn.length;
    insn->logged = 0;
    if (bt_trace_fetches(trace))
        *bt_trace_op(trace, piece) = (struct bt_op){
            .address = insn_gva(u),
            .bytes = u->insn.length,
            .kind = u->bt->config.user ? EVENT_FETCH : EVENT_KERNEL_FETCH,
            .base = BT_NO_WORD,
            .index = BT_NO_WORD,
        };
    for (unsigned i = 0; i < count; i++)
        *bt_trace_op(trace, piece) = access[i].op;
    u->log.insn = insn;
}

/* Fills in what is relative to registers. */
static void want_all(struct unit *u, struct access *access, unsigned count,
                     struct batch *batch)
{
    for (unsigned i = 0; i < count; i++) {
        access[i].op.base = want(u, access[i].base, batch);
        access[i].op.index = want(u, access[i].index, batch);
        if (!is_repeated(u))
            want_value(u, &access[i], batch);
    }
    if (count && is_repeated(u))
        want_string(u, access, count, batch);
}

bool log_before(struct unit *u, bool called_out)
{
    struct access access[ACCESSES];
    struct batch batch = {.count = 0};
    struct logging *log = &u->log;
    bool header = !log->open;
    unsigned count = 0;

    log->reload = false;
    log->after_word = BT_NO_WORD;
    log->written = 0;
    log->insn = NULL;
    if (header && !open_piece(u)) {
        bt_trace_unlogged(u->bt->config.trace);
        return false;
    }
    if (!log->undecoded) {
        ZydisDecoderDecodeOperands(&u->bt->decoder, &u->context, &u->insn,
                                   log->operand, u->insn.operand_count);
        find_written(u);
        count = called_out ? 0 : find_accesses(u, access);
        want_all(u, access, count, &batch);
    }
    keep(u, access, count);
    if (header || batch.count) {
        record(u, BT_INSTRUCTION, BT_START, 0);
        put_batch(u, &batch, header);
    }
    log->insn->begun = u->at;
    return header || batch.count;
}

/* What the instruction left behind, where `reg` or its operand has it. */
static void put_after(struct unit *u)
{
    unsigned used = 0, to, from;

    for (unsigned i = 0; i < u->insn.operand_count; i++) {
        const ZydisDecodedOperand *operand = &u->log.operand[i];

        if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY)
            used |= 1u << gpr_of(operand->mem.base) |
                    1u << gpr_of(operand->mem.index);
    }
    to = scratch(used);
    from = u->log.reload ? scratch(used | 1u << to) : u->log.after_reg;
    record_done(u, 0, 0);
    spill(u, to);
    if (u->log.reload)
        spill(u, from);
    record_done(u, 0, 1u << to | (u->log.reload ? 1u << from : 0));
    if (u->log.reload)
        reload(u, from);
    load_log(u, to);
    log_word(u, from, to, u->log.after_word);
    u->log.insn->logged = u->at;
    if (u->log.reload)
        unspill(u, from);
    unspill(u, to);
}

void log_after(struct unit *u)
{
    struct logging *log = &u->log;

    if (!log->open || !log->insn)
        return;
    if (log->after_word != BT_NO_WORD)
        put_after(u);
    for (unsigned reg = 0; reg < 16; reg++)
        if (log->written >> reg & 1)
            log->word[reg] = BT_NO_WORD;
}
