#include "mmu/cache.h"

#include <errno.h>

#define ORDER_IDENTITY 0xfedcba9876543210ull

static bool is_packed(uint32_t ways)
{
    return ways <= CACHE_WAYS_PACKED;
}

static bool has_digests(uint32_t ways)
{
    return is_packed(ways) && ways > CACHE_WAYS_COMPARED;
}

/* Twice as many buckets as entries, rounded up: chains of about a half. */
static unsigned bucket_bits(uint32_t entries)
{
    unsigned bits = 1;

    while ((1ull << bits) < 2ull * entries)
        bits++;
    return bits;
}

int cache_bytes(const struct cache_shape *shape, size_t *bytes)
{
    uint64_t entries = shape->entries, sets, total;

    if (!entries || !shape->ways || entries % shape->ways)
        return -EINVAL;
    if (entries > CACHE_ENTRIES_MAX)
        return -E2BIG;
    sets = entries / shape->ways;
    /* At most 2^28 entries of less than 64 bytes: no overflow in 64 bits. */
    total = entries * (8 + (shape->tagged ? 4 : 0) + (shape->valued ? 8 : 0));
    if (is_packed(shape->ways))
        total +=
            sets * (8 + (has_digests(shape->ways) ? CACHE_WAYS_PACKED : 0));
    else
        total += (entries + sets) * 8 + entries * 4 +
                 (4ull << bucket_bits(shape->entries));
    if (total > SIZE_MAX - 7)
        return -E2BIG;
    *bytes = ((size_t)total + 7) & ~(size_t)7;
    return 0;
}

/* Hands out the storage piece by piece, the 8-byte ones first. */
static void *take(char **storage, uint64_t count, size_t size)
{
    void *piece = *storage;

    *storage += count * size;
    return piece;
}

static void carve(struct cache *cache, const struct cache_shape *shape,
                  char *storage)
{
    uint64_t entries = cache->entries, nodes = entries + cache->sets;
    bool packed = is_packed(cache->ways);

    cache->keys = take(&storage, entries, 8);
    cache->values = shape->valued ? take(&storage, entries, 8) : NULL;
    cache->order = packed ? take(&storage, cache->sets, 8) : NULL;
    cache->digests = has_digests(cache->ways)
                         ? take(&storage, cache->sets, CACHE_WAYS_PACKED)
                         : NULL;
    cache->tags = shape->tagged ? take(&storage, entries, 4) : NULL;
    cache->next = packed ? NULL : take(&storage, nodes, 4);
    cache->prev = packed ? NULL : take(&storage, nodes, 4);
    cache->chain = packed ? NULL : take(&storage, entries, 4);
    cache->bucket = packed ? NULL : (void *)storage;
}

void cache_init(struct cache *cache, const struct cache_shape *shape,
                void *storage)
{
    uint32_t sets = shape->entries / shape->ways;

    cache->entries = shape->entries;
    cache->ways = shape->ways;
    cache->sets = sets;
    cache->set_mask = sets & (sets - 1) ? 0 : sets - 1;
    cache->hash_shift = 64 - bucket_bits(shape->entries);
    carve(cache, shape, storage);
    cache_clear(cache);
}

/* ---- Linked sets ---------------------------------------------------------*/

/* Multiplicative hashing (Knuth, TAOCP vol. 3, 6.4): the golden ratio. */
static uint32_t *bucket_of(const struct cache *cache, uint64_t key)
{
    return cache->bucket + (key * 0x9e3779b97f4a7c15ull >> cache->hash_shift);
}

static uint32_t head_of(const struct cache *cache, uint32_t slot)
{
    return cache->entries + (cache->sets == 1 ? 0 : slot / cache->ways);
}

static void unlink_slot(struct cache *cache, uint32_t slot)
{
    uint32_t next = cache->next[slot], prev = cache->prev[slot];

    cache->next[prev] = next;
    cache->prev[next] = prev;
}

static void link_after(struct cache *cache, uint32_t slot, uint32_t prev)
{
    uint32_t next = cache->next[prev];

    cache->next[slot] = next;
    cache->prev[slot] = prev;
    cache->prev[next] = slot;
    cache->next[prev] = slot;
}

static void touch_linked(struct cache *cache, uint32_t slot)
{
    uint32_t head = head_of(cache, slot);

    if (cache->next[head] == slot)
        return;
    unlink_slot(cache, slot);
    link_after(cache, slot, head);
}

static uint32_t find_linked(const struct cache *cache, uint64_t key,
                            uint32_t tag, uint32_t other)
{
    uint32_t link = *bucket_of(cache, key);

    for (; link; link = cache->chain[link - 1]) {
        uint32_t slot = link - 1;

        if (cache->keys[slot] == key &&
            (!cache->tags || cache->tags[slot] == tag ||
             cache->tags[slot] == other))
            return slot;
    }
    return CACHE_MISS;
}

uint32_t cache_lookup_linked(struct cache *cache, uint64_t key, uint32_t tag,
                             uint32_t other)
{
    uint32_t slot = find_linked(cache, key, tag, other);

    if (slot != CACHE_MISS)
        touch_linked(cache, slot);
    return slot;
}

static void hash_in(struct cache *cache, uint32_t slot)
{
    uint32_t *bucket = bucket_of(cache, cache->keys[slot]);

    cache->chain[slot] = *bucket;
    *bucket = slot + 1;
}

static void hash_out(struct cache *cache, uint32_t slot)
{
    uint32_t *link = bucket_of(cache, cache->keys[slot]);

    while (*link != slot + 1)
        link = &cache->chain[*link - 1];
    *link = cache->chain[slot];
}

static void clear_linked(struct cache *cache)
{
    uint32_t buckets = 1u << (64 - cache->hash_shift);

    for (uint32_t i = 0; i < buckets; i++)
        cache->bucket[i] = 0;
    for (uint32_t set = 0; set < cache->sets; set++) {
        uint32_t head = cache->entries + set;

        cache->next[head] = cache->prev[head] = head;
    }
    for (uint32_t slot = 0; slot < cache->entries; slot++)
        link_after(cache, slot, head_of(cache, slot));
}

/* ---- Both ----------------------------------------------------------------*/

void cache_clear(struct cache *cache)
{
    for (uint32_t slot = 0; slot < cache->entries; slot++)
        cache->keys[slot] = 0;
    cache->live = 0;
    if (!cache->order) {
        clear_linked(cache);
        return;
    }
    for (uint32_t set = 0; set < cache->sets; set++)
        cache->order[set] = ORDER_IDENTITY;
    for (size_t i = 0;
         cache->digests && i < (size_t)cache->sets * CACHE_WAYS_PACKED; i++)
        cache->digests[i] = 0;
}

uint32_t cache_peek(const struct cache *cache, uint64_t index, uint64_t key,
                    uint32_t tag, uint32_t other)
{
    uint32_t set, way;

    if (!cache->order)
        return find_linked(cache, key, tag, other);
    set = cache_set(cache, index);
    way = cache_match(cache, set, key, tag, other);
    return way == CACHE_MISS ? CACHE_MISS : set * cache->ways + way;
}

static void get(const struct cache *cache, uint32_t slot,
                struct cache_entry *entry)
{
    entry->key = cache->keys[slot];
    entry->value = cache->values ? cache->values[slot] : 0;
    entry->tag = cache->tags ? cache->tags[slot] : 0;
}

static void put(struct cache *cache, uint32_t slot,
                const struct cache_entry *entry)
{
    cache->keys[slot] = entry->key;
    if (cache->values)
        cache->values[slot] = entry->value;
    if (cache->tags)
        cache->tags[slot] = entry->tag;
}

static bool fill_linked(struct cache *cache, uint32_t set,
                        const struct cache_entry *entry,
                        struct cache_entry *evicted)
{
    uint32_t slot = cache->prev[cache->entries + set];
    bool full = cache->keys[slot] != 0;

    touch_linked(cache, slot);
    if (full && evicted)
        get(cache, slot, evicted);
    if (full)
        hash_out(cache, slot);
    put(cache, slot, entry);
    hash_in(cache, slot);
    cache->live += !full;
    return full;
}

/* The least recent slot of the set, an empty one if there is any, becomes its
 * most recent. */
bool cache_fill(struct cache *cache, uint64_t index,
                const struct cache_entry *entry, struct cache_entry *evicted)
{
    uint32_t set = cache_set(cache, index), way, slot;
    uint64_t order, in_use;
    unsigned last;
    bool full;

    if (!cache->order)
        return fill_linked(cache, set, entry, evicted);
    order = cache->order[set];
    last = 4 * (cache->ways - 1) & 60;
    in_use = ~0ull >> (60 - last);
    way = (uint32_t)(order >> last) & 15;
    cache->order[set] = ((order << 4 | way) & in_use) | (order & ~in_use);
    slot = set * cache->ways + way;
    full = cache->keys[slot] != 0;
    if (full && evicted)
        get(cache, slot, evicted);
    put(cache, slot, entry);
    if (cache->digests)
        cache->digests[(size_t)set * CACHE_WAYS_PACKED + way] =
            cache_digest(entry->key);
    cache->live += !full;
    return full;
}

bool cache_insert(struct cache *cache, uint64_t index,
                  const struct cache_entry *entry, struct cache_entry *evicted)
{
    uint32_t slot =
        cache_lookup(cache, index, entry->key, entry->tag, entry->tag);

    if (slot == CACHE_MISS)
        return cache_fill(cache, index, entry, evicted);
    put(cache, slot, entry);
    return false;
}

/* The order with `way` moved behind the others of a set of `ways`. */
static uint64_t to_back(uint64_t order, uint32_t way, uint32_t ways)
{
    unsigned at = cache_position(order, way), last = 4 * (ways - 1);
    uint64_t before = (1ull << at) - 1, until = (1ull << last) - 1;
    uint64_t unused = order & ~(until << 4 | 15);

    return (order & before) | (order >> 4 & until & ~before) |
           (uint64_t)way << last | unused;
}

void cache_drop(struct cache *cache, uint32_t slot)
{
    uint32_t set;

    if (!cache->keys[slot])
        return;
    if (cache->order) {
        set = slot / cache->ways;
        cache->order[set] =
            to_back(cache->order[set], slot % cache->ways, cache->ways);
    } else {
        hash_out(cache, slot);
        unlink_slot(cache, slot);
        link_after(cache, slot, cache->prev[head_of(cache, slot)]);
    }
    cache->keys[slot] = 0;
    if (cache->digests)
        cache->digests[(size_t)(slot / cache->ways) * CACHE_WAYS_PACKED +
                       slot % cache->ways] = 0;
    cache->live--;
}

uint32_t cache_invalidate(struct cache *cache,
                          bool (*drop)(const struct cache_entry *entry,
                                       void *arg),
                          void *arg)
{
    struct cache_entry entry;
    uint32_t before = cache->live;

    for (uint32_t slot = 0; cache->live && slot < cache->entries; slot++) {
        if (!cache->keys[slot])
            continue;
        get(cache, slot, &entry);
        if (drop(&entry, arg))
            cache_drop(cache, slot);
    }
    return before - cache->live;
}
