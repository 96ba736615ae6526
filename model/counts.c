#include "model/core.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const page_names[TLB_SIZES] = {"4k", "2m", "1g"};

static void add(struct machine_counts *counts, const char *unit, uint64_t value,
                const char *format, ...) __attribute__((format(printf, 4, 5)));

static void add(struct machine_counts *counts, const char *unit, uint64_t value,
                const char *format, ...)
{
    struct machine_counter *counter = &counts->counter[counts->counters];
    va_list list;

    if (counts->counters == MACHINE_COUNTERS_MAX)
        return;
    va_start(list, format);
    vsnprintf(counter->name, sizeof counter->name, format, list);
    va_end(list);
    counter->unit = unit;
    counter->value = value;
    counts->counters++;
}

static uint64_t sum(const uint64_t *values, unsigned count)
{
    uint64_t total = 0;

    while (count)
        total += values[--count];
    return total;
}

static void add_accesses(const struct machine *m, struct machine_counts *out)
{
    const uint64_t *a = m->counts.accesses;

    add(out, "accesses", a[EVENT_READ], "user_reads");
    add(out, "accesses", a[EVENT_WRITE], "user_writes");
    add(out, "accesses", a[EVENT_FETCH], "user_fetches");
    add(out, "accesses", a[EVENT_KERNEL_READ], "kernel_reads");
    add(out, "accesses", a[EVENT_KERNEL_WRITE], "kernel_writes");
    add(out, "accesses", sum(a, EVENT_KERNEL_FETCH + 1), "accesses");
    add(out, "stores", m->counts.stores, "table_stores");
    add(out, "instructions", m->counts.invlpg, "invlpg");
    add(out, "instructions", m->counts.cr3, "mov_cr3");
    add(out, "faults", m->counts.guest_faults, "guest_page_faults");
    /* Of streams that tell. */
    if (m->counts.instructions)
        add(out, "instructions", m->counts.instructions, "instructions");
}

static uint64_t level_hits(const struct tlb *tlb, unsigned level, unsigned size)
{
    uint64_t hits = 0;

    for (unsigned i = 0; i < tlb->config.count; i++)
        if (tlb->config.structure[i].level == level)
            hits += tlb->counts[i].hits[size];
    return hits;
}

/* Page sizes that no TLB saw are left out: their count is the total's rest. */
static void add_tlb(const struct machine *m, struct machine_counts *out)
{
    for (unsigned level = 1; level <= TLB_LEVELS; level++) {
        for (unsigned size = 0; size < TLB_SIZES; size++)
            add(out, "accesses", level_hits(&m->tlb, level, size),
                "tlb_l%u_hits_%s", level, page_names[size]);
        add(out, "accesses", m->tlb.misses[level - 1], "tlb_l%u_misses", level);
    }
    add(out, "walks", m->counts.dirty_walks, "tlb_hits_without_rights");
}

static void add_levels(struct machine_counts *out, const char *of,
                       const uint64_t *references, unsigned levels)
{
    for (unsigned level = levels; level; level--)
        add(out, "references", references[level], "references_%s_%u", of,
            level);
}

static void add_nested(const struct machine *m, struct machine_counts *out)
{
    const struct counts *c = &m->counts;

    if (m->config.technique == MODEL_FLAT) {
        add(out, "references", c->flat, "references_flat");
        return;
    }
    add_levels(out, "nested", c->nested, m->config.nested_levels);
    add(out, "references", c->nested_for_tables,
        "references_nested_for_tables");
    add(out, "references", c->nested_for_access,
        "references_nested_for_access");
}

static void add_walks(const struct machine *m, struct machine_counts *out)
{
    const struct counts *c = &m->counts;
    unsigned levels = m->guest.levels;

    add(out, "walks", c->walks, "walks");
    add(out, "walks", c->walks_faulted, "walks_faulted");
    add(out, "walks", c->walks_aborted, "walks_aborted");
    add(out, "references",
        sum(c->guest, MMU_LEVELS_MAX + 1) + sum(c->shadow, MMU_LEVELS_MAX + 1) +
            sum(c->nested, MMU_LEVELS_MAX + 1) + c->flat,
        "references");
    if (m->config.technique != MODEL_SHADOW)
        add_levels(out, "guest", c->guest, levels);
    if (m->shadowing.shadow)
        add_levels(out, "shadow", c->shadow, levels);
    if (machine_has_host_tables(m))
        add_nested(m, out);
}

static void add_agile(const struct machine *m, struct machine_counts *out)
{
    const struct counts *c = &m->counts;

    add(out, "walks", c->agile_switched, "agile_walks_switched");
    add(out, "tables", c->agile_to_nested, "agile_tables_to_nested");
    add(out, "tables", c->agile_to_shadow, "agile_tables_to_shadow");
    add(out, "events", c->agile_scans, "agile_scans");
    add(out, "tables", m->agile.nested_count, "agile_tables_nested");
}

static void add_psc(const struct psc *psc, const char *prefix,
                    struct machine_counts *out)
{
    static const char *const entries[] = {
        [2] = "pde", [3] = "pdpte", [4] = "pml4e", [5] = "pml5e"};

    for (unsigned level = PSC_LEVEL_MIN; level <= MMU_LEVELS_MAX; level++)
        if (psc->has[level] || psc->has[0])
            add(out, "walks", psc->hits[level], "%s_%s_hits", prefix,
                entries[level]);
    add(out, "walks", psc->misses, "%s_misses", prefix);
}

static void add_caches(const struct machine *m, struct machine_counts *out)
{
    const struct tlb *nested = &m->nested.tlb;
    bool two = machine_has_host_tables(m);

    add_psc(&m->psc, "psc", out);
    if (two && m->config.technique != MODEL_FLAT)
        add_psc(&m->nested.psc, "psc_nested", out);
    if (two && m->nested.has_tlb) {
        add(out, "lookups",
            level_hits(nested, 1, 0) + level_hits(nested, 1, 1) +
                level_hits(nested, 1, 2),
            "nested_tlb_hits");
        add(out, "lookups", nested->misses[0], "nested_tlb_misses");
    }
    for (unsigned i = 0; i < m->dcache.config.levels; i++)
        add(out, "reads", m->dcache.hits[i], "cache_l%u_hits", i + 1);
    add(out, "reads", m->dcache.hits[DCACHE_LEVELS_MAX], "cache_misses");
}

static void add_cycles(const struct machine *m, struct machine_counts *out)
{
    const struct counts *c = &m->counts;
    uint64_t exits = sum(c->exit_cycles, REASONS);

    add(out, "cycles", c->cycles_tlb, "cycles_tlb");
    add(out, "cycles", c->cycles_walk, "cycles_walk");
    add(out, "cycles", exits, "cycles_exits");
    add(out, "cycles", c->cycles_guest_faults, "cycles_guest_faults");
    if (m->config.data_in_caches)
        add(out, "cycles", c->cycles_data, "cycles_data");
    add(out, "cycles",
        c->cycles_tlb + c->cycles_walk + exits + c->cycles_guest_faults +
            c->cycles_data,
        "cycles_total");
}

static void add_host(const struct machine *m, struct machine_counts *out)
{
    if (!machine_has_host_tables(m))
        return;
    for (unsigned size = 0; size < TLB_SIZES; size++)
        add(out, "pages", m->counts.mapped[size], "host_pages_mapped_%s",
            page_names[size]);
}

static void add_shadow(const struct machine *m, struct machine_counts *out)
{
    const struct shadow_stats *now = shadow_stats(m->shadowing.shadow);
    const struct shadow_stats *before = &m->shadowing.before;
    const struct {
        const char *name;
        uint64_t now, before;
    } rows[] = {
#define ROW(name) {#name, now->name, before->name}
        ROW(hidden_missing),
        ROW(hidden_protection),
        ROW(true_faults),
        ROW(traced_writes),
        ROW(guest_writes),
        ROW(updated_entries),
        ROW(prefetched),
        ROW(unsyncs),
        ROW(resyncs),
        ROW(resync_entries),
        ROW(dropped_entries),
        ROW(write_protected),
        ROW(zapped_tables),
        ROW(reclaims),
        ROW(floods),
        ROW(splintered),
        ROW(large),
        ROW(roots_created),
        ROW(roots_reused),
        ROW(roots_evicted),
        ROW(accessed_set),
        ROW(dirty_set),
        ROW(tlb_page_flushes),
        ROW(tlb_flushes),
#undef ROW
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        add(out, "events", rows[i].now - rows[i].before, "shadow_%s",
            rows[i].name);
    add(out, "tables", shadow_tables_used(m->shadowing.shadow),
        "shadow_tables_used");
}

static void add_exits(const struct machine *m, struct machine_counts *out)
{
    static const char *const names[REASONS] = {
        [REASON_EPT_VIOLATION] = "ept_violation",
        [REASON_HIDDEN_FAULT] = "hidden_fault",
        [REASON_TRUE_FAULT] = "true_fault",
        [REASON_TRACED_WRITE] = "traced_write",
        [REASON_INVLPG] = "invlpg",
        [REASON_CR3] = "write_cr3",
    };
    bool npt = m->config.nested_format == EPT_FORMAT_NPT;

    for (unsigned i = 0; i < REASONS; i++)
        if ((i == REASON_EPT_VIOLATION) ? machine_has_host_tables(m)
                                        : m->shadowing.shadow != NULL)
            out->exit[out->exits++] = (struct machine_exit){
                i == REASON_EPT_VIOLATION && npt ? "npf" : names[i],
                m->counts.exits[i], m->counts.exit_cycles[i]};
}

void counts_collect(const struct machine *m, struct machine_counts *out)
{
    out->counters = out->exits = 0;
    add_accesses(m, out);
    add_tlb(m, out);
    add_walks(m, out);
    add_caches(m, out);
    add_host(m, out);
    if (m->shadowing.shadow)
        add_shadow(m, out);
    if (m->agile.tables)
        add_agile(m, out);
    add_cycles(m, out);
    add_exits(m, out);
    add(out, "bytes", machine_bytes(m), "model_memory");
}
