#include "bt/cache.h"

#define BRANCH_SPILLS 7 /* RAX, RCX, RDX */
#define REG_BP        5

struct bt_block *bt_find(struct bt_cache *cache, uint64_t gva)
{
    uint32_t next = cache->hash[bt_hash(gva)];

    while (next && cache->block[next - 1].gva != gva)
        next = cache->block[next - 1].next;
    return next ? &cache->block[next - 1] : NULL;
}

static bool is_in(const struct bt_block *block, uint32_t code)
{
    return code >= block->code && code < block->code_end;
}

static struct bt_block *block_at(struct bt_cache *cache, uint32_t code)
{
    uint32_t low = 0, high = cache->blocks;

    if (cache->recent < high && is_in(&cache->block[cache->recent], code))
        return &cache->block[cache->recent];
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;

        if (cache->block[middle].code <= code)
            low = middle;
        else
            high = middle;
    }
    if (low == high || !is_in(&cache->block[low], code))
        return NULL;
    cache->recent = low;
    return &cache->block[low];
}

static const struct bt_record *record_at(const struct bt_cache *cache,
                                         const struct bt_block *block,
                                         uint32_t code)
{
    const struct bt_record *record = &cache->record[block->first_record];
    uint32_t low = 0, high = block->records;

    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;

        if (record[middle].code <= code)
            low = middle;
        else
            high = middle;
    }
    return &record[low];
}

static uint64_t rip_of(const struct bt_cache *cache,
                       const struct bt_block *block,
                       const struct bt_record *record, uint64_t rcx)
{
    if (record->flags & BT_RIP_RCX)
        return rcx;
    if (record->flags & BT_RIP_GVA)
        return rcx + block->gva;
    if (record->flags & BT_RIP_EXIT)
        return cache->exit[block->first_exit + record->exit].target;
    return block->gva + record->guest;
}

static uint64_t undo_branch(enum bt_branch branch, const struct bt_state *state,
                            uint64_t rsp)
{
    switch (branch) {
    case BT_BRANCH_PUSHED:
        return 8;
    case BT_BRANCH_POPPED:
        return (uint64_t)-8;
    case BT_BRANCH_SAVED:
        return state->spill[REG_BP] - rsp;
    default:
        return 0;
    }
}

static bool is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

/* The branch is where RDX says. */
static void missed(struct bt_cache *cache, const struct bt_state *state,
                   const struct bt_registers *regs, struct bt_point *point)
{
    uint32_t code = (uint32_t)(regs->rdx - (cache->va + BT_CODE));
    const struct bt_record *record;
    struct bt_block *block;

    point->rip = regs->rcx;
    point->kind = BT_MISS;
    point->restored = BRANCH_SPILLS;
    block = bt_contains(cache, regs->rdx) ? block_at(cache, code) : NULL;
    if (is_canonical(regs->rcx) || !block)
        return;
    record = record_at(cache, block, code - block->code);
    point->rip = block->gva + record->guest;
    point->kind = BT_INSTRUCTION;
    point->add_rsp = undo_branch(record->exit, state, regs->rsp);
    point->block = block;
}

bool bt_recover(struct bt_cache *cache, const struct bt_state *state,
                uint64_t address, const struct bt_registers *regs,
                struct bt_point *point)
{
    uint32_t code = (uint32_t)(address - (cache->va + BT_CODE));
    const struct bt_record *record;
    struct bt_block *block;

    *point = (struct bt_point){.value = state->spill};
    if (!bt_contains(cache, address))
        return false;
    if (code == BT_MISS_CODE) {
        missed(cache, state, regs, point);
        return true;
    }
    block = block_at(cache, code);
    if (!block || !block->records)
        return false;
    code -= block->code;
    record = record_at(cache, block, code);
    point->rip = rip_of(cache, block, record, regs->rcx);
    point->kind = record->kind;
    point->restored = record->spilled;
    point->add_rsp = record->flags & BT_PUSHED   ? 8
                     : record->flags & BT_POPPED ? (uint64_t)-16
                                                 : 0;
    point->block = block;
    point->start = record->flags & BT_START && record->code == code;
    return true;
}

static uint64_t address_of(const struct bt_cache *cache, uint32_t code)
{
    return cache->va + BT_CODE + code;
}

/* Where the translation of the instruction at `guest` begins in the block; 0
 * when none does. */
static uint64_t start_in(const struct bt_cache *cache,
                         const struct bt_block *block, uint64_t guest)
{
    const struct bt_record *record = &cache->record[block->first_record];
    uint32_t low = 0, high = block->ordered;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (record[middle].guest < guest)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < block->ordered && record[low].guest == guest; low++)
        if (record[low].flags & BT_START)
            return address_of(cache, block->code + record[low].code);
    return 0;
}

uint64_t bt_resume(struct bt_cache *cache, const struct bt_block *block,
                   uint64_t rip)
{
    uint64_t address = 0;

    cache->lookups++;
    if (block && block->valid && rip - block->gva < block->guest_bytes)
        address = start_in(cache, block, rip - block->gva);
    if (!address && (block = bt_find(cache, rip)))
        address = address_of(cache, block->entry);
    cache->hits += address != 0;
    return address;
}

bool bt_remember(struct bt_cache *cache, uint64_t *table, uint64_t rip)
{
    const struct bt_block *block = bt_find(cache, rip);

    if (!block || !block->landing)
        return false;
    table[rip % BT_TABLE_SIZE] = address_of(cache, block->landing);
    return true;
}
