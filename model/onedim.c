#include "model/core.h"

#include <errno.h>

/* What a paging-structure cache keeps of an entry: the address of the table
 * it refers to, and the rights of the path, in the places of an entry. */
static uint64_t cached_value(uint64_t entry, const struct mmu_resume *path,
                             uint64_t offset)
{
    return ((entry & PTE_ADDR) + offset) | (path->writable ? PTE_RW : 0) |
           (path->user ? PTE_US : 0) | (path->executable ? 0 : PTE_XD);
}

static struct mmu_resume resume_at(const struct onedim *d, uint64_t va)
{
    uint64_t value;
    unsigned level = psc_lookup(d->psc, va, &value);

    if (!level)
        return (struct mmu_resume){d->state->levels, d->state->cr3 & PTE_ADDR,
                                   true, true, true};
    return (struct mmu_resume){.level = level - 1,
                               .table = value & PTE_ADDR,
                               .writable = value & PTE_RW,
                               .user = value & PTE_US,
                               .executable = !(value & PTE_XD)};
}

/* Only entries that refer to tables, of a walk that gave a translation: their
 * accessed flags are set. */
static void fill(const struct onedim *d, uint64_t va, struct mmu_resume path,
                 const struct mmu_walk *walk)
{
    for (unsigned i = 0; i + 1 < walk->references; i++) {
        uint64_t entry = walk->reference[i].entry;

        path.writable &= !!(entry & PTE_RW);
        path.user &= !!(entry & PTE_US);
        path.executable &= !(entry & PTE_XD);
        psc_insert(d->psc, va, walk->reference[i].level,
                   cached_value(entry, &path, d->cached_offset));
    }
}

void onedim_walk(struct machine *m, const struct onedim *d,
                 const struct mmu_request *request, struct mmu_walk *walk)
{
    const struct mmu_resume resume = resume_at(d, request->va);

    if (resume.level < d->state->levels)
        m->counts.cycles_walk += d->psc->config.cycles;
    mmu_walk_from(d->state, d->memory, request, &resume, walk);
    for (unsigned i = 0; i < walk->references; i++)
        d->references[walk->reference[i].level]++;
    if (walk->outcome == MMU_OK)
        fill(d, request->va, resume, walk);
}

void onedim_result(const struct mmu_walk *walk, struct translation *out)
{
    *out = (struct translation){
        .value = (walk->pa & ~(walk->page_bytes - 1)) |
                 (walk->writable ? PTE_RW : 0) | (walk->user ? PTE_US : 0) |
                 (walk->executable ? 0 : PTE_XD) | (walk->dirty ? PTE_D : 0),
        .page_bytes = walk->page_bytes,
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
        return why_set(m->why, EPROTO,
                       "the guest's tables lead out of its memory, or an "
                       "address is not canonical: %#llx",
                       (unsigned long long)request->va);
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
