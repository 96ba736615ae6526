/*
 * The cases of the paging test. A systematic case is a number: the access and
 * the CPL in its lowest digit, then the bits its family varies; whatever a
 * family does not vary is permissive.
 */
#include "workloads/guest/paging_cases.h"

#include "workloads/measure.h"

#define ACCESSES 6 /* read, write, fetch; each at CPL0 and CPL3 */

/* With this PKRU the keys 0 to 3 are: all, none, read-only, none. */
#define PKRU_OF_EACH 0xe4e4e4e4u

static const uint64_t permissive = PTE_P | PTE_RW | PTE_US;

/* Takes a digit of `radix` off the number. */
static uint64_t digit(uint64_t *number, uint64_t radix)
{
    uint64_t value = *number % radix;

    *number /= radix;
    return value;
}

/* Takes one bit off the number for each bit of the mask, lowest first. */
static uint64_t deposit(uint64_t *number, uint64_t mask)
{
    uint64_t bits = 0;

    for (; mask; mask &= mask - 1)
        if (digit(number, 2))
            bits |= mask & -mask;
    return bits;
}

static unsigned bits_in(uint64_t mask)
{
    unsigned count = 0;

    for (; mask; mask &= mask - 1)
        count++;
    return count;
}

/* One of the reserved address bits of an entry, or 0 if it has none: bits
 * 51:MAXPHYADDR, and of a large page those below its address. */
static uint64_t reserved_bit(const struct paging_features *f, unsigned leaf,
                             uint64_t chance)
{
    uint64_t high = PTE_ADDR & ~((1ull << f->physical_bits) - 1);
    uint64_t low =
        leaf > 1 ? ((1ull << pt_shift(leaf)) - 1) & PTE_ADDR & ~PTE_PAT_LARGE
                 : 0;
    uint64_t bits = !low || (high && chance >> 63) ? high : low;
    unsigned count = bits_in(bits);

    if (!count)
        return 0;
    for (chance %= count; chance; chance--)
        bits &= bits - 1;
    return bits & -bits;
}

/* ---- Systematic cases -------------------------------------------------- */

struct family {
    uint64_t (*count)(const struct paging_features *f, unsigned level);
    void (*make)(const struct paging_features *f, unsigned level, uint64_t n,
                 struct paging_case *c);
    unsigned level;
};

/* Permissive down to a page of that level; the accessed bits, which the case
 * does not vary, differ from case to case. */
static void start(struct paging_case *c, unsigned leaf, uint64_t n)
{
    uint64_t chance = wl_mix(n);

    for (unsigned level = 1; level <= CASE_LEVELS; level++)
        c->flags[level] = permissive | (chance >> level & 1 ? PTE_A : 0);
    if (leaf > 1)
        c->flags[leaf] |= PTE_PS;
}

/* Bit 7 and the bit that stands for a reserved one, in a number's digits. */
#define RESERVED PTE_SW0
#define LEAF_BITS \
    (PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D | PTE_G | PTE_XD | RESERVED)

/* Every bit of a leaf. */
static uint64_t leaf_count(const struct paging_features *f, unsigned level)
{
    (void)level;
    return 512 * (f->pku ? 4 : 1);
}

static void leaf_make(const struct paging_features *f, unsigned level,
                      uint64_t n, struct paging_case *c)
{
    uint64_t bits, chance = wl_mix(n),
                   pat = level > 1 ? PTE_PAT_LARGE : PTE_PAT;

    start(c, level, n);
    bits = deposit(&n, LEAF_BITS);
    if (bits & RESERVED)
        bits ^= RESERVED | reserved_bit(f, level, chance);
    bits |= deposit(&n, pat) | (level > 1 ? PTE_PS : 0);
    c->flags[level] = bits | n << PTE_KEY_SHIFT;
}

/* Every bit of an entry that refers to a table; PS is reserved in a PML4E. */
static uint64_t table_bits(unsigned level)
{
    return LEAF_BITS | (level == 4 ? PTE_PS : 0);
}

static uint64_t table_count(const struct paging_features *f, unsigned level)
{
    (void)f;
    return 1ull << bits_in(table_bits(level));
}

static void table_make(const struct paging_features *f, unsigned level,
                       uint64_t n, struct paging_case *c)
{
    uint64_t bits, chance = wl_mix(n);

    start(c, 1, n);
    bits = deposit(&n, table_bits(level));
    if (bits & RESERVED)
        bits ^= RESERVED | reserved_bit(f, 1, chance);
    c->flags[level] = bits;
}

/* The rights of every level down to a page. */
static uint64_t rights_count(const struct paging_features *f, unsigned level)
{
    (void)f;
    return 1ull << 3 * (CASE_LEVELS + 1 - level);
}

static void rights_make(const struct paging_features *f, unsigned level,
                        uint64_t n, struct paging_case *c)
{
    (void)f;
    start(c, level, n);
    for (unsigned l = level; l <= CASE_LEVELS; l++) {
        c->flags[l] &= ~(PTE_RW | PTE_US);
        c->flags[l] |= deposit(&n, PTE_RW | PTE_US | PTE_XD);
    }
}

/* Every level in order, not present, or with a reserved bit: which comes
 * first. */
static uint64_t stops_count(const struct paging_features *f, unsigned level)
{
    uint64_t count = 1;

    (void)f;
    for (unsigned l = level; l <= CASE_LEVELS; l++)
        count *= 3;
    return count;
}

static void stops_make(const struct paging_features *f, unsigned level,
                       uint64_t n, struct paging_case *c)
{
    uint64_t chance = wl_mix(n);

    start(c, level, n);
    for (unsigned l = level; l <= CASE_LEVELS; l++) {
        uint64_t stop = digit(&n, 3);

        if (stop == 1)
            c->flags[l] &= ~PTE_P;
        else if (stop == 2)
            c->flags[l] |= reserved_bit(f, l == level ? l : 1, chance);
    }
}

/* Accessed bits of every level, dirty and R/W of the page. */
static uint64_t marks_count(const struct paging_features *f, unsigned level)
{
    (void)f;
    return 1ull << (CASE_LEVELS + 3 - level);
}

static void marks_make(const struct paging_features *f, unsigned level,
                       uint64_t n, struct paging_case *c)
{
    (void)f;
    start(c, level, n);
    c->flags[level] &= ~PTE_RW;
    c->flags[level] |= deposit(&n, PTE_RW | PTE_D);
    for (unsigned l = level; l <= CASE_LEVELS; l++)
        c->flags[l] = (c->flags[l] & ~PTE_A) | deposit(&n, PTE_A);
}

static const struct family families[] = {
    {leaf_count, leaf_make, 1},     {leaf_count, leaf_make, 2},
    {leaf_count, leaf_make, 3},     {table_count, table_make, 2},
    {table_count, table_make, 3},   {table_count, table_make, 4},
    {rights_count, rights_make, 1}, {rights_count, rights_make, 2},
    {rights_count, rights_make, 3}, {stops_count, stops_make, 1},
    {stops_count, stops_make, 2},   {stops_count, stops_make, 3},
    {marks_count, marks_make, 1},   {marks_count, marks_make, 2},
    {marks_count, marks_make, 3},
};
#define FAMILIES (sizeof families / sizeof families[0])

/* Without NXE any XD is a reserved bit. The families of one entry show that;
 * elsewhere it would only hide what the other bits do. */
static void clear_xd(struct paging_case *c)
{
    for (unsigned level = 1; level <= CASE_LEVELS; level++)
        c->flags[level] &= ~PTE_XD;
}

static void make_systematic(const struct paging_features *f, bool nxe,
                            uint64_t n, struct paging_case *c)
{
    uint64_t access = digit(&n, ACCESSES);

    c->implicit = false;

    c->access = (enum mmu_access)(access / 2);
    c->user = access & 1;
    for (unsigned i = 0; i < FAMILIES; i++) {
        uint64_t count = families[i].count(f, families[i].level);

        if (n < count) {
            families[i].make(f, families[i].level, n, c);
            if (!nxe && families[i].make == rights_make)
                clear_xd(c);
            return;
        }
        n -= count;
    }
}

/* ---- Random cases ------------------------------------------------------ */

/* Each bit of the mask set with a probability of `chances` in 64. */
static uint64_t sometimes(uint64_t *rng, uint64_t mask, unsigned chances)
{
    uint64_t bits = 0;

    for (; mask; mask &= mask - 1)
        if (wl_random(rng) >> 58 < chances)
            bits |= mask & -mask;
    return bits;
}

/* Most entries let most accesses through, or no walk would reach a page. An
 * entry that is not present may hold anything. */
static uint64_t random_flags(const struct paging_features *f, unsigned level,
                             uint64_t *rng)
{
    const uint64_t ignored = 0x07f0000000000e00ull; /* 58:52, 11:9 */
    uint64_t flags = sometimes(rng, PTE_P, 60);

    if (!flags)
        return wl_random(rng) & ~PTE_P;
    flags |= sometimes(rng, PTE_RW | PTE_US, 48) |
             sometimes(rng, PTE_A | PTE_D, 32) |
             sometimes(rng, PTE_PWT | PTE_PCD, 4) |
             sometimes(rng, PTE_G, level == 4 ? 4 : 32) |
             sometimes(rng, PTE_PS, level == 4 ? 2 : 12) |
             sometimes(rng, PTE_XD, 8) | (wl_random(rng) & ignored) |
             (wl_random(rng) & PTE_KEY);
    if (level > 1 && flags & PTE_PS)
        flags |= sometimes(rng, PTE_PAT_LARGE, 32);
    if (sometimes(rng, PTE_P, 3))
        flags |= reserved_bit(f, flags & PTE_PS && level < 4 ? level : 1,
                              wl_random(rng));
    return flags;
}

static void make_random(const struct paging_features *f, bool nxe,
                        uint64_t *rng, struct paging_case *c)
{
    uint64_t access = wl_below(rng, ACCESSES + 2);

    c->implicit = access >= ACCESSES;
    c->access = c->implicit ? MMU_READ : (enum mmu_access)(access / 2);
    c->user = access & 1;
    for (unsigned level = 1; level <= CASE_LEVELS; level++)
        c->flags[level] = random_flags(f, level, rng);
    if (!nxe && sometimes(rng, 1, 56))
        clear_xd(c);
}

/* ---- The plan ---------------------------------------------------------- */

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

void paging_plan_init(struct paging_plan *plan,
                      const struct paging_features *features, uint64_t seed)
{
    plan->features = *features;
    plan->seed = seed;
    plan->items = 0;
    for (unsigned i = 0; i < FAMILIES; i++)
        plan->items += families[i].count(features, families[i].level);
    plan->items *= ACCESSES;
    plan->stride = plan->items * 618 / 1000;
    while (common_divisor(plan->stride, plan->items) > 1)
        plan->stride++;
    plan->controls =
        4u << (features->smep + 2 * features->smap + features->pku);
}

/* Batches of systematic cases, all states together. */
static uint64_t systematic_batches(const struct paging_plan *plan)
{
    return (plan->items + PAGING_BATCH - 1) / PAGING_BATCH * plan->controls;
}

uint64_t paging_plan_batches(const struct paging_plan *plan)
{
    return systematic_batches(plan) * 4 / 3 + 1;
}

/* The batch's place among the systematic ones, or -1. */
static int64_t systematic(const struct paging_plan *plan, uint64_t batch)
{
    uint64_t place = batch / 4 * 3 + batch % 4;

    return batch % 4 == 3 || place >= systematic_batches(plan) ? -1
                                                               : (int64_t)place;
}

static uint64_t random_state(const struct paging_plan *plan, uint64_t batch,
                             unsigned index)
{
    return wl_stream(plan->seed, batch * PT_ENTRIES + index);
}

void paging_plan_control(const struct paging_plan *plan, uint64_t batch,
                         struct paging_control *control)
{
    const struct paging_features *f = &plan->features;
    int64_t place = systematic(plan, batch);
    uint64_t rng = random_state(plan, batch, PAGING_BATCH);
    uint64_t n = place < 0 ? wl_below(&rng, plan->controls)
                           : (uint64_t)place % plan->controls;

    control->wp = digit(&n, 2);
    control->nxe = digit(&n, 2);
    control->smep = f->smep && digit(&n, 2);
    control->smap = f->smap && digit(&n, 2);
    control->ac = f->smap && digit(&n, 2);
    control->pke = f->pku && digit(&n, 2);
    control->pge = batch >> 1 & 1;
    control->pkru = place < 0 ? (uint32_t)wl_random(&rng) : PKRU_OF_EACH;
}

void paging_plan_case(const struct paging_plan *plan, uint64_t batch,
                      const struct paging_control *control, unsigned index,
                      struct paging_case *c)
{
    int64_t place = systematic(plan, batch);
    uint64_t rng = random_state(plan, batch, index), n;

    if (place < 0) {
        make_random(&plan->features, control->nxe, &rng, c);
        return;
    }
    n = (uint64_t)place / plan->controls * PAGING_BATCH + index;
    n = n % plan->items * plan->stride % plan->items;
    make_systematic(&plan->features, control->nxe, n, c);
}
