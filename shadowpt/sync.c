/*
 * Traces. A guest table is traced when shadows of it exist and are in step;
 * all shadows of one table are in step, or none is.
 */
#include "shadowpt/private.h"

bool frame_traced(const struct shadow *s, uint32_t frame)
{
    uint32_t page;

    if (s->config.policy == SHADOW_VTLB)
        return false;
    page = page_of_frame(s, frame, NONE);
    return page != NONE && !s->page[page].unsync;
}

/* Lets a page table go, when it is nothing else too. */
bool frame_unsync(struct shadow *s, uint32_t frame)
{
    uint32_t i;

    if (s->config.policy != SHADOW_UNSYNC)
        return false;
    for (i = page_of_frame(s, frame, NONE); i != NONE;
         i = page_of_frame(s, frame, i))
        if (s->page[i].key.level != 1)
            return false;
    for (i = page_of_frame(s, frame, NONE); i != NONE;
         i = page_of_frame(s, frame, i)) {
        s->page[i].unsync = true;
        chain_push(s->page_link[UNSYNC], &s->unsync_head, i);
        s->stats.unsyncs++;
    }
    return true;
}

static bool in_use(const struct shadow *s, uint32_t page)
{
    return s->page[page].root || s->page[page].parents != NONE;
}

/* Frees the shadows of a table that nothing leads to: the guest writes to it,
 * so it is memory like any other until a walk comes through it again. */
bool frame_abandon(struct shadow *s, uint32_t frame)
{
    uint32_t i;

    for (i = page_of_frame(s, frame, NONE); i != NONE;
         i = page_of_frame(s, frame, i))
        if (in_use(s, i))
            return false;
    while ((i = page_of_frame(s, frame, NONE)) != NONE)
        page_free(s, i);
    return true;
}

/* Does a CPU run on it? */
static bool is_current(const struct shadow *s, uint32_t page)
{
    for (uint32_t i = 0; s->page[page].root && i < s->root_top; i++)
        if (s->root[i].page == page)
            return s->root[i].users;
    return false;
}

static void detach(struct shadow *s, uint32_t page)
{
    while (s->page[page].parents != NONE)
        entry_drop(s, s->page[page].parents);
    for (uint32_t i = 0; i < s->config.roots; i++)
        if (s->root[i].page == page) {
            root_free(s, i);
            return;
        }
    page_free(s, page);
}

/* Counts a write to a traced table, and gives the table up when there were
 * many and no fault came through it: the guest has made it something else. */
bool frame_flooded(struct shadow *s, uint32_t frame)
{
    uint32_t i;
    bool flooded = s->config.flood != 0;

    for (i = page_of_frame(s, frame, NONE); i != NONE;
         i = page_of_frame(s, frame, i))
        if (++s->page[i].writes < s->config.flood || is_current(s, i))
            flooded = false;
    if (!flooded)
        return false;
    while ((i = page_of_frame(s, frame, NONE)) != NONE)
        detach(s, i);
    s->stats.floods++;
    return true;
}

bool shadow_unshadow(struct shadow *s, uint64_t pa)
{
    uint32_t i, frame = (uint32_t)(pa >> 12);
    bool given_up = pa >> 12 < FRAME_MAX;

    for (i = page_of_frame(s, frame, NONE); i != NONE;
         i = page_of_frame(s, frame, i))
        if (is_current(s, i))
            given_up = false;
    while (given_up && (i = page_of_frame(s, frame, NONE)) != NONE)
        detach(s, i);
    shadow_settle(s);
    return given_up;
}

static void resync(struct shadow *s, uint32_t page)
{
    uint32_t first = page * PT_ENTRIES;
    unsigned left = s->page[page].present;

    for (uint32_t i = 0; i < PT_ENTRIES && left; i++)
        if (s->entries[first + i]) {
            leaf_rebuild(s, first + i);
            left--;
        }
    s->stats.resyncs++;
}

/* Traces a table; its shadows that are out of step are on the chain then. */
static void retrace(struct shadow *s, uint32_t frame, uint32_t *stale)
{
    for (uint32_t i = page_of_frame(s, frame, NONE); i != NONE;
         i = page_of_frame(s, frame, i))
        if (s->page[i].unsync) {
            s->page[i].unsync = false;
            chain_remove(s->page_link[UNSYNC], &s->unsync_head, i);
            chain_push(s->page_link[UNSYNC], stale, i);
        }
    frame_write_protect(s, frame);
}

/* What another CPU still writes before its flush has to be seen. */
static void resync_all(struct shadow *s, uint32_t stale)
{
    if (stale != NONE)
        shadow_flush_others(s);
    while (stale != NONE) {
        uint32_t page = stale;

        chain_remove(s->page_link[UNSYNC], &stale, page);
        resync(s, page);
    }
}

/* Brings all shadows of a table in step, and traces it. */
void frame_sync(struct shadow *s, uint32_t frame)
{
    uint32_t stale = NONE;

    retrace(s, frame, &stale);
    resync_all(s, stale);
}

/* The unsync tables that a new way to the page leads to. From above a page
 * table all are taken: to find those below costs more than to look them
 * through. */
void sync_below(struct shadow *s, uint32_t page)
{
    uint32_t stale = NONE;

    if (s->page[page].unsync)
        retrace(s, s->page[page].key.frame, &stale);
    else if (s->page[page].key.level > 1)
        while (s->unsync_head != NONE)
            retrace(s, s->page[s->unsync_head].key.frame, &stale);
    resync_all(s, stale);
}

void sync_all(struct shadow *s)
{
    uint32_t stale = NONE;

    while (s->unsync_head != NONE) {
        uint32_t frame = s->page[s->unsync_head].key.frame;

        if (!frame_abandon(s, frame))
            retrace(s, frame, &stale);
    }
    resync_all(s, stale);
}

/* One entry of a page table brought in step, and filled where it was absent:
 * who flushes a page is about to use it. */
static void sync_entry(struct shadow *s, uint32_t page, uint32_t entry)
{
    bool absent = !s->entries[entry];

    if (!s->page[page].unsync)
        return;
    if (leaf_rebuild(s, entry) && absent)
        s->stats.prefetched++;
    s->stats.resync_entries++;
}

/* INVLPG: one entry of the table that maps the address, which stays out of
 * step otherwise. */
void sync_va(struct shadow *s, uint32_t page, uint64_t va)
{
    for (;;) {
        unsigned level = s->page[page].key.level;
        uint32_t entry = entry_at(page, va, level);
        uint64_t value = s->entries[entry];

        if (level == 1) {
            sync_entry(s, page, entry);
            return;
        }
        if (!value || spte_leaf(level, value))
            return;
        page = child_of(s, value);
    }
}
