/*
 * Address spaces: tables whose upper half is the kernel's and shared.
 * A leaf's frame is counted in kernel.references; a writable page of a range
 * that fork shared is read-only in its entry until somebody writes to it.
 * Page tables stay until their space is destroyed.
 */
#include "workloads/guest/kernel.h"

#include <errno.h>

#define TABLE_FLAGS  (PTE_P | PTE_RW | PTE_US | PTE_A)
#define KERNEL_TABLE (PTE_P | PTE_RW | PTE_A | KERNEL_US)
#define KERNEL_LEAF  (KERNEL_TABLE | PTE_D | PTE_PS)

#define DIRECT_GIGABYTES_MAX 65536

/* Above this many pages one CR3 load replaces the INVLPGs, as in Linux
 * (tlb_single_page_flush_ceiling). */
#define INVLPG_CEILING 33

/* ---- The kernel's half ------------------------------------------------- */

static uint64_t *boot_table(struct kernel *k, uint64_t *pa)
{
    struct arena *arena = table_arena(k);

    *pa = arena->next;
    arena->next += PAGE_4K;
    if (arena->next > arena->end || arena->next > PAGE_1G)
        kernel_panic("the VM has too little memory to boot");
    return boot_to_virt(*pa);
}

static void fill(const struct kernel *k, uint64_t *table, unsigned count,
                 uint64_t pa, unsigned level, uint64_t flags)
{
    uint64_t step = 1ull << pt_shift(level);

    for (unsigned i = 0; i < count; i++, pa += step)
        table[i] = kernel_leaf(k, pa, flags);
}

static bool has_1g_pages(void)
{
    uint32_t r[4];

    cpuid(0x80000000, 0, r);
    if (r[0] < 0x80000001)
        return false;
    cpuid(0x80000001, 0, r);
    return r[3] >> 26 & 1;
}

/* One PDPT of the direct map: gigabytes `first` to `end` of RAM. Without pages
 * of 1 GiB it shares the page directory of the first one with the image. */
static void map_direct(struct kernel *k, uint64_t *pdpt, uint64_t first,
                       uint64_t end, uint64_t first_pd)
{
    unsigned count =
        (unsigned)(end - first < PT_ENTRIES ? end - first : PT_ENTRIES);
    uint64_t pd = first_pd;

    if (has_1g_pages() && !DIRECT_2M) {
        fill(k, pdpt, count, first * PAGE_1G, 3, KERNEL_LEAF | PTE_XD);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        if (first + i)
            fill(k, boot_table(k, &pd), PT_ENTRIES, (first + i) * PAGE_1G, 2,
                 KERNEL_LEAF | PTE_XD);
        pdpt[i] = pd | KERNEL_TABLE;
    }
}

/* With 5 levels the kernel's half is one PML4 all the same: the upper 128 TiB
 * of it are where 4 levels have them. */
void space_init_kernel(struct kernel *k)
{
    uint64_t gigabytes = (k->ram_end + PAGE_1G - 1) / PAGE_1G;
    uint64_t root_pa, pml4_pa, direct_pa, high_pa, pd_pa;
    uint64_t *root = boot_table(k, &root_pa), *pml4 = root, *direct, *high;

    if (gigabytes > DIRECT_GIGABYTES_MAX)
        kernel_panic("the guest kernel maps 64 TiB at most");
    if (PAGING_LEVELS == 5) {
        pml4 = boot_table(k, &pml4_pa);
        root[pt_index(DIRECT_BASE, 5)] = pml4_pa | KERNEL_TABLE;
    }
    direct = boot_table(k, &direct_pa);
    high = boot_table(k, &high_pa);
    pml4[pt_index(DIRECT_BASE, 4)] = direct_pa | KERNEL_TABLE;
    pml4[pt_index(KERNEL_BASE, 4)] = high_pa | KERNEL_TABLE;
    fill(k, boot_table(k, &pd_pa), PT_ENTRIES, 0, 2, KERNEL_LEAF);
    high[pt_index(KERNEL_BASE, 3)] = pd_pa | KERNEL_TABLE;
    map_direct(k, direct, 0, gigabytes, pd_pa);
    for (uint64_t first = PT_ENTRIES; first < gigabytes; first += PT_ENTRIES) {
        direct = boot_table(k, &direct_pa);
        pml4[pt_index(DIRECT_BASE, 4) + first / PT_ENTRIES] =
            direct_pa | KERNEL_TABLE;
        map_direct(k, direct, first, gigabytes, 0);
    }
    load_first_root(root_pa);
    k->kernel_root = phys_to_virt(root_pa);
}

/* ---- Tables ------------------------------------------------------------ */

static uint64_t *table_of(uint64_t entry)
{
    return phys_to_virt(entry & PTE_ADDR);
}

/* The entry for va at `level`, its tables made when `create`; NULL when there
 * is none, or a larger page is in the way. */
static uint64_t *entry_at(struct kernel *k, struct space *space, uint64_t va,
                          unsigned level, bool create)
{
    uint64_t *table = space->root;

    pt_sync(k);
    for (unsigned l = PAGING_LEVELS; l > level; l--) {
        uint64_t *entry = &table[pt_index(va, l)], value = *entry;

        if (!value && create) {
            uint64_t pa = phys_alloc_table(k);

            if (!pa)
                return NULL;
            value = pa | TABLE_FLAGS;
            link_table(k, space, entry, l, value);
        }
        if (!(value & PTE_P) || value & PTE_PS)
            return NULL;
        table = table_of(value);
    }
    return &table[pt_index(va, level)];
}

uint64_t *space_kernel_entry(struct kernel *k, uint64_t va, unsigned level)
{
    struct space kernel = {.root = k->kernel_root};

    return entry_at(k, &kernel, va, level, true);
}

static void release(struct kernel *k, uint64_t entry, unsigned level)
{
    uint64_t pa = entry & PTE_ADDR;
    uint16_t *references = &k->references[pa / PAGE_4K];

    if (!--*references)
        phys_free(k, pa, level);
}

static void destroy_table(struct kernel *k, uint64_t pa, unsigned level)
{
    uint64_t *table = phys_to_virt(pa);
    unsigned count = level == PAGING_LEVELS ? PT_ENTRIES / 2 : PT_ENTRIES;

    for (unsigned i = 0; i < count; i++) {
        uint64_t entry = table[i];

        if (!entry)
            continue;
        if (level == 1 || entry & PTE_PS)
            release(k, entry, level);
        else
            destroy_table(k, entry & PTE_ADDR, level - 1);
    }
    phys_free_table(k, pa);
}

/* Copies a table; both sides' writable leaves become read-only. */
static int clone_table(struct kernel *k, struct space *space, uint64_t *to,
                       uint64_t *from, unsigned level)
{
    unsigned count = level == PAGING_LEVELS ? PT_ENTRIES / 2 : PT_ENTRIES;

    for (unsigned i = 0; i < count; i++) {
        uint64_t entry = from[i], pa;
        int err;

        if (!entry)
            continue;
        if (level == 1 || entry & PTE_PS) {
            if (entry & PTE_RW)
                pt_write(k, &from[i], entry & ~PTE_RW);
            pt_write(k, &to[i], entry & ~PTE_RW);
            k->references[(entry & PTE_ADDR) / PAGE_4K]++;
            continue;
        }
        pa = phys_alloc_table(k);
        if (!pa)
            return -ENOMEM;
        link_table(k, space, &to[i], level, pa | TABLE_FLAGS);
        err =
            clone_table(k, space, phys_to_virt(pa), table_of(entry), level - 1);
        if (err)
            return err;
    }
    return 0;
}

/* ---- Spaces ------------------------------------------------------------ */

int space_create(struct kernel *k, struct space *space)
{
    uint64_t pa = phys_alloc_table(k);

    *space = (struct space){0};
    if (!pa || pin_roots(k, space, pa))
        return -ENOMEM;
    space->root = phys_to_virt(pa);
    space->cr3 = pa;
    if (k->pcid) {
        space->cr3 |= k->next_pcid;
        k->next_pcid = k->next_pcid == 4095 ? 1 : k->next_pcid + 1;
    }
    for (unsigned i = PT_ENTRIES / 2; i < PT_ENTRIES; i++)
        if (k->kernel_root[i])
            pt_write(k, &space->root[i], k->kernel_root[i]);
    return 0;
}

void space_destroy(struct kernel *k, struct space *space)
{
    unpin_roots(k, space);
    destroy_table(k, space->cr3 & PTE_ADDR, PAGING_LEVELS);
    space->root = NULL;
}

int space_clone(struct kernel *k, struct space *to, struct space *from)
{
    int err = space_create(k, to);

    if (err)
        return err;
    for (unsigned i = 0; i < VMAS_MAX; i++)
        to->vmas[i] = from->vmas[i];
    pt_sync(k);
    err = clone_table(k, to, to->root, from->root, PAGING_LEVELS);
    pt_sync(k);
    smp_flush_others(k, 0, UINT64_MAX, PAGE_4K);
    flush_tlb(from);
    if (err)
        space_destroy(k, to);
    return err;
}

/* CR3 bit 63: keep what is cached for this PCID (SDM vol. 3A, 4.10.4.1). */
void space_switch(const struct kernel *k, const struct space *space)
{
    uint64_t keep = k->pcid && space->tagged ? 1ull << 63 : 0;

    load_root(space, keep);
}

static void flush(struct kernel *k, struct space *space, uint64_t start,
                  uint64_t end, uint64_t page_bytes)
{
    pt_sync(k);
    if ((end - start) / page_bytes > INVLPG_CEILING)
        flush_tlb(space);
    else
        for (uint64_t va = start; va < end; va += page_bytes)
            invlpg(va);
    smp_flush_others(k, start, end, page_bytes);
}

/* ---- Ranges ------------------------------------------------------------ */

static struct vma *vma_find(struct space *space, uint64_t va)
{
    for (struct vma *v = space->vmas; v < space->vmas + VMAS_MAX; v++)
        if (va >= v->start && va < v->end)
            return v;
    return NULL;
}

static struct vma *vma_free_slot(struct space *space)
{
    for (struct vma *v = space->vmas; v < space->vmas + VMAS_MAX; v++)
        if (v->start == v->end)
            return v;
    return NULL;
}

/* The first gap of `bytes`, aligned to its pages. */
static uint64_t find_gap(struct space *space, uint64_t bytes,
                         uint64_t page_bytes)
{
    uint64_t at = USER_MAP;

    for (unsigned i = 0; i < VMAS_MAX;) {
        const struct vma *v = &space->vmas[i];

        at = (at + page_bytes - 1) & ~(page_bytes - 1);
        if (at >= USER_LIMIT || bytes > USER_LIMIT - at)
            return 0;
        if (v->start < v->end && v->start < at + bytes && v->end > at) {
            at = v->end;
            i = 0;
        } else {
            i++;
        }
    }
    return at;
}

/* Makes `at` a boundary between ranges. */
static int vma_split(struct space *space, uint64_t at)
{
    struct vma *v = vma_find(space, at), *rest;

    if (!v || v->start == at)
        return 0;
    if (at & (v->page_bytes - 1))
        return -EINVAL;
    rest = vma_free_slot(space);
    if (!rest)
        return -ENOMEM;
    *rest = *v;
    v->end = rest->start = at;
    return 0;
}

/* Joins a range with the ones it could be one with, so that a program that
 * changes page after page does not run out of ranges. */
static void vma_join(struct space *space, struct vma *v)
{
    for (struct vma *w = space->vmas; w < space->vmas + VMAS_MAX; w++) {
        if (w == v || w->start == w->end || w->prot != v->prot ||
            w->page_bytes != v->page_bytes)
            continue;
        if (w->end == v->start)
            v->start = w->start;
        else if (w->start == v->end)
            v->end = w->end;
        else
            continue;
        w->start = w->end = 0;
    }
}

static uint64_t leaf_flags(const struct vma *v)
{
    uint64_t flags = PTE_US | PTE_A;

    if (v->prot)
        flags |= PTE_P;
    if (v->prot & WL_PROT_WRITE)
        flags |= PTE_RW | PTE_D;
    if (!(v->prot & SPACE_EXEC))
        flags |= PTE_XD;
    if (v->page_bytes != PAGE_4K)
        flags |= PTE_PS;
    return flags;
}

/* The frame, or 0. */
static uint64_t map_page(struct kernel *k, const struct vma *v, uint64_t *entry,
                         unsigned level)
{
    uint64_t pa = phys_alloc(k, level);

    if (!pa)
        return 0;
    k->references[pa / PAGE_4K] = 1;
    pt_write(k, entry, pa | leaf_flags(v));
    return pa;
}

static int populate(struct kernel *k, struct space *space, const struct vma *v)
{
    unsigned level = pt_leaf_level(v->page_bytes);
    uint64_t *entry = NULL;

    for (uint64_t va = v->start; va < v->end; va += v->page_bytes, entry++) {
        if (!entry || !pt_index(va, level))
            entry = entry_at(k, space, va, level, true);
        if (!entry || !map_page(k, v, entry, level))
            return -ENOMEM;
    }
    return 0;
}

static struct vma *vma_add(struct space *space, uint64_t at, uint64_t bytes,
                           uint64_t page_bytes, unsigned prot)
{
    struct vma *v = vma_free_slot(space);

    if (v)
        *v = (struct vma){at, at + bytes, page_bytes, prot};
    return v;
}

uint64_t space_map(struct kernel *k, struct space *space, uint64_t at,
                   uint64_t bytes, uint64_t page_bytes, unsigned prot,
                   bool populated)
{
    struct vma *v;

    if (!pt_leaf_level(page_bytes) || !bytes || bytes > USER_LIMIT)
        return 0;
    if (page_bytes == PAGE_1G && !has_1g_pages())
        return 0;
    bytes = (bytes + page_bytes - 1) & ~(page_bytes - 1);
    if (!at)
        at = find_gap(space, bytes, page_bytes);
    v = at ? vma_add(space, at, bytes, page_bytes, prot) : NULL;
    if (!v)
        return 0;
    if (populated && populate(k, space, v)) {
        space_unmap(k, space, at, bytes);
        return 0;
    }
    return at;
}

int space_map_frames(struct kernel *k, struct space *space, uint64_t at,
                     uint64_t pa, uint64_t bytes, unsigned prot)
{
    struct vma *v = vma_add(space, at, bytes, PAGE_4K, prot);

    if (!v)
        return -ENOMEM;
    for (; at < v->end; at += PAGE_4K, pa += PAGE_4K) {
        uint64_t *entry = entry_at(k, space, at, 1, true);

        if (!entry)
            return -ENOMEM;
        k->references[pa / PAGE_4K] += 2; /* one for good: never freed */
        pt_write(k, entry, pa | leaf_flags(v));
    }
    return 0;
}

/* Calls change(entry) for each leaf entry in [start, end) that is in use. */
static void each_leaf(struct kernel *k, struct space *space,
                      const struct vma *v,
                      void (*change)(struct kernel *k, const struct vma *v,
                                     uint64_t *entry, unsigned level))
{
    unsigned level = pt_leaf_level(v->page_bytes);
    uint64_t *entry = NULL;

    pt_sync(k);
    for (uint64_t va = v->start; va < v->end; va += v->page_bytes) {
        entry = entry && pt_index(va, level)
                    ? entry + 1
                    : entry_at(k, space, va, level, false);
        if (!entry)
            va |= ((uint64_t)PT_ENTRIES - 1) << pt_shift(level);
        else if (*entry)
            change(k, v, entry, level);
    }
}

static void drop_leaf(struct kernel *k, const struct vma *v, uint64_t *entry,
                      unsigned level)
{
    uint64_t old = *entry;

    (void)v;
    pt_write(k, entry, 0);
    release(k, old, level);
}

static void protect_leaf(struct kernel *k, const struct vma *v, uint64_t *entry,
                         unsigned level)
{
    uint64_t pa = *entry & PTE_ADDR, flags = leaf_flags(v);

    (void)level;
    if (k->references[pa / PAGE_4K] > 1)
        flags &= ~PTE_RW; /* shared by fork: the next write copies */
    pt_write(k, entry, pa | flags);
}

/* Splits ranges so that [start, end) is made of whole ones. */
static int isolate(struct space *space, uint64_t start, uint64_t end)
{
    int err;

    if (start >= end || end > USER_LIMIT || start & (PAGE_4K - 1))
        return -EINVAL;
    err = vma_split(space, start);
    return err ? err : vma_split(space, end);
}

int space_unmap(struct kernel *k, struct space *space, uint64_t start,
                uint64_t bytes)
{
    uint64_t end = start + ((bytes + PAGE_4K - 1) & ~(PAGE_4K - 1));
    struct vma *v = vma_find(space, start);
    int err;

    if (v && end > start)
        end =
            start + ((end - start + v->page_bytes - 1) & ~(v->page_bytes - 1));
    err = isolate(space, start, end);
    for (v = space->vmas; !err && v < space->vmas + VMAS_MAX; v++) {
        if (v->start >= end || v->end <= start || v->start == v->end)
            continue;
        each_leaf(k, space, v, drop_leaf);
        flush(k, space, v->start, v->end, v->page_bytes);
        v->start = v->end = 0;
    }
    return err;
}

int space_protect(struct kernel *k, struct space *space, uint64_t start,
                  uint64_t bytes, unsigned prot)
{
    uint64_t end = start + bytes;
    int err = isolate(space, start, end);

    for (struct vma *v = space->vmas; !err && v < space->vmas + VMAS_MAX; v++) {
        if (v->start >= end || v->end <= start || v->start == v->end)
            continue;
        v->prot = prot;
        each_leaf(k, space, v, protect_leaf);
        flush(k, space, v->start, v->end, v->page_bytes);
        vma_join(space, v);
    }
    return err;
}

/* ---- Faults ------------------------------------------------------------ */

static int copy_on_write(struct kernel *k, const struct vma *v, uint64_t va,
                         uint64_t *entry, unsigned level)
{
    uint64_t old = *entry, bytes = v->page_bytes;

    if (k->references[(old & PTE_ADDR) / PAGE_4K] == 1) {
        pt_write(k, entry, old | PTE_RW | PTE_D);
    } else {
        uint64_t pa = map_page(k, v, entry, level);

        if (!pa)
            return -ENOMEM;
        frame_copy(phys_to_virt(pa), phys_to_virt(old & PTE_ADDR), bytes);
        release(k, old, level);
    }
    va &= ~(bytes - 1);
    pt_sync(k);
    invlpg(va);
    smp_flush_others(k, va, va + bytes, bytes);
    return 0;
}

int space_fault(struct kernel *k, struct space *space, uint64_t va,
                uint64_t error)
{
    const struct vma *v = vma_find(space, va);
    unsigned need = error & PF_W   ? WL_PROT_WRITE
                    : error & PF_I ? SPACE_EXEC
                                   : WL_PROT_READ;
    unsigned level;
    uint64_t *entry;

    if (!v || !(v->prot & need))
        return -EFAULT;
    level = pt_leaf_level(v->page_bytes);
    entry = entry_at(k, space, va, level, true);
    if (!entry)
        return -ENOMEM;
    if (!*entry)
        return map_page(k, v, entry, level) ? 0 : -ENOMEM;
    if (error & PF_W && !(*entry & PTE_RW))
        return copy_on_write(k, v, va, entry, level);
    return 0; /* another CPU was first, or the TLB was behind */
}
