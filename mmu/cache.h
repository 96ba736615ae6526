/*
 * One set-associative array of tagged entries with exact LRU: the stuff TLBs,
 * paging-structure caches and data caches are made of. Any number of sets and
 * ways; neither has to be a power of two. Freestanding; the caller owns the
 * storage.
 */
#ifndef MMU_CACHE_H
#define MMU_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define CACHE_MISS        UINT32_MAX
#define CACHE_ENTRIES_MAX (1u << 28)

struct cache_shape {
    uint32_t entries;
    uint32_t ways; /* divides entries; fully associative when equal */
    bool tagged;   /* entries carry a tag beside their key */
    bool valued;   /* entries carry a value */
};

/*
 * Up to 16 ways, the order of a set's ways is one word: the most recently
 * used way in the lowest four bits, the victim in the highest in use, so that
 * neither a hit nor a choice of victim loops or branches on what is stored.
 * Beyond, a set is a doubly linked list, and a hash over the keys finds
 * entries. Empty entries are always the least recent.
 */
#define CACHE_WAYS_PACKED 16u
/* Beyond so many ways, a byte for each key says which to compare. */
#define CACHE_WAYS_COMPARED 4u

struct cache {
    uint64_t *keys; /* 0: empty */
    uint64_t *values;
    uint64_t *order;  /* packed only */
    uint8_t *digests; /* packed, of more than a few ways: 16 for each set */
    uint32_t *tags;
    uint32_t *next, *prev;    /* linked only: entries, then a head per set */
    uint32_t *bucket, *chain; /* linked only: slot + 1, 0 ends */
    uint32_t entries, ways, sets, live;
    uint32_t set_mask; /* sets - 1, or 0 when that is no mask */
    unsigned hash_shift;
};

struct cache_entry {
    uint64_t key, value;
    uint32_t tag;
};

/* Bytes of storage, 8-byte aligned, for the shape. -EINVAL when there are no
 * entries or ways or the ways do not divide the entries, -E2BIG beyond
 * CACHE_ENTRIES_MAX. */
int cache_bytes(const struct cache_shape *shape, size_t *bytes);

/* `storage` has at least cache_bytes() for the same valid shape and stays the
 * caller's. The cache is empty afterwards. */
void cache_init(struct cache *cache, const struct cache_shape *shape,
                void *storage);

/* Makes every entry empty. */
void cache_clear(struct cache *cache);

/*
 * Puts an entry in as the most recent of its set; one with the same key and
 * tag is replaced. `key` is not 0 and determines `index`, of which the set is
 * the remainder. True when `evicted`, which may be NULL, was pushed out.
 */
bool cache_insert(struct cache *cache, uint64_t index,
                  const struct cache_entry *entry, struct cache_entry *evicted);

/* The same for an entry that is known not to be there: a lookup has just
 * missed it. */
bool cache_fill(struct cache *cache, uint64_t index,
                const struct cache_entry *entry, struct cache_entry *evicted);

/* Empties one slot. */
void cache_drop(struct cache *cache, uint32_t slot);

/* Empties the entries for which drop(entry, arg) is true; how many. */
uint32_t cache_invalidate(struct cache *cache,
                          bool (*drop)(const struct cache_entry *entry,
                                       void *arg),
                          void *arg);

/* As cache_lookup, without making the entry the most recent. */
uint32_t cache_peek(const struct cache *cache, uint64_t index, uint64_t key,
                    uint32_t tag, uint32_t other);

/* cache_lookup's half for sets of more than CACHE_WAYS_PACKED ways. */
uint32_t cache_lookup_linked(struct cache *cache, uint64_t key, uint32_t tag,
                             uint32_t other);

static inline uint32_t cache_set(const struct cache *cache, uint64_t index)
{
    if (cache->set_mask || cache->sets == 1)
        return (uint32_t)index & cache->set_mask;
    return (uint32_t)(index % cache->sets);
}

/* A bit for each of `ways` keys that is `key`; unrolled where `ways` is a
 * constant. */
static inline uint32_t cache_equal(const uint64_t *keys, uint64_t key,
                                   uint32_t ways)
{
    uint32_t match = 0, way = 0;

#ifdef __SSE2__ /* two at a time; both halves of a key have to be equal */
    const __m128i wanted = _mm_set1_epi64x((long long)key);

#pragma GCC unroll 8
    for (; way + 2 <= ways; way += 2) {
        __m128i two = _mm_loadu_si128((const __m128i *)(keys + way));
        __m128i halves = _mm_cmpeq_epi32(two, wanted);
        __m128i both = _mm_and_si128(halves, _mm_shuffle_epi32(halves, 0xb1));

        match |= (uint32_t)_mm_movemask_pd(_mm_castsi128_pd(both)) << way;
    }
#endif
    for (; way < ways; way++)
        match |= (uint32_t)(keys[way] == key) << way;
    return match;
}

/* Never 0, which an empty way has. */
static inline uint8_t cache_digest(uint64_t key)
{
    return (uint8_t)(key * 0x9e3779b97f4a7c15ull >> 56 | 1);
}

/* A bit for each of CACHE_WAYS_PACKED bytes that is `digest`. */
static inline uint32_t cache_digests_equal(const uint8_t *bytes, uint8_t digest)
{
#ifdef __SSE2__
    __m128i all = _mm_loadu_si128((const __m128i *)(const void *)bytes);

    return (uint32_t)_mm_movemask_epi8(
        _mm_cmpeq_epi8(all, _mm_set1_epi8((char)digest)));
#else
    uint32_t match = 0;

    for (uint32_t way = 0; way < CACHE_WAYS_PACKED; way++)
        match |= (uint32_t)(bytes[way] == digest) << way;
    return match;
#endif
}

static inline bool cache_holds(const struct cache *cache, uint32_t slot,
                               uint64_t key, uint32_t tag, uint32_t other)
{
    return cache->keys[slot] == key &&
           (!cache->tags || cache->tags[slot] == tag ||
            cache->tags[slot] == other);
}

/* The way of the set at `base` that holds the key under one of the tags, or
 * CACHE_MISS: by comparing all keys. */
static inline __attribute__((always_inline)) uint32_t cache_match_keys(
    const struct cache *cache, uint32_t base, uint64_t key, uint32_t tag,
    uint32_t other)
{
    const uint64_t *keys = cache->keys + base;
    uint32_t match = cache->ways == CACHE_WAYS_COMPARED
                         ? cache_equal(keys, key, CACHE_WAYS_COMPARED)
                         : cache_equal(keys, key, cache->ways);

    for (; match; match &= match - 1) {
        uint32_t way = (uint32_t)__builtin_ctz(match);

        if (cache_holds(cache, base + way, key, tag, other))
            return way;
    }
    return CACHE_MISS;
}

/* The same by comparing those that have the key's digest. */
static inline uint32_t cache_match_digests(const struct cache *cache,
                                           uint32_t set, uint64_t key,
                                           uint32_t tag, uint32_t other)
{
    uint32_t base = set * cache->ways;
    uint32_t match = cache_digests_equal(
        cache->digests + (size_t)set * CACHE_WAYS_PACKED, cache_digest(key));

    for (; match; match &= match - 1) {
        uint32_t way = (uint32_t)__builtin_ctz(match);

        if (cache_holds(cache, base + way, key, tag, other))
            return way;
    }
    return CACHE_MISS;
}

static inline __attribute__((always_inline)) uint32_t cache_match(
    const struct cache *cache, uint32_t set, uint64_t key, uint32_t tag,
    uint32_t other)
{
    if (!cache->digests)
        return cache_match_keys(cache, set * cache->ways, key, tag, other);
    return cache_match_digests(cache, set, key, tag, other);
}

/* Four times the position of `way` in the order: where a group of four bits
 * becomes zero when XORed with it; only the first borrow is to be trusted. */
static inline unsigned cache_position(uint64_t order, uint32_t way)
{
    uint64_t differ = order ^ (0x1111111111111111ull * way);
    uint64_t zero =
        (differ - 0x1111111111111111ull) & ~differ & 0x8888888888888888ull;

    return (unsigned)__builtin_ctzll(zero) & ~3u;
}

static inline uint64_t cache_to_front(uint64_t order, uint32_t way)
{
    unsigned at = cache_position(order, way);
    uint64_t before = (1ull << at) - 1;
    uint64_t through = before << 4 | 15;

    return (order & ~through) | (order & before) << 4 | way;
}

/*
 * The slot that holds `key` under `tag` or under `other` (give the same twice
 * for one; both are ignored in a cache without tags), made its set's most
 * recent; or CACHE_MISS. `key` is not 0.
 */
static inline __attribute__((always_inline)) uint32_t cache_lookup(
    struct cache *cache, uint64_t index, uint64_t key, uint32_t tag,
    uint32_t other)
{
    uint32_t set, way;

    if (!cache->order)
        return cache_lookup_linked(cache, key, tag, other);
    set = cache_set(cache, index);
    way = cache_match(cache, set, key, tag, other);
    if (way == CACHE_MISS)
        return CACHE_MISS;
    if ((cache->order[set] & 15) != way)
        cache->order[set] = cache_to_front(cache->order[set], way);
    return set * cache->ways + way;
}

#endif
