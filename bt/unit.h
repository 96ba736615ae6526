/* A block in the making, and what its makers write with: translate.c, and
 * log.c, which adds what is logged. */
#ifndef BT_UNIT_H
#define BT_UNIT_H

#include "bt/private.h"

#include <string.h>

#define INSN_MAX ZYDIS_MAX_INSTRUCTION_LENGTH

#define LOG_WORDS_MAX 240 /* of a piece: less than a page */

/* A word of the log whose place is known when its piece is whole. */
struct log_site {
    uint32_t at; /* of the disp32 in BT_CODE */
    uint16_t word;
};

/* The piece that is open (bt/trace.h), and its last instruction. */
struct logging {
    bool open;
    bool undecoded;
    bool insn_open; /* log_before has been there */
    uint32_t number;
    struct bt_piece *piece;
    uint16_t begin; /* its first instruction, in the block */
    unsigned words;
    uint8_t word[16];        /* that has the register as it is now */
    uint32_t touch, advance; /* of a disp32 in BT_CODE */
    unsigned sites;
    struct log_site site[LOG_WORDS_MAX];

    struct bt_piece_insn *insn;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    uint16_t written;   /* registers */
    uint8_t after_word; /* written when it is done, of `after_reg` or: */
    uint8_t after_reg;
    bool reload; /* what is then at its operand */
};

/* A branch whose target the end of the block sees to. */
struct branch {
    uint64_t target;
    uint32_t site;
    uint16_t guest;
};

/* A block in the making. */
struct unit {
    struct bt *bt;
    const struct bt_request *request;
    struct bt_block *block;
    uint32_t at;    /* offset in BT_CODE */
    uint16_t guest; /* of the instruction */
    bool ended;
    unsigned branches;
    struct branch branch[BLOCK_EXITS];
    ZydisDecodedInstruction insn;
    ZydisDecoderContext context;
    uint8_t bytes[INSN_MAX];
    struct logging log;
};

static inline uint64_t insn_gva(const struct unit *u)
{
    return u->block->gva + u->guest;
}

static inline uint64_t next_gva(const struct unit *u)
{
    return insn_gva(u) + u->insn.length;
}

/* ---- Code and records -------------------------------------------------- */

static inline void put(struct unit *u, const void *bytes, unsigned count)
{
    memcpy(u->bt->code + u->at, bytes, count);
    u->at += count;
}

#define PUT(u, ...)                        \
    put(u, (const uint8_t[]){__VA_ARGS__}, \
        sizeof((const uint8_t[]){__VA_ARGS__}))

static inline void put32(struct unit *u, uint64_t value)
{
    put(u, &value, 4);
}

static inline void put64(struct unit *u, uint64_t value)
{
    put(u, &value, 8);
}

/* What ends an instruction that is relative to RIP: `offset` in the area, and
 * `more` bytes behind it. */
static inline void put_area(struct unit *u, uint32_t offset, unsigned more)
{
    put32(u, offset - (BT_CODE + u->at + 4 + more));
}

/* Before an instruction's translation: its accesses are logged. True when that
 * took code, which begins the translation. */
bool log_before(struct unit *u, bool called_out);

#define BRANCH_DONE (BT_RIP_RCX | BT_RIP_GVA | BT_RIP_EXIT)

/* What follows is one, from here on. */
static inline void record(struct unit *u, enum bt_kind kind, unsigned flags,
                          unsigned spilled)
{
    struct bt_cache *cache = u->bt->cache;

    if (u->bt->config.trace && flags & BT_START && !u->log.insn_open) {
        u->log.insn_open = true;
        if (log_before(u, kind == BT_CALL_OUT))
            flags &= ~(unsigned)BT_START;
    }
    if (flags & BRANCH_DONE && u->log.open && !u->log.piece->end)
        u->log.piece->end = u->at;
    cache->record[cache->records++] = (struct bt_record){
        .code = (uint16_t)(u->at - u->block->code),
        .guest = u->guest,
        .spilled = (uint16_t)spilled,
        .kind = kind & 3,
        .flags = flags & 63,
        .exit = (uint8_t)u->branches,
    };
}

/* The instruction is done, but for what is spilled. */
static inline void record_done(struct unit *u, unsigned flags, unsigned spilled)
{
    uint16_t guest = u->guest;

    u->guest += u->insn.length;
    record(u, BT_INSTRUCTION, flags, spilled);
    u->guest = guest;
}

/* Into the place of `as`. */
static inline void spill_as(struct unit *u, unsigned reg, unsigned as)
{
    PUT(u, 0x48, 0x89, (uint8_t)(reg << 3 | 5));
    put_area(u, BT_STATE + 8 * as, 0);
}

static inline void spill(struct unit *u, unsigned reg)
{
    spill_as(u, reg, reg);
}

static inline void unspill(struct unit *u, unsigned reg)
{
    PUT(u, 0x48, 0x8b, (uint8_t)(reg << 3 | 5));
    put_area(u, BT_STATE + 8 * reg, 0);
}

static inline bool is_relative(const struct unit *u)
{
    const ZydisDecodedInstruction *insn = &u->insn;

    return insn->attributes & ZYDIS_ATTRIB_HAS_MODRM &&
           insn->attributes & ZYDIS_ATTRIB_IS_RELATIVE &&
           insn->raw.modrm.mod == 0 && insn->raw.modrm.rm == 5;
}

static inline uint64_t relative_target(const struct unit *u)
{
    uint64_t target = next_gva(u) + (uint64_t)u->insn.raw.disp.value;

    return u->insn.address_width == 32 ? (uint32_t)target : target;
}

/* ---- log.c -------------------------------------------------------------- */

/* Behind an instruction's translation, and where a straight piece ends;
 * nothing without a trace. */
void log_after(struct unit *u);
void log_close(struct unit *u);

#endif
