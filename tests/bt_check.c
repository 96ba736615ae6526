/* It reads the translation with a decoder, and where branches go with another
 * look at the guest's code: nothing of the translator's own. */
#include "tests/bt_check.h"

#include <Zydis/Zydis.h>
#include <string.h>

#define HLT 0xf4

struct check {
    struct bt_cache *cache;
    const uint8_t *code;
    int (*guest)(void *context, uint64_t gva);
    void *context;
    ZydisDecoder decoder;
};

static const struct bt_record *records_of(const struct check *c,
                                          const struct bt_block *block)
{
    return &c->cache->record[block->first_record];
}

static const char *check_record(const struct check *c,
                                const struct bt_block *block, unsigned i)
{
    const struct bt_record *r = &records_of(c, block)[i];
    uint32_t exits = c->cache->exits - block->first_exit;

    if (r->code >= block->code_end - block->code)
        return "a record lies behind its block";
    if (i && r->code < r[-1].code)
        return "records are not in the order of code";
    if (r->guest > block->guest_bytes)
        return "a record's instruction lies behind its block";
    if (r->flags & BT_RIP_EXIT && r->exit >= exits)
        return "a record's exit isn't there";
    if ((r->kind == BT_CALL_OUT || r->kind == BT_EXIT) &&
        c->code[block->code + r->code] != HLT)
        return "no HLT at a call-out or an exit";
    return NULL;
}

static bool is_in(const struct bt_block *block, uint32_t code)
{
    return code >= block->code && code < block->code_end;
}

static const char *check_block(const struct check *c, uint32_t number)
{
    struct bt_block *block = &c->cache->block[number];
    const char *what = NULL;

    if (number && block->code < block[-1].code_end)
        return "blocks overlap";
    if (block->code >= block->code_end ||
        block->code_end > c->cache->code_bytes)
        return "a block's code is outside";
    if (!block->records || records_of(c, block)[0].code)
        return "a block begins without a record";
    if (block->first_record + block->records > c->cache->records)
        return "records that aren't there";
    for (unsigned i = 0; i < block->records && !what; i++)
        what = check_record(c, block, i);
    if (what || !block->valid)
        return what;
    if (bt_find(c->cache, block->gva) != block)
        return "a valid block isn't found";
    return is_in(block, block->entry) ? NULL : "an entry is elsewhere";
}

/* ---- Branches --------------------------------------------------------------
 */

static bool decode_guest(const struct check *c, uint64_t gva,
                         ZydisDecodedInstruction *insn)
{
    uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
    unsigned count = 0;

    for (; count < sizeof bytes; count++) {
        int byte = c->guest(c->context, gva + count);

        if (byte < 0)
            break;
        bytes[count] = (uint8_t)byte;
    }
    return ZYAN_SUCCESS(
        ZydisDecoderDecodeInstruction(&c->decoder, NULL, bytes, count, insn));
}

/* Can the guest's instruction at `gva` go on at `to`? Instructions that can't
 * be decoded are called out, and have no branches. */
static bool leads_to(const struct check *c, uint64_t gva, uint64_t to)
{
    ZydisDecodedInstruction insn;

    if (to == gva) /* where a block ends without a branch */
        return true;
    if (!decode_guest(c, gva, &insn))
        return false;
    if (to == gva + insn.length)
        return true;
    return insn.raw.imm[0].is_relative &&
           to == gva + insn.length + (uint64_t)insn.raw.imm[0].value.s;
}

static struct bt_block *block_of(const struct check *c, uint32_t code)
{
    for (uint32_t i = 0; i < c->cache->blocks; i++)
        if (is_in(&c->cache->block[i], code))
            return &c->cache->block[i];
    return NULL;
}

static const struct bt_record *record_at(const struct check *c,
                                         const struct bt_block *block,
                                         uint32_t code)
{
    const struct bt_record *record = records_of(c, block);
    unsigned i = block->records;

    while (i-- && record[i].code > code - block->code)
        ;
    return &record[i];
}

static uint64_t exit_target(const struct check *c, const struct bt_block *block,
                            const struct bt_record *record)
{
    return c->cache->exit[block->first_exit + record->exit].target;
}

/* To a block, at the start of an instruction, or to a stub: which guest address
 * is that? One that is gone only others that are gone may go to. */
static bool destination(const struct check *c, uint32_t to, bool valid,
                        uint64_t *gva)
{
    struct bt_block *block = block_of(c, to);
    const struct bt_record *record;

    if (!block)
        return false;
    record = record_at(c, block, to);
    *gva = record->kind == BT_EXIT ? exit_target(c, block, record)
                                   : block->gva + record->guest;
    if (record->kind == BT_EXIT)
        return record->code == to - block->code;
    return block->valid >= valid &&
           (to == block->entry ||
            (record->flags & BT_START && record->code == to - block->code));
}

static const char *check_branch(const struct check *c,
                                const struct bt_block *block, uint32_t at,
                                uint32_t to)
{
    const struct bt_record *record = record_at(c, block, at);
    uint64_t gva = block->gva + record->guest, there;

    if (to == BT_MISS_CODE)
        return NULL;
    if (!destination(c, to, block->valid, &there))
        return "a branch leads into nothing";
    if (record->flags & BT_RIP_EXIT)
        return exit_target(c, block, record) == there
                   ? NULL
                   : "a branch that is done leads elsewhere";
    if (there == block->gva && record->spilled) /* a landing by itself */
        return NULL;
    return leads_to(c, gva, there) ? NULL : "a branch leads elsewhere";
}

static const char *check_exits(const struct check *c,
                               const struct bt_block *block)
{
    for (unsigned i = 0; i < block->records; i++) {
        const struct bt_record *r = &records_of(c, block)[i];

        if (r->kind == BT_EXIT &&
            !leads_to(c, block->gva + r->guest, exit_target(c, block, r)))
            return "an exit has a wrong target";
    }
    return NULL;
}

/* JMP and Jcc with a rel32; what is copied of the guest's isn't one. */
static const char *check_code(const struct check *c,
                              const struct bt_block *block)
{
    ZydisDecodedInstruction insn;
    const char *what = NULL;
    uint32_t at = block->code;

    for (; at < block->code_end && !what; at += insn.length) {
        if (!ZYAN_SUCCESS(
                ZydisDecoderDecodeInstruction(&c->decoder, NULL, c->code + at,
                                              block->code_end - at, &insn))) {
            /* 15 prefixes and a HLT, in place of what is too long */
            if (c->code[at] != 0x66)
                return "code that isn't";
            insn.length = 16;
            continue;
        }
        if (insn.raw.imm[0].is_relative && insn.raw.imm[0].size == 32)
            what = check_branch(c, block, at,
                                at + insn.length +
                                    (uint32_t)insn.raw.imm[0].value.s);
    }
    return what;
}

static const char *check_table(const struct check *c, const uint8_t *area)
{
    const uint64_t *table = (const uint64_t *)(area + BT_TABLE);
    uint64_t code = c->cache->va + BT_CODE;

    for (unsigned i = 0; i < BT_TABLE_SIZE; i++) {
        const struct bt_block *block;

        if (table[i] == code + BT_MISS_CODE)
            continue;
        block = block_of(c, (uint32_t)(table[i] - code));
        if (!block || (uint16_t)block->gva != i)
            return "the table leads elsewhere";
        block = bt_find(c->cache, block->gva);
        if (!block || !block->valid || table[i] != code + block->landing)
            return "the table leads to a block that is gone";
    }
    return NULL;
}

const char *bt_check(struct bt_cache *cache, const uint8_t *area,
                     int (*guest)(void *context, uint64_t gva), void *context)
{
    struct check c = {.cache = cache,
                      .code = area + BT_CODE,
                      .guest = guest,
                      .context = context};
    const char *what = NULL;

    ZydisDecoderInit(&c.decoder, ZYDIS_MACHINE_MODE_LONG_64,
                     ZYDIS_STACK_WIDTH_64);
    if (cache->code_bytes > BT_CODE_MAX || cache->blocks > BT_BLOCKS_MAX ||
        cache->records > BT_RECORDS_MAX || cache->exits > BT_EXITS_MAX)
        return "more than there is room for";
    for (uint32_t i = 0; i < cache->blocks && !what; i++)
        what = check_block(&c, i);
    for (uint32_t i = 0; i < cache->blocks && !what; i++) {
        what = check_code(&c, &cache->block[i]);
        if (!what)
            what = check_exits(&c, &cache->block[i]);
    }
    return what ? what : check_table(&c, area);
}
