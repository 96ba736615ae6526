/* What the files of the translator share. */
#ifndef BT_PRIVATE_H
#define BT_PRIVATE_H

#include "bt/bt.h"

#include <Zydis/Zydis.h>

enum { REG_AX, REG_CX, REG_DX, REG_BX, REG_SP, REG_BP, REG_SI, REG_DI };

/* A block ends after so many instructions; the code, records and exits that
 * one can need. */
#define BLOCK_INSTRUCTIONS 48
#define INSTRUCTION_CODE   192
#define LOG_CODE           192 /* and with a trace */
#define BLOCK_RECORDS      ((BLOCK_INSTRUCTIONS + 2) * 14 + 16)
#define BLOCK_EXITS        (BLOCK_INSTRUCTIONS + 2)

#define NONE UINT32_MAX

/* The process's half of a bt_exit and of a bt_block. */
struct exit_link {
    uint32_t site; /* of the branch's rel32: offset in BT_CODE */
    uint32_t stub; /* where it goes when nothing is there */
    uint32_t next; /* with the same hash of the target */
};

struct block_source {
    uint64_t pa, next_pa; /* frames; equal when it is in one */
};

#define ADAPTED_MAX 1024u

struct bt {
    struct bt_config config;
    struct bt_cache *cache;
    uint8_t *code; /* BT_CODE, as this process writes it */
    uint64_t *table;
    struct bt_stats stats;
    ZydisDecoder decoder;
    uint32_t exit_head[BT_HASH];
    struct exit_link link[BT_EXITS_MAX];
    struct block_source source[BT_BLOCKS_MAX];
    uint64_t adapted[ADAPTED_MAX];
    unsigned adapted_count;
};

/* links.c */
/* The branch whose rel32 is at `site` goes to `target`, or to `stub` as long as
 * nothing is there. Its number among all exits. */
uint32_t link_exit(struct bt *bt, uint64_t target, uint32_t site,
                   uint32_t stub);
/* Makes a block known, and every branch to it go there. */
void link_block(struct bt *bt, struct bt_block *block);
bool is_adapted(const struct bt *bt, uint64_t gva);

/* encode.c: one instruction into another */
struct code {
    uint8_t bytes[32];
    unsigned count;
};

/* `insn` with its operand relative to RIP made absolute. False when the address
 * or the length doesn't allow that. */
bool encode_absolute(const ZydisDecodedInstruction *insn, const uint8_t *bytes,
                     uint64_t target, struct code *code);
/* The same by a register (0 to 7, not RSP or RBP) that holds the address. */
void encode_based(const ZydisDecodedInstruction *insn, const uint8_t *bytes,
                  unsigned reg, struct code *code);
/* MOV to RCX of the operand of a near indirect branch; one relative to RIP is
 * at the address in RDX with `based`, and at `target` else. */
void encode_load_target(const ZydisDecodedInstruction *insn,
                        const uint8_t *bytes, bool based, uint64_t target,
                        struct code *code);

static inline uint32_t block_code(const struct bt_config *config)
{
    return (BLOCK_INSTRUCTIONS + 1) *
           (INSTRUCTION_CODE + (config->trace ? LOG_CODE : 0));
}

static inline uint32_t cache_number(const struct bt *bt,
                                    const struct bt_block *block)
{
    return (uint32_t)(block - bt->cache->block);
}

static inline bool fits_32(uint64_t value)
{
    return (uint64_t)(int64_t)(int32_t)value == value;
}

#endif
