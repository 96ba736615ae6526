#include "shadowpt/private.h"

static uint32_t page_of(uint32_t entry)
{
    return entry / PT_ENTRIES;
}

/* Leaves of different sizes are apart, so that a large one is found by any
 * of its frames. */
static uint32_t *leaf_bucket(const struct shadow *s, uint32_t frame,
                             unsigned level)
{
    uint64_t value = (uint64_t)(frame >> 9 * (level - 1)) << 2 | level;

    return &s->entry_bucket[hash(value) & s->entry_mask];
}

void entry_init(struct shadow *s)
{
    for (uint32_t i = 0; i <= s->entry_mask; i++)
        s->entry_bucket[i] = NONE;
}

static void unlink_child(struct shadow *s, uint32_t entry)
{
    uint32_t child = child_of(s, s->entries[entry]);
    struct page *page = &s->page[child];

    chain_remove(s->entry_link, &page->parents, entry);
    if (page->parents == NONE && !page->root)
        chain_push(s->page_link[IDLE], &s->orphan_head, child);
}

/* The guest owes INVLPG for a 4 KiB page's entry; of anything larger the CPU
 * may hold more than the one translation that INVLPG names. */
void entry_drop(struct shadow *s, uint32_t entry)
{
    struct page *page = &s->page[page_of(entry)];
    unsigned level = page->key.level;
    uint64_t value = s->entries[entry];

    if (spte_leaf(level, value))
        chain_remove(s->entry_link, leaf_bucket(s, s->frame[entry], level),
                     entry);
    else
        unlink_child(s, entry);
    entry_write(s, entry, 0);
    page->present--;
    s->stats.dropped_entries++;
    if (level == 1 && !page->key.direct)
        s->tlb_dirty = s->all_cpus;
    else
        owe_flush(s, page->key.role);
}

void entry_link_child(struct shadow *s, uint32_t entry, uint32_t child,
                      uint64_t marks)
{
    struct page *page = &s->page[child];

    if (page->parents == NONE && !page->root)
        chain_remove(s->page_link[IDLE], &s->orphan_head, child);
    chain_push(s->entry_link, &page->parents, entry);
    entry_write(s, entry,
                page_pa(s, child) | marks | PTE_P | PTE_RW | PTE_US | PTE_A);
    s->page[page_of(entry)].present++;
}

void entry_set_leaf(struct shadow *s, uint32_t entry, uint32_t frame,
                    uint64_t value)
{
    struct page *page = &s->page[page_of(entry)];
    uint64_t old = s->entries[entry];
    bool same =
        old && spte_leaf(page->key.level, old) && s->frame[entry] == frame;

    if (same) {
        if (old & ~value & PTE_RW)
            s->tlb_dirty = s->all_cpus;
    } else {
        if (old)
            entry_drop(s, entry);
        chain_push(s->entry_link, leaf_bucket(s, frame, page->key.level),
                   entry);
        s->frame[entry] = frame;
        page->present++;
    }
    if (is_poisoned_mode(s, page->key.role) && (value & PTE_XD))
        value |= s->config.poison;
    entry_write(s, entry, value);
}

static bool present_for(uint32_t role, unsigned access)
{
    bool user = access & ACC_U;

    switch (ROLE_MODE(role)) {
    case SHADOW_KERNEL:
        return !(user && (role & ROLE_SMAP));
    case SHADOW_USER:
        return user;
    default:
        return true;
    }
}

/* CR0.WP clear: the kernel writes what is read-only, and with one root for
 * both only where no user can go. */
static bool writable_for(uint32_t role, unsigned access)
{
    if (access & ACC_W)
        return true;
    if ((role & ROLE_WP) || ROLE_MODE(role) == SHADOW_USER)
        return false;
    return ROLE_MODE(role) == SHADOW_KERNEL || !(access & ACC_U);
}

static bool executable_for(uint32_t role, unsigned access)
{
    bool smep = ROLE_MODE(role) == SHADOW_KERNEL && (role & ROLE_SMEP);

    return (access & ACC_X) && !(smep && (access & ACC_U));
}

uint64_t leaf_value(uint32_t role, unsigned access, unsigned level,
                    const struct shadow_frame *host)
{
    uint64_t value = PTE_P | PTE_A | PTE_D | (level > 1 ? PTE_PS : 0);

    if (!present_for(role, access))
        return 0;
    if (ROLE_MODE(role) != SHADOW_BOTH || (access & ACC_U))
        value |= PTE_US;
    if (writable_for(role, access) && (access & ACC_D) && host->writable)
        value |= PTE_RW;
    if (!executable_for(role, access) || !host->executable)
        value |= PTE_XD;
    return value | (host->frame << 12 & PTE_ADDR &
                    ~(((uint64_t)1 << pt_shift(level)) - 1));
}

/* The rights one guest entry allows. */
unsigned leaf_access(uint32_t role, uint64_t entry)
{
    bool xd = (role & ROLE_NXE) && (entry & PTE_XD);

    return (entry & PTE_RW ? ACC_W : 0) | (entry & PTE_US ? ACC_U : 0) |
           (xd ? 0 : ACC_X);
}

/* May a level-1 entry be in the CPU's TLB: present, without reserved bits,
 * accessed? */
static bool cacheable(uint32_t role, uint64_t entry)
{
    uint64_t reserved = PTE_ADDR & ~(((uint64_t)1 << ROLE_BITS(role)) - 1);

    if (!(role & ROLE_NXE))
        reserved |= PTE_XD;
    return (entry & (PTE_P | PTE_A)) == (PTE_P | PTE_A) && !(entry & reserved);
}

static uint64_t rebuilt(struct shadow *s, const struct key *key,
                        uint64_t guest_entry)
{
    uint64_t frame = (guest_entry & PTE_ADDR) >> 12;
    unsigned access = key->access & leaf_access(key->role, guest_entry);
    struct shadow_frame host;
    uint64_t value;

    if (!cacheable(key->role, guest_entry) || frame >= FRAME_MAX ||
        s->ops.frame(s->ops.memory.arg, frame, &host))
        return 0;
    if (guest_entry & PTE_D)
        access |= ACC_D;
    value = leaf_value(key->role, access, 1, &host);
    if (frame_traced(s, (uint32_t)frame))
        value &= ~PTE_RW;
    if (value && (key->role & ROLE_PKE))
        value |= guest_entry & PTE_KEY;
    return value;
}

bool leaf_rebuild(struct shadow *s, uint32_t entry)
{
    const struct key *key = &s->page[page_of(entry)].key;
    uint64_t pa = (uint64_t)key->frame * PAGE_4K + entry % PT_ENTRIES * 8;
    uint64_t guest_entry, value = 0;

    if (!s->ops.memory.read(s->ops.memory.arg, pa, &guest_entry))
        value = rebuilt(s, key, guest_entry);
    if (value)
        entry_set_leaf(s, entry, (guest_entry & PTE_ADDR) >> 12, value);
    else if (s->entries[entry])
        entry_drop(s, entry);
    return value;
}

static void protect_leaf(struct shadow *s, uint32_t entry, unsigned level)
{
    if (!(s->entries[entry] & PTE_RW))
        return;
    if (level == 1)
        entry_write(s, entry, s->entries[entry] & ~PTE_RW);
    else
        entry_drop(s, entry);
    s->stats.write_protected++;
    s->flush = true;
}

/* Calls for every leaf that maps the frame, alone or in a large page. */
static void each_leaf(struct shadow *s, uint32_t frame,
                      void (*visit)(struct shadow *s, uint32_t entry,
                                    unsigned level))
{
    for (unsigned level = 1; level <= 3; level++) {
        uint32_t next, e = *leaf_bucket(s, frame, level);
        unsigned shift = 9 * (level - 1);

        for (; e != NONE; e = next) {
            next = s->entry_link[e].next;
            if (s->page[page_of(e)].key.level == level &&
                s->frame[e] >> shift == frame >> shift)
                visit(s, e, level);
        }
    }
}

void frame_write_protect(struct shadow *s, uint32_t frame)
{
    each_leaf(s, frame, protect_leaf);
    if (s->tlb_dirty & ~own_bit(s))
        s->flush = true;
    else if (s->tlb_dirty)
        s->flush_own = true;
}

static void drop_leaf(struct shadow *s, uint32_t entry, unsigned level)
{
    (void)level;
    entry_drop(s, entry);
}

void frame_drop(struct shadow *s, uint32_t frame)
{
    each_leaf(s, frame, drop_leaf);
    s->flush = true;
}
