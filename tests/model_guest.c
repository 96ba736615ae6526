#include "tests/model_guest.h"

#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KERNEL_FLAGS (PTE_P | PTE_RW | PTE_A)

/* ---- Memory -------------------------------------------------------------- */

uint64_t os_frame(struct model_os *os)
{
    if (os->free_count)
        return os->free[--os->free_count];
    if (os->next >= os->guest.ram_bytes) {
        CU_FAIL_FATAL("the test's guest has no memory left");
        abort();
    }
    os->next += PAGE_4K;
    return os->next - PAGE_4K;
}

uint64_t os_table(struct model_os *os)
{
    bool used = os->free_count;
    uint64_t frame = os_frame(os);

    memset(&os->ram[frame / 8], 0, PAGE_4K);
    if (used)
        os_event(os, event_word(EVENT_CLEAR, frame));
    return frame;
}

void os_give_back(struct model_os *os, uint64_t frame)
{
    if (os->free_count < sizeof os->free / sizeof os->free[0])
        os->free[os->free_count++] = frame;
}

uint64_t os_read(const struct model_os *os, uint64_t pa)
{
    return os->ram[pa / 8];
}

/* ---- Events -------------------------------------------------------------- */

void os_event(struct model_os *os, uint64_t word)
{
    if (os->count == GUEST_WORDS) {
        CU_FAIL_FATAL("the test's stream is too long");
        abort();
    }
    os->words[os->count++] = word;
}

/* The machines set accessed and dirty bits, and so does the oracle. */
void os_access(struct model_os *os, enum event_kind kind, uint64_t va)
{
    struct mmu_walk walk;

    os_walk(os, kind, va, &walk);
    os_event(os, event_word(kind, va));
}

void os_store(struct model_os *os, uint64_t pa, uint64_t value)
{
    struct mmu_walk walk;

    if (os->paging)
        os_walk(os, EVENT_KERNEL_WRITE, GUEST_DIRECT + pa, &walk);
    os->ram[pa / 8] = value;
    os_event(os, event_word(EVENT_STORE, GUEST_DIRECT + pa));
    os_event(os, pa);
    os_event(os, value);
}

void os_fault(struct model_os *os, uint64_t va, unsigned error)
{
    os_event(os, event_word(EVENT_FAULT, va));
    os_event(os, error);
}

void os_cr3(struct model_os *os, uint64_t cr3, unsigned pcid, bool keep)
{
    os->cr3 = cr3;
    os->paging = true;
    os_event(os, event_word(EVENT_CR3, 0));
    os_event(os, cr3 | pcid | (keep ? 1ull << 63 : 0));
}

/* ---- Tables -------------------------------------------------------------- */

uint64_t os_entry(struct model_os *os, uint64_t root, uint64_t va,
                  unsigned level, uint64_t flags)
{
    uint64_t table = root;

    for (unsigned at = os->guest.levels; at > level; at--) {
        uint64_t pa = table + 8ull * pt_index(va, at);

        if (!os_read(os, pa))
            os_store(os, pa, os_table(os) | flags);
        if (at <= 3 && os_read(os, pa) & PTE_PS)
            return 0;
        table = os_read(os, pa) & PTE_ADDR;
    }
    return table + 8ull * pt_index(va, level);
}

void os_map(struct model_os *os, uint64_t root, uint64_t va, uint64_t pa,
            uint64_t page_bytes, uint64_t flags)
{
    unsigned level = pt_leaf_level(page_bytes);
    uint64_t entry = os_entry(os, root, va, level,
                              PTE_P | PTE_RW | PTE_A | (flags & PTE_US));

    os_store(os, entry, pa | flags | (level > 1 ? PTE_PS : 0));
}

uint64_t os_space(struct model_os *os)
{
    uint64_t root = os_table(os);
    unsigned kernel = pt_index(GUEST_DIRECT, os->guest.levels);

    os_store(os, root + 8ull * kernel, os_read(os, os->cr3 + 8ull * kernel));
    return root;
}

int os_init(struct model_os *os, const struct event_guest *guest,
            uint64_t direct_bytes)
{
    os->guest = *guest;
    os->ram = calloc(guest->ram_bytes / 8, sizeof *os->ram);
    os->count = os->free_count = 0;
    os->paging = false;
    os->next = PAGE_4K;
    os->cr3 = 0;
    if (!os->ram)
        return -1;
    os->cr3 = os_table(os);
    for (uint64_t pa = 0; pa < guest->ram_bytes; pa += direct_bytes)
        os_map(os, os->cr3, GUEST_DIRECT + pa, pa, direct_bytes,
               KERNEL_FLAGS | PTE_D | PTE_G | PTE_XD);
    return 0;
}

void os_free(struct model_os *os)
{
    free(os->ram);
}

/* ---- The oracle ---------------------------------------------------------- */

static int ram_read(void *arg, uint64_t pa, uint64_t *entry)
{
    const struct model_os *os = arg;

    if (pa >= os->guest.ram_bytes)
        return -1;
    *entry = os_read(os, pa);
    return 0;
}

static int ram_set(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct model_os *os = arg;

    os->ram[pa / 8] = old | bits;
    return 0;
}

void os_walk(struct model_os *os, enum event_kind kind, uint64_t va,
             struct mmu_walk *walk)
{
    const struct mmu_memory memory = {ram_read, ram_set, os};
    const struct mmu_state state = {.cr3 = os->cr3,
                                    .levels = os->guest.levels,
                                    .physical_bits = os->guest.physical_bits,
                                    .wp = true,
                                    .nxe = true,
                                    .pages_1g = os->guest.pages_1g};
    const struct mmu_request request = {
        .va = va,
        .access = (enum mmu_access)(kind % EVENT_KERNEL_READ),
        .user = kind < EVENT_KERNEL_READ};

    mmu_walk(&state, &memory, &request, walk);
}

int os_run(const struct model_os *os, struct machine *m, struct why *why)
{
    why->text[0] = '\0';
    return machine_run(m, os->words, os->count, why);
}

/* ---- CPUs and counts ----------------------------------------------------- */

struct mmu_profile cpu_bare(uint32_t l1, uint32_t l1_ways, uint32_t l2,
                            uint32_t l2_ways)
{
    return (struct mmu_profile){
        .name = "bare",
        .walkers = 1,
        .tlb = {.count = l2 ? 2 : 1,
                .structure[0] = {"L1", l1, l1_ways, 1, 7, 7, 0},
                .structure[1] = {"L2", l2, l2_ways, 2, 7, 7, 7}},
        .dcache = {.line_bytes = 64, .memory_cycles = 100},
    };
}

const struct model_costs *cpu_costs(void)
{
    static const struct model_costs costs = {.name = "test",
                                             .vm_exit = 1000000,
                                             .ept_violation = 1,
                                             .hidden_fault = 20,
                                             .traced_write = 300,
                                             .true_fault = 4000,
                                             .invlpg = 50000,
                                             .cr3_load = 600000,
                                             .resync_entry = 7,
                                             .guest_fault = 11};

    return &costs;
}

uint64_t count_of(const struct machine *m, const char *name)
{
    static struct machine_counts counts;

    machine_counts(m, &counts);
    for (unsigned i = 0; i < counts.counters; i++)
        if (!strcmp(counts.counter[i].name, name))
            return counts.counter[i].value;
    printf("no counter is called %s\n", name);
    CU_FAIL("no such counter");
    return UINT64_MAX;
}

uint64_t exits_of(const struct machine *m, const char *reason)
{
    static struct machine_counts counts;

    machine_counts(m, &counts);
    for (unsigned i = 0; i < counts.exits; i++)
        if (!strcmp(counts.exit[i].reason, reason))
            return counts.exit[i].count;
    return UINT64_MAX;
}
