#include "harness/monitor_counts.h"

#include <stddef.h>
#include <stdio.h>

#define EVENT(name)                                \
    {                                              \
#name, offsetof(struct shadow_stats, name) \
    }

static const struct {
    const char *name;
    size_t offset;
} events[] = {
    EVENT(hidden_missing),  EVENT(hidden_protection),
    EVENT(true_faults),     EVENT(traced_writes),
    EVENT(guest_writes),    EVENT(updated_entries),
    EVENT(prefetched),      EVENT(unsyncs),
    EVENT(resyncs),         EVENT(resync_entries),
    EVENT(dropped_entries), EVENT(write_protected),
    EVENT(zapped_tables),   EVENT(reclaims),
    EVENT(floods),          EVENT(splintered),
    EVENT(large),           EVENT(roots_created),
    EVENT(roots_reused),    EVENT(roots_evicted),
    EVENT(accessed_set),    EVENT(dirty_set),
    EVENT(invlpg),          EVENT(cr3_loads),
    EVENT(flushes),         EVENT(tlb_page_flushes),
    EVENT(tlb_flushes),
};

void monitor_counts_read(const struct vm *vm, struct monitor_counts *counts)
{
    const struct shadow_stats *stats = vm_shadow_stats(vm);

    *counts = (struct monitor_counts){0};
    if (!stats)
        return;
    counts->shadow = *stats;
    for (unsigned i = 0; i < VM_TRAP_REASONS; i++)
        counts->traps[i] = vm_monitor_traps(vm, i);
}

static uint64_t event_of(const struct shadow_stats *stats, size_t offset)
{
    return *(const uint64_t *)((const char *)stats + offset);
}

static void add_traps(const struct monitor_counts *now,
                      const struct monitor_counts *before, struct rows *rows)
{
    for (unsigned i = 0; i < VM_TRAP_REASONS; i++) {
        struct exit_row row = {.kind = "monitor_trap", .source = "monitor"};
        const char *name = vm_trap_name(i);

        row.count = now->traps[i] - before->traps[i];
        if (!row.count)
            continue;
        if (name)
            snprintf(row.reason, sizeof row.reason, "%s", name);
        else
            snprintf(row.reason, sizeof row.reason, "reason_%u", i);
        rows_add_exit(rows, &row);
    }
}

/* Levels 1 to 3: 4 KiB, 2 MiB, 1 GiB. */
static void add_tlb_misses(const struct monitor_counts *now,
                           const struct monitor_counts *before,
                           struct rows *rows)
{
    static const char *const accesses[] = {"load", "store"};
    static const char *const pages[] = {"4k", "2m", "1g"};

    for (unsigned a = 0; a < 2; a++)
        for (unsigned l = 0; l < 3; l++) {
            struct counter_row row = {
                .source = "monitor", .scope = "guest_user", .unit = "misses"};

            snprintf(row.name, sizeof row.name, "tlb_%s_misses_%s", accesses[a],
                     pages[l]);
            row.value = (double)(now->shadow.tlb_misses[a][l] -
                                 before->shadow.tlb_misses[a][l]);
            rows_add_counter(rows, &row);
        }
}

void monitor_counts_add(const struct vm *vm,
                        const struct monitor_counts *before, struct rows *rows)
{
    struct monitor_counts now;

    if (!vm_shadow_stats(vm))
        return;
    monitor_counts_read(vm, &now);
    add_traps(&now, before, rows);
    if (vm_counts_tlb_misses(vm))
        add_tlb_misses(&now, before, rows);
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        struct counter_row row = {
            .source = "monitor", .scope = "vm", .unit = "events"};

        snprintf(row.name, sizeof row.name, "shadow_%s", events[i].name);
        row.value = (double)(event_of(&now.shadow, events[i].offset) -
                             event_of(&before->shadow, events[i].offset));
        rows_add_counter(rows, &row);
    }
}
