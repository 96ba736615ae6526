#include "shadowpt/private.h"

static uint64_t region(uint32_t frame, enum page_chain chain)
{
    static const uint8_t shift[] = {[BY_FRAME] = 0, [BY_2M] = 9, [BY_1G] = 18};

    return frame >> shift[chain];
}

static uint32_t *bucket(const struct shadow *s, uint32_t frame,
                        enum page_chain chain)
{
    return &s->page_bucket[chain][hash(region(frame, chain)) & s->page_mask];
}

static void unhash(struct shadow *s, uint32_t page)
{
    struct page *p = &s->page[page];
    unsigned last = p->key.direct ? BY_FRAME : BY_1G;

    if (!p->hashed)
        return;
    for (unsigned c = BY_FRAME; c <= last; c++)
        chain_remove(s->page_link[c], bucket(s, p->key.frame, c), page);
    p->hashed = false;
}

/* A virtual TLB's tables are private to their root: they hold whatever was
 * true at each fault, which no key describes. */
static void enhash(struct shadow *s, uint32_t page)
{
    struct page *p = &s->page[page];
    unsigned last = p->key.direct ? BY_FRAME : BY_1G;

    if (s->config.policy == SHADOW_VTLB)
        return;
    for (unsigned c = BY_FRAME; c <= last; c++)
        chain_push(s->page_link[c], bucket(s, p->key.frame, c), page);
    p->hashed = true;
}

void page_init(struct shadow *s)
{
    s->free_head = s->orphan_head = s->unsync_head = NONE;
    for (unsigned c = BY_FRAME; c <= BY_1G; c++)
        for (uint32_t i = 0; i <= s->page_mask; i++)
            s->page_bucket[c][i] = NONE;
    for (uint32_t i = s->pages; i-- > 0;) {
        s->page[i].used = false;
        chain_push(s->page_link[IDLE], &s->free_head, i);
    }
    s->free = s->pages;
}

bool page_same_key(const struct key *a, const struct key *b)
{
    return a->frame == b->frame && a->role == b->role && a->level == b->level &&
           a->access == b->access && a->protection == b->protection &&
           a->direct == b->direct;
}

static uint32_t find(const struct shadow *s, const struct key *key)
{
    uint32_t i = *bucket(s, key->frame, BY_FRAME);

    while (i != NONE && !page_same_key(&s->page[i].key, key))
        i = s->page_link[BY_FRAME][i].next;
    return i;
}

static uint32_t create(struct shadow *s, const struct key *key)
{
    uint32_t i = s->free_head;
    uint64_t *entries = &s->entries[(size_t)i * PT_ENTRIES];

    if (s->freed)
        shadow_flush_others(s);
    chain_remove(s->page_link[IDLE], &s->free_head, i);
    s->free--;
    for (unsigned n = 0; n < PT_ENTRIES; n++)
        entries[n] = 0;
    if (is_fixed(s, key, s->config.fixed_index))
        entries[s->config.fixed_index] =
            s->config.fixed_entry[ROLE_MODE(key->role)];
    s->page[i] = (struct page){.key = *key, .used = true, .parents = NONE};
    chain_push(s->page_link[IDLE], &s->orphan_head, i);
    enhash(s, i);
    return i;
}

/* The page with this key, made when there is none; without parents it is
 * still an orphan. Room was reserved. The guest table is traced from here. */
uint32_t page_get(struct shadow *s, const struct key *key)
{
    bool traced = s->config.policy != SHADOW_VTLB && !key->direct;
    uint32_t i = s->config.policy == SHADOW_VTLB ? NONE : find(s, key);

    if (i != NONE) {
        /* A new way to entries that may be stale is one that no TLB had: they
         * must be in step first, however far below. */
        if (s->unsync_head != NONE && !key->direct)
            sync_below(s, i);
        return i;
    }
    i = create(s, key);
    if (traced)
        frame_sync(s, key->frame);
    return i;
}

void page_drop_entries(struct shadow *s, uint32_t page)
{
    uint32_t first = page * PT_ENTRIES;

    for (uint32_t i = 0; i < PT_ENTRIES && s->page[page].present; i++)
        if (s->entries[first + i] && !is_fixed(s, &s->page[page].key, i))
            entry_drop(s, first + i);
}

/* Does a CPU's CR3 hold it still? */
static bool is_held(const struct shadow *s, uint32_t page)
{
    for (unsigned i = 0; i < s->config.cpus; i++)
        if (s->held[i] == page)
            return true;
    return false;
}

static void recycle(struct shadow *s, uint32_t page)
{
    chain_push(s->page_link[IDLE], &s->free_head, page);
    s->free++;
}

/* One that was freed meanwhile is free from now on. */
void page_hold(struct shadow *s)
{
    uint32_t now = s->current == NONE ? NONE : s->root[s->current].page;
    uint32_t old = s->held[s->cpu];

    s->held[s->cpu] = now;
    if (old != now && old != NONE && !s->page[old].used && !is_held(s, old))
        recycle(s, old);
}

/* Of an orphan. Its leaves went from the TLB, at the latest at the end of
 * this call, with the entry that led here. */
void page_free(struct shadow *s, uint32_t page)
{
    const struct key *key = &s->page[page].key;
    uint32_t tlb_dirty = s->tlb_dirty;

    page_drop_entries(s, page);
    s->tlb_dirty = tlb_dirty;
    unhash(s, page);
    if (s->page[page].unsync)
        chain_remove(s->page_link[UNSYNC], &s->unsync_head, page);
    chain_remove(s->page_link[IDLE], &s->orphan_head, page);
    s->page[page].used = false;
    s->freed = true;
    s->stats.zapped_tables++;
    if (key->level != ROLE_LEVELS(key->role) || !is_held(s, page))
        recycle(s, page);
}

void page_free_orphans(struct shadow *s)
{
    while (s->orphan_head != NONE)
        page_free(s, s->orphan_head);
}

void page_set_root(struct shadow *s, uint32_t page)
{
    if (s->page[page].parents == NONE)
        chain_remove(s->page_link[IDLE], &s->orphan_head, page);
    s->page[page].root = true;
}

void root_free(struct shadow *s, uint32_t root)
{
    uint32_t page = s->root[root].page;

    s->page[page].root = false;
    chain_push(s->page_link[IDLE], &s->orphan_head, page);
    s->root[root].page = NONE;
    page_free(s, page);
}

static uint32_t oldest_root(const struct shadow *s)
{
    uint32_t oldest = NONE;

    for (uint32_t i = 0; i < s->config.roots; i++)
        if (s->root[i].page != NONE && !s->root[i].users &&
            (oldest == NONE || s->root[i].used < s->root[oldest].used))
            oldest = i;
    return oldest;
}

/* What a root in use leads to. Its CPU fills it again. */
static void empty_root(struct shadow *s)
{
    for (uint32_t i = 0; i < s->root_top; i++)
        if (s->root[i].page != NONE && s->page[s->root[i].page].present) {
            page_drop_entries(s, s->root[i].page);
            return;
        }
}

/* One step: an orphan, else the root used longest ago, else all that a root in
 * use leads to. Freeing one makes orphans of what hung on it. */
static void reclaim(struct shadow *s)
{
    uint32_t root;

    if (s->orphan_head != NONE) {
        page_free(s, s->orphan_head);
    } else if ((root = oldest_root(s)) != NONE) {
        root_free(s, root);
        s->stats.roots_evicted++;
    } else {
        empty_root(s);
    }
}

void page_reserve(struct shadow *s, uint32_t count)
{
    if (s->free >= count)
        return;
    s->stats.reclaims++;
    while (s->free < count)
        reclaim(s);
}

uint32_t page_of_frame(const struct shadow *s, uint32_t frame, uint32_t page)
{
    const struct link *links = s->page_link[BY_FRAME];

    page = page == NONE ? *bucket(s, frame, BY_FRAME) : links[page].next;
    while (page != NONE &&
           (s->page[page].key.frame != frame || s->page[page].key.direct))
        page = links[page].next;
    return page;
}

bool page_in_region(const struct shadow *s, uint32_t frame, unsigned level)
{
    enum page_chain chain = level == 2 ? BY_2M : BY_1G;
    uint32_t i = *bucket(s, frame, chain);

    while (i != NONE &&
           region(s->page[i].key.frame, chain) != region(frame, chain))
        i = s->page_link[chain][i].next;
    return i != NONE;
}
