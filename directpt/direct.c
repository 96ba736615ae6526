#include "directpt/direct.h"

#include "mmu/entry.h"

#include <linux/errno.h>

static int get(struct direct *d, uint64_t pa, enum direct_type type);
static void put(struct direct *d, uint64_t pa);

void direct_init(struct direct *d, const struct direct_config *config,
                 const struct direct_ops *ops, struct direct_frame *frames)
{
    *d = (struct direct){
        .config = *config, .ops = *ops, .frames = frames, .epoch = 1};
}

static struct direct_frame *frame_of(struct direct *d, uint64_t pa)
{
    if (pa >> 12 >= d->config.frames ||
        !d->ops.frame(d->ops.arg, pa & PTE_ADDR))
        return NULL;
    return &d->frames[pa >> 12];
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
    if (!frame_of(d, pa) || !frame_of(d, pa + (1ull << pt_shift(level)) - 1))
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
    d->stats.invalidated++;
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
    d->ops.flush_all(d->ops.arg);
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
        err = validate(d, d->ops.frame(d->ops.arg, pa & PTE_ADDR), type);
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
    if (level != DIRECT_WRITABLE)
        invalidate(d, d->ops.frame(d->ops.arg, pa & PTE_ADDR), level,
                   PT_ENTRIES);
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
    if (level == 4 && index == d->config.fixed_index)
        return refuse(d, -EINVAL);
    err = get_entry(d, level, value);
    if (err)
        return refuse(d, err);
    entry = d->ops.frame(d->ops.arg, pa & PTE_ADDR) + index;
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
    words = d->ops.frame(d->ops.arg, pa);
    for (unsigned i = 0; i < PT_ENTRIES; i++)
        words[i] = 0;
    return 0;
}
