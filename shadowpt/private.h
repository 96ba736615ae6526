/*
 * Inside the shadow MMU.
 *
 * A shadow table ("page") is known by its key: the guest table it shadows (or
 * the large guest page it splinters: `direct`), its level, the role it is
 * valid for and the rights of the path above it. Pages with the same key are
 * one page with several parents, however many guest entries lead there. A
 * level always leads to the one below, so that guest tables which point at
 * themselves give no cycle.
 *
 * Everything is an index: a page's, or an entry's (page * 512 + index).
 * Every present shadow entry is on exactly one chain: a leaf on the one of
 * its guest frame (the reverse map), another on its child's parents.
 */
#ifndef SHADOWPT_PRIVATE_H
#define SHADOWPT_PRIVATE_H

#include "shadowpt/shadow.h"

#define NONE UINT32_MAX
/* Guest frames from here on can't be named: 16 TiB less a page. */
#define FRAME_MAX (NONE - 1)

/* Rights of a path. ACC_D: the leaf of a direct page's path is dirty. */
enum { ACC_W = 1, ACC_U = 2, ACC_X = 4, ACC_D = 8, ACC_ALL = 7 };

/* The role: a word, so that keys compare at once. */
#define ROLE_LEVELS(role) ((role)&7)
#define ROLE_BITS(role)   ((role) >> 3 & 63)
#define ROLE_MODE(role)   ((role) >> 9 & 3)
#define ROLE_WP           (1u << 11)
#define ROLE_NXE          (1u << 12)
#define ROLE_SMEP         (1u << 13)
#define ROLE_SMAP         (1u << 14) /* in force: EFLAGS.AC is clear */
#define ROLE_PKE          (1u << 15)
#define ROLE_1G           (1u << 16)
#define ROLE_G            (1u << 17) /* G is reserved in upper entries */
/* Of a virtual TLB: whose it is. */
#define ROLE_CPU_SHIFT 18
#define ROLE_CPU(role) ((role) >> ROLE_CPU_SHIFT & 31)

/* In a shadow entry above a leaf, vtlb: some of what is below splinters a
 * guest page of this entry's size, and goes with it at INVLPG. */
#define SPTE_SPLINTERS PTE_SW0

struct link {
    uint32_t next, prev;
};

enum page_chain {
    BY_FRAME, /* all keyed pages, hashed by guest frame */
    BY_2M,    /* guest tables, hashed by the 2 MiB they lie in */
    BY_1G,    /* and the 1 GiB */
    IDLE,     /* free, or without parents */
    UNSYNC,
    PAGE_CHAINS
};

struct key {
    uint32_t frame, role;
    uint8_t level, access;
    uint8_t protection; /* protection key of a direct page's leaves */
    bool direct;
};

struct page {
    struct key key;
    bool used, root, hashed, unsync;
    uint16_t present; /* entries */
    uint32_t parents; /* chain of entries */
    uint32_t writes;  /* since the last fault through it */
};

struct root {
    uint32_t frame, role; /* of the key */
    uint32_t page;        /* NONE: slot is free */
    uint32_t users;       /* CPUs that run on it, a bit each */
    uint64_t used;        /* time of the last use */
};

/* Between two calls of shadow_repoison; the monitor makes one each time. */
#define LIFTED_MAX 16

/* What each CPU has of its own. The selected one's is in struct shadow. */
struct view {
    struct mmu_state state;
    enum shadow_mode mode;
    uint32_t role, current;
};

struct lifted {
    uint32_t entry[LIFTED_MAX];
    unsigned count;
};

struct shadow {
    struct shadow_config config;
    struct shadow_ops ops;
    struct mmu_state state;
    enum shadow_mode mode;
    uint32_t role;
    bool flush;     /* owed to every CPU before this call ends ... */
    bool flush_own; /* ... and to the selected one */
    bool freed;     /* tables, in this call: CPUs may still walk them */
    unsigned cpu;
    /* Leaves went without a flush, which the guests of these CPUs owe: a bit
     * each. */
    uint32_t tlb_dirty, all_cpus;
    uint32_t pages, free, current; /* current: of root[], or NONE */
    uint32_t root_top;             /* slots from here on were never used */
    uint64_t clock;
    uint64_t epoch; /* entries written */
    uint32_t free_head, orphan_head, unsync_head;
    uint32_t page_mask, entry_mask; /* of the bucket arrays */
    uint64_t *entries;              /* the shadow tables */
    uint32_t *frame;                /* guest frame of each leaf */
    struct link *entry_link;
    struct page *page;
    struct link *page_link[PAGE_CHAINS];
    uint32_t *page_bucket[BY_1G + 1];
    uint32_t *entry_bucket;
    struct shadow_stats stats;
    struct view view[SHADOW_CPUS_MAX];
    struct lifted lifted[SHADOW_CPUS_MAX];
    uint32_t held[SHADOW_CPUS_MAX]; /* page that CR3 held when selected */
    struct root root[SHADOW_ROOTS_MAX];
};

static inline void chain_push(struct link *links, uint32_t *head, uint32_t i)
{
    links[i] = (struct link){.next = *head, .prev = NONE};
    if (*head != NONE)
        links[*head].prev = i;
    *head = i;
}

static inline void chain_remove(struct link *links, uint32_t *head, uint32_t i)
{
    struct link link = links[i];

    if (link.prev != NONE)
        links[link.prev].next = link.next;
    else
        *head = link.next;
    if (link.next != NONE)
        links[link.next].prev = link.prev;
}

/* Fibonacci hashing: guest frames come in runs. */
static inline uint32_t hash(uint64_t value)
{
    return (uint32_t)(value * 0x9e3779b97f4a7c15ull >> 32);
}

static inline bool is_fixed(const struct shadow *s, const struct key *key,
                            unsigned index)
{
    return s->config.fixed && index == s->config.fixed_index &&
           key->level == ROLE_LEVELS(key->role) && !key->direct;
}

static inline bool va_is_fixed(const struct shadow *s, uint64_t va)
{
    return s->config.fixed &&
           pt_index(va, s->state.levels) == s->config.fixed_index;
}

static inline bool is_poisoned_mode(const struct shadow *s, uint32_t role)
{
    return s->config.poison && ROLE_MODE(role) == SHADOW_USER;
}

static inline uint32_t own_bit(const struct shadow *s)
{
    return (uint32_t)1 << s->cpu;
}

/* Something of a table with this role went, whoever runs on it: only its
 * owner does on a virtual TLB's. */
static inline void owe_flush(struct shadow *s, uint32_t role)
{
    if (s->config.policy == SHADOW_VTLB && ROLE_CPU(role) == s->cpu)
        s->flush_own = true;
    else
        s->flush = true;
}

/* Other CPUs walk the tables meanwhile. */
static inline void entry_write(struct shadow *s, uint32_t entry, uint64_t value)
{
    s->epoch++;
    __atomic_store_n(&s->entries[entry], value, __ATOMIC_RELEASE);
}

static inline bool spte_leaf(unsigned level, uint64_t entry)
{
    return level == 1 || (entry & PTE_PS);
}

static inline uint64_t page_pa(const struct shadow *s, uint32_t page)
{
    return s->config.tables_pa + (uint64_t)page * PAGE_4K;
}

static inline uint32_t child_of(const struct shadow *s, uint64_t entry)
{
    return (uint32_t)(((entry & PTE_ADDR) - s->config.tables_pa) / PAGE_4K);
}

static inline uint32_t entry_at(uint32_t page, uint64_t va, unsigned level)
{
    return page * PT_ENTRIES + pt_index(va, level);
}

/* pages.c: shadow tables, their keys, and memory. */
void page_init(struct shadow *s);
uint32_t page_get(struct shadow *s, const struct key *key);
void page_free(struct shadow *s, uint32_t page);
void page_drop_entries(struct shadow *s, uint32_t page);
void page_free_orphans(struct shadow *s);
/* The selected CPU's CR3 holds its current root, and no other any longer. */
void page_hold(struct shadow *s);
/* At least `count` are free afterwards; roots in use stay. */
void page_reserve(struct shadow *s, uint32_t count);
bool page_same_key(const struct key *a, const struct key *b);
void page_set_root(struct shadow *s, uint32_t page);
void root_free(struct shadow *s, uint32_t root);
/* Guest tables with shadows: the next after `page`, or the first of a frame
 * (`page` is NONE); direct pages are no guest tables. */
uint32_t page_of_frame(const struct shadow *s, uint32_t frame, uint32_t page);
/* Is any guest table in the 2 MiB (level 2) or 1 GiB around the frame? */
bool page_in_region(const struct shadow *s, uint32_t frame, unsigned level);

/* entries.c: shadow entries and the reverse map. */
void entry_init(struct shadow *s);
void entry_link_child(struct shadow *s, uint32_t entry, uint32_t child,
                      uint64_t marks);
void entry_set_leaf(struct shadow *s, uint32_t entry, uint32_t frame,
                    uint64_t value);
void entry_drop(struct shadow *s, uint32_t entry);
/* The leaf for a guest frame, or 0 when the role can't use it. `access` has
 * ACC_D when the guest's leaf is dirty. */
uint64_t leaf_value(uint32_t role, unsigned access, unsigned level,
                    const struct shadow_frame *host);
/* From the guest's level-1 entry as it is now. True when present after. */
bool leaf_rebuild(struct shadow *s, uint32_t entry);
unsigned leaf_access(uint32_t role, uint64_t guest_entry);
void frame_write_protect(struct shadow *s, uint32_t frame);
void frame_drop(struct shadow *s, uint32_t frame);

/* sync.c: traces and their loosening. */
bool frame_traced(const struct shadow *s, uint32_t frame);
bool frame_unsync(struct shadow *s, uint32_t frame);
bool frame_abandon(struct shadow *s, uint32_t frame);
bool frame_flooded(struct shadow *s, uint32_t frame);
void frame_sync(struct shadow *s, uint32_t frame);
void sync_below(struct shadow *s, uint32_t page);
void sync_all(struct shadow *s);
void sync_va(struct shadow *s, uint32_t page, uint64_t va);

/* Pays the owed flush. */
void shadow_settle(struct shadow *s);
/* The same at once, for what may only be done when no other CPU has the old
 * translations: with one CPU there is nothing to wait for. */
void shadow_flush_others(struct shadow *s);
/* Brings the shadows of traced tables in step with a write to them. */
void table_written(struct shadow *s, uint64_t pa, uint64_t bytes);

#endif
