#include "bt/unit.h"

#include <errno.h>
#include <stdlib.h>

#define HLT            0xf4
#define BRANCH_SPILLS  (1u << REG_AX | 1u << REG_CX | 1u << REG_DX)
#define INTERRUPTS     (BT_FLAGS + offsetof(struct bt_flags, interrupts))
#define OTHERS         (BT_FLAGS + offsetof(struct bt_flags, others))
#define POPF_SLOW      (BT_POPF + offsetof(struct bt_popf, slow))
#define POPF_INTERRUPT (BT_POPF + offsetof(struct bt_popf, interrupts))
#define IRET_SLOW      (BT_POPF + offsetof(struct bt_popf, slow_iret))
#define MINUS_CS       (BT_STATE + offsetof(struct bt_state, minus_cs))
#define MINUS_SS       (BT_STATE + offsetof(struct bt_state, minus_ss))

/* ---- Glue -------------------------------------------------------------- */

static void load_constant(struct unit *u, unsigned reg, uint64_t value)
{
    PUT(u, 0x48, (uint8_t)(0xb8 | reg));
    put64(u, value);
}

/* A rel32 that the end of the block fills in. */
static void put_branch(struct unit *u, uint64_t target)
{
    u->branch[u->branches++] = (struct branch){target, u->at, u->guest};
    put32(u, 0);
}

static void jump(struct unit *u, uint64_t target)
{
    PUT(u, 0xe9);
    put_branch(u, target);
}

static void call_out(struct unit *u, unsigned spilled, unsigned flags)
{
    record(u, BT_CALL_OUT, flags, spilled);
    PUT(u, HLT);
}

/* ---- Copies ------------------------------------------------------------ */

static void count_class(struct unit *u, enum bt_class class)
{
    u->bt->stats.instructions[class]++;
}

static unsigned used(ZydisRegister reg)
{
    ZydisRegister wide =
        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

    return ZydisRegisterGetClass(wide) == ZYDIS_REGCLASS_GPR64
               ? 1u << ZydisRegisterGetId(wide)
               : 0;
}

/* A register that the instruction has nothing to do with. */
static unsigned spare_register(const struct unit *u)
{
    static const uint8_t candidates[] = {REG_AX, REG_CX, REG_DX,
                                         REG_BX, REG_SI, REG_DI};
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    unsigned mask = 0, i = 0;

    ZydisDecoderDecodeOperands(&u->bt->decoder, &u->context, &u->insn, operand,
                               u->insn.operand_count);
    for (unsigned n = 0; n < u->insn.operand_count; n++) {
        if (operand[n].type == ZYDIS_OPERAND_TYPE_REGISTER)
            mask |= used(operand[n].reg.value);
        else if (operand[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
            mask |= used(operand[n].mem.base) | used(operand[n].mem.index);
    }
    while (i + 1 < sizeof candidates && mask & 1u << candidates[i])
        i++;
    return candidates[i];
}

static void copy_relative(struct unit *u)
{
    struct code code;
    unsigned reg;

    count_class(u, BT_RIP_RELATIVE);
    record(u, BT_INSTRUCTION, BT_START, 0);
    if (encode_absolute(&u->insn, u->bytes, relative_target(u), &code)) {
        put(u, code.bytes, code.count);
        return;
    }
    reg = spare_register(u);
    encode_based(&u->insn, u->bytes, reg, &code);
    spill(u, reg);
    record(u, BT_INSTRUCTION, 0, 1u << reg);
    load_constant(u, reg, relative_target(u));
    put(u, code.bytes, code.count);
    record_done(u, 0, 1u << reg);
    unspill(u, reg);
}

static void copy(struct unit *u)
{
    if (is_relative(u)) {
        copy_relative(u);
        return;
    }
    count_class(u, BT_IDENTITY);
    record(u, BT_INSTRUCTION, BT_START, 0);
    put(u, u->bytes, u->insn.length);
}

/* ---- Branches ---------------------------------------------------------- */

static uint64_t branch_target(const struct unit *u)
{
    return next_gva(u) + (uint64_t)u->insn.raw.imm[0].value.s;
}

static void translate_jump(struct unit *u)
{
    count_class(u, BT_JUMP);
    record(u, BT_INSTRUCTION, BT_START, 0);
    jump(u, branch_target(u));
    u->ended = true;
}

static void translate_conditional(struct unit *u)
{
    count_class(u, BT_CONDITIONAL);
    record(u, BT_INSTRUCTION, BT_START, 0);
    PUT(u, 0x0f, (uint8_t)(0x80 | (u->insn.opcode & 15)));
    put_branch(u, branch_target(u));
}

/* To AMD's CPUs F2 and F3 say LOOPNE and LOOPE. */
static void put_repeat(struct unit *u)
{
    for (unsigned i = 0; i + 2 < u->insn.length; i++)
        if ((u->bytes[i] | 1) == 0xf3)
            PUT(u, u->bytes[i]);
}

/* LOOP, LOOPE, LOOPNE and JRCXZ know no far targets. */
static void translate_loop(struct unit *u)
{
    count_class(u, BT_CONDITIONAL);
    record(u, BT_INSTRUCTION, BT_START, 0);
    if (u->insn.address_width == 32)
        PUT(u, 0x67);
    put_repeat(u);
    PUT(u, u->insn.opcode, 2);
    record_done(u, 0, 0);
    PUT(u, 0xeb, 5);
    record_done(u, BT_RIP_EXIT, 0);
    jump(u, branch_target(u));
}

/* One instruction writes to the stack: PUSH. */
static unsigned push_return(struct unit *u)
{
    uint64_t address = next_gva(u);

    if (fits_32(address)) {
        PUT(u, 0x68);
        put32(u, address);
        return 0;
    }
    spill(u, REG_AX);
    load_constant(u, REG_AX, address);
    record(u, BT_INSTRUCTION, 0, 1u << REG_AX);
    PUT(u, 0x50);
    return 1u << REG_AX;
}

static void translate_call(struct unit *u)
{
    unsigned spilled;

    count_class(u, BT_CALL);
    record(u, BT_INSTRUCTION, BT_START, 0);
    spilled = push_return(u);
    record(u, BT_INSTRUCTION, BT_RIP_EXIT, spilled);
    if (spilled)
        unspill(u, REG_AX);
    jump(u, branch_target(u));
    u->ended = true;
}

static void spill_for_branch(struct unit *u)
{
    spill(u, REG_AX);
    spill(u, REG_CX);
    spill(u, REG_DX);
}

/* To the target in RCX, the three registers spilled. RDX is the address behind
 * the LEA. */
static void branch_by_table(struct unit *u, enum bt_branch branch)
{
    struct bt_cache *cache = u->bt->cache;
    uint32_t here;

    record(u, BT_INSTRUCTION, BT_RIP_RCX, BRANCH_SPILLS);
    cache->record[cache->records - 1].exit = branch;
    PUT(u, 0x48, 0x8d, 0x15, 0, 0, 0, 0); /* lea 0(%rip), %rdx */
    here = u->at;
    PUT(u, 0x0f, 0xb7, 0xc1); /* movzwl %cx, %eax */
    PUT(u, 0xff, 0xa4, 0xc2); /* jmp *TABLE-here(%rdx,%rax,8) */
    put32(u, BT_TABLE - (BT_CODE + here));
    u->ended = true;
}

static void translate_return(struct unit *u)
{
    enum bt_branch branch = BT_BRANCH_POPPED;
    uint32_t release = 8;

    count_class(u, BT_RETURN);
    record(u, BT_INSTRUCTION, BT_START, 0);
    spill_for_branch(u);
    if (u->insn.opcode == 0xc2) {
        branch = BT_BRANCH_SAVED;
        release += (uint16_t)u->insn.raw.imm[0].value.u;
        spill_as(u, REG_SP, REG_BP);
        PUT(u, 0x48, 0x8b, 0x0c, 0x24); /* mov (%rsp), %rcx */
        record(u, BT_INSTRUCTION, 0, BRANCH_SPILLS);
        PUT(u, 0x48, 0x8d, 0xa4, 0x24); /* lea release(%rsp), %rsp */
        put32(u, release);
    } else {
        PUT(u, 0x59); /* pop %rcx */
    }
    branch_by_table(u, branch);
}

static void translate_indirect(struct unit *u)
{
    bool relative = is_relative(u);
    bool based =
        relative && u->insn.address_width == 64 && !fits_32(relative_target(u));
    bool call = u->insn.raw.modrm.reg == 2;
    struct code code;

    count_class(u, BT_INDIRECT);
    record(u, BT_INSTRUCTION, BT_START, 0);
    spill_for_branch(u);
    if (based) {
        record(u, BT_INSTRUCTION, 0, BRANCH_SPILLS);
        load_constant(u, REG_DX, relative_target(u));
    }
    encode_load_target(&u->insn, u->bytes, based,
                       relative ? relative_target(u) : 0, &code);
    put(u, code.bytes, code.count);
    if (call) {
        record(u, BT_INSTRUCTION, 0, BRANCH_SPILLS);
        if (fits_32(next_gva(u))) {
            PUT(u, 0x68);
            put32(u, next_gva(u));
        } else {
            load_constant(u, REG_AX, next_gva(u));
            PUT(u, 0x50);
        }
    }
    branch_by_table(u, call ? BT_BRANCH_PUSHED : BT_BRANCH_NOTHING);
}

/* ---- In line ----------------------------------------------------------- */

static void translate_cli_sti(struct unit *u, uint8_t interrupts)
{
    count_class(u, BT_IN_LINE);
    record(u, BT_INSTRUCTION, BT_START, 0);
    PUT(u, 0xc6, 0x05); /* movb $interrupts, INTERRUPTS(%rip) */
    put_area(u, INTERRUPTS, 1);
    PUT(u, interrupts);
}

/* The real IF is 1, the real IOPL and NT are 0. */
static void translate_pushf(struct unit *u)
{
    const unsigned spills = 1u << REG_AX | 1u << REG_CX;

    count_class(u, BT_IN_LINE);
    record(u, BT_INSTRUCTION, BT_START, 0);
    spill(u, REG_AX);
    spill(u, REG_CX);
    PUT(u, 0x9c);
    record(u, BT_INSTRUCTION, BT_PUSHED, spills);
    PUT(u, 0x0f, 0xb6, 0x44, 0x24, 0x01); /* movzbl 1(%rsp), %eax */
    PUT(u, 0x0f, 0xb6, 0x0d);             /* movzbl INTERRUPTS(%rip), %ecx */
    put_area(u, INTERRUPTS, 0);
    PUT(u, 0x8d, 0x44, 0x08, 0xfe); /* lea -2(%rax,%rcx), %eax */
    PUT(u, 0x0f, 0xb6, 0x0d);       /* movzbl OTHERS(%rip), %ecx */
    put_area(u, OTHERS, 0);
    PUT(u, 0x8d, 0x04, 0x08);       /* lea (%rax,%rcx), %eax */
    PUT(u, 0x88, 0x44, 0x24, 0x01); /* mov %al, 1(%rsp) */
    record_done(u, 0, spills);
    unspill(u, REG_CX);
    unspill(u, REG_AX);
}

/* A HLT unless RCX is 0. */
static void slow_unless_zero(struct unit *u, unsigned spills)
{
    PUT(u, 0xe3, 1);
    call_out(u, spills, 0);
    record(u, BT_INSTRUCTION, 0, spills);
}

/* The monitor does one that sets more than the arithmetic flags, DF and IF. The
 * virtual IF comes first: until POPF is done, the guest is seen before it with
 * the IF that it is about to have. */
static void translate_popf(struct unit *u)
{
    const unsigned spills = 1u << REG_AX | 1u << REG_CX;

    count_class(u, BT_IN_LINE);
    record(u, BT_INSTRUCTION, BT_START, 0);
    spill(u, REG_AX);
    spill(u, REG_CX);
    record(u, BT_INSTRUCTION, 0, spills);
    PUT(u, 0x0f, 0xb6, 0x4c, 0x24, 0x02); /* movzbl 2(%rsp), %ecx */
    slow_unless_zero(u, spills);
    PUT(u, 0x0f, 0xb6, 0x44, 0x24, 0x01); /* movzbl 1(%rsp), %eax */
    PUT(u, 0x48, 0x8d, 0x0d);             /* lea SLOW(%rip), %rcx */
    put_area(u, POPF_SLOW, 0);
    PUT(u, 0x0f, 0xb6, 0x0c, 0x01); /* movzbl (%rcx,%rax), %ecx */
    slow_unless_zero(u, spills);
    PUT(u, 0x48, 0x8d, 0x0d); /* lea INTERRUPT(%rip), %rcx */
    put_area(u, POPF_INTERRUPT, 0);
    PUT(u, 0x8a, 0x04, 0x01); /* mov (%rcx,%rax), %al */
    PUT(u, 0x88, 0x05);       /* mov %al, INTERRUPTS(%rip) */
    put_area(u, INTERRUPTS, 0);
    PUT(u, 0xc6, 0x05); /* movb $0, OTHERS(%rip) */
    put_area(u, OTHERS, 1);
    PUT(u, 0);
    unspill(u, REG_CX);
    unspill(u, REG_AX);
    PUT(u, 0x9d);
}

/* A HLT unless the selector at `offset` from RSP is the one at `area`. */
static void slow_unless_same(struct unit *u, uint8_t offset, uint32_t area)
{
    PUT(u, 0x48, 0x8b, 0x4c, 0x24, offset); /* mov offset(%rsp), %rcx */
    PUT(u, 0x48, 0x8b, 0x15);               /* mov area(%rip), %rdx */
    put_area(u, area, 0);
    PUT(u, 0x48, 0x8d, 0x0c, 0x11); /* lea (%rcx,%rdx), %rcx */
    slow_unless_zero(u, BRANCH_SPILLS);
}

/* A HLT unless the table at `area` has 0 for the byte at `offset` from RSP. */
static void slow_by_table(struct unit *u, uint8_t offset, uint32_t area)
{
    PUT(u, 0x0f, 0xb6, 0x44, 0x24, offset); /* movzbl offset(%rsp), %eax */
    PUT(u, 0x48, 0x8d, 0x15);               /* lea area(%rip), %rdx */
    put_area(u, area, 0);
    PUT(u, 0x0f, 0xb6, 0x0c, 0x02); /* movzbl (%rdx,%rax), %ecx */
    slow_unless_zero(u, BRANCH_SPILLS);
}

/* One to the CS and SS in use, without what POPF leaves to the monitor: the
 * kernel's own, from an interrupt or a fault of its. Their descriptors are not
 * read again. The virtual IF comes first, as with POPF; RF is lost. */
static void translate_iret(struct unit *u)
{
    count_class(u, BT_IN_LINE);
    record(u, BT_INSTRUCTION, BT_START, 0);
    spill_for_branch(u);
    spill_as(u, REG_SP, REG_BP);
    record(u, BT_INSTRUCTION, 0, BRANCH_SPILLS);
    slow_unless_same(u, 8, MINUS_CS);
    slow_unless_same(u, 32, MINUS_SS);
    PUT(u, 0x0f, 0xb6, 0x0d); /* movzbl OTHERS(%rip), %ecx */
    put_area(u, OTHERS, 0);
    slow_unless_zero(u, BRANCH_SPILLS);
    slow_by_table(u, 18, IRET_SLOW);
    slow_by_table(u, 17, POPF_SLOW);
    PUT(u, 0x48, 0x8b, 0x54, 0x24, 24); /* mov 24(%rsp), %rdx */
    spill_as(u, REG_DX, REG_SP);
    PUT(u, 0x48, 0x8b, 0x0c, 0x24); /* mov (%rsp), %rcx */
    PUT(u, 0x48, 0x8d, 0x15);       /* lea INTERRUPT(%rip), %rdx */
    put_area(u, POPF_INTERRUPT, 0);
    PUT(u, 0x8a, 0x04, 0x02); /* mov (%rdx,%rax), %al */
    PUT(u, 0x88, 0x05);       /* mov %al, INTERRUPTS(%rip) */
    put_area(u, INTERRUPTS, 0);
    PUT(u, 0x48, 0x8d, 0x64, 0x24, 16); /* lea 16(%rsp), %rsp */
    record(u, BT_INSTRUCTION, BT_POPPED, BRANCH_SPILLS);
    PUT(u, 0x9d);
    record(u, BT_INSTRUCTION, BT_RIP_RCX, BRANCH_SPILLS | 1u << REG_SP);
    unspill(u, REG_SP);
    branch_by_table(u, BT_BRANCH_SAVED);
}

/* ---- Which is which ---------------------------------------------------- */

static bool is_map(const struct unit *u, ZydisOpcodeMap map)
{
    return u->insn.opcode_map == map &&
           u->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
}

/* True when the instruction is a near branch. */
static bool translate_branch(struct unit *u)
{
    unsigned opcode = u->insn.opcode, reg = u->insn.raw.modrm.reg;

    if (is_map(u, ZYDIS_OPCODE_MAP_0F) && (opcode & 0xf0) == 0x80) {
        translate_conditional(u);
        return true;
    }
    if (!is_map(u, ZYDIS_OPCODE_MAP_DEFAULT))
        return false;
    if ((opcode & 0xf0) == 0x70)
        translate_conditional(u);
    else if (opcode == 0xe9 || opcode == 0xeb)
        translate_jump(u);
    else if (opcode == 0xe8)
        translate_call(u);
    else if (opcode == 0xc2 || opcode == 0xc3)
        translate_return(u);
    else if (opcode == 0xff && (reg == 2 || reg == 4))
        translate_indirect(u);
    else if (opcode >= 0xe0 && opcode <= 0xe3)
        translate_loop(u);
    else
        return false;
    return true;
}

static bool translate_in_line(struct unit *u)
{
    if (u->bt->config.user)
        return false;
    if (!is_map(u, ZYDIS_OPCODE_MAP_DEFAULT))
        return false;
    if (u->insn.opcode == 0xfa)
        translate_cli_sti(u, 0);
    else if (u->insn.opcode == 0xfb)
        translate_cli_sti(u, 2);
    else if (u->insn.opcode == 0x9c && u->insn.operand_width == 64)
        translate_pushf(u);
    else if (u->insn.opcode == 0x9d && u->insn.operand_width == 64)
        translate_popf(u);
    else if (u->insn.opcode == 0xcf && u->insn.operand_width == 64 &&
             !u->bt->config.trace)
        translate_iret(u);
    else
        return false;
    return true;
}

/* What goes on elsewhere, or can't be known to come back. */
static bool ends_block(const struct unit *u)
{
    switch (u->insn.meta.category) {
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_RET:
        return true;
    default:
        return u->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
               u->insn.mnemonic == ZYDIS_MNEMONIC_UD0 ||
               u->insn.mnemonic == ZYDIS_MNEMONIC_UD1 ||
               u->insn.mnemonic == ZYDIS_MNEMONIC_UD2;
    }
}

static bool is_called_out(const struct unit *u)
{
    const struct bt_config *config = &u->bt->config;

    if (u->insn.raw.imm[0].is_relative) /* XBEGIN */
        return true;
    if (config->user)
        return u->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
               u->insn.meta.category == ZYDIS_CATEGORY_RET;
    switch (u->insn.meta.category) {
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
        return true;
    default:
        return u->insn.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED ||
               u->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
               is_adapted(u->bt, insn_gva(u)) ||
               (config->is_sensitive &&
                config->is_sensitive(u->bytes, u->insn.length));
    }
}

/* True when nothing can come behind it in the block. */
static bool translate_other(struct unit *u)
{
    if (is_called_out(u)) {
        count_class(u, BT_CALLED_OUT);
        call_out(u, 0, BT_START);
        return u->bt->config.trace; /* nobody comes back to the midst */
    }
    copy(u);
    return false;
}

static void translate_instruction(struct unit *u)
{
    bool ends = ends_block(u);

    u->log.insn_open = false;
    if (translate_branch(u)) {
        log_close(u);
        return;
    }
    if (!translate_in_line(u) && translate_other(u)) {
        u->ended = true;
        return;
    }
    log_after(u);
    if (ends) {
        u->guest += u->insn.length;
        record(u, BT_INSTRUCTION, 0, 0);
        jump(u, insn_gva(u));
        u->guest -= u->insn.length;
        u->ended = true;
    }
}

/* ---- Blocks ------------------------------------------------------------ */

/* As many bytes as an instruction can have, or as are known. */
static unsigned gather(struct unit *u)
{
    const struct bt_request *r = u->request;
    unsigned room = r->count - u->guest;
    unsigned count = room < INSN_MAX ? room : INSN_MAX;

    memcpy(u->bytes, r->bytes + u->guest, count);
    if (count < INSN_MAX && r->next) {
        memcpy(u->bytes + count, r->next, INSN_MAX - count);
        count = INSN_MAX;
    }
    return count;
}

enum decoded { DECODED, UNDECODED, TOO_LONG, TOO_SHORT };

static enum decoded decode(struct unit *u)
{
    unsigned count = gather(u);
    ZyanStatus status = ZydisDecoderDecodeInstruction(
        &u->bt->decoder, &u->context, u->bytes, count, &u->insn);

    if (ZYAN_SUCCESS(status))
        return DECODED;
    if (status == ZYDIS_STATUS_NO_MORE_DATA && count < INSN_MAX)
        return TOO_SHORT;
    u->insn.length = 1;
    return status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ||
                   status == ZYDIS_STATUS_NO_MORE_DATA
               ? TOO_LONG
               : UNDECODED;
}

static bool crosses_page(const struct unit *u)
{
    return u->guest + u->insn.length > u->request->count;
}

/* What is longer than an instruction can be raises #GP by itself. */
static void translate_undecoded(struct unit *u, bool too_long)
{
    count_class(u, BT_UNDECODED);
    u->log.undecoded = true;
    u->log.insn_open = false;
    record(u, too_long ? BT_INSTRUCTION : BT_CALL_OUT, BT_START, 0);
    for (unsigned i = 0; too_long && i < INSN_MAX; i++)
        PUT(u, 0x66);
    PUT(u, HLT);
    u->ended = true;
}

/* An instruction that crosses pages has a block of its own. */
static void translate_body(struct unit *u, enum decoded decoded)
{
    for (unsigned n = 0;; n++) {
        bool crosses = decoded == DECODED && crosses_page(u);

        if (n == BLOCK_INSTRUCTIONS || decoded == TOO_SHORT ||
            u->guest >= u->request->count || (n && crosses))
            break;
        if (decoded == DECODED)
            translate_instruction(u);
        else
            translate_undecoded(u, decoded == TOO_LONG);
        u->guest += u->insn.length;
        if (u->ended || u->guest >= u->request->count)
            break;
        decoded = decode(u);
    }
    log_close(u);
    if (!u->ended) {
        record(u, BT_INSTRUCTION, 0, 0);
        jump(u, insn_gva(u));
    }
}

static void translate_stubs(struct unit *u)
{
    struct bt *bt = u->bt;
    unsigned branches = u->branches;

    for (u->branches = 0; u->branches < branches; u->branches++) {
        const struct branch *branch = &u->branch[u->branches];
        uint32_t stub = u->at;

        u->guest = branch->guest;
        record(u, BT_EXIT, BT_RIP_EXIT, 0);
        PUT(u, HLT);
        link_exit(bt, branch->target, branch->site, stub);
    }
}

/* RCX += value; RAX may go. */
static void add_rcx(struct unit *u, uint64_t value)
{
    if (fits_32(value)) {
        PUT(u, 0x48, 0x8d, 0x89);
        put32(u, value);
    } else {
        load_constant(u, REG_AX, value);
        PUT(u, 0x48, 0x8d, 0x0c, 0x01);
    }
}

/* Where indirect branches come: is it this block that they mean? */
static void translate_landing(struct unit *u)
{
    uint64_t gva = u->block->gva;
    uint32_t over;

    u->block->landing = u->at;
    record(u, BT_INSTRUCTION, BT_RIP_RCX, BRANCH_SPILLS);
    add_rcx(u, -gva);
    record(u, BT_INSTRUCTION, BT_RIP_GVA, BRANCH_SPILLS);
    PUT(u, 0xe3, 0);
    over = u->at;
    add_rcx(u, gva);
    record(u, BT_INSTRUCTION, BT_RIP_RCX, BRANCH_SPILLS);
    PUT(u, 0xe9);
    put32(u, BT_MISS_CODE - (u->at + 4));
    u->bt->code[over - 1] = (uint8_t)(u->at - over);
    record(u, BT_INSTRUCTION, 0, BRANCH_SPILLS);
    unspill(u, REG_DX);
    unspill(u, REG_AX);
    unspill(u, REG_CX);
    u->bt->stats.landings++;
}

static struct bt_block *begin_block(struct unit *u, uint64_t gva)
{
    struct bt_cache *cache = u->bt->cache;

    u->at = cache->code_bytes;
    u->block = &cache->block[cache->blocks];
    *u->block = (struct bt_block){
        .gva = gva,
        .code = u->at,
        .first_record = cache->records,
        .first_exit = cache->exits,
    };
    return u->block;
}

static uint16_t records_so_far(const struct unit *u)
{
    return (uint16_t)(u->bt->cache->records - u->block->first_record);
}

static void end_block(struct unit *u)
{
    struct bt_cache *cache = u->bt->cache;

    u->block->code_end = u->at;
    u->block->records = records_so_far(u);
    u->bt->stats.code_bytes += u->at - u->block->code;
    cache->code_bytes = u->at;
    cache->blocks++;
}

/* For a block that only branches have known so far: elsewhere, as a block that
 * nobody finds. */
static void add_landing(struct bt *bt, struct bt_block *target)
{
    struct unit u = {.bt = bt};
    struct bt_block *block = begin_block(&u, target->gva);

    translate_landing(&u);
    PUT(&u, 0xe9);
    put32(&u, target->entry - (u.at + 4));
    bt->source[cache_number(bt, block)] = bt->source[cache_number(bt, target)];
    target->landing = block->landing;
    end_block(&u);
}

static bool has_room(const struct bt *bt)
{
    const struct bt_cache *cache = bt->cache;

    return cache->code_bytes + block_code(&bt->config) <=
               bt->config.code_bytes &&
           cache->blocks < BT_BLOCKS_MAX &&
           cache->records + BLOCK_RECORDS <= BT_RECORDS_MAX &&
           cache->exits + BLOCK_EXITS <= BT_EXITS_MAX;
}

static int make_block(struct bt *bt, const struct bt_request *request)
{
    struct unit u = {.bt = bt, .request = request};
    enum decoded decoded = decode(&u);
    struct bt_block *block;

    if (decoded == TOO_SHORT)
        return -ENODATA;
    block = begin_block(&u, request->gva);
    if (request->indirect)
        translate_landing(&u);
    block->entry = u.at;
    translate_body(&u, decoded);
    block->guest_bytes = u.guest;
    block->ordered = records_so_far(&u);
    bt->source[cache_number(bt, block)] = (struct block_source){
        request->pa & ~4095ull,
        (block->guest_bytes > request->count ? request->next_pa : request->pa) &
            ~4095ull,
    };
    translate_stubs(&u);
    end_block(&u);
    bt->stats.blocks++;
    bt->stats.guest_bytes += block->guest_bytes;
    link_block(bt, block);
    return 0;
}

int bt_translate(struct bt *bt, const struct bt_request *request)
{
    struct bt_block *block = bt_find(bt->cache, request->gva);
    int err = 0;

    if (!has_room(bt)) {
        bt_flush(bt);
        bt->stats.flushes++;
        block = NULL;
    }
    if (!block)
        err = make_block(bt, request);
    else if (request->indirect && !block->landing)
        add_landing(bt, block);
    if (!err && request->indirect)
        bt_remember(bt->cache, bt->table, request->gva);
    return err;
}

/* ---- Life -------------------------------------------------------------- */

static void fill_popf(struct bt_popf *popf)
{
    for (unsigned i = 0; i < 256; i++) {
        popf->slow[i] = (i & 0x71) != 0; /* TF, IOPL, NT */
        popf->interrupts[i] = i & 2;
        popf->slow_iret[i] = i > 1;
    }
}

void bt_flush(struct bt *bt)
{
    struct bt_cache *cache = bt->cache;

    if (bt->config.trace)
        bt_trace_forget(bt->config.trace, bt->config.user);
    cache->blocks = cache->records = cache->exits = 0;
    cache->code_bytes = BT_CODE_FIRST;
    memset(cache->hash, 0, sizeof cache->hash);
    for (unsigned i = 0; i < BT_HASH; i++)
        bt->exit_head[i] = NONE;
    for (unsigned i = 0; i < BT_TABLE_SIZE; i++)
        bt->table[i] = bt->config.va + BT_CODE + BT_MISS_CODE;
}

int bt_create(struct bt **out, const struct bt_config *config, struct why *why)
{
    uint32_t least = BT_CODE_FIRST + block_code(config);
    struct bt *bt = calloc(1, sizeof *bt);

    *out = bt;
    if (!bt)
        return why_set(why, ENOMEM, "no memory for the binary translator");
    bt->config = *config;
    if (!bt->config.code_bytes || bt->config.code_bytes > BT_CODE_MAX)
        bt->config.code_bytes = BT_CODE_MAX;
    if (bt->config.code_bytes < least)
        bt->config.code_bytes = least;
    bt->cache = config->cache;
    bt->cache->va = config->va;
    bt->code = config->area + BT_CODE;
    bt->table = (uint64_t *)(config->area + BT_TABLE);
    bt->code[BT_MISS_CODE] = HLT;
    fill_popf((struct bt_popf *)(config->area + BT_POPF));
    ZydisDecoderInit(&bt->decoder, ZYDIS_MACHINE_MODE_LONG_64,
                     ZYDIS_STACK_WIDTH_64);
    bt_flush(bt);
    return 0;
}

void bt_destroy(struct bt *bt)
{
    free(bt);
}

const struct bt_stats *bt_stats(struct bt *bt)
{
    bt->stats.lookups = bt->cache->lookups;
    bt->stats.hits = bt->cache->hits;
    return &bt->stats;
}

const char *bt_class_name(enum bt_class class)
{
    static const char *const names[BT_CLASSES] = {
        [BT_IDENTITY] = "identity",       [BT_RIP_RELATIVE] = "rip_relative",
        [BT_IN_LINE] = "in_line",         [BT_JUMP] = "jump",
        [BT_CONDITIONAL] = "conditional", [BT_CALL] = "call",
        [BT_RETURN] = "return",           [BT_INDIRECT] = "indirect",
        [BT_CALLED_OUT] = "called_out",   [BT_UNDECODED] = "undecoded",
    };

    return class < BT_CLASSES ? names[class] : NULL;
}
