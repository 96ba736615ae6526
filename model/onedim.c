#include "model/core.h"

#include <errno.h>

uint64_t onedim_cached(uint64_t table, const struct mmu_resume *path)
{
    return table | (path->writable ? PTE_RW : 0) | (path->user ? PTE_US : 0) |
           (path->executable ? 0 : PTE_XD);
}

struct mmu_resume onedim_resume(unsigned level, uint64_t cached)
{
    return (struct mmu_resume){.level = level,
                               .table = cached & PTE_ADDR,
                               .writable = cached & PTE_RW,
                               .user = cached & PTE_US,
                               .executable = !(cached & PTE_XD)};
}

void onedim_narrow(struct mmu_resume *path, uint64_t entry)
{
    path->writable &= !!(entry & PTE_RW);
    path->user &= !!(entry & PTE_US);
    path->executable &= !(entry & PTE_XD);
}

static struct mmu_resume root_of(const struct onedim *d)
{
    return (struct mmu_resume){d->state->levels, d->state->cr3 & PTE_ADDR, true,
                               true, true};
}

/* Only entries that refer to tables, of a walk that gave a translation: their
 * accessed flags are set. */
static void fill(const struct onedim *d, uint64_t va, struct mmu_resume path,
                 const struct mmu_walk *walk)
{
    for (unsigned i = 0; i + 1 < walk->references; i++) {
        uint64_t entry = walk->reference[i].entry;

        onedim_narrow(&path, entry);
        psc_insert(d->psc, va, walk->reference[i].level,
                   onedim_cached((entry & PTE_ADDR) + d->cached_offset, &path));
    }
}

void onedim_walk_from(const struct onedim *d, const struct mmu_request *request,
                      const struct mmu_resume *resume, struct mmu_walk *walk)
{
    mmu_walk_from(d->state, d->memory, request, resume, walk);
    for (unsigned i = 0; i < walk->references; i++)
        d->references[walk->reference[i].level]++;
    if (walk->outcome == MMU_OK)
        fill(d, request->va, *resume, walk);
}

/* A cached entry may be of a time when the path had fewer rights, and software
 * need not say that it has more now (SDM vol. 3A, 4.10.4.3): before it faults,
 * the access is looked up in memory. */
static bool rights_may_be_old(const struct mmu_walk *walk)
{
    return walk->outcome == MMU_PAGE_FAULT && walk->error & PF_P;
}

void onedim_walk(struct machine *m, const struct onedim *d,
                 const struct mmu_request *request, struct mmu_walk *walk)
{
    struct mmu_resume resume = root_of(d);
    uint64_t cached;
    unsigned level = psc_lookup(d->psc, request->va, &cached);

    if (level) {
        resume = onedim_resume(level - 1, cached);
        m->counts.cycles_walk += d->psc->config.cycles;
    }
    onedim_walk_from(d, request, &resume, walk);
    if (level && rights_may_be_old(walk)) {
        resume = root_of(d);
        onedim_walk_from(d, request, &resume, walk);
    }
}

void onedim_result(const struct mmu_walk *walk, struct translation *out)
{
    *out = (struct translation){
        .value = (walk->pa & ~(walk->page_bytes - 1)) |
                 (walk->writable ? PTE_RW : 0) | (walk->user ? PTE_US : 0) |
                 (walk->executable ? 0 : PTE_XD) | (walk->dirty ? PTE_D : 0),
        .page = {walk->page_bytes, walk->page_bytes},
        .gpa = walk->pa,
        .global = walk->global,
    };
}

/* ---- Native: the guest's tables are the CPU's ---------------------------- */

static int native_read(void *arg, uint64_t pa, uint64_t *entry)
{
    struct machine *m = arg;

    machine_refer(m, pa);
    return tables_read(&m->tables, pa, entry);
}

static int native_set(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct machine *m = arg;

    return tables_store(&m->tables, pa, old | bits);
}

static int native_walk(struct machine *m, const struct mmu_request *request,
                       struct translation *out)
{
    const struct mmu_memory memory = {native_read, native_set, m};
    const struct onedim dimension = {
        .state = &m->paging,
        .memory = &memory,
        .psc = &m->psc,
        .references = m->counts.guest,
    };
    struct mmu_walk walk;

    onedim_walk(m, &dimension, request, &walk);
    if (walk.outcome == MMU_OK) {
        m->counts.walks++;
        onedim_result(&walk, out);
        return WALK_OK;
    }
    if (walk.outcome != MMU_PAGE_FAULT)
        return machine_no_table(m, request->va);
    m->counts.walks_faulted++;
    out->error = walk.error;
    return WALK_FAULT;
}

int native_create(struct machine *m, struct why *why)
{
    (void)why;
    m->walk = native_walk;
    m->invlpg = machine_invlpg;
    m->load_cr3 = machine_load_cr3;
    return 0;
}
