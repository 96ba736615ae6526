/*
 * What the parts of a machine share; for model/ only.
 *
 * machine.c    events, accesses, the TLB
 * onedim.c     a walk through one set of tables, with the caches around it
 * nested.c     the second dimension: EPT or NPT, or one flat table
 * shadow.c     shadow tables and the exits that keep them
 * agile.c      shadow tables above, nested paging below
 * counts.c     what was counted, by name
 */
#ifndef MODEL_CORE_H
#define MODEL_CORE_H

#include "ept/map.h"
#include "model/machine.h"
#include "model/tables.h"

enum reason {
    REASON_EPT_VIOLATION,
    REASON_HIDDEN_FAULT,
    REASON_TRUE_FAULT,
    REASON_TRACED_WRITE,
    REASON_INVLPG,
    REASON_CR3,
    REASONS,
};

struct counts {
    uint64_t accesses[EVENT_KERNEL_FETCH + 1];
    uint64_t stores, invlpg, cr3, guest_faults;
    uint64_t walks, walks_faulted, walks_aborted;
    uint64_t instructions;
    /* References, by level of the entry: of the guest's tables, of shadow
     * tables, of the second dimension. */
    uint64_t guest[MMU_LEVELS_MAX + 1];
    uint64_t shadow[MMU_LEVELS_MAX + 1];
    uint64_t nested[MMU_LEVELS_MAX + 1];
    uint64_t nested_for_tables, nested_for_access;
    uint64_t flat;
    uint64_t dirty_walks; /* of writes that hit a clean entry */
    uint64_t exits[REASONS], exit_cycles[REASONS];
    uint64_t cycles_tlb, cycles_walk, cycles_guest_faults, cycles_data;
    uint64_t mapped[TLB_SIZES]; /* host pages by size */
    uint64_t agile_to_nested, agile_to_shadow, agile_scans, agile_switched;
};

/* What a walk gave. */
struct translation {
    uint64_t value; /* as a TLB keeps it: frame, rights, dirty */
    struct tlb_page page;
    uint64_t gpa; /* of the access, by a walk */
    uint64_t pa;  /* of the access in the host, by machine.c */
    bool global;
    int error; /* PF_*, WALK_FAULT */
};

/* Results of a walk beside negative errnos. */
enum walk_result {
    WALK_OK,
    WALK_FAULT,    /* the guest's #PF */
    WALK_EMULATED, /* the write was done for the guest, nothing is cached */
};

/* A dimension after the guest's own tables. */
struct nested {
    struct ept_state state;
    struct ept_arena arena;
    struct ept_policy policy;
    uint64_t flat;     /* of the flat table; 0: EPT or NPT */
    uint8_t *mapped;   /* flat: a bit for each frame that begins a host page */
    uint64_t violated; /* the GPA that ended the last walk */
    struct tlb tlb;    /* the nested TLB */
    bool has_tlb;
    struct psc psc;
};

struct shadowing {
    struct shadow *shadow;
    void *arena;
    size_t arena_bytes;
    uint64_t pa;                /* of the tables */
    struct shadow_stats before; /* at the last reset */
};

/* What agile paging knows of a guest frame. */
struct agile_table {
    uint32_t parent; /* frame of the table it was last reached through */
    uint32_t epoch;  /* of the last write */
    uint32_t slot;   /* in agile.nested, when nested */
    uint8_t writes;  /* in that epoch */
    bool known;      /* a walk came through it: it is a table */
    bool nested;     /* in nested mode, whatever is above */
};

struct agile {
    struct agile_table *tables; /* by frame */
    uint32_t *nested;           /* frames in nested mode */
    uint32_t nested_count, nested_room;
    uint64_t scan_at, before; /* in accesses; those before the last reset */
    uint32_t epoch;
    bool granted; /* the TLB may hold writable pages by nested walks */
};

/* Host-physical memory begins with the host's own tables, the guest's memory
 * follows in one piece. */
#define HOST_TABLES_PA 0x100000000ull
/* What cached entries lead to is host-physical; the guest's walker, which
 * thinks in guest-physical addresses, sees it by this bit. */
#define IS_HOST (1ull << 51)

struct machine {
    struct machine_config config;
    struct event_guest guest;
    struct mmu_state paging; /* of the guest */
    struct tables tables;
    struct tlb tlb;
    struct psc psc;
    struct dcache dcache;
    struct counts counts;
    struct nested nested;
    struct shadowing shadowing;
    struct agile agile;
    uint64_t host_base; /* host-physical address of guest-physical 0 */
    bool paging_on;     /* CR3 was loaded */
    void *storage;
    uint64_t storage_bytes;
    struct why *why; /* of the call under way */

    /* A miss of every TLB; enum walk_result or a negative errno. */
    int (*walk)(struct machine *m, const struct mmu_request *request,
                struct translation *out);
    /* The hypervisor changed memory, or saw it change; NULL where it does not
     * care. */
    void (*changed)(struct machine *m, uint64_t gpa, uint64_t bytes);
    /* The guest stored to a table and nobody saw it; likewise. */
    void (*stored)(struct machine *m, uint64_t gpa);
    int (*invlpg)(struct machine *m, uint64_t va);
    int (*load_cr3)(struct machine *m, uint64_t value);
};

/* onedim.c: what a walk of one set of tables needs beside its memory. */
struct onedim {
    const struct mmu_state *state;
    const struct mmu_memory *memory;
    struct psc *psc;
    /* Added to a table's address where a cached entry leads to it. */
    uint64_t cached_offset;
    uint64_t *references; /* counted by level */
};

/* A walk from what the paging-structure caches have, which it then fills;
 * `walk` tells how it ended. Cycles are counted by `memory`. */
void onedim_walk(struct machine *m, const struct onedim *dimension,
                 const struct mmu_request *request, struct mmu_walk *walk);
/* The same from where the caller says. */
void onedim_walk_from(const struct onedim *dimension,
                      const struct mmu_request *request,
                      const struct mmu_resume *resume, struct mmu_walk *walk);
/* What a paging-structure cache keeps: a table's address and the rights of the
 * path to it, in the places of an entry; and the way back. */
uint64_t onedim_cached(uint64_t table, const struct mmu_resume *path);
struct mmu_resume onedim_resume(unsigned level, uint64_t cached);
void onedim_narrow(struct mmu_resume *path, uint64_t entry);
void onedim_result(const struct mmu_walk *walk, struct translation *out);

/* One read of a table's entry at a host-physical address. */
static inline void machine_refer(struct machine *m, uint64_t pa)
{
    m->counts.cycles_walk += dcache_read(&m->dcache, pa, NULL);
}

static inline void machine_exit(struct machine *m, enum reason reason,
                                uint64_t work)
{
    m->counts.exits[reason]++;
    m->counts.exit_cycles[reason] += m->config.costs->vm_exit + work;
}

/* What native and nested do at a flush. */
int machine_invlpg(struct machine *m, uint64_t va);
int machine_load_cr3(struct machine *m, uint64_t value);

/* A page fault: what is cached for the address goes (SDM vol. 3A, 4.10.4.1).
 */
void machine_drop(struct machine *m, uint64_t va);

/* The stream makes no sense of these tables. */
int machine_no_table(struct machine *m, uint64_t va);

/* Zeroed address space, of which only what is written takes memory; NULL when
 * there is none. */
void *machine_reserve(uint64_t bytes);

int native_create(struct machine *m, struct why *why);

int nested_create(struct machine *m, uint64_t *host_next, struct why *why);
void nested_destroy(struct machine *m);
/* A 2-D walk; from `resume` on, where its address is host-physical, or NULL
 * for what the paging-structure caches have. */
int nested_walk_from(struct machine *m, const struct mmu_request *request,
                     const struct mmu_resume *resume, struct translation *out);

int shadow_create(struct machine *m, uint64_t *host_next, struct why *why);
void shadow_destroy(struct machine *m);
uint64_t shadow_bytes(const struct machine *m);
/* What the CPU has for control registers, and reads, on shadow tables. */
void shadow_paging(const struct machine *m, struct mmu_state *paging);
int shadow_table_read(void *machine, uint64_t pa, uint64_t *entry);
/* The CPU's walk of them. */
void shadow_cpu_walk(struct machine *m, const struct mmu_request *request,
                     struct mmu_walk *walk);
/* What such a walk, when it was MMU_OK, gave; WALK_OK. */
int shadow_translated(struct machine *m, const struct mmu_walk *walk,
                      struct translation *out);

int agile_create(struct machine *m, struct why *why);
void agile_destroy(struct machine *m);
void agile_reset_counts(struct machine *m);

/* counts.c */
void counts_collect(const struct machine *m, struct machine_counts *counts);
static inline bool machine_has_host_tables(const struct machine *m)
{
    return m->config.technique == MODEL_NESTED ||
           m->config.technique == MODEL_FLAT ||
           m->config.technique == MODEL_AGILE;
}

#endif
