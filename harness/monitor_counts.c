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
    const struct bt_stats *bt = vm_bt_stats(vm);

    *counts = (struct monitor_counts){0};
    if (!stats)
        return;
    counts->shadow = *stats;
    if (bt)
        counts->bt = *bt;
    for (unsigned i = 0; i < VM_TRAP_REASONS; i++)
        counts->traps[i] = vm_monitor_traps(vm, i);
}

static uint64_t event_of(const void *stats, size_t offset)
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

#define BT_EVENT(name_, field, unit_)                  \
    {                                                  \
        name_, unit_, offsetof(struct bt_stats, field) \
    }

static const struct {
    const char *name, *unit;
    size_t offset;
} bt_events[] = {
    BT_EVENT("bt_blocks", blocks, "events"),
    BT_EVENT("bt_guest_bytes", guest_bytes, "bytes"),
    BT_EVENT("bt_code_bytes", code_bytes, "bytes"),
    BT_EVENT("bt_links", links, "events"),
    BT_EVENT("bt_landings", landings, "events"),
    BT_EVENT("bt_invalidated_blocks", invalidated, "events"),
    BT_EVENT("bt_flushes", flushes, "events"),
    BT_EVENT("bt_adapted_copies", adapted[0], "instructions"),
    BT_EVENT("bt_adapted_call_outs", adapted[1], "instructions"),
};

static void add_bt_counter(const char *name, const char *unit, uint64_t count,
                           struct rows *rows)
{
    struct counter_row row = {.source = "monitor", .scope = "guest_kernel"};

    snprintf(row.name, sizeof row.name, "%s", name);
    snprintf(row.unit, sizeof row.unit, "%s", unit);
    row.value = (double)count;
    rows_add_counter(rows, &row);
}

static void add_bt(const struct bt_stats *now, const struct bt_stats *before,
                   struct rows *rows)
{
    char name[64];

    for (size_t i = 0; i < sizeof bt_events / sizeof bt_events[0]; i++)
        add_bt_counter(bt_events[i].name, bt_events[i].unit,
                       event_of(now, bt_events[i].offset) -
                           event_of(before, bt_events[i].offset),
                       rows);
    for (unsigned i = 0; i < BT_CLASSES; i++) {
        snprintf(name, sizeof name, "bt_instructions_%s", bt_class_name(i));
        add_bt_counter(name, "instructions",
                       now->instructions[i] - before->instructions[i], rows);
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
    if (vm_bt_stats(vm))
        add_bt(&now.bt, &before->bt, rows);
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        struct counter_row row = {
            .source = "monitor", .scope = "vm", .unit = "events"};

        snprintf(row.name, sizeof row.name, "shadow_%s", events[i].name);
        row.value = (double)(event_of(&now.shadow, events[i].offset) -
                             event_of(&before->shadow, events[i].offset));
        rows_add_counter(rows, &row);
    }
}
