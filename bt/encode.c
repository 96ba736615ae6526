/* One instruction into another: another ModR/M where the operand was relative
 * to RIP (SDM vol. 2, 2.1 to 2.3, 2.7). */
#include "bt/private.h"

#include <string.h>

#define MODRM_SIB   4
#define SIB_NO_BASE 0x25 /* and no index: disp32 alone */
#define MODRM_REG   0x38

static void put(struct code *code, const void *bytes, unsigned count)
{
    memcpy(code->bytes + code->count, bytes, count);
    code->count += count;
}

static void put8(struct code *code, unsigned byte)
{
    code->bytes[code->count++] = (uint8_t)byte;
}

/* The bits that would extend the new base and index: none of them. They are
 * inverted but in REX. */
static void clear_extensions(const ZydisDecodedInstruction *insn,
                             uint8_t *bytes)
{
    if (insn->attributes & ZYDIS_ATTRIB_HAS_REX)
        bytes[insn->raw.rex.offset] &= (uint8_t)~3;
    else if (insn->attributes & ZYDIS_ATTRIB_HAS_XOP)
        bytes[insn->raw.xop.offset + 1] |= 0x60;
    else if (insn->attributes & ZYDIS_ATTRIB_HAS_EVEX)
        bytes[insn->raw.evex.offset + 1] |= 0x60;
    else if (insn->attributes & ZYDIS_ATTRIB_HAS_VEX && insn->raw.vex.size == 3)
        bytes[insn->raw.vex.offset + 1] |= 0x60;
}

/* All but ModR/M and the displacement is kept. */
static void put_operand(const ZydisDecodedInstruction *insn,
                        const uint8_t *bytes, unsigned rm, struct code *code)
{
    unsigned at = insn->raw.modrm.offset;

    code->count = 0;
    put(code, bytes, at);
    clear_extensions(insn, code->bytes);
    put8(code, (bytes[at] & MODRM_REG) | rm);
}

static void put_rest(const ZydisDecodedInstruction *insn, const uint8_t *bytes,
                     struct code *code)
{
    unsigned end = insn->raw.disp.offset + 4u;

    put(code, bytes + end, insn->length - end);
}

bool encode_absolute(const ZydisDecodedInstruction *insn, const uint8_t *bytes,
                     uint64_t target, struct code *code)
{
    bool narrow = insn->address_width == 32;
    uint32_t disp = (uint32_t)target;

    if (insn->length == ZYDIS_MAX_INSTRUCTION_LENGTH ||
        (!narrow && !fits_32(target)))
        return false;
    put_operand(insn, bytes, MODRM_SIB, code);
    put8(code, SIB_NO_BASE);
    put(code, &disp, sizeof disp);
    put_rest(insn, bytes, code);
    return true;
}

void encode_based(const ZydisDecodedInstruction *insn, const uint8_t *bytes,
                  unsigned reg, struct code *code)
{
    put_operand(insn, bytes, reg, code);
    put_rest(insn, bytes, code);
}

/* Only prefixes that say where the operand is have a meaning for the branch:
 * an operand size doesn't (as Intel has it). */
static void put_prefixes(const ZydisDecodedInstruction *insn, struct code *code)
{
    if (insn->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
        put8(code, 0x64);
    if (insn->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
        put8(code, 0x65);
    if (insn->address_width == 32)
        put8(code, 0x67);
}

void encode_load_target(const ZydisDecodedInstruction *insn,
                        const uint8_t *bytes, bool based, uint64_t target,
                        struct code *code)
{
    unsigned at = insn->raw.modrm.offset;
    unsigned modrm = (bytes[at] & ~MODRM_REG) | REG_CX << 3, rex = 0x48;
    bool relative = insn->attributes & ZYDIS_ATTRIB_IS_RELATIVE;
    uint32_t disp = (uint32_t)target;

    code->count = 0;
    put_prefixes(insn, code);
    if (!relative && insn->attributes & ZYDIS_ATTRIB_HAS_REX)
        rex |= bytes[insn->raw.rex.offset] & 3u;
    put8(code, rex);
    put8(code, 0x8b);
    if (relative && based) {
        put8(code, REG_CX << 3 | REG_DX);
    } else if (relative) {
        put8(code, REG_CX << 3 | MODRM_SIB);
        put8(code, SIB_NO_BASE);
        put(code, &disp, sizeof disp);
    } else {
        put8(code, modrm);
        put(code, bytes + at + 1, insn->length - at - 1);
    }
}
