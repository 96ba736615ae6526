#include "shadowpt/shadow.h"
#include "shadowpt/private.h"

#include <linux/errno.h>

static uint32_t power_of_two(uint32_t at_least)
{
    uint32_t n = 1;

    while (n < at_least)
        n *= 2;
    return n;
}

static uint32_t page_buckets(uint32_t pages)
{
    return power_of_two(pages);
}

static uint32_t entry_buckets(uint32_t pages)
{
    return power_of_two(pages * 64);
}

/* Where things are in the arena: the tables first, for their alignment. With
 * no `s`, only the size. */
static size_t lay_out(struct shadow **shadow, char *arena, uint32_t pages)
{
    size_t entries = (size_t)pages * PT_ENTRIES, at = 0;
    struct shadow *s = NULL;

#define TAKE(field, count)                                     \
    do {                                                       \
        if (s)                                                 \
            s->field = (void *)(arena + at);                   \
        at += ((count) * sizeof *s->field + 15) & ~(size_t)15; \
    } while (0)

    at = entries * sizeof *s->entries;
    if (arena)
        *shadow = s = (void *)(arena + at);
    at += (sizeof *s + 15) & ~(size_t)15;
    if (s) {
        *s = (struct shadow){.pages = pages, .current = NONE};
        s->entries = (uint64_t *)(void *)arena;
        s->page_mask = page_buckets(pages) - 1;
        s->entry_mask = entry_buckets(pages) - 1;
    }
    TAKE(frame, entries);
    TAKE(entry_link, entries);
    TAKE(page, pages);
    for (unsigned c = 0; c < PAGE_CHAINS; c++)
        TAKE(page_link[c], pages);
    for (unsigned c = BY_FRAME; c <= BY_1G; c++)
        TAKE(page_bucket[c], page_buckets(pages));
    TAKE(entry_bucket, entry_buckets(pages));
#undef TAKE
    return at;
}

size_t shadow_arena_bytes(unsigned tables)
{
    if (tables < SHADOW_PAGES_MIN || tables > SHADOW_PAGES_MAX)
        return 0;
    return lay_out(NULL, NULL, tables);
}

static uint32_t tables_that_fit(size_t bytes)
{
    uint32_t low = 0, high = SHADOW_PAGES_MAX;

    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;

        if (lay_out(NULL, NULL, middle) <= bytes)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

int shadow_init(struct shadow **shadow, void *arena, size_t bytes,
                const struct shadow_config *config,
                const struct shadow_ops *ops)
{
    uint32_t pages = tables_that_fit(bytes);
    struct shadow *s;

    if (!config->roots || config->roots > SHADOW_ROOTS_MAX ||
        config->flood == 1 || config->policy > SHADOW_VTLB ||
        config->cpus > SHADOW_CPUS_MAX || config->cpus > config->roots ||
        (config->cpus > 1 && !ops->flush_own) ||
        config->fixed_index >= PT_ENTRIES || (config->poison & ~PTE_ADDR) ||
        (uintptr_t)arena % PAGE_4K || (config->tables_pa & ~PTE_ADDR))
        return -EINVAL;
    if (pages < SHADOW_PAGES_MIN ||
        pages - SHADOW_PAGES_MIN < 2 * (config->cpus ? config->cpus - 1 : 0))
        return -ENOMEM;
    if (config->tables_pa > PTE_ADDR - (pages - 1) * PAGE_4K)
        return -EINVAL;
    lay_out(&s, arena, pages);
    s->config = *config;
    s->ops = *ops;
    if (!s->config.cpus)
        s->config.cpus = 1;
    s->all_cpus = UINT32_MAX >> (SHADOW_CPUS_MAX - s->config.cpus);
    for (unsigned i = 0; i < SHADOW_CPUS_MAX; i++)
        s->view[i].current = s->held[i] = NONE;
    for (unsigned i = 0; i < SHADOW_ROOTS_MAX; i++)
        s->root[i].page = NONE;
    page_init(s);
    entry_init(s);
    *shadow = s;
    return 0;
}

static void flush_all(struct shadow *s)
{
    s->ops.flush_all(s->ops.memory.arg);
    s->stats.tlb_flushes++;
    s->tlb_dirty = 0;
    s->flush = s->flush_own = s->freed = false;
}

void shadow_flush_others(struct shadow *s)
{
    if (s->flush && s->config.cpus > 1)
        flush_all(s);
}

void shadow_settle(struct shadow *s)
{
    if (s->config.policy == SHADOW_VTLB)
        page_free_orphans(s);
    if (s->flush || (s->flush_own && s->config.cpus == 1)) {
        flush_all(s);
    } else if (s->flush_own) {
        s->ops.flush_own(s->ops.memory.arg);
        s->stats.tlb_own_flushes++;
        s->tlb_dirty &= ~own_bit(s);
        s->flush_own = false;
    }
    s->freed = false;
}

/* Only what changes the meaning of a guest entry: with one root for both, the
 * CPU itself checks SMEP and SMAP. */
static uint32_t role_of(const struct mmu_state *state, enum shadow_mode mode)
{
    bool kernel = mode == SHADOW_KERNEL;
    bool wp = state->wp || mode == SHADOW_USER;

    return state->levels | state->physical_bits << 3 | (uint32_t)mode << 9 |
           (wp ? ROLE_WP : 0) | (state->nxe ? ROLE_NXE : 0) |
           (kernel && state->smep ? ROLE_SMEP : 0) |
           (kernel && state->smap && !state->ac ? ROLE_SMAP : 0) |
           (state->pke ? ROLE_PKE : 0) | (state->pages_1g ? ROLE_1G : 0) |
           (state->g_reserved ? ROLE_G : 0);
}

/* Frames that no index can name have no memory either; a root there stays
 * empty. */
static uint32_t cr3_frame(const struct shadow *s)
{
    uint64_t frame = (s->state.cr3 & PTE_ADDR) >> 12;

    return frame < FRAME_MAX ? (uint32_t)frame : FRAME_MAX;
}

static uint32_t free_slot(struct shadow *s)
{
    uint32_t oldest = NONE;

    for (uint32_t i = 0; i < s->config.roots; i++) {
        if (s->root[i].page == NONE)
            return i;
        if (!s->root[i].users &&
            (oldest == NONE || s->root[i].used < s->root[oldest].used))
            oldest = i;
    }
    root_free(s, oldest);
    s->stats.roots_evicted++;
    return oldest;
}

/* The selected CPU runs on this root from here on; NONE: on none. */
static void use_root(struct shadow *s, uint32_t root)
{
    if (s->current != NONE)
        s->root[s->current].users &= ~own_bit(s);
    s->current = root;
    if (root != NONE)
        s->root[root].users |= own_bit(s);
}

static void make_root(struct shadow *s, uint32_t frame)
{
    const struct key key = {.frame = frame,
                            .role = s->role,
                            .level = s->state.levels,
                            .access = ACC_ALL};
    uint32_t i, page;

    use_root(s, NONE);
    i = free_slot(s);
    if (i >= s->root_top)
        s->root_top = i + 1;
    page_reserve(s, 1);
    page = page_get(s, &key);
    page_set_root(s, page);
    s->root[i] = (struct root){.frame = frame, .role = s->role, .page = page};
    use_root(s, i);
    s->stats.roots_created++;
}

static void select_root(struct shadow *s)
{
    uint32_t frame = cr3_frame(s), i = 0;

    while (i < s->root_top &&
           (s->root[i].page == NONE || s->root[i].frame != frame ||
            s->root[i].role != s->role))
        i++;
    if (i == s->root_top) {
        make_root(s, frame);
    } else if (i != s->current) {
        use_root(s, i);
        s->stats.roots_reused++;
    }
    s->root[s->current].used = ++s->clock;
    s->page[s->root[s->current].page].writes = 0;
}

/* A virtual TLB is one CPU's, as a real one is. */
static bool is_own(const struct shadow *s, uint32_t root)
{
    return s->root[root].page != NONE && ROLE_CPU(s->root[root].role) == s->cpu;
}

/* The guest flushes one CPU: what may be stale goes. Tables that all share are
 * in step afterwards, so that no CPU finds what is older than its own flush. */
static void forget(struct shadow *s)
{
    if (s->config.policy == SHADOW_UNSYNC)
        sync_all(s);
    for (uint32_t i = 0; i < s->root_top; i++) {
        if (s->config.policy != SHADOW_VTLB || !is_own(s, i))
            continue;
        if (s->root[i].users)
            page_drop_entries(s, s->root[i].page);
        else
            root_free(s, i);
    }
    s->flush_own = true;
}

void shadow_select(struct shadow *s, unsigned cpu)
{
    if (cpu == s->cpu) {
        page_hold(s);
        return;
    }
    s->view[s->cpu] = (struct view){s->state, s->mode, s->role, s->current};
    s->state = s->view[cpu].state;
    s->mode = s->view[cpu].mode;
    s->role = s->view[cpu].role;
    s->current = s->view[cpu].current;
    s->cpu = cpu;
    page_hold(s);
}

int shadow_set_state(struct shadow *s, const struct mmu_state *state,
                     enum shadow_mode mode)
{
    uint64_t cr3 = s->state.cr3;

    if ((state->levels != 4 && state->levels != 5) ||
        state->physical_bits < 36 || state->physical_bits > 52)
        return -EINVAL;
    if (state->pke && mode != SHADOW_BOTH)
        return -EOPNOTSUPP;
    if (mode == SHADOW_KERNEL && state->smap && !state->smep)
        return -EOPNOTSUPP;
    s->state = *state;
    s->mode = mode;
    s->role = role_of(state, mode);
    if (s->config.policy == SHADOW_VTLB)
        s->role |= s->cpu << ROLE_CPU_SHIFT;
    /* A CPU that starts has nothing stale in its TLB. */
    if (s->current == NONE && s->config.policy == SHADOW_UNSYNC)
        sync_all(s);
    if (s->current != NONE && (cr3 ^ state->cr3) & PTE_ADDR)
        shadow_set_cr3(s, state->cr3);
    else
        select_root(s);
    shadow_settle(s);
    return 0;
}

void shadow_set_cr3(struct shadow *s, uint64_t cr3)
{
    s->stats.cr3_loads++;
    s->state.cr3 = cr3;
    forget(s);
    select_root(s);
    shadow_settle(s);
}

void shadow_flush_all(struct shadow *s)
{
    s->stats.flushes++;
    forget(s);
    shadow_settle(s);
}

uint64_t shadow_root(const struct shadow *s)
{
    return page_pa(s, s->root[s->current].page);
}

/* A virtual TLB forgets the guest page, all splinters of it included. */
static void vtlb_drop(struct shadow *s, uint32_t page, uint64_t va)
{
    for (unsigned level = s->page[page].key.level;; level--) {
        uint32_t entry = entry_at(page, va, level);
        uint64_t value = s->entries[entry];

        if (!value)
            return;
        if (spte_leaf(level, value) || (value & SPTE_SPLINTERS)) {
            entry_drop(s, entry);
            return;
        }
        page = child_of(s, value);
    }
}

void shadow_invlpg(struct shadow *s, uint64_t va)
{
    uint32_t frame = cr3_frame(s);

    s->stats.invlpg++;
    for (uint32_t i = 0; i < s->root_top; i++) {
        if (s->root[i].page == NONE || s->root[i].frame != frame ||
            va_is_fixed(s, va))
            continue;
        if (s->config.policy == SHADOW_UNSYNC)
            sync_va(s, s->root[i].page, va);
        else if (s->config.policy == SHADOW_VTLB && is_own(s, i))
            vtlb_drop(s, s->root[i].page, va);
    }
    if (!s->flush && !s->flush_own) {
        s->ops.flush_page(s->ops.memory.arg, va);
        s->stats.tlb_page_flushes++;
    }
    shadow_settle(s);
}

/* Entries above the leaves' tables go, and come back at the next fault; the
 * tables they led to are still there then. */
static void update(struct shadow *s, uint32_t page, unsigned index)
{
    uint32_t entry = page * PT_ENTRIES + index;
    bool present = s->entries[entry];

    if (s->page[page].key.level > 1) {
        if (present && !is_fixed(s, &s->page[page].key, index))
            entry_drop(s, entry);
        return;
    }
    if (!present && s->page[page].parents == NONE)
        return;
    if (leaf_rebuild(s, entry)) {
        s->stats.updated_entries += present;
        s->stats.prefetched += !present;
    }
}

void table_written(struct shadow *s, uint64_t pa, uint64_t bytes)
{
    while (bytes && s->config.policy != SHADOW_VTLB && pa >> 12 < FRAME_MAX) {
        uint32_t frame = pa >> 12;
        uint64_t offset = pa % PAGE_4K, room = PAGE_4K - offset;
        uint64_t length = bytes < room ? bytes : room;

        for (uint32_t i = page_of_frame(s, frame, NONE); i != NONE;
             i = page_of_frame(s, frame, i))
            for (unsigned n = offset / 8; n <= (offset + length - 1) / 8; n++)
                update(s, i, n);
        pa += length;
        bytes -= length;
    }
}

void shadow_guest_write(struct shadow *s, uint64_t pa, uint64_t bytes)
{
    s->stats.guest_writes++;
    table_written(s, pa, bytes);
    shadow_settle(s);
}

/* Rather through all entries than through more frames than there are. */
static void drop_range(struct shadow *s, uint64_t first, uint64_t last)
{
    for (uint32_t e = 0; e < s->pages * PT_ENTRIES; e++) {
        unsigned level = s->page[e / PT_ENTRIES].key.level;
        uint64_t frame = s->frame[e];

        if (s->page[e / PT_ENTRIES].used && s->entries[e] &&
            spte_leaf(level, s->entries[e]) && frame <= last &&
            frame + (1ull << 9 * (level - 1)) > first)
            entry_drop(s, e);
    }
}

void shadow_host_changed(struct shadow *s, uint64_t first, uint64_t frames)
{
    uint64_t last = first + frames - 1;

    if (!frames || first >= FRAME_MAX)
        return;
    if (last < first || last >= FRAME_MAX)
        last = FRAME_MAX - 1;
    if (last - first > s->pages)
        drop_range(s, first, last);
    else
        for (uint64_t frame = first; frame <= last; frame++)
            frame_drop(s, (uint32_t)frame);
    s->flush = true;
    shadow_settle(s);
}

const struct shadow_stats *shadow_stats(const struct shadow *s)
{
    return &s->stats;
}

unsigned shadow_tables_used(const struct shadow *s)
{
    return s->pages - s->free;
}

unsigned shadow_tables(const struct shadow *s)
{
    return s->pages;
}
