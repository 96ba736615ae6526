/*
 * Page tables as the kernel changes them. By itself it writes to them; built
 * with GUEST_PV it asks the monitor, and then no change is there before
 * pt_sync(). Part of kernel.h.
 */
#ifndef WORKLOADS_GUEST_PARAVIRT_H
#define WORKLOADS_GUEST_PARAVIRT_H

#ifdef GUEST_PV

/* Under direct paging the kernel's own pages are CPL 3's. */
#define KERNEL_US PTE_US
#define DIRECT_2M true

/* Takes memory for tables out of the first arena. */
void pv_reserve(struct kernel *k);
/* This CPU, from the kernel's root on: hypercalls. */
void pv_start(struct kernel *k, struct cpu *cpu);
void pt_write(struct kernel *k, uint64_t *entry, uint64_t value);
void pt_sync(struct kernel *k);
/* An entry above the leaves'. The lower half is in both roots. */
void link_table(struct kernel *k, struct space *space, uint64_t *entry,
                unsigned level, uint64_t value);
uint64_t phys_alloc_table(struct kernel *k);
void phys_free_table(struct kernel *k, uint64_t pa);
/* A new space's root, and one for its user code: 0, or -ENOMEM. */
int pin_roots(struct kernel *k, struct space *space, uint64_t root);
void unpin_roots(struct kernel *k, struct space *space);
void load_root(const struct space *space, uint64_t keep);
void load_kernel_root(const struct kernel *k);
void flush_tlb(const struct space *space);
void flush_tlb_own(void);

static inline struct arena *table_arena(struct kernel *k)
{
    return &k->pv.tables;
}

/* A large page of the kernel's: no table can be written, and there is nothing
 * but RAM. */
static inline uint64_t kernel_leaf(const struct kernel *k, uint64_t pa,
                                   uint64_t flags)
{
    if (pa >= k->ram_end || (pa >= k->hole_start && pa < k->hole_end))
        return 0;
    return pa | (pa >= k->pv.start && pa < k->pv.end ? flags & ~PTE_RW : flags);
}

#else

#define KERNEL_US 0
#define DIRECT_2M false

static inline void pv_reserve(struct kernel *k)
{
    (void)k;
}

static inline void pv_start(struct kernel *k, struct cpu *cpu)
{
    (void)k;
    (void)cpu;
}

static inline void pt_write(struct kernel *k, uint64_t *entry, uint64_t value)
{
    (void)k;
    *entry = value;
}

static inline void pt_sync(struct kernel *k)
{
    (void)k;
}

static inline void link_table(struct kernel *k, struct space *space,
                              uint64_t *entry, unsigned level, uint64_t value)
{
    (void)k;
    (void)space;
    (void)level;
    *entry = value;
}

static inline uint64_t phys_alloc_table(struct kernel *k)
{
    return phys_alloc(k, 1);
}

static inline void phys_free_table(struct kernel *k, uint64_t pa)
{
    phys_free(k, pa, 1);
}

static inline int pin_roots(struct kernel *k, struct space *space,
                            uint64_t root)
{
    (void)k;
    (void)space;
    (void)root;
    return 0;
}

static inline void unpin_roots(struct kernel *k, struct space *space)
{
    (void)k;
    (void)space;
}

static inline void load_root(const struct space *space, uint64_t keep)
{
    write_cr3(space->cr3 | keep);
}

static inline void flush_tlb(const struct space *space)
{
    write_cr3(space->cr3);
}

#ifndef GUEST_HOSTED
static inline void load_kernel_root(const struct kernel *k)
{
    write_cr3((uint64_t)k->kernel_root - DIRECT_BASE);
}

static inline void flush_tlb_own(void)
{
    write_cr3(read_cr3());
}
#endif

static inline struct arena *table_arena(struct kernel *k)
{
    return &k->arenas[0];
}

static inline uint64_t kernel_leaf(const struct kernel *k, uint64_t pa,
                                   uint64_t flags)
{
    (void)k;
    return pa | flags;
}

#endif

#endif
