/* Blocks come and go; branches between them follow. */
#include "bt/private.h"

#include <string.h>

#define PAGE 4096u

static void set_branch(struct bt *bt, uint32_t site, uint32_t to)
{
    uint32_t rel = to - (site + 4);

    memcpy(bt->code + site, &rel, sizeof rel);
}

uint32_t link_exit(struct bt *bt, uint64_t target, uint32_t site, uint32_t stub)
{
    uint32_t exit = bt->cache->exits++, *head = &bt->exit_head[bt_hash(target)];
    const struct bt_block *block = bt_find(bt->cache, target);

    bt->cache->exit[exit].target = target;
    bt->link[exit] = (struct exit_link){site, stub, *head};
    *head = exit;
    set_branch(bt, site, block ? block->entry : stub);
    bt->stats.links += !!block;
    return exit;
}

/* All branches to `target` go to the block, or to their stubs. */
static void move_exits(struct bt *bt, uint64_t target,
                       const struct bt_block *block)
{
    uint32_t exit = bt->exit_head[bt_hash(target)];

    for (; exit != NONE; exit = bt->link[exit].next) {
        const struct exit_link *link = &bt->link[exit];

        if (bt->cache->exit[exit].target != target)
            continue;
        set_branch(bt, link->site, block ? block->entry : link->stub);
        bt->stats.links += !!block;
    }
}

void link_block(struct bt *bt, struct bt_block *block)
{
    uint32_t *head = &bt->cache->hash[bt_hash(block->gva)];

    block->valid = true;
    block->next = *head;
    *head = (uint32_t)(block - bt->cache->block) + 1;
    move_exits(bt, block->gva, block);
}

static void forget_landing(struct bt *bt, const struct bt_block *block)
{
    uint64_t *slot = &bt->table[block->gva % BT_TABLE_SIZE];

    if (block->landing && *slot == bt->config.va + BT_CODE + block->landing)
        *slot = bt->config.va + BT_CODE + BT_MISS_CODE;
}

static void remove_block(struct bt *bt, struct bt_block *block)
{
    uint32_t *at = &bt->cache->hash[bt_hash(block->gva)];
    uint32_t number = (uint32_t)(block - bt->cache->block) + 1;

    while (*at != number)
        at = &bt->cache->block[*at - 1].next;
    *at = block->next;
    block->valid = false;
    forget_landing(bt, block);
    move_exits(bt, block->gva, NULL);
    bt->stats.invalidated++;
}

unsigned bt_invalidate_frame(struct bt *bt, uint64_t pa)
{
    unsigned count = 0;

    pa &= ~(uint64_t)(PAGE - 1);
    for (uint32_t i = 0; i < bt->cache->blocks; i++) {
        struct bt_block *block = &bt->cache->block[i];

        if (block->valid &&
            (bt->source[i].pa == pa || bt->source[i].next_pa == pa)) {
            remove_block(bt, block);
            count++;
        }
    }
    return count;
}

unsigned bt_invalidate_range(struct bt *bt, uint64_t gva, uint64_t bytes)
{
    unsigned count = 0;

    for (uint32_t i = 0; i < bt->cache->blocks; i++) {
        struct bt_block *block = &bt->cache->block[i];

        if (block->valid && (block->gva - gva < bytes ||
                             gva - block->gva < block->guest_bytes)) {
            remove_block(bt, block);
            count++;
        }
    }
    return count;
}

/* ---- Adaptive ---------------------------------------------------------- */

static unsigned find_adapted(const struct bt *bt, uint64_t gva)
{
    unsigned i = 0;

    while (i < bt->adapted_count && bt->adapted[i] != gva)
        i++;
    return i;
}

bool is_adapted(const struct bt *bt, uint64_t gva)
{
    return find_adapted(bt, gva) < bt->adapted_count;
}

static void retranslate(struct bt *bt, uint64_t gva)
{
    for (uint32_t i = 0; i < bt->cache->blocks; i++) {
        struct bt_block *block = &bt->cache->block[i];

        if (block->valid && gva - block->gva < block->guest_bytes)
            remove_block(bt, block);
    }
}

void bt_adapt(struct bt *bt, uint64_t gva, bool call_out)
{
    unsigned at = find_adapted(bt, gva);

    if (call_out == (at < bt->adapted_count) || (call_out && at == ADAPTED_MAX))
        return;
    if (call_out)
        bt->adapted[bt->adapted_count++] = gva;
    else
        bt->adapted[at] = bt->adapted[--bt->adapted_count];
    bt->stats.adapted[call_out]++;
    retranslate(bt, gva);
}
