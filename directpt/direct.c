#include "directpt/direct.h"

#include "mmu/entry.h"

#include <linux/errno.h>

static int get(struct direct *d, uint64_t pa, enum direct_type type);
static void put(struct direct *d, uint64_t pa);

void direct_init(struct direct *d, const struct direct_config *config,
                 struct direct_frame *frames)
{
    *d = (struct direct){.config = *config, .frames = frames, .epoch = 1};
}

static bool within(const struct direct_ram *ram, uint64_t pa)
{
    return pa >= ram->start && pa < ram->end;
}

/* All of it: there may be a hole within a large page. */
static bool is_ram(const struct direct *d, uint64_t pa, uint64_t bytes)
{
    const struct direct_ram *ram = d->config.ram;
    uint64_t last = pa + bytes - 1;

    return (within(&ram[0], pa) && within(&ram[0], last)) ||
           (within(&ram[1], pa) && within(&ram[1], last));
}

static struct direct_frame *frame_of(struct direct *d, uint64_t pa)
{
    if (!within(&d->config.ram[0], pa) && !within(&d->config.ram[1], pa))
        return NULL;
    return &d->frames[pa >> 12];
}

/* Of an address that is RAM. */
static uint64_t *entry_of(const struct direct *d, uint64_t pa)
{
    const struct direct_ram *ram =
        &d->config.ram[!within(&d->config.ram[0], pa)];

    return (uint64_t *)(void *)(ram->at + (pa - ram->start));
}

/* ---- One entry --------------------------------------------------------- */

static bool is_leaf(unsigned level, uint64_t entry)
{
    return level == 1 || (entry & PTE_PS);
}

/* SDM vol. 3A, tables 4-15 to 4-20; G is reserved in an AMD PML4E. */
static bool is_sound(const struct direct *d, unsigned level, uint64_t entry)
{
    uint64_t reserved =
        PTE_ADDR & ~(((uint64_t)1 << d->config.physical_bits) - 1);

    if (level >= 3)
        reserved |= PTE_PS;
    if (level == 4)
        reserved |= PTE_G;
    if (level == 2 && (entry & PTE_PS))
        reserved |= (PAGE_2M - 1) & PTE_ADDR & ~PTE_PAT_LARGE;
    return !(entry & reserved);
}

/* A writable page of 2 MiB is 512 writable frames. */
static int get_large(struct direct *d, uint64_t pa)
{
    unsigned i = 0;
    int err = 0;

    for (; !err && i < PT_ENTRIES; i++)
        err = get(d, pa + i * PAGE_4K, DIRECT_WRITABLE);
    for (i--; err && i-- > 0;)
        put(d, pa + i * PAGE_4K);
    return err;
}

static uint64_t leaf_pa(unsigned level, uint64_t entry)
{
    return entry & PTE_ADDR & ~((1ull << pt_shift(level)) - 1);
}

static int get_entry(struct direct *d, unsigned level, uint64_t entry)
{
    uint64_t pa = entry & PTE_ADDR;

    if (!(entry & PTE_P))
        return 0;
    if (!is_sound(d, level, entry))
        return -EINVAL;
    if (!is_leaf(level, entry))
        return get(d, pa, (enum direct_type)(level - 1));
    pa = leaf_pa(level, entry);
    if (!is_ram(d, pa, 1ull << pt_shift(level)))
        return -EFAULT;
    if (!(entry & PTE_RW))
        return 0;
    return level == 1 ? get(d, pa, DIRECT_WRITABLE) : get_large(d, pa);
}

static void put_entry(struct direct *d, unsigned level, uint64_t entry)
{
    if (!(entry & PTE_P))
        return;
    if (!is_leaf(level, entry)) {
        put(d, entry & PTE_ADDR);
        return;
    }
    if (!(entry & PTE_RW))
        return;
    for (uint64_t pa = leaf_pa(level, entry), n = 1ull << 9 * (level - 1); n;
         n--, pa += PAGE_4K)
        put(d, pa);
}

/* ---- Whole tables ------------------------------------------------------ */

static void invalidate(struct direct *d, uint64_t *table, unsigned level,
                       unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (level == 4 && i == d->config.fixed_index)
            table[i] = 0;
        else if (table[i])
            put_entry(d, level, table[i]);
    }
}

static int validate(struct direct *d, uint64_t *table, unsigned level)
{
    for (unsigned i = 0; i < PT_ENTRIES; i++) {
        bool fixed = level == 4 && i == d->config.fixed_index;
        int err = 0;

        if (fixed)
            err = table[i] ? -EINVAL : 0;
        else if (table[i])
            err = get_entry(d, level, table[i]);
        if (err) {
            invalidate(d, table, level, i);
            return err;
        }
        if (fixed)
            table[i] = d->config.fixed_entry;
    }
    d->stats.validated++;
    return 0;
}

/* A CPU may still hold what the frame was: as long as it can, it becomes
 * nothing else. */
static void settle(struct direct *d, const struct direct_frame *frame)
{
    if (frame->stamp != d->epoch)
        return;
    d->config.flush_all(d->config.arg);
    d->stats.flushes++;
    d->epoch++;
}

static int take(struct direct *d, struct direct_frame *frame, uint64_t pa,
                enum direct_type type)
{
    int err = 0;

    settle(d, frame);
    /* Before its entries are looked at: one may lead back here. */
    frame->type = (uint8_t)type;
    frame->count = 1;
    if (type != DIRECT_WRITABLE)
        err = validate(d, entry_of(d, pa), type);
    if (err) {
        frame->type = DIRECT_NONE;
        frame->count = 0;
    }
    return err;
}

/* The level falls with each step down, so this is at most four deep. */
static int get(struct direct *d, uint64_t pa, enum direct_type type)
{
    struct direct_frame *frame = frame_of(d, pa);

    if (!frame)
        return -EFAULT;
    if (frame->type == DIRECT_NONE)
        return take(d, frame, pa, type);
    if (frame->type != type)
        return -EBUSY;
    if (frame->count == UINT16_MAX)
        return -EMFILE;
    frame->count++;
    return 0;
}

static void put(struct direct *d, uint64_t pa)
{
    struct direct_frame *frame = &d->frames[pa >> 12];
    unsigned level = frame->type;

    if (--frame->count)
        return;
    if (level != DIRECT_WRITABLE) {
        invalidate(d, entry_of(d, pa), level, PT_ENTRIES);
        d->stats.invalidated++;
    }
    frame->type = DIRECT_NONE;
    frame->stamp = d->epoch;
}

/* ---- What the guest asks for ------------------------------------------- */

static int refuse(struct direct *d, int err)
{
    if (err)
        d->stats.refused++;
    return err;
}

/* The usual case: a level-1 entry goes from one page to another, or changes
 * flags, and no frame's type changes. False when it is not that, and nothing
 * was done. */
static bool update_page(struct direct *d, uint64_t *entry, uint64_t value)
{
    const uint64_t mapping = PTE_ADDR | PTE_RW | PTE_P;
    uint64_t old = *entry;
    struct direct_frame *to = NULL, *from = NULL;

    if ((old ^ value) & mapping) {
        if (!is_sound(d, 1, value))
            return false;
        if ((value & (PTE_P | PTE_RW)) == (PTE_P | PTE_RW)) {
            to = frame_of(d, value & PTE_ADDR);
            if (!to || to->type != DIRECT_WRITABLE || to->count == UINT16_MAX)
                return false;
        } else if (value & PTE_P && !frame_of(d, value & PTE_ADDR)) {
            return false;
        }
        if ((old & (PTE_P | PTE_RW)) == (PTE_P | PTE_RW)) {
            from = &d->frames[(old & PTE_ADDR) >> 12];
            if (from->count == 1)
                return false;
        }
    }
    /* The CPU may set bits meanwhile, which the guest then loses, as it would
     * by a store. Nothing else writes to a table. */
    __atomic_store_n(entry, value, __ATOMIC_RELEASE);
    if (to)
        to->count++;
    if (from)
        from->count--;
    return true;
}

int direct_update(struct direct *d, uint64_t pa, uint64_t value)
{
    struct direct_frame *frame = frame_of(d, pa);
    unsigned index = (unsigned)(pa % PAGE_4K / 8), level;
    uint64_t *entry, old;
    int err;

    d->stats.updates++;
    if (!frame || pa % 8 || frame->type == DIRECT_NONE ||
        frame->type == DIRECT_WRITABLE)
        return refuse(d, -EINVAL);
    level = frame->type;
    /* Who copies a root copies our entry too. */
    if (level == 4 && index == d->config.fixed_index)
        return value == d->config.fixed_entry ? 0 : refuse(d, -EINVAL);
    entry = entry_of(d, pa);
    if (level == 1 && update_page(d, entry, value))
        return 0;
    err = get_entry(d, level, value);
    if (err)
        return refuse(d, err);
    old = __atomic_exchange_n(entry, value, __ATOMIC_SEQ_CST);
    put_entry(d, level, old);
    return 0;
}

int direct_get_root(struct direct *d, uint64_t pa)
{
    return refuse(d, pa % PAGE_4K ? -EINVAL : get(d, pa, DIRECT_L4));
}

void direct_put_root(struct direct *d, uint64_t pa)
{
    put(d, pa);
}

int direct_pin(struct direct *d, uint64_t pa, unsigned level)
{
    struct direct_frame *frame = frame_of(d, pa);
    int err = !frame || pa % PAGE_4K || level < 1 || level > 4 || frame->pinned
                  ? -EINVAL
                  : get(d, pa, (enum direct_type)level);

    if (!err)
        frame->pinned = true;
    return refuse(d, err);
}

int direct_unpin(struct direct *d, uint64_t pa)
{
    struct direct_frame *frame = frame_of(d, pa);

    if (!frame || pa % PAGE_4K || !frame->pinned)
        return refuse(d, -EINVAL);
    frame->pinned = false;
    put(d, pa);
    return 0;
}

int direct_clear(struct direct *d, uint64_t pa)
{
    struct direct_frame *frame = frame_of(d, pa);
    uint64_t *words;

    if (!frame || pa % PAGE_4K)
        return refuse(d, -EINVAL);
    if (frame->type != DIRECT_NONE)
        return refuse(d, -EBUSY);
    words = entry_of(d, pa);
    for (unsigned i = 0; i < PT_ENTRIES; i++)
        words[i] = 0;
    return 0;
}
