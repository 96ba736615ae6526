#include "mmu/psc.h"

#include <errno.h>

#define UNIFIED   0
#define TAG_VPID  0xffff0000u
#define TAG_WHOLE 0xffffffffu

static bool is_unified(const struct psc_config *config)
{
    return config->unified.entries || config->unified.ways;
}

/* False for a cache that the description does not have. */
static bool shape_of(const struct psc_config *config, unsigned at,
                     struct cache_shape *shape)
{
    bool unified = is_unified(config);

    *shape = (struct cache_shape){.tagged = true, .valued = true};
    shape->entries =
        unified ? config->unified.entries : config->level[at].entries;
    shape->ways = unified ? config->unified.ways : config->level[at].ways;
    if (unified)
        return at == UNIFIED;
    return at >= PSC_LEVEL_MIN && (shape->entries || shape->ways);
}

int psc_bytes(const struct psc_config *config, size_t *bytes, unsigned *at)
{
    size_t total = 0, one;

    for (unsigned level = 0; level <= MMU_LEVELS_MAX; level++) {
        struct cache_shape shape;
        int err;

        if (!shape_of(config, level, &shape))
            continue;
        err = cache_bytes(&shape, &one);
        if (!err && __builtin_add_overflow(total, one, &total))
            err = -E2BIG;
        if (err && at)
            *at = level;
        if (err)
            return err;
    }
    *bytes = total;
    return 0;
}

void psc_init(struct psc *psc, const struct psc_config *config, void *storage)
{
    char *next = storage;
    size_t bytes = 0;

    *psc = (struct psc){.config = *config};
    for (unsigned at = 0; at <= MMU_LEVELS_MAX; at++) {
        struct cache_shape shape;

        psc->has[at] = shape_of(config, at, &shape);
        if (!psc->has[at])
            continue;
        cache_init(&psc->cache[at], &shape, next);
        if (!cache_bytes(&shape, &bytes))
            next += bytes;
    }
}

/* The entry's position in its level; the level tells those of a unified cache
 * apart and keeps the key from being 0. */
static uint64_t index_of(uint64_t va, unsigned level)
{
    return va << 7 >> 7 >> pt_shift(level);
}

static uint64_t key_of(uint64_t va, unsigned level)
{
    return index_of(va, level) << 3 | level;
}

static struct cache *cache_of(struct psc *psc, unsigned level)
{
    if (psc->has[UNIFIED])
        return &psc->cache[UNIFIED];
    return psc->has[level] ? &psc->cache[level] : NULL;
}

unsigned psc_lookup(struct psc *psc, uint64_t va, uint64_t *value)
{
    psc->lookups++;
    for (unsigned level = PSC_LEVEL_MIN; level <= MMU_LEVELS_MAX; level++) {
        struct cache *cache = cache_of(psc, level);
        uint32_t slot;

        if (!cache || !cache->live)
            continue;
        slot = cache_lookup(cache, index_of(va, level), key_of(va, level),
                            psc->tag, psc->tag);
        if (slot == CACHE_MISS)
            continue;
        psc->hits[level]++;
        *value = cache->values[slot];
        return level;
    }
    psc->misses++;
    return 0;
}

void psc_insert(struct psc *psc, uint64_t va, unsigned level, uint64_t value)
{
    struct cache_entry entry = {.value = value, .tag = psc->tag};
    struct cache *cache;

    if (level < PSC_LEVEL_MIN || level > MMU_LEVELS_MAX)
        return;
    cache = cache_of(psc, level);
    if (!cache)
        return;
    entry.key = key_of(va, level);
    psc->evictions += cache_insert(cache, index_of(va, level), &entry, NULL);
}

/* ---- Invalidation --------------------------------------------------------*/

struct sweep {
    uint32_t mask, tag;
    bool others, by_address; /* others: than those of the tag */
    uint64_t va;
};

static bool is_swept(const struct cache_entry *entry, void *arg)
{
    const struct sweep *sweep = arg;

    if (((entry->tag & sweep->mask) == sweep->tag) == sweep->others)
        return false;
    return !sweep->by_address ||
           entry->key == key_of(sweep->va, (unsigned)entry->key & 7);
}

static void sweep_all(struct psc *psc, struct sweep sweep)
{
    for (unsigned at = 0; at <= MMU_LEVELS_MAX; at++)
        if (psc->has[at])
            psc->invalidated +=
                cache_invalidate(&psc->cache[at], is_swept, &sweep);
}

static void sweep_tag(struct psc *psc, uint32_t mask, uint32_t tag)
{
    sweep_all(psc, (struct sweep){.mask = mask, .tag = tag & mask});
}

void psc_load_cr3(struct psc *psc, uint16_t pcid, bool keep)
{
    psc->tag = mmu_tag((uint16_t)(psc->tag >> 16), pcid);
    if (!keep)
        sweep_tag(psc, TAG_WHOLE, psc->tag);
}

void psc_set_vpid(struct psc *psc, uint16_t vpid)
{
    psc->tag = mmu_tag(vpid, (uint16_t)psc->tag);
}

void psc_invlpg(struct psc *psc)
{
    sweep_tag(psc, TAG_WHOLE, psc->tag);
}

int psc_invpcid(struct psc *psc, enum mmu_invpcid type, uint16_t pcid,
                uint64_t va)
{
    uint32_t tag = mmu_tag((uint16_t)(psc->tag >> 16), pcid);

    if (pcid >= MMU_PCIDS)
        return -EINVAL;
    switch (type) {
    case INVPCID_ADDRESS:
        sweep_all(psc, (struct sweep){.mask = TAG_WHOLE,
                                      .tag = tag,
                                      .by_address = true,
                                      .va = va});
        return 0;
    case INVPCID_CONTEXT:
        sweep_tag(psc, TAG_WHOLE, tag);
        return 0;
    case INVPCID_ALL:
    case INVPCID_ALL_NON_GLOBAL:
        sweep_tag(psc, TAG_VPID, tag);
        return 0;
    }
    return -EINVAL;
}

int psc_invvpid(struct psc *psc, enum mmu_invvpid type, uint16_t vpid,
                uint64_t va)
{
    uint32_t tag = mmu_tag(vpid, 0);

    if (!vpid && type != INVVPID_ALL)
        return -EINVAL;
    switch (type) {
    case INVVPID_ADDRESS:
        sweep_all(psc, (struct sweep){.mask = TAG_VPID,
                                      .tag = tag,
                                      .by_address = true,
                                      .va = va});
        return 0;
    case INVVPID_CONTEXT:
    case INVVPID_CONTEXT_NON_GLOBAL:
        sweep_tag(psc, TAG_VPID, tag);
        return 0;
    case INVVPID_ALL:
        sweep_all(psc, (struct sweep){.mask = TAG_VPID, .others = true});
        return 0;
    }
    return -EINVAL;
}

void psc_flush(struct psc *psc)
{
    sweep_tag(psc, 0, 0);
}

void psc_reset_counts(struct psc *psc)
{
    psc->lookups = psc->misses = psc->evictions = psc->invalidated = 0;
    for (unsigned level = 0; level <= MMU_LEVELS_MAX; level++)
        psc->hits[level] = 0;
}
