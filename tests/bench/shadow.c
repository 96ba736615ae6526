/*
 * What the shadow MMU's own work takes, by policy: filling an entry after a
 * hidden fault, making it writable, following an emulated write to a guest
 * table, and filling again what MOV CR3 dropped. The fault itself is not in
 * it: no CPU runs on these tables.
 */
#include "shadowpt/shadow.h"
#include "tests/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>

#define PAGES  (1u << 16)
#define TABLES (3 + PAGES / PT_ENTRIES) /* of the guest, frames 0 and up */
#define SHADOW 256u
#define RIGHTS (PTE_P | PTE_RW | PTE_US)

struct guest {
    uint64_t table[TABLES][PT_ENTRIES];
};

static int read_entry(void *guest, uint64_t pa, uint64_t *entry)
{
    const struct guest *g = guest;

    *entry = g->table[pa / PAGE_4K][pa % PAGE_4K / 8];
    return 0;
}

static int set_bits(void *guest, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct guest *g = guest;

    g->table[pa / PAGE_4K][pa % PAGE_4K / 8] = old | bits;
    return 0;
}

static int host_frame(void *arg, uint64_t frame, struct shadow_frame *host)
{
    (void)arg;
    *host = (struct shadow_frame){frame, 1, true, true};
    return 0;
}

static void no_page(void *arg, uint64_t va)
{
    (void)arg;
    (void)va;
}

static void no_tlb(void *arg)
{
    (void)arg;
}

static void map(struct guest *g)
{
    g->table[0][0] = PAGE_4K | RIGHTS;
    g->table[1][0] = 2 * PAGE_4K | RIGHTS;
    for (uint64_t i = 3; i < TABLES; i++)
        g->table[2][i - 3] = i * PAGE_4K | RIGHTS;
    for (uint64_t i = 0; i < PAGES; i++)
        g->table[3 + i / PT_ENTRIES][i % PT_ENTRIES] =
            (TABLES + i) * PAGE_4K | RIGHTS;
}

/* ns for each page. */
static double faults(struct shadow *s, enum mmu_access access, uint32_t error)
{
    double begin = seconds();
    struct shadow_fault fault;

    for (uint64_t i = 0; i < PAGES; i++) {
        struct mmu_request r = {
            .va = i * PAGE_4K, .access = access, .user = true};

        if (shadow_fault(s, error, &r, &fault) != SHADOW_FIXED)
            exit(1);
    }
    return (seconds() - begin) * 1e9 / PAGES;
}

static double guest_writes(struct shadow *s, struct guest *g)
{
    double begin = seconds();

    for (uint64_t i = 0; i < PAGES; i++) {
        g->table[3 + i / PT_ENTRIES][i % PT_ENTRIES] ^= PTE_RW;
        shadow_guest_write(s, 3 * PAGE_4K + i * 8, 8);
    }
    return (seconds() - begin) * 1e9 / PAGES;
}

static void run(const char *name, enum shadow_policy policy)
{
    const struct mmu_state state = {
        .levels = 4, .physical_bits = 40, .wp = true, .nxe = true};
    const struct shadow_config config = {.policy = policy, .roots = 1};
    struct guest *g = calloc(1, sizeof *g);
    size_t bytes = shadow_arena_bytes(SHADOW);
    void *arena = aligned_alloc(PAGE_4K, (bytes / PAGE_4K + 1) * PAGE_4K);
    struct shadow_ops ops = {
        {read_entry, set_bits, g}, host_frame, no_page, no_tlb, no_tlb};
    struct shadow *s;

    if (!g || !arena || shadow_init(&s, arena, bytes, &config, &ops))
        exit(1);
    map(g);
    shadow_set_state(s, &state, SHADOW_BOTH);
    printf("%-7s first touch %5.0f ns,", name, faults(s, MMU_READ, PF_U));
    printf(" first write %5.0f ns,", faults(s, MMU_WRITE, PF_P | PF_W | PF_U));
    printf(" an emulated write followed %5.0f ns", guest_writes(s, g));
    shadow_set_cr3(s, 0);
    if (policy == SHADOW_VTLB) /* the others have nothing to fill then */
        printf(", fault after MOV CR3 %5.0f ns", faults(s, MMU_READ, PF_U));
    printf("\n");
    free(arena);
    free(g);
}

int main(void)
{
    run("traced", SHADOW_TRACED);
    run("unsync", SHADOW_UNSYNC);
    run("vtlb", SHADOW_VTLB);
    return 0;
}
