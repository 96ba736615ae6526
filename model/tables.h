/*
 * What of a guest's memory holds page tables: 4-KiB frames by their
 * guest-physical address, kept from the first store that is not zero to the
 * EVENT_CLEAR that ends it. All other memory reads as zero.
 */
#ifndef MODEL_TABLES_H
#define MODEL_TABLES_H

#include "mmu/entry.h"

#include <stddef.h>
#include <stdint.h>

/* A radix tree over frame numbers, 9 bits a step below the directory; nodes
 * and frames are both 512 words. */
struct tables {
    uint64_t ***directory; /* by frame >> 18 */
    uint64_t ram_bytes;
    void *free;   /* frames given back, linked through their first word */
    void **slabs; /* what frames are cut from */
    size_t slab_count, slab_used;
};

/* -ENOMEM, or -EINVAL beyond 2^52 bytes. */
int tables_init(struct tables *tables, uint64_t ram_bytes);
void tables_free(struct tables *tables);

/* `gpa` is 8-byte aligned. -EFAULT beyond RAM; -ENOMEM. */
int tables_read(const struct tables *tables, uint64_t gpa, uint64_t *entry);
int tables_store(struct tables *tables, uint64_t gpa, uint64_t value);

/* The 4 KiB at `gpa` are zero. */
int tables_clear(struct tables *tables, uint64_t gpa);

/* Bytes taken, of nodes and frames. */
uint64_t tables_bytes(const struct tables *tables);

#endif
