#include "mmu/tlb.h"

#include <errno.h>

#define ALL_ACCESSES ((1u << TLB_ACCESSES) - 1)
#define ALL_SIZES    ((1u << TLB_SIZES) - 1)
#define NO_SIZE      TLB_SIZES
#define VALUE_CLASS  (3ull << TLB_PIECE_SHIFT | 3ull << TLB_WITHIN_SHIFT)
#define VALUE_GLOBAL (1ull << 11)
#define TAG_VPID     0xffff0000u
#define TAG_WHOLE    0xffffffffu

/* ---- The description -----------------------------------------------------*/

static struct cache_shape shape_of(const struct tlb_structure *structure)
{
    return (struct cache_shape){.entries = structure->entries,
                                .ways = structure->ways,
                                .tagged = true,
                                .valued = true};
}

static int structure_bytes(const struct tlb_structure *structure, size_t *bytes)
{
    struct cache_shape shape = shape_of(structure);

    if (structure->level < 1 || structure->level > TLB_LEVELS ||
        !structure->accesses || structure->accesses & ~ALL_ACCESSES ||
        !structure->sizes || structure->sizes & ~ALL_SIZES)
        return -EINVAL;
    return cache_bytes(&shape, bytes);
}

/* Accesses for which level 1 holds 4-KiB pages. */
static unsigned first_level_accesses(const struct tlb_config *config)
{
    unsigned accesses = 0;

    for (unsigned i = 0; i < config->count; i++)
        if (config->structure[i].level == 1 && config->structure[i].sizes & 1)
            accesses |= config->structure[i].accesses;
    return accesses;
}

int tlb_bytes(const struct tlb_config *config, size_t *bytes, unsigned *at)
{
    size_t total = 0, one;
    unsigned nobody = 0;

    at = at ? at : &nobody;
    *at = config->count;
    if (config->count > TLB_STRUCTURES_MAX ||
        first_level_accesses(config) != ALL_ACCESSES)
        return -EINVAL;
    for (unsigned i = 0; i < config->count; i++) {
        int err = structure_bytes(&config->structure[i], &one);

        if (!err && __builtin_add_overflow(total, one, &total))
            err = -E2BIG;
        if (err) {
            *at = i;
            return err;
        }
    }
    *bytes = total;
    return 0;
}

static void make_route(struct tlb *tlb, unsigned level, unsigned access)
{
    struct tlb_route *routes = tlb->route[level - 1][access];

    for (unsigned i = 0; i < tlb->config.count; i++) {
        const struct tlb_structure *structure = &tlb->config.structure[i];

        if (structure->level != level || !(structure->accesses >> access & 1))
            continue;
        for (unsigned size = 0; size < TLB_SIZES; size++)
            if (structure->sizes >> size & 1)
                routes[size].structure[routes[size].count++] = (uint8_t)i;
    }
}

void tlb_init(struct tlb *tlb, const struct tlb_config *config, void *storage)
{
    char *next = storage;
    size_t bytes = 0;

    *tlb = (struct tlb){.config = *config};
    for (unsigned i = 0; i < config->count; i++) {
        struct cache_shape shape = shape_of(&config->structure[i]);

        cache_init(&tlb->cache[i], &shape, next);
        if (!cache_bytes(&shape, &bytes))
            next += bytes;
    }
    for (unsigned level = 1; level <= TLB_LEVELS; level++)
        for (unsigned access = 0; access < TLB_ACCESSES; access++)
            make_route(tlb, level, access);
    tlb->tag_global = mmu_tag_global(0);
}

/* ---- Filling -------------------------------------------------------------*/

/* The size class in which the routes hold a page: its own, or of the pieces
 * it is held in; NO_SIZE when not at all. */
static unsigned held_size(const struct tlb_route *routes, unsigned page,
                          bool splinters)
{
    if (routes[page].count)
        return page;
    while (splinters && page--)
        if (routes[page].count)
            return page;
    return NO_SIZE;
}

static unsigned size_of_key(uint64_t key)
{
    return key & 1 ? 0 : key >> 9 & 1 ? 1 : 2;
}

/* The frame of the piece of size class `size` around `va`, of memory that is
 * contiguous in size class `within`. */
static uint64_t piece(uint64_t value, uint64_t va, unsigned within,
                      unsigned size)
{
    uint64_t within_mask = (PAGE_4K << 9 * within) - 1;
    uint64_t piece_mask = (PAGE_4K << 9 * size) - 1;

    return (value & ~(PTE_ADDR & within_mask)) |
           (va & within_mask & ~piece_mask);
}

/* Pieces of pages of class `page` with that number, or with the same hash. */
static uint32_t *pieces_of(struct tlb *tlb, unsigned page, uint64_t number)
{
    return &tlb->pieces[((number << 2 | page) * 0x9e3779b97f4a7c15ull) >> 56];
}

/* An entry comes, or goes (`by` is -1). */
static void count_piece(struct tlb *tlb, const struct cache_entry *entry,
                        uint32_t by)
{
    unsigned page = tlb_page_class(entry->value);

    if (size_of_key(entry->key) != page)
        *pieces_of(tlb, page, entry->key >> 1 >> 9 * page) += by;
}

/* The entry in a slot goes, or is replaced. */
static void forget(struct tlb *tlb, unsigned at, uint32_t slot)
{
    const struct cache *cache = &tlb->cache[at];
    const struct cache_entry entry = {.key = cache->keys[slot],
                                      .value = cache->values[slot]};

    count_piece(tlb, &entry, -1u);
}

/* True when `evicted` had to go. `fresh`: it is known not to be there. */
static bool insert_at(struct tlb *tlb, unsigned at, uint64_t number,
                      const struct cache_entry *entry, bool fresh,
                      struct cache_entry *evicted)
{
    struct cache *cache = &tlb->cache[at];
    uint32_t slot;

    if (fresh)
        return cache_fill(cache, number, entry, evicted);
    slot = cache_peek(cache, number, entry->key, entry->tag, entry->tag);
    if (slot != CACHE_MISS)
        forget(tlb, at, slot);
    return cache_insert(cache, number, entry, evicted);
}

/* One level's share of an insertion. */
static inline __attribute__((always_inline)) void insert_level(
    struct tlb *tlb, unsigned level, uint64_t va, enum mmu_access access,
    uint64_t value, uint32_t tag, bool fresh)
{
    const struct tlb_route *routes = tlb->route[level - 1][access];
    unsigned page = tlb_page_class(value), at;
    unsigned within = (unsigned)(value >> TLB_WITHIN_SHIFT) & 3;
    unsigned size = held_size(routes, within, tlb->config.splinters[level - 1]);
    struct cache_entry entry = {.tag = tag}, evicted;
    uint32_t before;

    if (size == NO_SIZE)
        return;
    entry.key = tlb_key(va, size);
    entry.value = piece(value, va, within, size);
    at = tlb_place(tlb, &routes[size], tlb_page_number(va, size));
    before = tlb->cache[at].live;
    if (size != page)
        count_piece(tlb, &entry, 1);
    tlb->counts[at].misses[page]++;
    if (insert_at(tlb, at, tlb_page_number(va, size), &entry, fresh,
                  &evicted)) {
        tlb->counts[at].evictions++;
        count_piece(tlb, &evicted, -1u);
        tlb->live[at][size_of_key(evicted.key)]--;
        tlb->live[at][size]++;
    } else {
        tlb->live[at][size] += tlb->cache[at].live - before;
    }
}

bool tlb_lookup_second(struct tlb *tlb, uint64_t va, enum mmu_access access,
                       struct tlb_hit *hit)
{
    uint64_t value;

    tlb->misses[0]++;
    if (!tlb_lookup_level(tlb, 2, va, access, hit)) {
        tlb->misses[1]++;
        return false;
    }
    /* Where memory is contiguous, a piece of it says where all of it is. */
    value = hit->value;
    insert_level(tlb, 1, va, access, value,
                 value & VALUE_GLOBAL ? tlb->tag_global : tlb->tag, true);
    return true;
}

static inline __attribute__((always_inline)) void insert_both(
    struct tlb *tlb, uint64_t va, const struct tlb_page *p,
    enum mmu_access access, uint64_t value, bool global, bool fresh)
{
    uint64_t page = pt_leaf_level(p->bytes) - 1;
    uint64_t within = pt_leaf_level(p->within) - 1;
    uint32_t tag = global ? tlb->tag_global : tlb->tag;

    value &= ~(VALUE_CLASS | VALUE_GLOBAL);
    value |= page << TLB_PIECE_SHIFT | within << TLB_WITHIN_SHIFT |
             (global ? VALUE_GLOBAL : 0);
    insert_level(tlb, 1, va, access, value, tag, fresh);
    insert_level(tlb, 2, va, access, value, tag, fresh);
}

void tlb_insert(struct tlb *tlb, uint64_t va, uint64_t page_bytes,
                enum mmu_access access, uint64_t value, bool global)
{
    const struct tlb_page page = {page_bytes, page_bytes};

    insert_both(tlb, va, &page, access, value, global, false);
}

void tlb_insert_page(struct tlb *tlb, uint64_t va, const struct tlb_page *page,
                     enum mmu_access access, uint64_t value, bool global)
{
    insert_both(tlb, va, page, access, value, global, false);
}

void tlb_fill(struct tlb *tlb, uint64_t va, const struct tlb_page *page,
              enum mmu_access access, uint64_t value, bool global)
{
    insert_both(tlb, va, page, access, value, global, true);
}

void tlb_set_bits(struct tlb *tlb, uint64_t va, uint64_t bits)
{
    for (unsigned at = 0; at < tlb->config.count; at++)
        for (unsigned size = 0; size < TLB_SIZES; size++) {
            struct cache *cache = &tlb->cache[at];
            uint32_t slot;

            if (!tlb->live[at][size])
                continue;
            slot = cache_peek(cache, tlb_page_number(va, size),
                              tlb_key(va, size), tlb->tag, tlb->tag_global);
            if (slot != CACHE_MISS)
                cache->values[slot] |= bits;
        }
}

/* ---- Invalidation --------------------------------------------------------*/

/* Entries whose tag is `tag` in the bits of `mask` (or is not, when
 * `others`), and that translate `va` or any address. */
struct sweep {
    struct tlb *tlb;
    uint32_t mask, tag;
    bool others, by_address;
    uint64_t va;
    uint32_t *live; /* of the structure */
};

static bool translates(const struct cache_entry *entry, uint64_t va)
{
    unsigned shift = 9 * tlb_page_class(entry->value);

    return entry->key >> 1 >> shift == tlb_page_number(va, 0) >> shift;
}

static bool is_swept(const struct cache_entry *entry, void *arg)
{
    struct sweep *sweep = arg;

    if (((entry->tag & sweep->mask) == sweep->tag) == sweep->others)
        return false;
    if (sweep->by_address && !translates(entry, sweep->va))
        return false;
    sweep->live[size_of_key(entry->key)]--;
    count_piece(sweep->tlb, entry, -1u);
    return true;
}

static void sweep_all(struct tlb *tlb, struct sweep sweep)
{
    for (unsigned at = 0; at < tlb->config.count; at++) {
        sweep.tlb = tlb;
        sweep.live = tlb->live[at];
        tlb->counts[at].invalidated +=
            cache_invalidate(&tlb->cache[at], is_swept, &sweep);
    }
}

static void sweep_tag(struct tlb *tlb, uint32_t mask, uint32_t tag)
{
    sweep_all(tlb, (struct sweep){.mask = mask, .tag = tag & mask});
}

static void drop_page(struct tlb *tlb, unsigned at, unsigned size, uint64_t va,
                      uint32_t tag)
{
    uint32_t slot;

    if (!tlb->live[at][size])
        return;
    slot = cache_peek(&tlb->cache[at], tlb_page_number(va, size),
                      tlb_key(va, size), tag, tag);
    if (slot == CACHE_MISS)
        return;
    forget(tlb, at, slot);
    cache_drop(&tlb->cache[at], slot);
    tlb->live[at][size]--;
    tlb->counts[at].invalidated++;
}

/* One page under one tag. Without pieces it can only be where a lookup would
 * find it; with them, every piece of its page has to go (SDM 4.10.2.3). */
static void drop_address(struct tlb *tlb, uint64_t va, uint32_t tag)
{
    if (*pieces_of(tlb, 1, tlb_page_number(va, 1)) ||
        *pieces_of(tlb, 2, tlb_page_number(va, 2))) {
        sweep_all(tlb, (struct sweep){.mask = TAG_WHOLE,
                                      .tag = tag,
                                      .by_address = true,
                                      .va = va});
        return;
    }
    for (unsigned at = 0; at < tlb->config.count; at++)
        for (unsigned size = 0; size < TLB_SIZES; size++)
            drop_page(tlb, at, size, va, tag);
}

void tlb_load_cr3(struct tlb *tlb, uint16_t pcid, bool keep)
{
    tlb->tag = mmu_tag((uint16_t)(tlb->tag >> 16), pcid);
    if (!keep)
        sweep_tag(tlb, TAG_WHOLE, tlb->tag);
}

void tlb_set_vpid(struct tlb *tlb, uint16_t vpid)
{
    tlb->tag = mmu_tag(vpid, (uint16_t)tlb->tag);
    tlb->tag_global = mmu_tag_global(tlb->tag);
}

void tlb_invlpg(struct tlb *tlb, uint64_t va)
{
    drop_address(tlb, va, tlb->tag);
    drop_address(tlb, va, tlb->tag_global);
}

int tlb_invpcid(struct tlb *tlb, enum mmu_invpcid type, uint16_t pcid,
                uint64_t va)
{
    uint32_t tag = mmu_tag((uint16_t)(tlb->tag >> 16), pcid);

    if (pcid >= MMU_PCIDS)
        return -EINVAL;
    switch (type) {
    case INVPCID_ADDRESS:
        drop_address(tlb, va, tag);
        return 0;
    case INVPCID_CONTEXT:
        sweep_tag(tlb, TAG_WHOLE, tag);
        return 0;
    case INVPCID_ALL:
        sweep_tag(tlb, TAG_VPID, tag);
        return 0;
    case INVPCID_ALL_NON_GLOBAL:
        sweep_tag(tlb, TAG_VPID | MMU_TAG_GLOBAL, mmu_tag(tag >> 16, 0));
        return 0;
    }
    return -EINVAL;
}

int tlb_invvpid(struct tlb *tlb, enum mmu_invvpid type, uint16_t vpid,
                uint64_t va)
{
    uint32_t tag = mmu_tag(vpid, 0);

    if (!vpid && type != INVVPID_ALL)
        return -EINVAL;
    switch (type) {
    case INVVPID_ADDRESS:
        sweep_all(tlb, (struct sweep){.mask = TAG_VPID,
                                      .tag = tag,
                                      .by_address = true,
                                      .va = va});
        return 0;
    case INVVPID_CONTEXT:
        sweep_tag(tlb, TAG_VPID, tag);
        return 0;
    case INVVPID_ALL:
        sweep_all(tlb, (struct sweep){.mask = TAG_VPID, .others = true});
        return 0;
    case INVVPID_CONTEXT_NON_GLOBAL:
        sweep_tag(tlb, TAG_VPID | MMU_TAG_GLOBAL, tag);
        return 0;
    }
    return -EINVAL;
}

void tlb_flush(struct tlb *tlb)
{
    for (unsigned at = 0; at < tlb->config.count; at++) {
        tlb->counts[at].invalidated += tlb->cache[at].live;
        if (tlb->cache[at].live)
            cache_clear(&tlb->cache[at]);
        for (unsigned size = 0; size < TLB_SIZES; size++)
            tlb->live[at][size] = 0;
    }
    for (unsigned i = 0; i < TLB_PIECE_BUCKETS; i++)
        tlb->pieces[i] = 0;
}

void tlb_reset_counts(struct tlb *tlb)
{
    for (unsigned at = 0; at < tlb->config.count; at++)
        tlb->counts[at] = (struct tlb_counts){0};
    for (unsigned access = 0; access < TLB_ACCESSES; access++)
        tlb->lookups[access] = 0;
    for (unsigned level = 0; level < TLB_LEVELS; level++)
        tlb->misses[level] = 0;
}
