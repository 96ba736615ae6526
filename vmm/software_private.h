/* What the files of the VMM's half of the software VMM share. */
#ifndef VMM_SOFTWARE_PRIVATE_H
#define VMM_SOFTWARE_PRIVATE_H

#include "bt/bt.h"
#include "mmu/entry.h"
#include "vmm/monitor/monitor.h"
#include "vmm/patch.h"
#include "vmm/software.h"
#include "vmm/vm_private.h"

struct recorder;

/* The monitor's page tables, one page each. */
enum {
    TABLE_PDPT,
    TABLE_BOOT,
    TABLE_PD,
    TABLE_PT,
    TABLE_KERNEL_PDPT, /* with the translation caches */
    TABLE_AREA_PD,
    TABLE_AREA_PT,
    TABLE_WINDOW = TABLE_AREA_PT + MON_CPUS_MAX,
};

struct software {
    struct vm *vm;
    void *mapping; /* with room to align */
    uint8_t *memory;
    uint64_t bytes, pa;
    struct mon_config config;
    struct patch_list patches;
    struct mon *mon; /* the monitor's; ours with assist off */
    struct mon own;
    struct bt *bt[MON_CPUS_MAX]; /* translate: of each vCPU */
    struct bt *user_bt;          /* and of user code, with a trace */
    struct recorder *recorder;
    struct bt_stats bt_total;
};

static inline struct mon_cpu *cpu_of(const struct software *sw, unsigned id)
{
    return (struct mon_cpu *)(sw->memory + MON_CPUS + id * MON_CPU_BYTES);
}

static inline uint64_t *table(const struct software *sw, unsigned n)
{
    return (uint64_t *)(sw->memory + MON_TABLES + n * PAGE_4K);
}

static inline uint64_t table_entry(const struct software *sw, unsigned n)
{
    return (sw->pa + MON_TABLES + n * PAGE_4K) | PTE_P | PTE_RW | PTE_US |
           PTE_A;
}

#define OWN_LEAF (PTE_P | PTE_A | PTE_D)

/* software.c */
/* What the guest's instruction at `pa` is, of which `count` bytes are given:
 * of length 0 when it is longer. */
void software_decode(struct software *sw, uint64_t pa, const uint8_t *bytes,
                     unsigned count, struct insn *insn);

/* assist.c: the monitor in this process (assist off) */
int assist_start(struct software *sw, struct why *why);

/* translation.c: what translation needs of memory, behind sw->bytes of it, and
 * in the monitor's page tables; the translators; and what is asked of them. */
void translation_place(struct software *sw);
void translation_map(struct software *sw);
int translation_create(struct software *sw, struct why *why);
int translation_answer(struct software *sw, unsigned id,
                       const struct mon_translation *what);
void translation_destroy(struct software *sw);

#endif
