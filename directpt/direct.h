/*
 * Direct paging: the CPU walks the guest's own tables, and every change of one
 * is checked before it is made (Barham et al., "Xen and the Art of
 * Virtualization", SOSP 2003, section 3.3.3). Freestanding, no globals.
 *
 * Each guest frame has a type with a count: it is a page table of one level,
 * or somebody can write to it, or neither; never both. A table is valid when
 * all its entries are: each not present, or a mapping of RAM without reserved
 * bits, of a table of the level below, or of a frame whose type allows it.
 * Mappings that can't be written need no count. There are no pages of 1 GiB
 * and no recursive mappings.
 *
 * One call at a time.
 */
#ifndef DIRECTPT_DIRECT_H
#define DIRECTPT_DIRECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum direct_type {
    DIRECT_NONE,
    DIRECT_L1, /* page table ... */
    DIRECT_L2,
    DIRECT_L3,
    DIRECT_L4, /* ... to PML4 */
    DIRECT_WRITABLE,
};

struct direct_frame {
    uint32_t stamp; /* epoch in which it last was what it is no longer */
    uint16_t count;
    uint8_t type; /* enum direct_type */
    uint8_t pinned;
};

/* Guest RAM: [start, end), where `at` is. Multiples of 4 KiB. */
struct direct_ram {
    uint64_t start, end;
    uint8_t *at;
};

struct direct_config {
    unsigned physical_bits;
    struct direct_ram ram[2]; /* the second may be empty */
    /* Empties every CPU's TLB and paging-structure caches. */
    void (*flush_all)(void *arg);
    void *arg;
    /* The PML4 entry that is ours in every root, and what it holds. */
    unsigned fixed_index;
    uint64_t fixed_entry;
};

struct direct_stats {
    uint64_t updates, refused, validated, invalidated, flushes;
};

struct direct {
    struct direct_config config;
    struct direct_frame *frames; /* one for each below RAM's end, zeroed */
    uint32_t epoch;
    struct direct_stats stats;
};

void direct_init(struct direct *d, const struct direct_config *config,
                 struct direct_frame *frames);

/* Writes one entry of a table: 0; -EINVAL when `pa` is in no table (or is ours,
 * or `value` has reserved bits or is no mapping a table of that level can
 * have), -EFAULT when it maps what is no RAM, -EBUSY when the frame is in use
 * as something else, -EMFILE when it is mapped too often. Then nothing
 * changed. The TLB is the guest's to flush. */
int direct_update(struct direct *d, uint64_t pa, uint64_t value);

/* Takes or drops a reference to a root (level 4), validating it when it is the
 * first: for as long as a CPU runs on it. Errors as above. */
int direct_get_root(struct direct *d, uint64_t pa);
void direct_put_root(struct direct *d, uint64_t pa);

/* The guest's own reference, one a frame, so that a table stays valid. -EINVAL
 * for one pinned already, or not. */
int direct_pin(struct direct *d, uint64_t pa, unsigned level);
int direct_unpin(struct direct *d, uint64_t pa);

/* Fills a frame with 0 that nothing uses; -EBUSY otherwise. */
int direct_clear(struct direct *d, uint64_t pa);

#endif
