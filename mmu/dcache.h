/*
 * The data caches that page-table reads go through, physically indexed, by
 * line; with the cycles each level takes. Every level is filled by a read that
 * missed it, and none is emptied by another's evictions (non-inclusive).
 * Freestanding; the caller owns the storage.
 */
#ifndef MMU_DCACHE_H
#define MMU_DCACHE_H

#include "mmu/cache.h"

#define DCACHE_LEVELS_MAX 4

struct dcache_config {
    unsigned levels;
    uint32_t line_bytes; /* a power of two, 8 to 4096 */
    struct {
        uint64_t bytes;
        uint32_t ways;
        unsigned cycles; /* from the read to the data, as those below */
    } level[DCACHE_LEVELS_MAX];
    unsigned memory_cycles;
};

struct dcache {
    struct dcache_config config;
    unsigned line_shift;
    struct cache cache[DCACHE_LEVELS_MAX];
    uint64_t reads, cycles;
    uint64_t hits[DCACHE_LEVELS_MAX + 1]; /* the last: memory */
};

/* Bytes of storage, 8-byte aligned. Errors as cache_bytes, and -EINVAL for
 * levels or line sizes out of bounds and sizes the lines do not divide;
 * `*at`, which may be NULL, is the level to blame from 0, or `levels`. */
int dcache_bytes(const struct dcache_config *config, size_t *bytes,
                 unsigned *at);

/* Empty caches for a valid description. */
void dcache_init(struct dcache *dcache, const struct dcache_config *config,
                 void *storage);

/* One read of a paging-structure entry at a physical address: its cycles.
 * `*level`, which may be NULL, is where it hit, from 0; config.levels for
 * memory. */
unsigned dcache_read(struct dcache *dcache, uint64_t pa, unsigned *level);

void dcache_flush(struct dcache *dcache);
void dcache_reset_counts(struct dcache *dcache);

#endif
