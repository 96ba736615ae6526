/*
 * A fault: walk the guest's tables; when they allow the access, fill what the
 * shadow lacks on its path.
 */
#include "shadowpt/private.h"

/* What one fault works with. */
struct fill {
    const struct mmu_request *request;
    struct mmu_walk walk;
    struct shadow_frame host;
    uint32_t frame;   /* guest frame of the access */
    unsigned leaf;    /* level of the guest's leaf */
    unsigned access;  /* of the whole path */
    uint64_t flushes; /* of all CPUs' TLBs, before the walk */
};

static int memory_read(void *arg, uint64_t pa, uint64_t *entry)
{
    const struct shadow *s = arg;

    return s->ops.memory.read(s->ops.memory.arg, pa, entry);
}

static int memory_set(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct shadow *s = arg;
    int error = s->ops.memory.set(s->ops.memory.arg, pa, old, bits);

    if (!error) {
        s->stats.accessed_set += (bits & ~old & PTE_A) != 0;
        s->stats.dirty_set += (bits & ~old & PTE_D) != 0;
    }
    return error;
}

/* Sets the guest's accessed and dirty bits where the access is allowed. */
static void walk_guest(struct shadow *s, struct fill *f)
{
    const struct mmu_memory memory = {memory_read, memory_set, s};

    mmu_walk(&s->state, &memory, f->request, &f->walk);
}

/* The last entry read: its table can't be had, or can't be named. */
static enum shadow_outcome no_table(struct shadow *s, const struct fill *f,
                                    struct shadow_fault *fault)
{
    unsigned n = f->walk.references;

    fault->pa = n ? f->walk.reference[n - 1].pa : s->state.cr3 & PTE_ADDR;
    fault->table = true;
    s->stats.no_memory++;
    return SHADOW_NO_MEMORY;
}

static bool tables_named(const struct mmu_walk *walk)
{
    for (unsigned i = 0; i < walk->references; i++)
        if (walk->reference[i].pa >> 12 >= FRAME_MAX)
            return false;
    return true;
}

/* Is the page in one piece in the shadow, at this level? */
static bool leaf_here(const struct shadow *s, const struct fill *f,
                      unsigned level)
{
    if (level > f->leaf)
        return false;
    if (level == 1)
        return true;
    return !s->config.splinter && f->host.level >= level &&
           !page_in_region(s, f->frame, level);
}

static uint32_t aligned(uint32_t frame, unsigned level)
{
    return frame & ~((1u << 9 * (level - 1)) - 1);
}

/* What an entry at `level` leads to; `path` is the rights down to it. */
static struct key child_key(const struct shadow *s, const struct fill *f,
                            unsigned level, uint64_t guest_entry, unsigned path)
{
    struct key key = {.role = s->role, .level = level - 1};

    if (level > f->leaf) {
        key.frame = (guest_entry & PTE_ADDR) >> 12;
        key.access = path;
    } else {
        key.frame = aligned(f->frame, level);
        key.access = f->access;
        key.protection = s->role & ROLE_PKE ? f->walk.key : 0;
        key.direct = true;
    }
    return key;
}

static bool leads_to(const struct shadow *s, uint64_t value, unsigned level,
                     const struct key *key)
{
    if (!value || spte_leaf(level, value))
        return false;
    return s->config.policy == SHADOW_VTLB ||
           page_same_key(&s->page[child_of(s, value)].key, key);
}

static uint32_t descend(struct shadow *s, const struct fill *f, uint32_t entry,
                        unsigned level, const struct key *key)
{
    bool splinters = level == f->leaf;
    uint32_t child;

    if (!leads_to(s, s->entries[entry], level, key)) {
        if (s->entries[entry])
            entry_drop(s, entry);
        child = page_get(s, key);
        entry_link_child(s, entry, child, 0);
        s->stats.splintered += splinters;
    } else {
        child = child_of(s, s->entries[entry]);
    }
    if (splinters)
        s->entries[entry] |= SPTE_SPLINTERS;
    s->page[child].writes = 0;
    return child;
}

/* Goes down to where the leaf belongs, and makes tables on the way. */
static uint32_t make_path(struct shadow *s, const struct fill *f,
                          unsigned *leaf_level)
{
    uint32_t page = s->root[s->current].page;
    unsigned level = s->state.levels, path = ACC_ALL;

    for (const struct mmu_reference *r = f->walk.reference;
         !leaf_here(s, f, level); level--) {
        uint32_t entry = entry_at(page, f->request->va, level);
        uint64_t guest_entry = 0;
        struct key key;

        if (level >= f->leaf) {
            guest_entry = (r++)->entry;
            path &= leaf_access(s->role, guest_entry);
        }
        key = child_key(s, f, level, guest_entry, path);
        page = descend(s, f, entry, level, &key);
    }
    *leaf_level = level;
    return entry_at(page, f->request->va, level);
}

/* A write to a table: is there a way not to trace it any longer? One that can
 * be let go is no nuisance however often it is written. */
static bool loosen(struct shadow *s, uint32_t frame)
{
    return frame_abandon(s, frame) || frame_unsync(s, frame) ||
           frame_flooded(s, frame);
}

/* The CPU runs with CR0.WP set, so that WD denies the supervisor even where
 * the guest has it clear (SDM vol. 3A, 4.6.2). AD would be a true fault. */
static bool key_denies_write(const struct shadow *s, uint64_t value)
{
    unsigned key = (value & PTE_KEY) >> PTE_KEY_SHIFT;

    return (s->role & ROLE_PKE) && (value & PTE_US) &&
           (s->state.pkru & PKRU_WD(key));
}

/* Will the CPU do the access with this leaf? */
static bool allows(const struct shadow *s, const struct mmu_request *request,
                   uint64_t value)
{
    switch (request->access) {
    case MMU_WRITE:
        return (value & PTE_RW) && !key_denies_write(s, value);
    case MMU_FETCH:
        return value && !(value & PTE_XD);
    default:
        return value;
    }
}

/* Is a guest entry as the walk left it? */
static bool unchanged(struct shadow *s, const struct fill *f, unsigned n)
{
    const struct mmu_reference *r = &f->walk.reference[n];
    bool leaf = n + 1 == f->walk.references;
    uint64_t now;

    return !s->ops.memory.read(s->ops.memory.arg, r->pa, &now) &&
           !((now ^ (r->entry | PTE_A)) & ~PTE_D) &&
           !(leaf && f->walk.dirty && !(now & PTE_D));
}

/* Until the flush another CPU could write to a table that was walked and has
 * been traced only now: what it wrote nobody reports. */
static bool changed_meanwhile(struct shadow *s, const struct fill *f)
{
    bool changed = false;

    if (s->config.cpus == 1 || s->config.policy == SHADOW_VTLB ||
        (!s->flush && s->stats.tlb_flushes == f->flushes))
        return false;
    shadow_flush_others(s);
    for (unsigned i = 0; i < f->walk.references; i++)
        changed |= !unchanged(s, f, i);
    for (unsigned i = 0; changed && i < f->walk.references; i++)
        table_written(s, f->walk.reference[i].pa, 8);
    return changed;
}

static uint64_t make_leaf(struct shadow *s, const struct fill *f,
                          uint32_t entry, unsigned level)
{
    bool write = f->request->access == MMU_WRITE;
    uint64_t value = leaf_value(s->role, f->access, level, &f->host);

    if ((value & PTE_RW) && frame_traced(s, f->frame) &&
        !(write && loosen(s, f->frame)))
        value &= ~PTE_RW;
    if (value && (s->role & ROLE_PKE))
        value |= (uint64_t)f->walk.key << PTE_KEY_SHIFT;
    if (value)
        entry_set_leaf(s, entry, aligned(f->frame, level), value);
    else if (s->entries[entry])
        entry_drop(s, entry);
    s->stats.large += level > 1;
    return value;
}

static enum shadow_outcome fill(struct shadow *s, struct fill *f,
                                struct shadow_fault *fault)
{
    uint64_t frame = f->walk.pa >> 12, value;
    unsigned level;
    uint32_t entry;

    fault->pa = f->walk.pa;
    if (va_is_fixed(s, f->request->va))
        return SHADOW_RESERVED;
    if (!tables_named(&f->walk))
        return no_table(s, f, fault);
    if (frame >= FRAME_MAX ||
        s->ops.frame(s->ops.memory.arg, frame, &f->host)) {
        s->stats.no_memory++;
        return SHADOW_NO_MEMORY;
    }
    f->frame = (uint32_t)frame;
    f->leaf = f->walk.reference[f->walk.references - 1].level;
    f->access = (f->walk.writable ? ACC_W : 0) | (f->walk.user ? ACC_U : 0) |
                (f->walk.executable ? ACC_X : 0) | (f->walk.dirty ? ACC_D : 0);
    page_reserve(s, MMU_LEVELS_MAX);
    entry = make_path(s, f, &level);
    if (changed_meanwhile(s, f))
        return SHADOW_FIXED; /* the CPU tries again */
    value = make_leaf(s, f, entry, level);
    if (allows(s, f->request, value))
        return SHADOW_FIXED;
    if (f->request->access == MMU_WRITE) {
        s->stats.traced_writes++;
        return SHADOW_EMULATE_WRITE;
    }
    s->stats.no_memory++;
    return SHADOW_NO_MEMORY;
}

static enum shadow_outcome handle(struct shadow *s, struct fill *f,
                                  struct shadow_fault *fault)
{
    walk_guest(s, f);
    switch (f->walk.outcome) {
    case MMU_OK:
        return fill(s, f, fault);
    case MMU_PAGE_FAULT:
        fault->error = (uint32_t)f->walk.error;
        s->stats.true_faults++;
        return SHADOW_TRUE_FAULT;
    case MMU_NOT_CANONICAL:
        return SHADOW_NOT_CANONICAL;
    default:
        return no_table(s, f, fault);
    }
}

/* ---- The shadow, walked in software ------------------------------------- */

/* The leaf for an address, or NONE. */
static uint32_t find_leaf(const struct shadow *s, uint64_t va, unsigned *level)
{
    uint32_t page = s->root[s->current].page;

    if (va_is_fixed(s, va) || !mmu_canonical(va, s->state.levels))
        return NONE;
    for (*level = s->state.levels;; --*level) {
        uint32_t entry = entry_at(page, va, *level);
        uint64_t value = s->entries[entry];

        if (!value)
            return NONE;
        if (spte_leaf(*level, value))
            return entry;
        page = child_of(s, value);
    }
}

bool shadow_lookup(const struct shadow *s, uint64_t va, enum mmu_access access,
                   uint64_t *pa)
{
    const struct mmu_request request = {.access = access};
    unsigned level;
    uint32_t entry = find_leaf(s, va, &level);
    uint64_t within;

    if (entry == NONE || !allows(s, &request, s->entries[entry]))
        return false;
    within = ((uint64_t)1 << pt_shift(level)) - 1;
    *pa = (s->entries[entry] & ~s->config.poison & PTE_ADDR & ~within) |
          (va & within);
    return true;
}

uint64_t shadow_epoch(const struct shadow *s)
{
    return s->epoch;
}

/* ---- Poison ------------------------------------------------------------ */

/* Has another CPU, or this one too, lifted it? */
static bool is_lifted(const struct shadow *s, uint32_t entry)
{
    for (unsigned cpu = 0; cpu < s->config.cpus; cpu++)
        for (unsigned i = 0; i < s->lifted[cpu].count; i++)
            if (s->lifted[cpu].entry[i] == entry)
                return true;
    return false;
}

static void put_poison(struct shadow *s, uint32_t entry)
{
    const struct key *key = &s->page[entry / PT_ENTRIES].key;

    /* The table may have become another meanwhile. */
    if (!is_lifted(s, entry) && s->page[entry / PT_ENTRIES].used &&
        s->entries[entry] && spte_leaf(key->level, s->entries[entry]) &&
        (s->entries[entry] & PTE_XD) && is_poisoned_mode(s, key->role) &&
        !is_fixed(s, key, entry % PT_ENTRIES))
        entry_write(s, entry, s->entries[entry] | s->config.poison);
}

void shadow_repoison(struct shadow *s)
{
    struct lifted *lifted = &s->lifted[s->cpu];

    while (lifted->count)
        put_poison(s, lifted->entry[--lifted->count]);
}

/* Is the poison all that is in the way, or was, when another CPU that misses
 * the same page lifted it first? */
static bool lift(struct shadow *s, const struct mmu_request *request,
                 struct shadow_fault *fault)
{
    struct lifted *lifted = &s->lifted[s->cpu];
    uint32_t entry = find_leaf(s, request->va, &fault->level);

    if (entry == NONE || request->access == MMU_FETCH ||
        !allows(s, request, s->entries[entry]) ||
        (!(s->entries[entry] & s->config.poison) && !is_lifted(s, entry)))
        return false;
    if (lifted->count == LIFTED_MAX)
        shadow_repoison(s);
    entry_write(s, entry, s->entries[entry] & ~s->config.poison);
    lifted->entry[lifted->count++] = entry;
    s->stats.tlb_misses[request->access][fault->level - 1]++;
    return true;
}

enum shadow_outcome shadow_fault(struct shadow *s, uint32_t error,
                                 const struct mmu_request *request,
                                 struct shadow_fault *fault)
{
    struct fill f; /* clearing it would cost as much as a level's walk */
    enum shadow_outcome outcome;

    f.request = request;
    f.flushes = s->stats.tlb_flushes;
    *fault = (struct shadow_fault){0};
    if ((error & PF_RS) && is_poisoned_mode(s, s->role) &&
        lift(s, request, fault))
        return SHADOW_POISONED;
    outcome = handle(s, &f, fault);
    if (outcome == SHADOW_FIXED && (error & PF_P))
        s->stats.hidden_protection++;
    else if (outcome == SHADOW_FIXED)
        s->stats.hidden_missing++;
    shadow_settle(s);
    return outcome;
}
