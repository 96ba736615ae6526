#include "mmu/dcache.h"

#include <errno.h>

static int shape_of(const struct dcache_config *config, unsigned at,
                    struct cache_shape *shape)
{
    uint64_t bytes = config->level[at].bytes;
    uint64_t lines = bytes / config->line_bytes;

    if (bytes % config->line_bytes)
        return -EINVAL;
    if (lines > CACHE_ENTRIES_MAX)
        return -E2BIG;
    *shape = (struct cache_shape){.entries = (uint32_t)lines,
                                  .ways = config->level[at].ways};
    return 0;
}

static bool is_line(uint32_t bytes)
{
    return bytes >= 8 && bytes <= 4096 && !(bytes & (bytes - 1));
}

int dcache_bytes(const struct dcache_config *config, size_t *bytes,
                 unsigned *at)
{
    struct cache_shape shape;
    size_t total = 0, one;
    unsigned nobody = 0;

    at = at ? at : &nobody;
    *at = config->levels;
    if (config->levels > DCACHE_LEVELS_MAX || !is_line(config->line_bytes))
        return -EINVAL;
    for (unsigned i = 0; i < config->levels; i++) {
        int err = shape_of(config, i, &shape);

        if (!err)
            err = cache_bytes(&shape, &one);
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

void dcache_init(struct dcache *dcache, const struct dcache_config *config,
                 void *storage)
{
    char *next = storage;
    size_t bytes = 0;

    *dcache = (struct dcache){.config = *config,
                              .line_shift =
                                  (unsigned)__builtin_ctz(config->line_bytes)};
    for (unsigned i = 0; i < config->levels; i++) {
        struct cache_shape shape;

        if (shape_of(config, i, &shape) || cache_bytes(&shape, &bytes))
            return;
        cache_init(&dcache->cache[i], &shape, next);
        next += bytes;
    }
}

unsigned dcache_read(struct dcache *dcache, uint64_t pa, unsigned *level)
{
    uint64_t line = pa >> dcache->line_shift;
    struct cache_entry entry = {.key = line + 1};
    unsigned levels = dcache->config.levels, at = 0, cycles;

    while (at < levels && cache_lookup(&dcache->cache[at], line, entry.key, 0,
                                       0) == CACHE_MISS)
        at++;
    for (unsigned i = 0; i < at; i++)
        cache_fill(&dcache->cache[i], line, &entry, NULL);
    cycles = at < levels ? dcache->config.level[at].cycles
                         : dcache->config.memory_cycles;
    dcache->reads++;
    dcache->hits[at < levels ? at : DCACHE_LEVELS_MAX]++;
    dcache->cycles += cycles;
    if (level)
        *level = at;
    return cycles;
}

void dcache_flush(struct dcache *dcache)
{
    for (unsigned i = 0; i < dcache->config.levels; i++)
        cache_clear(&dcache->cache[i]);
}

void dcache_reset_counts(struct dcache *dcache)
{
    dcache->reads = dcache->cycles = 0;
    for (unsigned i = 0; i <= DCACHE_LEVELS_MAX; i++)
        dcache->hits[i] = 0;
}
