#include "tests/monitor_guest.h"

#include "mmu/entry.h"
#include "vmm/decode.h"
#include "vmm/patch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TABLES 400

static struct mg *guest_of(const struct mon_cpu *cpu)
{
    return cpu->host;
}

static int decode(struct mon_cpu *cpu, uint64_t pa, const uint8_t *bytes,
                  unsigned count, struct insn *insn)
{
    (void)cpu;
    (void)pa;
    return decode_insn(bytes, count, insn);
}

static uint32_t port_io(struct mon_cpu *cpu, uint16_t port, unsigned bytes,
                        bool out, uint32_t value)
{
    (void)bytes;
    guest_of(cpu)->port = port;
    guest_of(cpu)->value = value;
    return out ? value : 0xa5a5a5a5;
}

static uint64_t get_base(struct mon_cpu *cpu, unsigned segment)
{
    return guest_of(cpu)->base[segment == INSN_GS];
}

static void set_base(struct mon_cpu *cpu, unsigned segment, uint64_t base)
{
    guest_of(cpu)->base[segment == INSN_GS] = base;
}

static uint16_t get_selector(struct mon_cpu *cpu, unsigned segment)
{
    return guest_of(cpu)->selector[segment & 3];
}

static void set_selector(struct mon_cpu *cpu, unsigned segment,
                         uint16_t selector)
{
    guest_of(cpu)->selector[segment & 3] = selector;
}

static void kick(struct mon_cpu *cpu)
{
    guest_of(cpu)->kicks++;
    guest_of(cpu)->held = cpu->held;
    cpu->in_guest = false;
}

static void wait(struct mon_cpu *cpu)
{
    mon_stop(cpu);
}

static void relax(struct mon_cpu *cpu)
{
    (void)cpu;
}

static uint64_t tsc(void)
{
    return 0x123456789abcdef;
}

static bool is_sensitive(const uint8_t *bytes, unsigned count)
{
    struct insn insn;

    return !decode_insn(bytes, count, &insn) && insn_is_sensitive(&insn);
}

static int translator(struct mon_cpu *cpu)
{
    const struct mon_translation *what = &cpu->call_translation;
    struct mg *g = guest_of(cpu);
    const struct bt_request request = {
        .gva = what->va,
        .bytes = g->ram + what->pa,
        .count = PAGE_4K - what->pa % PAGE_4K,
        .pa = what->pa,
        .next = what->next_pa == MON_NO_PAGE ? NULL : g->ram + what->next_pa,
        .next_pa = what->next_pa,
        .indirect = what->flag,
    };

    switch (what->op) {
    case MON_TRANSLATOR_BLOCK:
        return bt_translate(g->bt[cpu->id], &request);
    case MON_TRANSLATOR_FRAME:
        for (unsigned i = 0; i < g->mon.config.cpus; i++)
            bt_invalidate_frame(g->bt[i], what->pa);
        return 0;
    case MON_TRANSLATOR_RANGE:
        bt_invalidate_range(g->bt[cpu->id], what->va, what->bytes);
        return 0;
    case MON_TRANSLATOR_ADAPT:
        bt_adapt(g->bt[cpu->id], what->va, what->flag);
        return 0;
    case MON_TRANSLATOR_DRAIN:
        break;
    }
    return -EINVAL;
}

static const struct mon_ops ops = {
    .decode = decode,
    .port = port_io,
    .get_base = get_base,
    .set_base = set_base,
    .get_selector = get_selector,
    .set_selector = set_selector,
    .kick = kick,
    .wait = wait,
    .relax = relax,
    .tsc = tsc,
    .translator = translator,
};

/* ---- The guest's tables ------------------------------------------------ */

static uint64_t *table(struct mg *g, unsigned n)
{
    return (uint64_t *)(g->ram + MG_PAGES + n * PAGE_4K);
}

static uint64_t entry(unsigned n, uint64_t flags)
{
    return (MG_PAGES + n * PAGE_4K) | PTE_P | PTE_RW | PTE_A | flags;
}

enum { PML4, PDPT_HIGH, PD_HIGH, PT_HIGH, PT_HIGH2, PDPT_LOW, PD_LOW, PT_LOW };

static void make_tables(struct mg *g)
{
    table(g, PML4)[511] = entry(PDPT_HIGH, 0);
    table(g, PDPT_HIGH)[510] = entry(PD_HIGH, 0);
    table(g, PD_HIGH)[0] = entry(PT_HIGH, 0);
    table(g, PD_HIGH)[1] = entry(PT_HIGH2, 0);
    for (unsigned i = 0; i < 2 * PT_ENTRIES; i++)
        table(g, PT_HIGH)[i] = i * PAGE_4K | PTE_P | PTE_RW | PTE_A | PTE_D;
    table(g, PML4)[0] = entry(PDPT_LOW, PTE_US);
    table(g, PDPT_LOW)[0] = entry(PD_LOW, PTE_US);
    table(g, PD_LOW)[2] = entry(PT_LOW, PTE_US);
    table(g, PT_LOW)[0] = MG_USER_PA | PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D;
}

uint64_t *mg_pte(struct mg *g, uint64_t va)
{
    uint64_t pa = MG_PAGES + PML4 * PAGE_4K;

    for (unsigned level = 4;; level--) {
        uint64_t *e = (uint64_t *)(g->ram + pa) + pt_index(va, level);

        if (level == 1)
            return e;
        pa = *e & PTE_ADDR;
    }
}

/* ---- Life -------------------------------------------------------------- */

static int create_translators(struct mg *g, const struct mon_config *config)
{
    struct why why;
    int err = 0;

    for (unsigned i = 0; !err && i < config->cpus; i++) {
        const struct bt_config bt = {
            .va = MON_AREAS + (uint64_t)i * BT_AREA,
            .area = g->memory + config->areas + (uint64_t)i * BT_AREA,
            .cache = (struct bt_cache *)(g->memory + config->caches +
                                         i * MON_CACHE_BYTES),
            .is_sensitive = is_sensitive,
        };

        err = bt_create(&g->bt[i], &bt, &why);
    }
    return err;
}

enum kind { PLAIN, PV, TRANSLATED };

static struct mg *create(enum shadow_policy policy, unsigned cpus,
                         enum kind kind)
{
    const size_t frames = MG_RAM / PAGE_4K * sizeof(struct direct_frame);
    struct mg *g = calloc(1, sizeof *g);
    struct mon_config config = {
        .cpus = cpus,
        .assist = true,
        .pv = kind == PV,
        .translate = kind == TRANSLATED,
        .adaptive = true,
        .physical_bits = 46,
        .low_end = MG_RAM,
        .pa = MG_PA,
        .arena_bytes = shadow_arena_bytes(TABLES),
        .policy = policy,
        .roots = 64,
        .flood = 3,
        .entry = MG_KERNEL + MG_CODE,
        .cr3 = MG_PAGES,
        .gdt = MG_KERNEL + 0x5000,
    };

    if (!g)
        return NULL;
    config.frames = (MON_ARENA + config.arena_bytes + 7) & ~7ull;
    config.areas = (config.frames + frames + PAGE_2M) & ~(PAGE_2M - 1);
    config.area_tables = MON_TABLES;
    config.caches = config.areas + (uint64_t)cpus * BT_AREA;
    config.code_map = config.caches + cpus * MON_CACHE_BYTES;
    g->memory_bytes = kind == TRANSLATED
                          ? config.code_map + MG_RAM / PAGE_4K / 8
                          : config.frames + frames;
    g->ram = aligned_alloc(PAGE_4K, MG_RAM);
    g->memory =
        aligned_alloc(PAGE_4K, (g->memory_bytes + PAGE_4K) & ~(PAGE_4K - 1));
    if (!g->ram || !g->memory) {
        mg_destroy(g);
        return NULL;
    }
    memset(g->ram, 0, MG_RAM);
    memset(g->memory, 0, MON_ARENA);
    memset(g->memory + config.frames, 0, g->memory_bytes - config.frames);
    make_tables(g);
    for (unsigned i = 0; i < cpus; i++) {
        struct mon_cpu *cpu =
            (void *)(g->memory + MON_CPUS + i * MON_CPU_BYTES);

        cpu->id = i;
        cpu->host = g;
    }
    if ((kind == TRANSLATED && create_translators(g, &config)) ||
        mon_init(&g->mon, &config, &ops, g->ram, NULL, g->memory)) {
        mg_destroy(g);
        return NULL;
    }
    for (unsigned i = 0; i < cpus; i++)
        mon_start_cpu(&g->mon, mg_cpu(g, i));
    return g;
}

struct mg *mg_create(enum shadow_policy policy, unsigned cpus)
{
    return create(policy, cpus, PLAIN);
}

struct mg *mg_create_pv(unsigned cpus)
{
    return create(SHADOW_TRACED, cpus, PV);
}

struct mg *mg_create_translated(enum shadow_policy policy, unsigned cpus)
{
    return create(policy, cpus, TRANSLATED);
}

void mg_destroy(struct mg *g)
{
    if (!g)
        return;
    for (unsigned i = 0; i < MG_CPUS_TRANSLATED; i++)
        bt_destroy(g->bt[i]);
    free(g->ram);
    free(g->memory);
    free(g);
}

struct mon_cpu *mg_cpu(struct mg *g, unsigned id)
{
    return mon_cpu(&g->mon, id);
}

void mg_code(struct mg *g, uint64_t va, const void *bytes, unsigned count)
{
    memcpy(g->ram + (*mg_pte(g, va) & PTE_ADDR) + va % PAGE_4K, bytes, count);
}

void mg_trap(struct mg *g, unsigned id, unsigned vector, uint32_t error,
             uint64_t cr2)
{
    struct mon_cpu *cpu = mg_cpu(g, id);

    cpu->frame.vector = vector;
    cpu->frame.error = error;
    cpu->fault_address = cr2;
    mon_trap(&g->mon, cpu);
}

uint64_t mg_leaf(struct mg *g, unsigned id, uint64_t va, unsigned *level)
{
    const uint8_t *arena = g->memory + MON_ARENA;
    uint64_t pa = mg_cpu(g, id)->cr3;

    for (*level = 4;; --*level) {
        uint64_t e;

        memcpy(&e, arena + (pa - MG_PA - MON_ARENA) + pt_index(va, *level) * 8,
               8);
        if (!(e & PTE_P))
            return 0;
        if (*level == 1 || e & PTE_PS)
            return e;
        pa = e & PTE_ADDR;
    }
}
