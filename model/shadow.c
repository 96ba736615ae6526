#include "model/core.h"

#include <errno.h>
#include <sys/mman.h>

#define PHYSICAL_BITS 52
#define ROOTS_DEFAULT 16
/* KVM gives a table up after 3 writes with no fault through it
 * (detect_write_flooding). */
#define FLOOD 3
/* What shadowpt/ can name. */
#define RAM_MAX ((1ull << 44) - PAGE_4K)
/* A fault is mended at once, or by emulation; more rounds are a defect. */
#define ROUNDS_MAX 16

/* ---- What the shadow MMU asks of us -------------------------------------- */

static int guest_read(void *arg, uint64_t pa, uint64_t *entry)
{
    const struct machine *m = arg;

    return tables_read(&m->tables, pa, entry);
}

static int guest_set(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct machine *m = arg;

    return tables_store(&m->tables, pa, old | bits);
}

static int host_frame(void *arg, uint64_t frame, struct shadow_frame *host)
{
    const struct machine *m = arg;
    const struct ept_policy policy = {
        .page_bytes = m->config.host_page_bytes,
        .large_ppm = m->config.host_large_ppm,
        .seed = m->config.seed,
    };

    if (frame >= m->guest.ram_bytes / PAGE_4K)
        return -EFAULT;
    *host = (struct shadow_frame){
        .frame = m->host_base / PAGE_4K + frame,
        .level = pt_leaf_level(ept_policy_page(&policy, frame * PAGE_4K)),
        .writable = true,
        .executable = true,
    };
    return 0;
}

static void flush_page(void *arg, uint64_t va)
{
    struct machine *m = arg;

    tlb_invlpg(&m->tlb, va);
    psc_invlpg(&m->psc);
}

static void flush_all(void *arg)
{
    struct machine *m = arg;

    tlb_flush(&m->tlb);
    psc_flush(&m->psc);
}

/* ---- The CPU on the shadow tables ---------------------------------------- */

int shadow_table_read(void *arg, uint64_t pa, uint64_t *entry)
{
    struct machine *m = arg;
    const uint64_t *words = m->shadowing.arena;

    if (pa - m->shadowing.pa >= m->shadowing.arena_bytes)
        return -EFAULT;
    machine_refer(m, pa);
    *entry = words[(pa - m->shadowing.pa) / sizeof *words];
    return 0;
}

/* Their accessed and dirty bits are always set. */
static int table_set(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    (void)arg;
    (void)pa;
    (void)old;
    (void)bits;
    return -EFAULT;
}

void shadow_paging(const struct machine *m, struct mmu_state *paging)
{
    *paging = (struct mmu_state){
        .cr3 = shadow_root(m->shadowing.shadow),
        .levels = m->guest.levels,
        .physical_bits = PHYSICAL_BITS,
        .wp = true,
        .nxe = true,
        .pages_1g = true,
    };
}

void shadow_cpu_walk(struct machine *m, const struct mmu_request *request,
                     struct mmu_walk *walk)
{
    const struct mmu_memory memory = {shadow_table_read, table_set, m};
    struct mmu_state paging;
    const struct onedim dimension = {
        .state = &paging,
        .memory = &memory,
        .psc = &m->psc,
        .references = m->counts.shadow,
    };

    shadow_paging(m, &paging);
    onedim_walk(m, &dimension, request, walk);
}

int shadow_translated(struct machine *m, const struct mmu_walk *walk,
                      struct translation *out)
{
    m->counts.walks++;
    onedim_result(walk, out);
    out->gpa = walk->pa - m->host_base;
    out->global = false;
    return WALK_OK;
}

/* An exit for a #PF on the shadow tables. */
static int page_fault_exit(struct machine *m, const struct mmu_request *request,
                           int error, struct translation *out)
{
    const struct model_costs *costs = m->config.costs;
    struct shadow_fault fault;

    switch (
        shadow_fault(m->shadowing.shadow, (uint32_t)error, request, &fault)) {
    case SHADOW_FIXED:
        machine_exit(m, REASON_HIDDEN_FAULT, costs->hidden_fault);
        return -EAGAIN;
    case SHADOW_TRUE_FAULT:
        machine_exit(m, REASON_TRUE_FAULT, costs->true_fault);
        out->error = (int)fault.error;
        return WALK_FAULT;
    case SHADOW_EMULATE_WRITE:
        machine_exit(m, REASON_TRACED_WRITE, costs->traced_write);
        out->gpa = fault.pa;
        return WALK_EMULATED;
    default:
        return machine_no_table(m, request->va);
    }
}

static int shadow_walk(struct machine *m, const struct mmu_request *request,
                       struct translation *out)
{
    struct mmu_walk walk;
    int result;

    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        shadow_cpu_walk(m, request, &walk);
        if (walk.outcome == MMU_OK)
            return shadow_translated(m, &walk, out);
        m->counts.walks_faulted++;
        machine_drop(m, request->va);
        result = walk.outcome == MMU_PAGE_FAULT
                     ? page_fault_exit(m, request, walk.error, out)
                     : machine_no_table(m, request->va);
        if (result != -EAGAIN)
            return result;
    }
    return why_set(m->why, EPROTO, "the shadow of %#llx cannot be filled",
                   (unsigned long long)request->va);
}

/* ---- What the guest does ------------------------------------------------- */

static void shadow_changed(struct machine *m, uint64_t gpa, uint64_t bytes)
{
    shadow_guest_write(m->shadowing.shadow, gpa, bytes);
}

/* Entries looked through again because of a flush are part of its exit. */
static uint64_t resynced(const struct machine *m)
{
    const struct shadow_stats *stats = shadow_stats(m->shadowing.shadow);

    return stats->resyncs * PT_ENTRIES + stats->resync_entries;
}

static int shadow_flush(struct machine *m, uint64_t va)
{
    const struct model_costs *costs = m->config.costs;
    uint64_t before = resynced(m);

    shadow_invlpg(m->shadowing.shadow, va);
    machine_exit(m, REASON_INVLPG,
                 costs->invlpg + (resynced(m) - before) * costs->resync_entry);
    return 0;
}

/* The CPU's own CR3 is loaded, and its translations of the old root go: the
 * shadow's leaves are never global. */
static int shadow_switch(struct machine *m, uint64_t value)
{
    const struct model_costs *costs = m->config.costs;
    uint64_t before = resynced(m);

    m->paging.cr3 = value & PTE_ADDR;
    shadow_set_cr3(m->shadowing.shadow, m->paging.cr3);
    tlb_load_cr3(&m->tlb, 0, false);
    psc_load_cr3(&m->psc, 0, false);
    machine_exit(m, REASON_CR3,
                 costs->cr3_load +
                     (resynced(m) - before) * costs->resync_entry);
    return 0;
}

/* ---- Making -------------------------------------------------------------- */

/* Twice what maps all of the guest's memory in 4-KiB pages, for address
 * spaces that share it. */
static unsigned tables_needed(const struct machine *m)
{
    uint64_t needed = m->guest.ram_bytes / PAGE_2M * 2 + 4096;

    if (m->config.shadow_tables)
        return m->config.shadow_tables;
    return needed < SHADOW_PAGES_MAX ? (unsigned)needed : SHADOW_PAGES_MAX;
}

int shadow_create(struct machine *m, uint64_t *host_next, struct why *why)
{
    struct shadowing *s = &m->shadowing;
    bool agile = m->config.technique == MODEL_AGILE;
    const struct shadow_config config = {
        .policy = agile ? SHADOW_TRACED : m->config.shadow_policy,
        .roots =
            m->config.shadow_roots ? m->config.shadow_roots : ROOTS_DEFAULT,
        /* What is written often goes to nested mode instead. */
        .flood = agile ? 0 : FLOOD,
        .tables_pa = *host_next,
    };
    const struct shadow_ops ops = {
        .memory = {guest_read, guest_set, m},
        .frame = host_frame,
        .flush_page = flush_page,
        .flush_all = flush_all,
    };
    int err;

    if (m->guest.ram_bytes > RAM_MAX)
        return why_set(why, EINVAL,
                       "shadow paging is for guests of less than 16 TiB");
    s->pa = *host_next;
    s->arena_bytes = shadow_arena_bytes(tables_needed(m));
    *host_next += s->arena_bytes;
    s->arena = machine_reserve(s->arena_bytes);
    if (!s->arena)
        return why_set(why, ENOMEM, "no address space for shadow tables");
    err = shadow_init(&s->shadow, s->arena, s->arena_bytes, &config, &ops);
    if (!err)
        err = shadow_set_state(s->shadow, &m->paging, SHADOW_BOTH);
    m->walk = shadow_walk;
    m->changed = shadow_changed;
    m->invlpg = shadow_flush;
    m->load_cr3 = shadow_switch;
    return err ? why_set(why, -err, "the shadow tables cannot be so") : 0;
}

/* Of each table's share of the arena, the table and its part of the reverse map
 * are written when it is used, the rest at the beginning. */
uint64_t shadow_bytes(const struct machine *m)
{
    const struct shadowing *s = &m->shadowing;
    const uint64_t later = PT_ENTRIES * (8 + 4 + 8);

    if (!s->shadow)
        return 0;
    return s->arena_bytes -
           (shadow_tables(s->shadow) - shadow_tables_used(s->shadow)) * later;
}

void shadow_destroy(struct machine *m)
{
    if (m->shadowing.arena)
        munmap(m->shadowing.arena, m->shadowing.arena_bytes);
}
