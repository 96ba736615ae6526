/*
 * Agile paging (Gandhi, Hill and Swift, ISCA 2016): a walk begins in shadow
 * tables and may change, at a switching entry, to nested paging for the rest.
 *
 * Modelled: the mode of every guest table. All begin in shadow mode, whose
 * writes are traced; a table written `agile_writes` times within an interval
 * goes to nested mode, and with it, for the CPU, all that is below. At the end
 * of an interval, those that nobody wrote to in it go back. The entry that
 * leads from shadow to nested mode has the host-physical address of the guest's
 * table, so that the table itself needs no second dimension: 4 references when
 * all is shadow, 8, 12, 16 when the last one to three levels are nested, 20
 * when the guest's root is. Where everything is nested from the start
 * (`agile_nested`), walks and flushes are nested paging's, 24 references.
 * Paging-structure caches keep switching entries as others.
 *
 * The interval is in accesses, for a stream has no clock; the paper's is a
 * second. Not modelled: the paper's two additions to the hardware, a cache of
 * shadow roots by guest CR3 (here each MOV CR3 exits) and accessed and dirty
 * bits set without an exit in shadow mode (here both are hidden faults); cycles
 * of the hypervisor's scan. INVLPG does not exit: traced tables are never out
 * of step.
 *
 * shadowpt/ shadows all tables that walks in shadow mode come through and
 * those below them, nested or not, and knows nothing of modes. The shadow of a
 * table in nested mode is not told of writes and never walked; when the table
 * goes back, it is rebuilt. What the CPU of such a machine would do without an
 * exit, but shadowpt/'s write protection forbids, is granted here.
 */
#include "model/core.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define WRITES_DEFAULT 2
/* A second of a program that does a load or store every ten nanoseconds. */
#define INTERVAL_DEFAULT 100000000
#define WRITES_MAX       UINT8_MAX
#define ROUNDS_MAX       16
#define SWITCHED         (-ESTALE) /* the walk came to its switching entry */
#define NO_PARENT        UINT32_MAX

static struct agile_table *table_of(const struct machine *m, uint64_t gpa)
{
    return &m->agile.tables[gpa / PAGE_4K];
}

/* In nested mode itself, or below one that is. */
static bool in_nested_mode(const struct machine *m, uint64_t gpa)
{
    const struct agile_table *t = table_of(m, gpa);

    for (unsigned i = 0; t->known && i < MMU_LEVELS_MAX; i++) {
        if (t->nested)
            return true;
        if (t->parent == NO_PARENT)
            return false;
        t = &m->agile.tables[t->parent];
    }
    return false;
}

static void flush(struct machine *m)
{
    tlb_flush(&m->tlb);
    psc_flush(&m->psc);
    m->agile.granted = false;
}

/* ---- Policy -------------------------------------------------------------- */

static int enlist(struct machine *m, uint64_t gpa)
{
    struct agile *a = &m->agile;
    uint32_t *grown = a->nested;

    if (a->nested_count == a->nested_room) {
        a->nested_room = a->nested_room ? 2 * a->nested_room : 64;
        grown = reallocarray(grown, a->nested_room, sizeof *grown);
    }
    if (!grown)
        return -ENOMEM;
    a->nested = grown;
    table_of(m, gpa)->slot = a->nested_count;
    table_of(m, gpa)->nested = true;
    grown[a->nested_count++] = (uint32_t)(gpa / PAGE_4K);
    return 0;
}

static void delist(struct agile *a, struct agile_table *t)
{
    uint32_t last = a->nested[--a->nested_count];

    a->nested[t->slot] = last;
    a->tables[last].slot = t->slot;
    t->nested = false;
}

/* Writes of the interval, this one included. */
static unsigned count_write(struct machine *m, struct agile_table *t)
{
    if (t->epoch != m->agile.epoch)
        t->writes = 0;
    t->epoch = m->agile.epoch;
    t->writes += t->writes < WRITES_MAX;
    return t->writes;
}

/* A write that the hypervisor emulated, or memory that became zero: no table
 * any longer. */
static void agile_changed(struct machine *m, uint64_t gpa, uint64_t bytes)
{
    struct agile_table *t = table_of(m, gpa);

    if (bytes == PAGE_4K && t->nested) {
        delist(&m->agile, t);
        flush(m);
    }
    if (bytes == PAGE_4K)
        t->known = false;
    if (t->known && count_write(m, t) >= m->config.agile_writes &&
        !enlist(m, gpa)) {
        m->counts.agile_to_nested++;
        flush(m);
        return;
    }
    shadow_guest_write(m->shadowing.shadow, gpa, bytes);
}

/* A write that nobody saw. What is nested because of what is above it must
 * stay so when that goes back; there may be another way to it in shadow mode,
 * which ends. */
static void agile_stored(struct machine *m, uint64_t gpa)
{
    struct agile_table *t = table_of(m, gpa);

    if (!t->known)
        return;
    count_write(m, t);
    if (t->nested)
        return;
    if (in_nested_mode(m, gpa) && !enlist(m, gpa))
        psc_flush(&m->psc);
    else
        shadow_guest_write(m->shadowing.shadow, gpa, 8);
}

static uint64_t now(const struct machine *m)
{
    return m->agile.before + m->tlb.lookups[MMU_READ] +
           m->tlb.lookups[MMU_WRITE] + m->tlb.lookups[MMU_FETCH];
}

/* The end of an interval: the paper's scan of dirty bits in the host's tables.
 */
static void scan(struct machine *m)
{
    struct agile *a = &m->agile;
    bool any = false;

    for (uint32_t i = a->nested_count; i-- > 0;) {
        uint32_t frame = a->nested[i];

        if (a->tables[frame].epoch == a->epoch)
            continue;
        delist(a, &a->tables[frame]);
        shadow_guest_write(m->shadowing.shadow, (uint64_t)frame * PAGE_4K,
                           PAGE_4K);
        m->counts.agile_to_shadow++;
        any = true;
    }
    a->epoch++;
    a->scan_at = now(m) + m->config.agile_interval;
    m->counts.agile_scans++;
    if (any)
        flush(m);
}

/* ---- What the hypervisor knows of a path --------------------------------- */

struct path {
    struct mmu_walk walk;
    unsigned level;           /* of the highest table in nested mode, or 0 */
    struct mmu_resume resume; /* from there */
};

static int look_read(void *arg, uint64_t pa, uint64_t *entry)
{
    const struct machine *m = arg;

    return tables_read(&m->tables, pa, entry);
}

static int look_set(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    (void)arg;
    (void)pa;
    (void)old;
    (void)bits;
    return 0;
}

static void find_switch(struct machine *m, struct path *p)
{
    uint32_t parent = NO_PARENT;

    p->resume =
        (struct mmu_resume){.writable = true, .user = true, .executable = true};
    for (unsigned i = 0; i < p->walk.references; i++) {
        const struct mmu_reference *r = &p->walk.reference[i];
        struct agile_table *t = table_of(m, r->pa);

        t->known = true;
        t->parent = parent;
        parent = (uint32_t)(r->pa / PAGE_4K);
        if (!p->level && t->nested) {
            p->level = p->resume.level = r->level;
            p->resume.table =
                (m->host_base + (r->pa & ~(PAGE_4K - 1))) | IS_HOST;
        }
        if (!p->level)
            onedim_narrow(&p->resume, r->entry);
    }
}

/* Reads of it cost nothing: it says what the tables are like, which the modes
 * depend on. */
static int look(struct machine *m, const struct mmu_request *request,
                struct path *p)
{
    const struct mmu_memory memory = {look_read, look_set, m};

    mmu_walk(&m->paging, &memory, request, &p->walk);
    if (p->walk.outcome != MMU_OK && p->walk.outcome != MMU_PAGE_FAULT)
        return machine_no_table(m, request->va);
    p->level = 0;
    find_switch(m, p);
    return 0;
}

/* ---- Exits --------------------------------------------------------------- */

static uint64_t tables_made(const struct machine *m)
{
    const struct shadow *shadow = m->shadowing.shadow;

    return shadow_tables_used(shadow) + shadow_stats(shadow)->zapped_tables;
}

/* New tables are traced from now on, even where nested walks made them
 * writable. */
static void follow_traces(struct machine *m, uint64_t before)
{
    if (m->agile.granted && tables_made(m) != before)
        flush(m);
}

/* A #PF on the shadow part of a walk: 0 to go on, or what the access came to.
 */
static int page_fault_exit(struct machine *m, const struct mmu_request *request,
                           int error, struct translation *out)
{
    const struct model_costs *costs = m->config.costs;
    struct shadow *shadow = m->shadowing.shadow;
    uint64_t before = tables_made(m);
    struct shadow_fault fault;
    enum shadow_outcome outcome =
        shadow_fault(shadow, (uint32_t)error, request, &fault);

    machine_drop(m, request->va);
    follow_traces(m, before);
    if (outcome == SHADOW_TRUE_FAULT) {
        machine_exit(m, REASON_TRUE_FAULT, costs->true_fault);
        out->error = (int)fault.error;
        return WALK_FAULT;
    }
    if (outcome == SHADOW_EMULATE_WRITE && !in_nested_mode(m, fault.pa)) {
        machine_exit(m, REASON_TRACED_WRITE, costs->traced_write);
        out->gpa = fault.pa;
        return WALK_EMULATED;
    }
    if (outcome != SHADOW_FIXED && outcome != SHADOW_EMULATE_WRITE)
        return machine_no_table(m, request->va);
    machine_exit(m, REASON_HIDDEN_FAULT, costs->hidden_fault);
    return WALK_OK;
}

/* ---- All in shadow mode -------------------------------------------------- */

/* The hypervisor does not protect tables in nested mode, so that writing to
 * them takes no exit. */
static bool grant(struct machine *m, const struct mmu_request *request,
                  const struct path *p, struct translation *out)
{
    if (request->access != MMU_WRITE || p->walk.outcome != MMU_OK ||
        !(p->walk.reference[p->walk.references - 1].entry & PTE_D) ||
        !in_nested_mode(m, p->walk.pa))
        return false;
    onedim_result(&p->walk, out);
    out->value &= ~PTE_ADDR;
    out->value |= m->host_base + (p->walk.pa & ~(PAGE_4K - 1));
    out->page.within = PAGE_4K;
    out->global = false;
    m->agile.granted = true;
    return true;
}

static int shadow_part(struct machine *m, const struct mmu_request *request,
                       const struct path *p, struct translation *out)
{
    struct mmu_walk walk;

    shadow_cpu_walk(m, request, &walk);
    if (walk.outcome == MMU_OK)
        return shadow_translated(m, &walk, out);
    if (walk.outcome != MMU_PAGE_FAULT)
        return machine_no_table(m, request->va);
    if (walk.error & PF_P && grant(m, request, p, out)) {
        m->counts.walks++;
        return WALK_OK;
    }
    m->counts.walks_faulted++;
    return page_fault_exit(m, request, walk.error, out) ?: -EAGAIN;
}

/* ---- Nested mode below --------------------------------------------------- */

/* Reads shadow entries down to the switching one. */
struct descent {
    struct machine *m;
    unsigned level, last; /* of the next read, of the switching entry */
    uint64_t entry;
};

static int descent_read(void *arg, uint64_t pa, uint64_t *entry)
{
    struct descent *d = arg;

    d->m->counts.shadow[d->level]++;
    (void)shadow_table_read(d->m, pa, entry);
    d->entry = *entry;
    return d->level-- == d->last ? SWITCHED : 0;
}

static void fill_upper(struct machine *m, uint64_t va, struct mmu_resume path,
                       const struct mmu_walk *walk)
{
    for (unsigned i = 0; i < walk->references; i++) {
        const struct mmu_reference *r = &walk->reference[i];

        onedim_narrow(&path, r->entry);
        psc_insert(&m->psc, va, r->level,
                   onedim_cached(r->entry & PTE_ADDR, &path));
    }
}

/* From the root, or a cached entry above the switching one, through shadow
 * entries. False: one is missing. */
static bool descend(struct machine *m, const struct mmu_request *request,
                    const struct path *p, struct mmu_resume resume)
{
    struct descent d = {m, resume.level, p->level + 1, 0};
    const struct mmu_memory memory = {descent_read, look_set, &d};
    struct mmu_state paging;
    struct mmu_walk walk;

    shadow_paging(m, &paging);
    mmu_walk_from(&paging, &memory, request, &resume, &walk);
    if (walk.outcome != MMU_NO_MEMORY || !(d.entry & PTE_P))
        return false;
    fill_upper(m, request->va, resume, &walk);
    psc_insert(&m->psc, request->va, p->level + 1,
               onedim_cached(p->resume.table, &p->resume));
    return true;
}

/* Where the nested part begins: after a cached entry, or after the shadow
 * part. False: a shadow entry is missing. */
static bool find_nested(struct machine *m, const struct mmu_request *request,
                        const struct path *p, struct mmu_resume *resume)
{
    uint64_t cached;
    unsigned level = psc_lookup(&m->psc, request->va, &cached);

    if (level)
        m->counts.cycles_walk += m->psc.config.cycles;
    if (level && cached & IS_HOST) {
        *resume = onedim_resume(level - 1, cached);
        return true;
    }
    *resume = p->resume;
    if (p->level == m->guest.levels)
        return true;
    return descend(m, request, p,
                   level ? onedim_resume(level - 1, cached)
                         : (struct mmu_resume){m->guest.levels,
                                               shadow_root(m->shadowing.shadow),
                                               true, true, true});
}

/* A write in nested mode to a table in shadow mode, which the host's tables
 * protect. The shadow MMU may have given the table up. */
static int protected_write(struct machine *m, const struct mmu_request *request,
                           struct translation *out)
{
    int result = page_fault_exit(m, request, PF_P | PF_W, out);

    if (result == WALK_OK)
        table_of(m, out->gpa)->known = false;
    return result ?: -EAGAIN;
}

/* Entries of a TLB are writable where nothing is traced. */
static int finish_nested(struct machine *m, const struct mmu_request *request,
                         struct translation *out)
{
    bool traced = table_of(m, out->gpa)->known && !in_nested_mode(m, out->gpa);

    out->global = false;
    m->counts.agile_switched++;
    if (traced && request->access == MMU_WRITE)
        return protected_write(m, request, out);
    if (traced)
        out->value &= ~PTE_RW;
    m->agile.granted |= out->value & PTE_RW;
    return WALK_OK;
}

static int nested_part(struct machine *m, const struct mmu_request *request,
                       const struct path *p, struct translation *out)
{
    struct mmu_resume resume;
    int result;

    if (!find_nested(m, request, p, &resume)) {
        m->counts.walks_faulted++;
        return page_fault_exit(m, request, 0, out) ?: -EAGAIN;
    }
    result = nested_walk_from(m, request, &resume, out);
    if (result == WALK_FAULT && out->error & PF_P &&
        p->walk.outcome == MMU_OK) {
        machine_drop(m, request->va);
        return -EAGAIN;
    }
    return result == WALK_OK ? finish_nested(m, request, out) : result;
}

/* -------------------------------------------------------------------------- */

static int agile_walk(struct machine *m, const struct mmu_request *request,
                      struct translation *out)
{
    struct path path;
    int result;

    if (now(m) >= m->agile.scan_at)
        scan(m);
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        result = look(m, request, &path);
        if (result)
            return result;
        result = path.level ? nested_part(m, request, &path, out)
                            : shadow_part(m, request, &path, out);
        if (result != -EAGAIN)
            return result;
    }
    return why_set(m->why, EPROTO, "the shadow of %#llx cannot be filled",
                   (unsigned long long)request->va);
}

static int agile_invlpg(struct machine *m, uint64_t va)
{
    shadow_invlpg(m->shadowing.shadow, va);
    return 0;
}

int agile_create(struct machine *m, struct why *why)
{
    struct machine_config *config = &m->config;

    config->agile_writes =
        config->agile_writes ? config->agile_writes : WRITES_DEFAULT;
    config->agile_interval =
        config->agile_interval ? config->agile_interval : INTERVAL_DEFAULT;
    if (config->agile_writes > WRITES_MAX)
        return why_set(why, EINVAL, "agile paging counts %u writes at most",
                       WRITES_MAX);
    m->agile.tables =
        machine_reserve(m->guest.ram_bytes / PAGE_4K * sizeof *m->agile.tables);
    if (!m->agile.tables)
        return why_set(why, ENOMEM, "no address space for tables' modes");
    m->agile.scan_at = config->agile_interval;
    m->agile.epoch = 1;
    m->walk = agile_walk;
    m->changed = agile_changed;
    m->stored = agile_stored;
    m->invlpg = agile_invlpg;
    return 0;
}

void agile_destroy(struct machine *m)
{
    if (m->agile.tables)
        munmap(m->agile.tables,
               m->guest.ram_bytes / PAGE_4K * sizeof *m->agile.tables);
    free(m->agile.nested);
}

void agile_reset_counts(struct machine *m)
{
    m->agile.before = now(m);
}
