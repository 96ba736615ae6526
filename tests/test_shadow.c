/*
 * The shadow MMU against an oracle. A guest does random things to random
 * tables; models of CPUs run on the shadow tables, each with a TLB of its own
 * that only the library's flushes empty. Every translation that a CPU gets
 * must be the guest's now, or one the architecture lets its TLB keep; every
 * fault and every accessed or dirty bit must be what a walk of the guest's
 * tables says. While a call for one CPU is on its way, the others go on with
 * what their TLBs and the tables as they are just then let them do.
 */
#include "shadowpt/private.h"
#include "tests/shadow_guest.h"
#include "tests/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TLB_ENTRIES 64u
#define PDE_ENTRIES 16u
#define TABLES_PA   0x7000000000ull
#define POISON      (1ull << 51)

#ifdef __SANITIZE_ADDRESS__
#define DIVISOR 4
#else
#define DIVISOR 1
#endif

/* One run of random operations. */
struct scenario {
    const char *name;
    unsigned thousands; /* of operations */
    unsigned tables, roots, levels, flood;
    unsigned cpus; /* 0: one */
    bool tlb, apart, roles, splinter, amd;
    bool fixed, poison; /* the caller's entry; poisoned leaves */
    bool late;          /* only CPU 0 is there at first */
};

struct tlb_entry {
    uint64_t root, page, entry;
    unsigned level; /* of the shadow's leaf */
    bool valid;
};

/* A paging-structure cache: where the page table of 2 MiB is. */
struct pde_entry {
    uint64_t root, region, table;
    bool valid;
};

struct cpu {
    struct tlb_entry tlb[TLB_ENTRIES];
    struct pde_entry pde[PDE_ENTRIES];
    uint64_t cr3;  /* as loaded: behind shadow_root until the CPU goes on */
    bool in_guest; /* not in a call, nor on its way from one */
    bool user;     /* where roots are apart */
};

struct machine {
    const struct scenario *scenario;
    enum shadow_policy policy;
    struct shadow *shadow;
    uint64_t *arena;
    size_t bytes;
    struct cpu cpus[GUEST_CPUS], *cpu;
    struct guest guest;
    uint64_t given_up;
    uint64_t raced_pa;   /* once this is read, CPU 1 writes to it */
    uint64_t unshadowed; /* a frame that no write traps of */
    bool busy;           /* what others do meanwhile doesn't count just now */
    uint64_t recent[8];  /* addresses: without locality nothing gets stale */
    uint64_t random, failures, operation;
    uint64_t expected_true, fixed, emulated, hits, stale;
    uint64_t page_flushes, own_flushes, all_flushes;
    uint64_t meanwhile, stores; /* others' accesses during calls */
    uint64_t loads[2][3];       /* into TLBs, of leaves that are poisoned */
};

static uint32_t chance(struct machine *m, uint32_t below)
{
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    return (uint32_t)((m->random >> 32) * below >> 32);
}

static bool one_in(struct machine *m, uint32_t n)
{
    return !chance(m, n);
}

static void wrong(struct machine *m, const char *what, uint64_t va)
{
    if (m->failures++ < 5)
        printf("    %s, operation %lu, va %#lx: %s\n", m->scenario->name,
               (unsigned long)m->operation, (unsigned long)va, what);
}

static uint64_t sign_extended(const struct machine *m, uint64_t va)
{
    unsigned unused = 64 - pt_shift(m->scenario->levels + 1);

    return (uint64_t)((int64_t)(va << unused) >> unused);
}

/* ---- The CPU on the shadow tables ---------------------------------------- */

static struct tlb_entry *tlb_slot(struct machine *m, uint64_t root, uint64_t va)
{
    uint64_t mixed = (va / PAGE_4K ^ root) * 0x9e3779b97f4a7c15ull;

    return &m->cpu->tlb[mixed >> 58];
}

static struct pde_entry *pde_slot(struct machine *m, uint64_t root, uint64_t va)
{
    uint64_t mixed = (va / PAGE_2M ^ root) * 0x9e3779b97f4a7c15ull;

    return &m->cpu->pde[mixed >> 60];
}

static struct machine *machine_of(void *guest)
{
    return (struct machine *)((char *)guest - offsetof(struct machine, guest));
}

static void flush_page(void *arg, uint64_t va)
{
    struct machine *m = machine_of(arg);

    for (unsigned i = 0; i < TLB_ENTRIES; i++) {
        struct tlb_entry *t = &m->cpu->tlb[i];
        unsigned shift = t->valid ? 9 * (t->level - 1) : 0;

        if (t->page >> shift == va / PAGE_4K >> shift)
            t->valid = false;
    }
    memset(m->cpu->pde, 0, sizeof m->cpu->pde);
    m->page_flushes++;
}

static void others_go_on(struct machine *m, uint32_t seldom);
static void race(struct machine *m);

static void empty_tlb(struct cpu *cpu)
{
    for (unsigned i = 0; i < TLB_ENTRIES; i++)
        cpu->tlb[i].valid = false;
    memset(cpu->pde, 0, sizeof cpu->pde);
}

static void flush_own(void *arg)
{
    struct machine *m = machine_of(arg);

    empty_tlb(m->cpu);
    m->own_flushes++;
}

/* The others go on until it reaches them. */
static void flush_all(void *arg)
{
    struct machine *m = machine_of(arg);

    for (unsigned i = 0; i < 4; i++)
        others_go_on(m, 2);
    for (unsigned i = 0; i < GUEST_CPUS; i++)
        empty_tlb(&m->cpus[i]);
    m->all_flushes++;
}

static unsigned cpu_count(const struct machine *m)
{
    return m->scenario->cpus ? m->scenario->cpus : 1;
}

static void be_cpu(struct machine *m, unsigned i)
{
    m->cpu = &m->cpus[i];
    m->guest.cpu = &m->guest.cpus[i];
}

/* The selected CPU traps: its CR3 has been loaded since the last time. */
static void enter(struct machine *m)
{
    shadow_select(m->shadow, (unsigned)(m->cpu - m->cpus));
    if (m->cpu->cr3)
        m->cpu->cr3 = shadow_root(m->shadow);
    m->cpu->in_guest = false;
}

/* It goes on. */
static void leave(struct machine *m)
{
    shadow_select(m->shadow, (unsigned)(m->cpu - m->cpus));
    m->cpu->cr3 = shadow_root(m->shadow);
    m->cpu->in_guest = true;
}

/* The caller's entry, which leads out of the arena. */
#define FIXED_INDEX 2u
#define FIXED_ENTRY (0x5000000000ull | PTE_P | PTE_RW | PTE_US | PTE_A)

static bool in_fixed(const struct machine *m, uint64_t va)
{
    return m->scenario->fixed &&
           pt_index(va, m->scenario->levels) == FIXED_INDEX;
}

/* Whoever is in the monitor runs on the caller's entry of what CR3 holds. */
static void check_fixed(struct machine *m)
{
    for (unsigned i = 0; m->scenario->fixed && i < cpu_count(m); i++) {
        uint64_t table = (m->cpus[i].cr3 - TABLES_PA) / 8;

        if (m->cpus[i].cr3 &&
            (m->arena[table + FIXED_INDEX] & ~(7ull * PAGE_4K)) != FIXED_ENTRY)
            wrong(m, "the caller's entry has gone", i);
    }
}

static int host_frame(void *arg, uint64_t frame, struct shadow_frame *host)
{
    others_go_on(machine_of(arg), 8);
    return guest_host(arg, frame, host);
}

/* In the midst of a walk too, but for a virtual TLB's: nothing tells it later
 * that an entry changed before the walk set another one's accessed bit, an
 * order of which the oracle makes more than the manual does. */
static int read_table(void *arg, uint64_t pa, uint64_t *entry)
{
    struct machine *m = machine_of(arg);
    int error;

    if (m->policy != SHADOW_VTLB)
        others_go_on(m, 8);
    error = guest_read(arg, pa, entry);
    if (pa == m->raced_pa)
        race(m);
    if (m->policy != SHADOW_VTLB)
        others_go_on(m, 8);
    return error;
}

/* The promise: an upper entry allows everything, and nothing is there for the
 * CPU to set. */
static void check_entry(struct machine *m, uint64_t entry, unsigned level,
                        uint64_t va)
{
    const uint64_t upper = PTE_P | PTE_RW | PTE_US | PTE_A;
    const uint64_t leaf = PTE_P | PTE_A | PTE_D;
    bool large = level > 1 && (entry & PTE_PS);

    if (level == 1 || large ? (entry & leaf) != leaf
                            : (entry & (upper | PTE_XD)) != upper)
        wrong(m, "bits missing in a shadow entry", va);
    if (large && (level > 3 || (entry & ~POISON & PTE_ADDR &
                                ((1ull << pt_shift(level)) - 1))))
        wrong(m, "a reserved bit in a shadow entry", va);
}

static uint64_t shadow_entry(struct machine *m, uint64_t table, unsigned level,
                             uint64_t va)
{
    uint64_t number = (table - TABLES_PA) / PAGE_4K, entry;

    if (level == m->scenario->levels && in_fixed(m, va))
        return 0; /* not the guest's */
    if (number >= shadow_tables(m->shadow)) {
        wrong(m, "a shadow entry leads out of the arena", va);
        return 0;
    }
    entry = m->arena[number * PT_ENTRIES + pt_index(va, level)];
    if (!(entry & PTE_P))
        return 0;
    check_entry(m, entry, level, va);
    return entry;
}

/* The shadow's leaf for an address, cut to 4 KiB, or 0. */
static uint64_t shadow_leaf(struct machine *m, uint64_t va, unsigned *size)
{
    uint64_t root = m->cpu->cr3, table = root, entry;
    struct pde_entry *pde = pde_slot(m, root, va);
    bool cached = m->scenario->tlb && pde->valid && pde->root == root &&
                  pde->region == va / PAGE_2M;
    unsigned level = m->scenario->levels;

    if (cached) {
        table = pde->table;
        level = 1;
    }
    for (;; level--) {
        entry = shadow_entry(m, table, level, va);
        *size = level;
        if (!entry || level == 1)
            return entry;
        if (entry & PTE_PS)
            return entry | (va & ((1ull << pt_shift(level)) - 1) & PTE_ADDR);
        table = entry & PTE_ADDR;
        if (level == 2)
            *pde = (struct pde_entry){root, va / PAGE_2M, table, true};
    }
}

/* With CR0.WP set, WD is for the supervisor too (SDM vol. 3A, 4.6.2). */
static bool key_denies(const struct mmu_state *s, uint64_t entry,
                       const struct mmu_request *r)
{
    uint32_t rights = s->pkru >> (entry >> PTE_KEY_SHIFT & 15) * 2;

    return s->pke && (entry & PTE_US) && r->access != MMU_FETCH &&
           ((rights & 1) || (r->access == MMU_WRITE && (rights & 2)));
}

static bool key_denies_write(const struct machine *m, uint64_t entry)
{
    const struct mmu_request write = {.access = MMU_WRITE};

    return key_denies(&m->guest.cpu->state, entry, &write) &&
           (m->guest.cpu->state.pkru >> (entry >> PTE_KEY_SHIFT & 15) * 2 & 2);
}

/* The rights of a shadow leaf, by the CPU; it always runs with WP and NXE. */
static bool allowed(const struct machine *m, uint64_t entry,
                    const struct mmu_request *r)
{
    const struct mmu_state *s = &m->guest.cpu->state;
    bool user = m->scenario->apart || r->user, us = entry & PTE_US;

    if (!entry || (user && !us))
        return false;
    if (key_denies(s, entry, r))
        return false;
    if (r->access == MMU_FETCH)
        return !(entry & PTE_XD) && !(!user && s->smep && us);
    if (!user && us && s->smap && !s->ac)
        return false;
    return r->access == MMU_READ || (entry & PTE_RW);
}

/* A leaf that can be executed is none of poison's. */
static bool can_be_poisoned(const struct machine *m, uint64_t entry)
{
    return m->scenario->poison && m->cpu->user && (entry & PTE_XD);
}

static bool walked(struct machine *m, const struct mmu_request *r,
                   uint64_t *entry, unsigned *level)
{
    *entry = shadow_leaf(m, r->va, level);
    if (*entry & POISON) {
        if (!can_be_poisoned(m, *entry))
            wrong(m, "poison where none should be", r->va);
        return false;
    }
    return allowed(m, *entry, r);
}

/* `*entry` is what was found, allowed or not. */
static bool hit(struct machine *m, const struct mmu_request *r, uint64_t *entry)
{
    uint64_t root = m->cpu->cr3;
    struct tlb_entry *t = tlb_slot(m, root, r->va);
    bool ours = t->valid && t->root == root && t->page == r->va / PAGE_4K;

    unsigned level = 1;

    *entry = 0;
    if (sign_extended(m, r->va) != r->va) /* #GP before any walk */
        return false;
    if (m->scenario->tlb && ours && allowed(m, t->entry, r)) {
        *entry = t->entry;
        return true;
    }
    if (ours) /* a fault drops it (SDM vol. 3A, 4.10.4.1) */
        t->valid = false;
    if (!walked(m, r, entry, &level))
        return false;
    if (can_be_poisoned(m, *entry) && !m->busy)
        m->loads[r->access][level - 1]++;
    *t = (struct tlb_entry){root, r->va / PAGE_4K, *entry, level, true};
    return true;
}

/* ---- One access -----------------------------------------------------------
 */

static uint64_t host_pa(uint64_t entry, uint64_t va)
{
    return (entry & PTE_ADDR) | (va % PAGE_4K);
}

/* The shadow tables let it pass: was that right? */
static void check_hit(struct machine *m, const struct mmu_request *r,
                      uint64_t entry, bool strict)
{
    struct expected e;

    guest_expect(&m->guest, r, &e);
    m->hits++;
    if (e.outcome == MMU_OK && !e.pending &&
        guest_host_pa(&m->guest, e.pa, r->access) == host_pa(entry, r->va))
        return;
    m->stale++;
    if (strict)
        wrong(m, "a translation that the guest's tables don't have", r->va);
    else if (!guest_stale(&m->guest, r, host_pa(entry, r->va)))
        wrong(m, "staler than the architecture allows", r->va);
}

static void check_bits(struct machine *m, const struct expected *e, uint64_t va,
                       uint32_t changes)
{
    const struct guest *g = &m->guest;

    for (unsigned i = 0; i < e->entries; i++)
        if (e->slot[i] < 0 || (e->bits[i] & ~g->memory[e->slot[i]]))
            wrong(m, "accessed or dirty bit missing", va);
    for (; changes != g->changes; changes++) {
        const struct change *c = &g->change[changes % CHANGES];
        uint64_t bits = 0;

        for (unsigned i = 0; i < e->entries; i++)
            if (e->slot[i] == (int)c->slot)
                bits |= e->bits[i];
        if ((g->memory[c->slot] ^ c->old) & ~bits)
            wrong(m, "a bit set that the access doesn't set", va);
    }
}

static void emulate(struct machine *m, uint64_t pa, uint64_t value)
{
    enter(m);
    guest_store(&m->guest, pa & ~7ull, value);
    shadow_guest_write(m->shadow, pa & ~7ull, 8);
}

/* A write the CPU can't do must have a reason. With CR0.WP clear it can't where
 * the user could write then too. */
static bool may_trap(const struct machine *m, const struct expected *e)
{
    bool unprotected =
        !m->guest.cpu->state.wp && !m->scenario->apart && e->user;

    return m->policy != SHADOW_VTLB || unprotected ||
           e->pa / PAGE_4K - HOST_READONLY < 4;
}

/* The same with no expectation. */
static bool raced(struct machine *m, const struct mmu_request *r,
                  enum shadow_outcome outcome, const struct shadow_fault *fault,
                  uint64_t value)
{
    m->expected_true += outcome == SHADOW_TRUE_FAULT;
    m->fixed += outcome == SHADOW_FIXED;
    if (outcome == SHADOW_EMULATE_WRITE) {
        if (r->access != MMU_WRITE)
            wrong(m, "a write to emulate that isn't one", r->va);
        m->emulated++;
        emulate(m, fault->pa, value);
    }
    return outcome == SHADOW_FIXED;
}

/* Returns true when the access is to be tried again. */
static bool take_fault(struct machine *m, const struct mmu_request *r,
                       uint32_t error, uint64_t value)
{
    struct guest *g = &m->guest;
    struct shadow_fault fault;
    struct expected e;
    uint32_t changes = g->changes;
    uint64_t stores = m->stores;
    enum shadow_outcome outcome;
    /* A write to what the host has read-only is emulated. */
    enum mmu_access needed = r->access == MMU_WRITE ? MMU_READ : r->access;

    enter(m);
    guest_expect(g, r, &e);
    outcome = shadow_fault(m->shadow, error, r, &fault);
    check_fixed(m);
    if (outcome == SHADOW_POISONED) {
        if (!m->scenario->poison || !(error & PF_RS))
            wrong(m, "no fault of poison's", r->va);
        return true;
    }
    if (stores != m->stores) /* what was expected may be so no longer */
        return raced(m, r, outcome, &fault, value);
    m->expected_true += e.outcome == MMU_PAGE_FAULT;
    if (e.outcome == MMU_OK)
        check_bits(m, &e, r->va, changes);
    else if (changes != g->changes)
        wrong(m, "bits set by an access that failed", r->va);
    switch (outcome) {
    case SHADOW_FIXED:
        if (e.outcome != MMU_OK || in_fixed(m, r->va))
            wrong(m, "a true fault taken for a hidden one", r->va);
        m->fixed++;
        return true;
    case SHADOW_RESERVED:
        if (e.outcome != MMU_OK || !in_fixed(m, r->va))
            wrong(m, "an address that isn't the caller's", r->va);
        return false;
    case SHADOW_TRUE_FAULT:
        if (e.outcome != MMU_PAGE_FAULT)
            wrong(m, "a hidden fault taken for a true one", r->va);
        else if (e.error != fault.error)
            wrong(m, "error code", r->va);
        return false;
    case SHADOW_EMULATE_WRITE:
        if (e.outcome != MMU_OK || e.pa != fault.pa || r->access != MMU_WRITE ||
            !may_trap(m, &e) || fault.pa / PAGE_4K == m->unshadowed)
            wrong(m, "a write to emulate that isn't one", r->va);
        m->emulated++;
        emulate(m, fault.pa, value);
        return false;
    case SHADOW_NO_MEMORY:
        if (!fault.table && in_fixed(m, r->va))
            wrong(m, "memory asked for at the caller's addresses", r->va);
        if (fault.table ? e.outcome != MMU_NO_MEMORY
                        : e.outcome != MMU_OK || e.pa != fault.pa ||
                              guest_host_pa(g, e.pa, needed) != UINT64_MAX)
            wrong(m, "memory that exists", r->va);
        return false;
    default:
        if (e.outcome != MMU_NOT_CANONICAL)
            wrong(m, "a canonical address", r->va);
        return false;
    }
}

static uint32_t cpu_error(const struct machine *m, const struct mmu_request *r,
                          uint64_t entry)
{
    bool poisoned = entry & POISON;

    return (entry ? PF_P : 0) | (poisoned ? PF_RS : 0) |
           (r->access == MMU_WRITE ? PF_W : 0) |
           (r->access == MMU_FETCH ? PF_I : 0) |
           (r->user || m->scenario->apart ? PF_U : 0);
}

/* The guest memory behind a host address, for stores through a translation
 * that may be stale. */
static void store(struct machine *m, uint64_t entry, uint64_t va,
                  uint64_t value)
{
    uint64_t host = host_pa(entry, va & ~7ull);

    for (unsigned i = 0; i < FRAMES; i++) {
        uint64_t pa = guest_frame_pa(i) | (va % PAGE_4K & ~7ull);

        if (guest_host_pa(&m->guest, pa, MMU_WRITE) == host) {
            guest_store(&m->guest, pa, value);
            m->stores += m->busy;
        }
    }
}

/* Between calls no CPU's TLB can write to a table that is traced. */
static void check_traced(struct machine *m)
{
    for (unsigned n = 0; n < cpu_count(m) * TLB_ENTRIES; n++) {
        const struct tlb_entry *t =
            &m->cpus[n / TLB_ENTRIES].tlb[n % TLB_ENTRIES];

        for (unsigned i = 0; t->valid && (t->entry & PTE_RW) && i < FRAMES; i++)
            if (guest_host_pa(&m->guest, guest_frame_pa(i), MMU_WRITE) ==
                    host_pa(t->entry, 0) &&
                frame_traced(m->shadow,
                             (uint32_t)(guest_frame_pa(i) / PAGE_4K)))
                wrong(m, "a TLB can write to a traced table",
                      t->page * PAGE_4K);
    }
}

static void set_state(struct machine *m, bool user)
{
    enum shadow_mode mode = !m->scenario->apart ? SHADOW_BOTH
                            : user              ? SHADOW_USER
                                                : SHADOW_KERNEL;

    enter(m);
    if (shadow_set_state(m->shadow, &m->guest.cpu->state, mode))
        wrong(m, "a state refused", 0);
    m->cpu->user = m->scenario->apart && user;
    if (!m->cpu->cr3)
        leave(m);
}

/* What shadow_lookup says is what a walk finds, whose U/S bit is the mode's
 * business. */
static void check_lookup(struct machine *m, const struct mmu_request *r)
{
    bool tlb = false;
    unsigned level = 0;
    uint64_t pa = 0, entry;

    memset(pde_slot(m, m->cpu->cr3, r->va), 0, sizeof(struct pde_entry));
    entry =
        sign_extended(m, r->va) == r->va ? shadow_leaf(m, r->va, &level) : 0;
    entry &= ~(m->scenario->poison ? POISON : 0);
    if (entry)
        tlb = r->access == MMU_WRITE
                  ? (entry & PTE_RW) && !key_denies_write(m, entry)
              : r->access == MMU_FETCH ? !(entry & PTE_XD)
                                       : true;
    if (shadow_lookup(m->shadow, r->va, r->access, &pa) != tlb)
        wrong(m, "shadow_lookup finds something else", r->va);
    else if (tlb && pa != host_pa(entry, r->va))
        wrong(m, "shadow_lookup finds another place", r->va);
}

static void try_access(struct machine *m, const struct mmu_request *r,
                       uint64_t value)
{
    bool exact = m->policy == SHADOW_TRACED && !m->scenario->tlb;
    unsigned faults = 0;
    bool fresh = false;
    uint64_t entry;

    for (;;) {
        uint64_t stores = m->stores, fixed = m->fixed;

        leave(m);
        if (hit(m, r, &entry)) {
            check_hit(m, r, entry, exact || fresh);
            if (r->access == MMU_WRITE)
                store(m, entry, r->va, value);
            return;
        }
        if (!take_fault(m, r, cpu_error(m, r, entry), value))
            return;
        fresh = fixed != m->fixed && stores == m->stores;
        /* One hidden fault, and one of poison's. */
        if (stores == m->stores && ++faults == 2u + m->scenario->poison)
            break;
    }
    wrong(m, "a fixed fault comes again", r->va);
}

static void access_memory(struct machine *m, const struct mmu_request *r,
                          uint64_t value)
{
    if (m->scenario->apart)
        set_state(m, r->user);
    try_access(m, r, value);
    if (m->scenario->fixed && one_in(m, 16)) {
        leave(m);
        check_lookup(m, r);
    }
    if (m->scenario->poison) {
        enter(m);
        shadow_repoison(m->shadow);
    }
}

/* ---- What the guest does --------------------------------------------------
 */

static unsigned some_index(struct machine *m)
{
    static const uint16_t index[] = {0, 1, 2, 511};

    return index[chance(m, 4)];
}

static uint64_t new_va(struct machine *m)
{
    uint64_t va = 0;

    for (unsigned level = 1; level <= m->scenario->levels; level++)
        va |= (uint64_t)some_index(m) << pt_shift(level);
    if (one_in(m, 2000))
        return va | 1ull << 60;
    return sign_extended(m, va) | some_index(m) * 8;
}

/* In the same 2 MiB: the other pages of a large one. */
static uint64_t neighbour(struct machine *m)
{
    uint64_t va = m->recent[chance(m, 8)] & ~(PAGE_2M - 1);
    return va | some_index(m) * PAGE_4K | some_index(m) * 8;
}

static uint64_t some_va(struct machine *m)
{
    unsigned n = chance(m, 8);

    if (one_in(m, 16))
        m->recent[n] = one_in(m, 2) ? new_va(m) : neighbour(m);
    return m->recent[n];
}

static uint64_t window_va(const struct machine *m, unsigned frame,
                          unsigned index)
{
    return sign_extended(m, (uint64_t)WINDOW << pt_shift(m->scenario->levels) |
                                frame * PAGE_4K | index * 8);
}

static uint64_t some_frame_pa(struct machine *m)
{
    switch (chance(m, 100)) {
    case 0:
        return (uint64_t)chance(m, SMALL_END) * PAGE_4K;
    case 1:
        return (HOST_READONLY + (uint64_t)chance(m, 8)) * PAGE_4K;
    case 2:
        return (SMALL_END + (uint64_t)chance(m, 99)) * PAGE_4K;
    default:
        return guest_frame_pa(chance(m, TABLES));
    }
}

static uint64_t large_pa(struct machine *m)
{
    static const uint64_t pa[] = {0,           PAGE_2M, 2 * PAGE_2M,
                                  3 * PAGE_2M, PAGE_1G, PAGE_1G + 5 * PAGE_2M};

    return pa[chance(m, 6)];
}

static uint64_t hostile_bits(struct machine *m)
{
    switch (chance(m, 3)) {
    case 0:
        return 1ull << 51;
    case 1:
        return 1ull << 13;
    default:
        return 1ull << 45;
    }
}

/* Mostly good entries, so that whole paths exist; one table serves as any
 * level, and as data. */
static uint64_t some_entry(struct machine *m)
{
    uint64_t entry = one_in(m, 24) ? large_pa(m) | PTE_PS : some_frame_pa(m);

    entry |= (one_in(m, 99) ? 0 : PTE_P) | (one_in(m, 25) ? 0 : PTE_RW) |
             (one_in(m, 25) ? 0 : PTE_US) |
             (one_in(m, m->scenario->poison ? 2 : 25) ? PTE_XD : 0) |
             (one_in(m, 2) ? PTE_A : 0) | (one_in(m, 2) ? PTE_D : 0) |
             (one_in(m, 16) ? PTE_G : 0);
    if (one_in(m, 4))
        entry |= (uint64_t)chance(m, 16) << PTE_KEY_SHIFT;
    return one_in(m, 200) ? entry ^ hostile_bits(m) : entry;
}

static struct mmu_request some_request(struct machine *m)
{
    static const enum mmu_access kind[] = {MMU_READ, MMU_READ, MMU_WRITE,
                                           MMU_FETCH};

    return (struct mmu_request){
        .va = some_va(m), .access = kind[chance(m, 4)], .user = one_in(m, 2)};
}

/* An entry on the way to an address in use, or any. */
static unsigned some_slot(struct machine *m)
{
    struct mmu_request r = {.va = some_va(m)};
    struct expected e;
    int slot;

    guest_expect(&m->guest, &r, &e);
    slot = e.entries ? e.slot[chance(m, e.entries)] : -1;
    if (slot < 0 || slot >= (int)(TABLES * PT_ENTRIES) || one_in(m, 2))
        return chance(m, TABLES) * PT_ENTRIES + some_index(m);
    return slot;
}

/* Through the window, as a kernel does, or by an emulated write. */
static void write_entry(struct machine *m)
{
    unsigned slot = some_slot(m);
    unsigned frame = slot / PT_ENTRIES, index = slot % PT_ENTRIES;
    uint64_t value = some_entry(m);
    struct mmu_request r = {.va = window_va(m, frame, index),
                            .access = MMU_WRITE};

    if (one_in(m, 8))
        emulate(m, guest_frame_pa(frame) | index * 8, value);
    else
        access_memory(m, &r, value);
}

/* Somebody else, a device for one, writes zeros from one entry to another: of
 * one table, or from one into the next. */
static void clear(struct machine *m)
{
    unsigned table = chance(m, TABLES / 2 - 1);
    unsigned first = some_index(m), count = 1 + chance(m, 3 * PT_ENTRIES / 2);
    uint64_t pa = guest_frame_pa(table) | first * 8;

    if (first + count > 2 * PT_ENTRIES)
        count = 2 * PT_ENTRIES - first;
    for (unsigned i = 0; i < count; i++)
        if ((first + i) % PT_ENTRIES != WINDOW)
            guest_store(&m->guest, pa + i * 8ull, 0);
    enter(m);
    shadow_guest_write(m->shadow, pa, count * 8ull);
}

/* An instruction writes to a table that nobody can emulate: the CPU can then,
 * unless it is the root of one. */
static void unshadow(struct machine *m)
{
    unsigned table = chance(m, TABLES), index = some_index(m);
    uint64_t pa = guest_frame_pa(table);
    const struct mmu_request r = {.va = window_va(m, table, index),
                                  .access = MMU_WRITE};
    bool root = false;

    for (unsigned i = 0; i < cpu_count(m); i++)
        root |= m->guest.cpus[i].state.cr3 == pa;
    enter(m);
    if (shadow_unshadow(m->shadow, pa | 8)) {
        m->unshadowed = pa / PAGE_4K;
        access_memory(m, &r, some_entry(m));
        m->unshadowed = UINT64_MAX;
        m->given_up++;
    } else if (!root || m->policy == SHADOW_VTLB) {
        wrong(m, "a table that is no root can't be given up", pa);
    }
}

/* One CPU goes on while another is in the library: what its TLB, or a walk of
 * the tables as they are just now, lets it do. Where it would fault it waits.
 */
static void go_on(struct machine *m, unsigned cpu)
{
    struct mmu_request r;
    unsigned slot, self = (unsigned)(m->cpu - m->cpus);
    uint64_t entry;

    be_cpu(m, cpu);
    r = some_request(m);
    if (one_in(m, 2)) {
        slot = some_slot(m);
        r = (struct mmu_request){
            .va = window_va(m, slot / PT_ENTRIES, slot % PT_ENTRIES),
            .access = MMU_WRITE};
    }
    if (m->scenario->apart)
        r.user = m->cpu->user;
    if (hit(m, &r, &entry)) {
        m->meanwhile++;
        check_hit(m, &r, entry, false);
        if (r.access == MMU_WRITE)
            store(m, entry, r.va, some_entry(m));
    }
    be_cpu(m, self);
}

static void others_go_on(struct machine *m, uint32_t seldom)
{
    unsigned cpus = cpu_count(m), other;

    check_fixed(m);
    if (cpus == 1 || m->busy || !one_in(m, seldom))
        return;
    other = (unsigned)(m->cpu - m->cpus + 1 + chance(m, cpus - 1)) % cpus;
    if (!m->cpus[other].in_guest)
        return;
    m->busy = true;
    go_on(m, other);
    m->busy = false;
}

static void load_cr3(struct machine *m)
{
    m->guest.cpu->state.cr3 =
        one_in(m, 64) ? SMALL_END * PAGE_4K : guest_frame_pa(chance(m, TABLES));
    enter(m);
    guest_flush_all(&m->guest);
    shadow_set_cr3(m->shadow, m->guest.cpu->state.cr3);
}

static void invlpg(struct machine *m)
{
    uint64_t va = some_va(m);

    enter(m);
    guest_flush(&m->guest, va);
    shadow_invlpg(m->shadow, va);
}

/* Protection keys are only for one root for both; that WRPKRU comes with no
 * flush is as in the CPU. */
static void change_keys(struct machine *m)
{
    struct mmu_state *s = &m->guest.cpu->state;

    s->pke = !m->scenario->apart && one_in(m, 2);
    s->pkru = chance(m, UINT32_MAX) & chance(m, UINT32_MAX);
}

/* SMAP stays with SMEP, as SHADOW_KERNEL asks. */
static void change_state(struct machine *m)
{
    struct mmu_state *s = &m->guest.cpu->state;

    switch (m->scenario->roles ? chance(m, 5) : 4) {
    case 0:
        s->nxe = !s->nxe;
        break;
    case 1:
        s->smep = !s->smep;
        s->smap = s->smep && one_in(m, 2);
        break;
    case 2:
        s->wp = !s->wp;
        break;
    case 3:
        change_keys(m);
        break;
    default:
        s->ac = !s->ac;
        break;
    }
    set_state(m, false);
    guest_flush_all(&m->guest);
    shadow_flush_all(m->shadow);
}

static void move(struct machine *m, unsigned unit)
{
    unsigned moved = m->guest.moved[unit] % 8;

    /* Nothing stays away for long. */
    m->guest.moved[unit] = moved == 7 || !one_in(m, 8) ? (moved + 1) % 7 : 7;
}

/* Other host pages are behind guest frames: a few, a large page's, all. */
static void change_host(struct machine *m)
{
    uint64_t first = chance(m, LARGE_AREA - 8), frames = 1 + chance(m, 8);
    unsigned unit = guest_unit(first), units = (unsigned)frames;

    switch (chance(m, 8)) {
    case 0:
        first = LARGE_AREA + (uint64_t)chance(m, 2) * PT_ENTRIES;
        frames = PT_ENTRIES;
        unit = guest_unit(first);
        units = 1;
        break;
    case 1:
        first = 0;
        frames = UINT64_MAX;
        unit = 0;
        units = HOST_UNITS;
        break;
    default:
        break;
    }
    for (; units; units--)
        move(m, unit++);
    enter(m);
    m->busy = true; /* what others do until the end is the host's to prevent */
    shadow_host_changed(m->shadow, first, frames);
    m->busy = false;
}

static void operate(struct machine *m)
{
    struct mmu_request r;
    uint32_t kind = chance(m, 1000);

    m->operation++;
    if (cpu_count(m) > 1) {
        if (one_in(m, 2))
            leave(m);
        be_cpu(m, chance(m, cpu_count(m)));
        if (one_in(m, 1000))
            unshadow(m);
        if (one_in(m, 256))
            check_traced(m);
    }
    if (kind < 780) {
        r = some_request(m);
        access_memory(m, &r, some_entry(m));
    } else if (kind < 960) {
        write_entry(m);
    } else if (kind < 990) {
        invlpg(m);
    } else if (kind < 997) {
        load_cr3(m);
    } else if (kind < 998) {
        change_state(m);
    } else if (kind < 999 && one_in(m, 4)) {
        change_host(m);
    } else if (kind < 999 && one_in(m, 4)) {
        clear(m);
    } else {
        enter(m);
        guest_flush_all(&m->guest);
        shadow_flush_all(m->shadow);
    }
}

/* ---- Runs -----------------------------------------------------------------
 */

/* Bytes behind the arena that must stay as they are. */
#define GUARD 256u

static void make_shadow(struct machine *m)
{
    const struct scenario *scenario = m->scenario;
    const struct shadow_config config = {
        .policy = m->policy,
        .roots = scenario->roots,
        .splinter = scenario->splinter,
        .flood = scenario->flood,
        .tables_pa = TABLES_PA,
        .cpus = scenario->cpus,
        .fixed = scenario->fixed,
        .fixed_index = FIXED_INDEX,
        .fixed_entry = {FIXED_ENTRY, FIXED_ENTRY | PAGE_4K,
                        FIXED_ENTRY | 2 * PAGE_4K},
        .poison = scenario->poison ? POISON : 0};
    const struct shadow_ops ops = {.memory = {read_table, guest_set, &m->guest},
                                   .frame = host_frame,
                                   .flush_page = flush_page,
                                   .flush_own = flush_own,
                                   .flush_all = flush_all};

    m->bytes = shadow_arena_bytes(scenario->tables);
    m->arena = aligned_alloc(PAGE_4K, (m->bytes / PAGE_4K + 2) * PAGE_4K);
    CU_ASSERT_PTR_NOT_NULL_FATAL(m->arena);
    memset((char *)m->arena + m->bytes, 0x5a, GUARD);
    CU_ASSERT_EQUAL_FATAL(
        shadow_init(&m->shadow, m->arena, m->bytes, &config, &ops), 0);
    CU_ASSERT_EQUAL(shadow_tables(m->shadow), scenario->tables);
}

static void start(struct machine *m, const struct scenario *scenario,
                  enum shadow_policy policy)
{
    memset(m, 0, sizeof *m);
    m->scenario = scenario;
    m->policy = policy;
    m->random = 0x2545f4914f6cdd1dull + scenario->tables;
    m->unshadowed = m->raced_pa = UINT64_MAX;
    guest_init(&m->guest, scenario->levels);
    make_shadow(m);
    for (unsigned i = scenario->late ? 1 : cpu_count(m); i-- > 0;) {
        be_cpu(m, i);
        m->guest.cpu->state = (struct mmu_state){.cr3 = guest_frame_pa(3),
                                                 .levels = scenario->levels,
                                                 .physical_bits = 40,
                                                 .wp = true,
                                                 .nxe = true,
                                                 .pages_1g = !scenario->amd,
                                                 .g_reserved = scenario->amd};
        set_state(m, false);
    }
}

static void fill_tables(struct machine *m)
{
    for (unsigned i = 0; i < 8; i++)
        m->recent[i] = new_va(m);
    for (unsigned i = 0; i < TABLES; i++)
        for (unsigned n = 0; n < 8; n++)
            emulate(m, guest_frame_pa(i) | some_index(m) * 8, some_entry(m));
}

/* Each event, and the policies (a bit for each) that know it. */
#define ALL   7u
#define TRACE (1u << SHADOW_TRACED | 1u << SHADOW_UNSYNC)
#define LOOSE (1u << SHADOW_UNSYNC)
#define EVENT(name, policies)                                    \
    {                                                            \
#name, offsetof(struct shadow_stats, name) / 8, policies \
    }

static const struct {
    const char *name;
    size_t at;
    unsigned policies;
} events[] = {
    EVENT(hidden_missing, ALL),    EVENT(hidden_protection, ALL),
    EVENT(true_faults, ALL),       EVENT(traced_writes, ALL),
    EVENT(no_memory, ALL),         EVENT(guest_writes, ALL),
    EVENT(updated_entries, TRACE), EVENT(prefetched, TRACE),
    EVENT(unsyncs, LOOSE),         EVENT(resyncs, LOOSE),
    EVENT(resync_entries, LOOSE),  EVENT(dropped_entries, ALL),
    EVENT(write_protected, TRACE), EVENT(zapped_tables, ALL),
    EVENT(reclaims, ALL),          EVENT(floods, TRACE),
    EVENT(splintered, ALL),        EVENT(large, ALL),
    EVENT(roots_created, ALL),     EVENT(roots_reused, ALL),
    EVENT(roots_evicted, ALL),     EVENT(accessed_set, ALL),
    EVENT(dirty_set, ALL),         EVENT(invlpg, ALL),
    EVENT(cr3_loads, ALL),         EVENT(flushes, ALL),
    EVENT(tlb_page_flushes, ALL),  EVENT(tlb_own_flushes, ALL),
    EVENT(tlb_flushes, ALL),
};
#define EVENTS (sizeof events / sizeof events[0])
_Static_assert(EVENTS == offsetof(struct shadow_stats, tlb_misses) / 8,
               "every event but those of a poisoned shadow");

static void add_events(const struct shadow_stats *stats, uint64_t *sum)
{
    for (size_t i = 0; i < EVENTS; i++) {
        sum[i] += ((const uint64_t *)stats)[events[i].at];
        if (getenv("SHADOW_VERBOSE"))
            printf(" %s %lu", events[i].name,
                   (unsigned long)((const uint64_t *)stats)[events[i].at]);
    }
}

/* Every event happens in some scenario of each policy that knows it. */
static void check_events(enum shadow_policy policy, const uint64_t *sum)
{
    for (size_t i = 0; i < EVENTS; i++) {
        bool known = events[i].policies >> policy & 1;

        if (known != (sum[i] != 0))
            printf("    %s: %lu\n", events[i].name, (unsigned long)sum[i]);
        CU_ASSERT_EQUAL(known, sum[i] != 0);
    }
}

static void finish(struct machine *m, uint64_t *sum)
{
    const struct shadow_stats *stats = shadow_stats(m->shadow);
    const unsigned char *guard = (unsigned char *)m->arena + m->bytes;

    CU_ASSERT_EQUAL(m->failures, 0);
    CU_ASSERT(shadow_tables_used(m->shadow) <= m->scenario->tables);
    for (unsigned i = 0; i < GUARD; i++)
        CU_ASSERT_EQUAL_FATAL(guard[i], 0x5a);
    CU_ASSERT_EQUAL(stats->true_faults, m->expected_true);
    CU_ASSERT_EQUAL(stats->hidden_missing + stats->hidden_protection, m->fixed);
    CU_ASSERT_EQUAL(stats->traced_writes, m->emulated);
    CU_ASSERT_EQUAL(stats->tlb_page_flushes, m->page_flushes);
    CU_ASSERT_EQUAL(stats->tlb_flushes, m->all_flushes);
    CU_ASSERT_EQUAL(stats->tlb_own_flushes, m->own_flushes);
    /* What a TLB of known size missed. */
    CU_ASSERT_EQUAL(memcmp(stats->tlb_misses, m->loads, sizeof m->loads), 0);
    CU_ASSERT_EQUAL(m->scenario->poison, m->loads[MMU_READ][0] != 0);
    CU_ASSERT_EQUAL(m->scenario->poison, m->loads[MMU_WRITE][0] != 0);
    CU_ASSERT_EQUAL(cpu_count(m) > 1, m->meanwhile != 0);
    CU_ASSERT_EQUAL(cpu_count(m) > 1, m->stores != 0);
    CU_ASSERT_EQUAL(cpu_count(m) > 1, m->given_up != 0);
    if (getenv("SHADOW_VERBOSE"))
        printf("    %s: hits %lu stale %lu meanwhile %lu stores %lu "
               "TLB misses %lu %lu",
               m->scenario->name, (unsigned long)m->hits,
               (unsigned long)m->stale, (unsigned long)m->meanwhile,
               (unsigned long)m->stores, (unsigned long)m->loads[0][0],
               (unsigned long)m->loads[1][1]);
    add_events(stats, sum);
    if (getenv("SHADOW_VERBOSE"))
        printf("\n");
    free(m->arena);
}

/* 9 million operations. */
static const struct scenario scenarios[] = {
    {.name = "a CPU with a TLB",
     .thousands = 2300,
     .tables = 512,
     .roots = 8,
     .levels = 4,
     .tlb = true},
    {.name = "without",
     .thousands = 1500,
     .tables = 512,
     .roots = 8,
     .levels = 4,
     .roles = true},
    {.name = "roots apart",
     .thousands = 1500,
     .tables = 300,
     .roots = 8,
     .levels = 4,
     .flood = 3,
     .tlb = true,
     .apart = true,
     .roles = true},
    {.name = "a small arena",
     .thousands = 800,
     .tables = 20,
     .roots = 2,
     .levels = 4,
     .flood = 4,
     .tlb = true,
     .roles = true},
    {.name = "5 levels",
     .thousands = 400,
     .tables = 256,
     .roots = 4,
     .levels = 5,
     .tlb = true,
     .apart = true,
     .roles = true,
     .splinter = true},
    {.name = "as AMD has it",
     .thousands = 400,
     .tables = 128,
     .roots = 4,
     .levels = 4,
     .tlb = true,
     .roles = true,
     .amd = true},
    {.name = "the smallest arena",
     .thousands = 400,
     .tables = SHADOW_PAGES_MIN,
     .roots = 1,
     .levels = 5,
     .flood = 2,
     .apart = true,
     .roles = true},
    {.name = "3 CPUs",
     .thousands = 700,
     .tables = 512,
     .roots = 8,
     .levels = 4,
     .tlb = true,
     .cpus = 3,
     .fixed = true},
    {.name = "3 CPUs, roots apart, poison",
     .thousands = 600,
     .tables = 300,
     .roots = 8,
     .levels = 4,
     .flood = 3,
     .tlb = true,
     .apart = true,
     .roles = true,
     .cpus = 3,
     .fixed = true,
     .poison = true},
    {.name = "4 CPUs in the smallest arena",
     .thousands = 300,
     .tables = SHADOW_PAGES_MIN + 6,
     .roots = 4,
     .levels = 5,
     .flood = 2,
     .tlb = true,
     .apart = true,
     .roles = true,
     .cpus = 4,
     .fixed = true},
};

static void run(enum shadow_policy policy)
{
    struct machine *m = malloc(sizeof *m);
    uint64_t sum[EVENTS] = {0};

    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        start(m, &scenarios[i], policy);
        fill_tables(m);
        for (unsigned n = scenarios[i].thousands * (1000 / DIVISOR);
             n && m->failures < 100; n--)
            operate(m);
        finish(m, sum);
    }
    check_events(policy, sum);
    free(m);
}

static void traced(void)
{
    run(SHADOW_TRACED);
}

static void unsync(void)
{
    run(SHADOW_UNSYNC);
}

static void vtlb(void)
{
    run(SHADOW_VTLB);
}

/* ---- What each event of a process costs, by policy -------------------------
 */

#define PAGES       PT_ENTRIES
#define PAGE_TABLE  6u
#define FIRST_FRAME 100u
#define RIGHTS      (PTE_P | PTE_RW | PTE_US)

/* A process of one page table, which the kernel reaches by the window. */
static void map_pages(struct machine *m)
{
    for (unsigned i = 3; i < PAGE_TABLE; i++)
        emulate(m, guest_frame_pa(i), guest_frame_pa(i + 1) | RIGHTS);
    for (uint64_t i = 0; i < PAGES; i++)
        emulate(m, guest_frame_pa(PAGE_TABLE) + i * 8,
                (FIRST_FRAME + i) * PAGE_4K | RIGHTS);
}

static void each_page(struct machine *m, enum mmu_access access)
{
    for (uint64_t i = 0; i < PAGES; i++) {
        struct mmu_request r = {
            .va = i * PAGE_4K, .access = access, .user = true};

        access_memory(m, &r, 0);
    }
}

static void read_pages(struct machine *m)
{
    each_page(m, MMU_READ);
}

static void write_pages(struct machine *m)
{
    each_page(m, MMU_WRITE);
}

static void protect_pages(struct machine *m)
{
    for (unsigned i = 0; i < PAGES; i++) {
        struct mmu_request r = {.va = window_va(m, PAGE_TABLE, i),
                                .access = MMU_WRITE};

        access_memory(m, &r,
                      ((FIRST_FRAME + i) * PAGE_4K | RIGHTS | PTE_A | PTE_D) &
                          ~PTE_RW);
    }
}

static void invlpg_pages(struct machine *m)
{
    enter(m);
    for (uint64_t i = 0; i < PAGES; i++) {
        guest_flush(&m->guest, i * PAGE_4K);
        shadow_invlpg(m->shadow, i * PAGE_4K);
    }
}

static void reload_cr3(struct machine *m)
{
    enter(m);
    guest_flush_all(&m->guest);
    shadow_set_cr3(m->shadow, m->guest.cpu->state.cr3);
}

struct cost {
    unsigned missing, protection, true_faults, traced, resyncs, entries;
};

/* Of traced, unsync, vtlb. When the page table is protected again, so is the
 * window's page; one fault lets it go. */
static const struct step {
    const char *name;
    void (*act)(struct machine *m);
    struct cost cost[3];
} steps[] = {
    {"map", map_pages, {{0}, {0}, {0}}},
    {"first touch",
     read_pages,
     {{.missing = PAGES}, {.missing = PAGES}, {.missing = PAGES}}},
    {"read", read_pages, {{0}, {0}, {0}}},
    {"first write",
     write_pages,
     {{.protection = PAGES}, {.protection = PAGES}, {.protection = PAGES}}},
    {"write", write_pages, {{0}, {0}, {0}}},
    {"protect",
     protect_pages,
     {{.traced = PAGES}, {.missing = 1}, {.missing = 1}}},
    {"flush", invlpg_pages, {{0}, {.entries = PAGES}, {0}}},
    {"denied write",
     write_pages,
     {{.true_faults = PAGES}, {.true_faults = PAGES}, {.true_faults = PAGES}}},
    {"switch", reload_cr3, {{0}, {.resyncs = 1}, {0}}},
    {"read after it", read_pages, {{0}, {0}, {.missing = PAGES}}},
};

static void check_cost(const char *name, const struct cost *cost,
                       const struct shadow_stats *before,
                       const struct shadow_stats *now)
{
    const struct cost found = {
        .missing = (unsigned)(now->hidden_missing - before->hidden_missing),
        .protection =
            (unsigned)(now->hidden_protection - before->hidden_protection),
        .true_faults = (unsigned)(now->true_faults - before->true_faults),
        .traced = (unsigned)(now->traced_writes - before->traced_writes),
        .resyncs = (unsigned)(now->resyncs - before->resyncs),
        .entries = (unsigned)(now->resync_entries - before->resync_entries)};

    if (memcmp(&found, cost, sizeof found) != 0)
        printf("    %s: %u missing, %u protection, %u true, %u traced, "
               "%u resyncs, %u entries\n",
               name, found.missing, found.protection, found.true_faults,
               found.traced, found.resyncs, found.entries);
    CU_ASSERT_EQUAL(memcmp(&found, cost, sizeof found), 0);
}

static void costs(void)
{
    static const struct scenario scenario = {
        .name = "a process", .tables = 32, .roots = 2, .levels = 4};
    struct machine *m = malloc(sizeof *m);

    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    for (unsigned policy = SHADOW_TRACED; policy <= SHADOW_VTLB; policy++) {
        start(m, &scenario, policy);
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
            struct shadow_stats before = *shadow_stats(m->shadow);

            steps[i].act(m);
            check_cost(steps[i].name, &steps[i].cost[policy], &before,
                       shadow_stats(m->shadow));
        }
        CU_ASSERT_EQUAL(m->failures, 0);
        free(m->arena);
    }
    free(m);
}

static void touch(struct machine *m, uint64_t va, enum mmu_access access,
                  uint64_t value)
{
    struct mmu_request r = {.va = va, .access = access, .user = true};

    access_memory(m, &r, value);
}

/* A page goes from its page table, and becomes a page table itself, while a
 * TLB may still write to it and no trace would tell: CPU 0's own, which owes
 * INVLPG, or that of another CPU. */
static void become_table(struct machine *m, unsigned writer)
{
    const uint64_t table = guest_frame_pa(10);
    const uint64_t entry = guest_frame_pa(PAGE_TABLE) + 8;

    map_pages(m);
    emulate(m, entry, table | RIGHTS);
    be_cpu(m, writer);
    touch(m, PAGE_4K, MMU_WRITE, FIRST_FRAME * PAGE_4K | RIGHTS);
    be_cpu(m, 0);
    emulate(m, entry, 0);
    if (writer)
        reload_cr3(m);
    emulate(m, guest_frame_pa(PAGE_TABLE - 1) + 8, table | RIGHTS);
    touch(m, PAGE_2M, MMU_READ, 0);
    be_cpu(m, writer);
    touch(m, PAGE_4K, MMU_WRITE, (FIRST_FRAME + 1) * PAGE_4K | RIGHTS);
    be_cpu(m, 0);
    enter(m);
    guest_flush(&m->guest, PAGE_2M);
    shadow_invlpg(m->shadow, PAGE_2M);
    touch(m, PAGE_2M, MMU_READ, 0);
}

static void becomes_table(void)
{
    static const struct scenario scenario[2] = {
        {.name = "a page becomes a table",
         .tables = 32,
         .roots = 2,
         .levels = 4,
         .tlb = true},
        {.name = "and another CPU has it",
         .tables = 32,
         .roots = 2,
         .levels = 4,
         .tlb = true,
         .cpus = 2}};
    struct machine *m = malloc(sizeof *m);

    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    for (unsigned policy = SHADOW_TRACED; policy <= SHADOW_VTLB; policy++)
        for (unsigned writer = 0; writer < 2; writer++) {
            start(m, &scenario[writer], policy);
            become_table(m, writer);
            CU_ASSERT_EQUAL(m->failures, 0);
            free(m->arena);
        }
    free(m);
}

/* ---- Several CPUs ---------------------------------------------------------
 */

static unsigned tlb_used(const struct cpu *cpu)
{
    unsigned used = 0;

    for (unsigned i = 0; i < TLB_ENTRIES; i++)
        used += cpu->tlb[i].valid;
    return used;
}

static uint64_t hidden(const struct machine *m)
{
    const struct shadow_stats *stats = shadow_stats(m->shadow);

    return stats->hidden_missing + stats->hidden_protection;
}

/* MOV CR3, INVLPG and the guest's flushes are one CPU's: another keeps its TLB,
 * and finds its shadow filled. */
static void undisturbed(void)
{
    static const struct scenario scenario = {.name = "two CPUs",
                                             .tables = 64,
                                             .roots = 4,
                                             .levels = 4,
                                             .tlb = true,
                                             .cpus = 2,
                                             .fixed = true};
    struct machine *m = malloc(sizeof *m);

    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    for (unsigned policy = SHADOW_TRACED; policy <= SHADOW_VTLB; policy++) {
        uint64_t flushes, faults;
        unsigned used;

        start(m, &scenario, policy);
        map_pages(m);
        read_pages(m);
        be_cpu(m, 1);
        read_pages(m);
        used = tlb_used(m->cpu);
        flushes = m->all_flushes;
        faults = hidden(m);
        be_cpu(m, 0);
        load_cr3(m);
        reload_cr3(m);
        invlpg_pages(m);
        enter(m);
        shadow_flush_all(m->shadow);
        CU_ASSERT_EQUAL(m->all_flushes, flushes);
        CU_ASSERT_EQUAL(tlb_used(&m->cpus[0]), 0);
        CU_ASSERT_EQUAL(tlb_used(&m->cpus[1]), used);
        be_cpu(m, 1);
        read_pages(m);
        CU_ASSERT_EQUAL(hidden(m), faults);
        CU_ASSERT_EQUAL(m->failures, 0);
        free(m->arena);
    }
    free(m);
}

/* A CPU that starts has an empty TLB: nothing is stale for it, whatever
 * another may still find. */
static void late_cpu(void)
{
    static const struct scenario scenario = {.name = "a CPU that starts",
                                             .tables = 64,
                                             .roots = 4,
                                             .levels = 4,
                                             .cpus = 2,
                                             .late = true};
    struct machine *m = malloc(sizeof *m);

    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    for (unsigned policy = SHADOW_TRACED; policy <= SHADOW_VTLB; policy++) {
        struct mmu_request r = {.access = MMU_WRITE};

        start(m, &scenario, policy);
        r.va = window_va(m, PAGE_TABLE, 1);
        map_pages(m);
        touch(m, PAGE_4K, MMU_READ, 0);
        access_memory(m, &r, (FIRST_FRAME + 9) * PAGE_4K | RIGHTS | PTE_A);
        m->guest.cpus[1].state = m->guest.cpus[0].state;
        be_cpu(m, 1);
        guest_flush_all(&m->guest);
        set_state(m, false);
        touch(m, PAGE_4K, MMU_READ, 0);
        CU_ASSERT_EQUAL(m->failures, 0);
        free(m->arena);
    }
    free(m);
}

#define RACED_PAGE 1u

/* CPU 1 has another frame for the page, if its TLB lets it say so. */
static void race(struct machine *m)
{
    const struct mmu_request r = {.va = window_va(m, PAGE_TABLE, RACED_PAGE),
                                  .access = MMU_WRITE};
    uint64_t entry;

    be_cpu(m, 1);
    if (hit(m, &r, &entry))
        store(m, entry, r.va, (FIRST_FRAME + 9) * PAGE_4K | RIGHTS | PTE_A);
    be_cpu(m, 0);
}

/* A table is looked through and traced again while another CPU's TLB has it
 * writable: what that one writes then is seen too. */
static void raced_resync(void)
{
    static const struct scenario scenario = {.name = "a race",
                                             .tables = 64,
                                             .roots = 4,
                                             .levels = 4,
                                             .tlb = true,
                                             .cpus = 2};
    struct machine *m = malloc(sizeof *m);
    struct mmu_request r = {.access = MMU_WRITE};

    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    start(m, &scenario, SHADOW_UNSYNC);
    map_pages(m);
    touch(m, RACED_PAGE * PAGE_4K, MMU_READ, 0);
    be_cpu(m, 1);
    r.va = window_va(m, PAGE_TABLE, RACED_PAGE);
    access_memory(m, &r, (FIRST_FRAME + 5) * PAGE_4K | RIGHTS | PTE_A);
    be_cpu(m, 0);
    m->raced_pa = guest_frame_pa(PAGE_TABLE) + RACED_PAGE * 8;
    reload_cr3(m);
    m->raced_pa = UINT64_MAX;
    reload_cr3(m);
    touch(m, RACED_PAGE * PAGE_4K, MMU_READ, 0);
    CU_ASSERT_EQUAL(m->failures, 0);
    free(m->arena);
    free(m);
}

/* ---- Poison ---------------------------------------------------------------
 */

static const struct scenario poisoned = {.name = "poison",
                                         .tables = 64,
                                         .roots = 4,
                                         .levels = 4,
                                         .tlb = true,
                                         .apart = true,
                                         .cpus = 2,
                                         .poison = true};

static void start_poisoned(struct machine *m)
{
    start(m, &poisoned, SHADOW_TRACED);
    map_pages(m);
    for (uint64_t i = 0; i < PAGES; i++)
        emulate(m, guest_frame_pa(PAGE_TABLE) + i * 8,
                (FIRST_FRAME + i) * PAGE_4K | RIGHTS | PTE_XD);
}

/* Does the CPU's walk find a leaf that it can use? */
static bool usable(struct machine *m, uint64_t va)
{
    const struct mmu_request r = {.va = va, .user = true};
    uint64_t entry;

    leave(m);
    empty_tlb(m->cpu);
    return hit(m, &r, &entry);
}

static void miss(struct machine *m, uint64_t va, uint32_t error)
{
    const struct mmu_request r = {.va = va, .user = true};

    CU_ASSERT(take_fault(m, &r, error | PF_U, 0));
}

/* Both miss the same page; each has it until it has loaded it. */
static void poison_shared(void)
{
    struct machine *m = malloc(sizeof *m);
    const struct shadow_stats *stats;

    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    start_poisoned(m);
    stats = shadow_stats(m->shadow);
    for (unsigned i = 2; i-- > 0;) {
        be_cpu(m, i);
        set_state(m, true);
    }
    miss(m, PAGE_4K, 0);
    CU_ASSERT(!usable(m, PAGE_4K));
    miss(m, PAGE_4K, PF_P | PF_RS);
    be_cpu(m, 1);
    miss(m, PAGE_4K, PF_P | PF_RS);
    CU_ASSERT_EQUAL(hidden(m), 1);
    CU_ASSERT_EQUAL(stats->tlb_misses[MMU_READ][0], 2);
    be_cpu(m, 0);
    enter(m);
    shadow_repoison(m->shadow);
    be_cpu(m, 1);
    CU_ASSERT(usable(m, PAGE_4K));
    enter(m);
    shadow_repoison(m->shadow);
    CU_ASSERT(!usable(m, PAGE_4K));
    CU_ASSERT_EQUAL(m->failures, 0);
    free(m->arena);
    free(m);
}

/* More pages than one instruction can need: never are many without poison,
 * and the last always is. */
static void poison_many(void)
{
    struct machine *m = malloc(sizeof *m);
    unsigned without = 0;

    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    start_poisoned(m);
    set_state(m, true);
    for (uint64_t i = 0; i < PAGES; i++) {
        miss(m, i * PAGE_4K, 0);
        CU_ASSERT(!usable(m, i * PAGE_4K));
        miss(m, i * PAGE_4K, PF_P | PF_RS);
        CU_ASSERT(usable(m, i * PAGE_4K));
    }
    for (uint64_t i = 0; i < PAGES; i++)
        without += usable(m, i * PAGE_4K);
    CU_ASSERT(without && without <= LIFTED_MAX);
    enter(m);
    shadow_repoison(m->shadow);
    for (uint64_t i = 0; i < PAGES; i++)
        CU_ASSERT(!usable(m, i * PAGE_4K));
    CU_ASSERT_EQUAL(m->failures, 0);
    free(m->arena);
    free(m);
}

/* ---- What is refused ------------------------------------------------------
 */

static int try_init(void *arena, size_t bytes, struct shadow_config config)
{
    const struct shadow_ops ops = {.frame = host_frame, .flush_own = flush_own};
    struct shadow *s;

    return shadow_init(&s, arena, bytes, &config, &ops);
}

static void refused(void)
{
    const struct shadow_config good = {.roots = 1, .tables_pa = TABLES_PA};
    struct shadow_config bad;
    size_t bytes = shadow_arena_bytes(SHADOW_PAGES_MIN);
    char *arena = aligned_alloc(PAGE_4K, (bytes / PAGE_4K + 2) * PAGE_4K);

    CU_ASSERT_PTR_NOT_NULL_FATAL(arena);
    CU_ASSERT_EQUAL(shadow_arena_bytes(SHADOW_PAGES_MIN - 1), 0);
    CU_ASSERT_EQUAL(shadow_arena_bytes(SHADOW_PAGES_MAX + 1), 0);
    CU_ASSERT_EQUAL(try_init(arena, bytes, good), 0);
    CU_ASSERT_EQUAL(try_init(arena, bytes - 1, good), -ENOMEM);
    CU_ASSERT_EQUAL(try_init(arena, 0, good), -ENOMEM);
    CU_ASSERT_EQUAL(try_init(arena + 8, bytes, good), -EINVAL);
    bad = good, bad.roots = 0;
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), -EINVAL);
    bad.roots = SHADOW_ROOTS_MAX + 1;
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), -EINVAL);
    bad = good, bad.flood = 1;
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), -EINVAL);
    bad = good, bad.policy = (enum shadow_policy)(SHADOW_VTLB + 1);
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), -EINVAL);
    bad = good, bad.tables_pa++;
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), -EINVAL);
    bad.tables_pa = PTE_ADDR - (SHADOW_PAGES_MIN - 2) * PAGE_4K;
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), -EINVAL);
    bad.tables_pa -= PAGE_4K;
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), 0);
    bad = good, bad.cpus = 2;
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), -EINVAL); /* one root */
    bad.roots = 2;
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), -ENOMEM);
    bad.roots = SHADOW_CPUS_MAX + 1, bad.cpus = SHADOW_CPUS_MAX + 1;
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), -EINVAL);
    bad = good, bad.fixed = true, bad.fixed_index = PT_ENTRIES;
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), -EINVAL);
    bad = good, bad.poison = PTE_XD;
    CU_ASSERT_EQUAL(try_init(arena, bytes, bad), -EINVAL);
    free(arena);
}

static void refused_states(void)
{
    static const struct scenario scenario = {
        .name = "states", .tables = SHADOW_PAGES_MIN, .roots = 1, .levels = 4};
    static const struct {
        struct mmu_state state;
        enum shadow_mode mode;
        int error;
    } cases[] = {
        {{.levels = 3, .physical_bits = 40}, SHADOW_BOTH, -EINVAL},
        {{.levels = 6, .physical_bits = 40}, SHADOW_BOTH, -EINVAL},
        {{.levels = 4, .physical_bits = 35}, SHADOW_BOTH, -EINVAL},
        {{.levels = 4, .physical_bits = 53}, SHADOW_BOTH, -EINVAL},
        {{.levels = 4, .physical_bits = 40, .pke = true},
         SHADOW_USER,
         -EOPNOTSUPP},
        {{.levels = 4, .physical_bits = 40, .smap = true},
         SHADOW_KERNEL,
         -EOPNOTSUPP},
        {{.levels = 4, .physical_bits = 40, .smap = true, .smep = true},
         SHADOW_KERNEL,
         0},
    };
    struct machine *m = malloc(sizeof *m);

    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    start(m, &scenario, SHADOW_TRACED);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t created = shadow_stats(m->shadow)->roots_created;

        CU_ASSERT_EQUAL(
            shadow_set_state(m->shadow, &cases[i].state, cases[i].mode),
            cases[i].error);
        if (cases[i].error)
            CU_ASSERT_EQUAL(shadow_stats(m->shadow)->roots_created, created);
    }
    free(m->arena);
    free(m);
}

TEST_SUITE(shadow, {"traced: 9 million random operations", traced},
           {"unsync: 9 million random operations", unsync},
           {"vtlb: 9 million random operations", vtlb},
           {"what a process costs, event by event", costs},
           {"a page that becomes a table", becomes_table},
           {"one CPU's flushes disturb no other", undisturbed},
           {"a CPU that starts finds nothing stale", late_cpu},
           {"a table written while it is traced again", raced_resync},
           {"poison that two CPUs lift", poison_shared},
           {"poison lifted from many pages", poison_many},
           {"configurations out of range", refused},
           {"states that shadows can't express", refused_states});
