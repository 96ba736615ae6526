#include "tests/walk_oracle.h"

#include <stddef.h>

/* What an entry is (table 4-14 to 4-20), by its level and bit 7, and which of
 * its bits below the address are reserved. */
struct format {
    unsigned level;
    int bit7; /* -1: either */
    bool needs_1g;
    int page_shift;  /* 0: it references a table */
    int reserved[2]; /* first and last; 0, 0 for none */
};

static const struct format formats[] = {
    {5, 0, false, 0, {0, 0}},    /* PML5E */
    {4, 0, false, 0, {0, 0}},    /* PML4E */
    {3, 1, true, 30, {13, 29}},  /* PDPTE of a 1-GByte page */
    {3, 0, false, 0, {0, 0}},    /* PDPTE of a page directory */
    {2, 1, false, 21, {13, 20}}, /* PDE of a 2-MByte page */
    {2, 0, false, 0, {0, 0}},    /* PDE of a page table */
    {1, -1, false, 12, {0, 0}},  /* PTE */
};

static bool bit(uint64_t value, int number)
{
    return value >> number & 1;
}

/* NULL: bit 7 is set where it is reserved. */
static const struct format *format_of(const struct mmu_state *state,
                                      unsigned level, uint64_t entry)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        const struct format *f = &formats[i];

        if (f->level == level && (f->bit7 < 0 || f->bit7 == bit(entry, 7)) &&
            (!f->needs_1g || state->pages_1g))
            return f;
    }
    return NULL;
}

static bool any_bit(uint64_t entry, int first, int last)
{
    for (int i = first; i <= last; i++)
        if (bit(entry, i))
            return true;
    return false;
}

static bool reserved_is_set(const struct mmu_state *state,
                            const struct format *format, uint64_t entry)
{
    if (!format)
        return true;
    if (any_bit(entry, (int)state->physical_bits, 51))
        return true;
    if (bit(entry, 63) && !state->nxe)
        return true;
    if (format->level > 3 && bit(entry, 8) && state->g_reserved)
        return true;
    return format->reserved[1] &&
           any_bit(entry, format->reserved[0], format->reserved[1]);
}

/* 4.6.2, for data accesses to user-mode addresses. */
static bool key_permits(const struct mmu_state *state, bool user_access,
                        bool write, unsigned key)
{
    bool access_disable = bit(state->pkru, 2 * (int)key);
    bool write_disable = bit(state->pkru, 2 * (int)key + 1);

    if (!state->pke)
        return true;
    if (access_disable)
        return false;
    if (!write_disable || !write)
        return true;
    return !user_access && !state->wp;
}

enum { SUPERVISOR_ADDRESS = 0, USER_ADDRESS = 1 };
enum { BY_SUPERVISOR = 0, BY_USER = 2 };
#define CASE(by, access, address) ((access)*4 + (by) + (address))

/* 4.6.1, a paragraph a case; keys apart. */
static bool rights_permit(const struct mmu_state *s,
                          const struct mmu_request *request, bool user_access,
                          const struct mmu_walk *page)
{
    bool smap_permits = !s->smap || (s->ac && !request->implicit);

    switch (CASE(user_access ? BY_USER : BY_SUPERVISOR, request->access,
                 page->user ? USER_ADDRESS : SUPERVISOR_ADDRESS)) {
    case CASE(BY_SUPERVISOR, MMU_READ, SUPERVISOR_ADDRESS):
        return true;
    case CASE(BY_SUPERVISOR, MMU_READ, USER_ADDRESS):
        return smap_permits;
    case CASE(BY_SUPERVISOR, MMU_WRITE, SUPERVISOR_ADDRESS):
        return s->wp ? page->writable : true;
    case CASE(BY_SUPERVISOR, MMU_WRITE, USER_ADDRESS):
        return s->wp ? page->writable && smap_permits : smap_permits;
    case CASE(BY_SUPERVISOR, MMU_FETCH, SUPERVISOR_ADDRESS):
        return s->nxe ? page->executable : true;
    case CASE(BY_SUPERVISOR, MMU_FETCH, USER_ADDRESS):
        if (s->smep)
            return false;
        return s->nxe ? page->executable : true;
    case CASE(BY_USER, MMU_READ, USER_ADDRESS):
        return true;
    case CASE(BY_USER, MMU_WRITE, USER_ADDRESS):
        return page->writable;
    case CASE(BY_USER, MMU_FETCH, USER_ADDRESS):
        return s->nxe ? page->executable : true;
    default: /* a user's access to a supervisor-mode address */
        return false;
    }
}

/* 4.7: bits 0, 3 and 5 are the cause's, the others the access's. */
static int error_code(const struct mmu_state *state,
                      const struct mmu_request *request, bool user_access,
                      bool present, bool reserved, bool key)
{
    bool fetch = request->access == MMU_FETCH;

    return present * 1 + (request->access == MMU_WRITE) * 2 + user_access * 4 +
           reserved * 8 + (fetch && (state->smep || state->nxe)) * 16 +
           key * 32;
}

/* 4.5: bits 63 to 47 (or 56) are equal. */
static bool is_canonical(uint64_t va, unsigned levels)
{
    uint64_t top = levels == 4 ? va >> 47 : va >> 56;

    return top == 0 || top == (levels == 4 ? 0x1ffff : 0xff);
}

/* The page that the path maps, or NULL with `error` the fault on the way. */
static const struct format *find_page(const struct mmu_state *state,
                                      const struct mmu_request *request,
                                      bool user_access,
                                      const struct oracle_entries *entries,
                                      struct mmu_walk *walk)
{
    const struct format *format = NULL;

    for (unsigned level = state->levels; level > 0; level--) {
        uint64_t entry = entries->at[level];

        walk->reference[walk->references].level = level;
        walk->reference[walk->references++].entry = entry;
        if (!bit(entry, 0)) {
            walk->error =
                error_code(state, request, user_access, false, false, false);
            return NULL;
        }
        format = format_of(state, level, entry);
        if (reserved_is_set(state, format, entry)) {
            walk->error =
                error_code(state, request, user_access, true, true, false);
            return NULL;
        }
        if (format->page_shift)
            break;
    }
    return format;
}

/* Rights are what every entry of the path grants. */
static void describe_page(const struct format *format,
                          const struct oracle_entries *entries, unsigned levels,
                          struct mmu_walk *walk)
{
    uint64_t leaf = entries->at[format->level];

    walk->writable = walk->user = walk->executable = true;
    for (unsigned level = levels; level >= format->level; level--) {
        if (!bit(entries->at[level], 1))
            walk->writable = false;
        if (!bit(entries->at[level], 2))
            walk->user = false;
        if (bit(entries->at[level], 63))
            walk->executable = false;
    }
    walk->page_bytes = 1;
    for (int i = 0; i < format->page_shift; i++)
        walk->page_bytes *= 2;
    walk->global = bit(leaf, 8);
    walk->dirty = bit(leaf, 6);
    walk->key = bit(leaf, 59) + 2 * bit(leaf, 60) + 4 * bit(leaf, 61) +
                8 * bit(leaf, 62);
}

/* Bits 51 to the page's size from the entry, the others from the address. */
static uint64_t physical_address(uint64_t leaf, uint64_t va, int page_shift)
{
    uint64_t pa = 0;

    for (int i = 0; i < 52; i++)
        pa |= (uint64_t)bit(i < page_shift ? va : leaf, i) << i;
    return pa;
}

void oracle_walk(const struct mmu_state *state,
                 const struct mmu_request *request,
                 struct oracle_entries *entries, struct mmu_walk *walk)
{
    bool user_access = request->user && !request->implicit;
    bool write = request->access == MMU_WRITE;
    const struct format *page;
    bool key;

    *walk = (struct mmu_walk){.outcome = MMU_NOT_CANONICAL};
    if (!is_canonical(request->va, state->levels))
        return;
    walk->outcome = MMU_PAGE_FAULT;
    page = find_page(state, request, user_access, entries, walk);
    if (!page)
        return;
    describe_page(page, entries, state->levels, walk);
    key = walk->user && request->access != MMU_FETCH &&
          !key_permits(state, user_access, write, walk->key);
    if (key || !rights_permit(state, request, user_access, walk)) {
        walk->error = error_code(state, request, user_access, true, false, key);
        return;
    }
    walk->outcome = MMU_OK;
    walk->pa = physical_address(entries->at[page->level], request->va,
                                page->page_shift);
    for (unsigned level = page->level; level <= state->levels; level++)
        entries->at[level] |= 0x20;
    if (write)
        entries->at[page->level] |= 0x40;
    walk->dirty = bit(entries->at[page->level], 6);
}
