/*
 * The same access again, with caches: as model/ has them, but with any of
 * them left out, and counting nothing but entries read. What a guest's
 * paging-structure cache leads to is host-physical (combined mappings, SDM
 * vol. 3C, 29.4.1), so that a hit there saves the second dimension too.
 */
#include "harness/walk_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A table whose host-physical address a cache gave; the guest's walker, which
 * thinks in guest-physical addresses, sees it by this bit. */
#define IS_HOST (1ull << 51)

struct caches {
    struct psc psc, nested_psc;
    struct tlb tlb, nested_tlb;
    bool has_tlb, has_nested_tlb;
    void *storage[4];
};

/* A walk under way. */
struct replay {
    struct walk_memory *memory;
    const struct mmu_state *walked;
    struct mmu_memory physical;
    struct caches *caches;
    unsigned references, nested;
    uint64_t host[MMU_LEVELS_MAX]; /* of the entries read */
    unsigned entries;
};

/* ---- Caches -------------------------------------------------------------- */

/* Of a profile without the caches that are left out. */
static int make_psc(struct psc *psc, const struct psc_config *config,
                    void **storage)
{
    size_t bytes;
    int err = psc_bytes(config, &bytes, NULL);

    if (err)
        return err;
    *storage = malloc(bytes + 8);
    if (!*storage)
        return -ENOMEM;
    psc_init(psc, config, *storage);
    return 0;
}

static int make_tlb(struct tlb *tlb, const struct tlb_config *config, bool *has,
                    void **storage)
{
    size_t bytes;
    int err;

    *has = config->count;
    if (!*has)
        return 0;
    err = tlb_bytes(config, &bytes, NULL);
    if (err)
        return err;
    *storage = malloc(bytes + 8);
    if (!*storage)
        return -ENOMEM;
    tlb_init(tlb, config, *storage);
    return 0;
}

/* One structure for every size of page, as mmu/profile.h describes it. */
static struct tlb_config nested_tlb(const struct mmu_profile *profile)
{
    struct tlb_config config = {.count = profile->nested_tlb.entries > 0};

    config.structure[0] = (struct tlb_structure){
        .name = "nested",
        .entries = profile->nested_tlb.entries,
        .ways = profile->nested_tlb.ways,
        .level = 1,
        .accesses = 7,
        .sizes = 7,
    };
    return config;
}

static void caches_free(struct caches *caches)
{
    for (unsigned i = 0; i < 4; i++)
        free(caches->storage[i]);
}

static int caches_make(struct caches *caches, const struct mmu_profile *profile)
{
    const struct tlb_config nested = nested_tlb(profile);
    int err;

    memset(caches, 0, sizeof *caches);
    err = make_psc(&caches->psc, &profile->psc, &caches->storage[0]);
    if (!err)
        err = make_psc(&caches->nested_psc, &profile->psc_nested,
                       &caches->storage[1]);
    if (!err)
        err = make_tlb(&caches->tlb, &profile->tlb, &caches->has_tlb,
                       &caches->storage[2]);
    if (!err)
        err = make_tlb(&caches->nested_tlb, &nested, &caches->has_nested_tlb,
                       &caches->storage[3]);
    return err;
}

/* ---- The second dimension ------------------------------------------------ */

/* The access was allowed, so every path it uses has the rights it needs, and
 * caches need not keep them. */
static void translate_nested(struct replay *r,
                             const struct ept_request *request,
                             struct ept_translation *t)
{
    struct psc *psc = &r->caches->nested_psc;
    const struct ept_state *state = &r->memory->nested;
    uint64_t table;
    unsigned level = psc_lookup(psc, request->gpa, &table);
    const struct ept_resume resume = {level ? level - 1 : state->levels,
                                      level ? table : state->root,
                                      EPT_RWX | EPT_XU};

    ept_translate_from(state, &r->physical, request, &resume, t);
    r->references += t->references;
    r->nested += t->references;
    if (t->outcome != EPT_OK)
        return;
    for (unsigned i = 0; i + 1 < t->references; i++)
        psc_insert(psc, request->gpa, t->reference[i].level,
                   t->reference[i].entry & EPT_ADDR);
    if (r->caches->has_nested_tlb)
        tlb_insert(&r->caches->nested_tlb, request->gpa, t->page_bytes,
                   MMU_READ, t->pa & ~(t->page_bytes - 1), false);
}

/* -EFAULT does not happen in an access that was translated before. */
static int to_host(struct replay *r, const struct ept_request *request,
                   uint64_t *pa, uint64_t *page_bytes)
{
    struct ept_translation t;
    struct tlb_hit hit;

    *pa = request->gpa;
    if (r->memory->question->technique != WALK_NESTED)
        return 0;
    if (r->caches->has_nested_tlb &&
        tlb_lookup(&r->caches->nested_tlb, request->gpa, MMU_READ, &hit)) {
        *page_bytes = hit.page_bytes;
        *pa = (hit.value & PTE_ADDR & ~(hit.held_bytes - 1)) |
              (request->gpa & (hit.held_bytes - 1));
        return 0;
    }
    translate_nested(r, request, &t);
    *pa = t.pa;
    *page_bytes = t.page_bytes;
    return t.outcome == EPT_OK ? 0 : -EFAULT;
}

/* ---- The first dimension ------------------------------------------------- */

static int read_entry(void *arg, uint64_t at, uint64_t *entry)
{
    struct replay *r = arg;
    const struct ept_request request = {.gpa = at, .purpose = EPT_FOR_TABLE};
    uint64_t pa = at & ~IS_HOST, page_bytes;
    int err = at & IS_HOST ? 0 : to_host(r, &request, &pa, &page_bytes);

    if (!err)
        err = r->physical.read(r->physical.arg, pa, entry);
    if (err)
        return err;
    r->host[r->entries++] = pa;
    r->references++;
    return 0;
}

/* Every flag was set when the access was explained. */
static int set_entry(void *arg, uint64_t at, uint64_t old, uint64_t bits)
{
    (void)arg;
    (void)at;
    (void)old;
    (void)bits;
    return -EFAULT;
}

static struct mmu_resume resume_at(struct replay *r, uint64_t va)
{
    uint64_t value;
    unsigned level = psc_lookup(&r->caches->psc, va, &value);

    if (!level)
        return (struct mmu_resume){r->walked->levels, r->walked->cr3 & PTE_ADDR,
                                   true, true, true};
    return (struct mmu_resume){.level = level - 1,
                               .table = (value & PTE_ADDR) | IS_HOST,
                               .writable = value & PTE_RW,
                               .user = value & PTE_US,
                               .executable = !(value & PTE_XD)};
}

static void fill(struct replay *r, uint64_t va, struct mmu_resume path,
                 const struct mmu_walk *walk)
{
    for (unsigned i = 0; i + 1 < walk->references; i++) {
        const uint64_t entry = walk->reference[i].entry;

        path.writable &= !!(entry & PTE_RW);
        path.user &= !!(entry & PTE_US);
        path.executable &= !(entry & PTE_XD);
        psc_insert(&r->caches->psc, va, walk->reference[i].level,
                   (r->host[i + 1] & ~(PAGE_4K - 1)) |
                       (path.writable ? PTE_RW : 0) | (path.user ? PTE_US : 0) |
                       (path.executable ? 0 : PTE_XD));
    }
}

/* A miss of the TLB; what it found goes into every cache there is. */
static int walk_again(struct replay *r)
{
    const struct mmu_request *request = &r->memory->question->request;
    const struct mmu_memory memory = {read_entry, set_entry, r};
    const struct mmu_resume resume = resume_at(r, request->va);
    struct ept_request access = {.purpose = EPT_FOR_ACCESS,
                                 .access = request->access};
    uint64_t pa, page_bytes = PAGE_1G;
    struct mmu_walk walk;

    r->entries = 0;
    mmu_walk_from(r->walked, &memory, request, &resume, &walk);
    access.gpa = walk.pa;
    access.user_address = walk.user;
    if (walk.outcome != MMU_OK || to_host(r, &access, &pa, &page_bytes))
        return -EFAULT;
    fill(r, request->va, resume, &walk);
    if (page_bytes > walk.page_bytes)
        page_bytes = walk.page_bytes;
    if (r->caches->has_tlb)
        tlb_insert(&r->caches->tlb, request->va, page_bytes, request->access,
                   (pa & ~(page_bytes - 1)) | (walk.dirty ? PTE_D : 0),
                   walk.global);
    return 0;
}

static int access_again(struct replay *r)
{
    const struct mmu_request *request = &r->memory->question->request;
    struct tlb_hit hit;

    r->references = r->nested = 0;
    r->memory->log.count = 0;
    if (r->caches->has_tlb &&
        tlb_lookup(&r->caches->tlb, request->va, request->access, &hit))
        return 0;
    return walk_again(r);
}

/* ---- Which caches -------------------------------------------------------- */

struct replays {
    struct walk_memory *memory;
    const struct mmu_state *walked;
    struct walk_answer *answer;
    struct why *why;
};

static int replay(const struct replays *all, const struct mmu_profile *profile,
                  enum walk_caches which, const char *name)
{
    struct walk_replay *out = &all->answer->replay[all->answer->replays];
    struct caches caches;
    struct replay r = {.memory = all->memory,
                       .walked = all->walked,
                       .physical = walk_memory_physical(all->memory),
                       .caches = &caches};
    int err = caches_make(&caches, profile);

    if (!err && all->answer->replays == WALK_REPLAYS_MAX)
        err = -E2BIG;
    if (!err)
        err = access_again(&r);
    if (!err && which > WALK_CACHES_EMPTY)
        err = access_again(&r);
    caches_free(&caches);
    if (err)
        return why_set(all->why, -err, "the access can't be made again: %s",
                       strerror(-err));
    snprintf(out->caches, sizeof out->caches, "%s", name);
    out->which = which;
    out->references = r.references;
    out->nested = r.nested;
    all->answer->replays++;
    return 0;
}

/* One dimension's paging-structure caches, each alone. `which` picks them in
 * a profile. */
static int each_level(const struct replays *all, struct mmu_profile *only,
                      struct psc_config *to, const struct psc_config *from,
                      const char *dimension, unsigned levels, unsigned leaf)
{
    char name[64];
    int err = 0;

    if (from->unified.entries) {
        *to = *from;
        snprintf(name, sizeof name, "%spage-walk cache", dimension);
        err = replay(all, only, WALK_CACHES_ONE, name);
        *to = (struct psc_config){0};
        return err;
    }
    for (unsigned level = levels; !err && level > leaf; level--) {
        if (!from->level[level].entries)
            continue;
        to->level[level] = from->level[level];
        snprintf(name, sizeof name, "%s%s cache", dimension,
                 walk_level_name(level));
        err = replay(all, only, WALK_CACHES_ONE, name);
        *to = (struct psc_config){0};
    }
    return err;
}

/* The lowest level that was read last: 0 when none was. */
static unsigned leaf_read(const struct walk_answer *answer, bool nested)
{
    const struct walk_pass *pass = &answer->pass[answer->passes - 1];
    unsigned leaf = 0;

    for (unsigned i = 0; i < pass->rows; i++)
        if (nested == (pass->row[i].tables == WALK_NESTED_TABLES) &&
            (!leaf || pass->row[i].level < leaf))
            leaf = pass->row[i].level;
    return leaf;
}

static bool any(const struct psc_config *psc)
{
    bool some = psc->unified.entries;

    for (unsigned level = PSC_LEVEL_MIN; level <= MMU_LEVELS_MAX; level++)
        some |= psc->level[level].entries > 0;
    return some;
}

/* With the second dimension: its caches alone, and with the guest's. */
static int nested_replays(const struct replays *all, struct mmu_profile *only)
{
    const struct mmu_profile *profile = all->memory->question->profile;
    const bool ept = all->memory->nested.format == EPT_FORMAT_EPT;
    int err = each_level(all, only, &only->psc_nested, &profile->psc_nested,
                         ept ? "EPT " : "NPT ", all->memory->nested.levels,
                         leaf_read(all->answer, true));

    if (!err && profile->nested_tlb.entries) {
        only->nested_tlb = profile->nested_tlb;
        err = replay(all, only, WALK_CACHES_ONE, "nested TLB");
        only->nested_tlb = (typeof(only->nested_tlb)){0};
    }
    only->psc = profile->psc;
    only->psc_nested = profile->psc_nested;
    if (!err && any(&profile->psc_nested))
        err = replay(all, only, WALK_CACHES_WALK,
                     "paging-structure caches of both dimensions");
    only->nested_tlb = profile->nested_tlb;
    if (!err && profile->nested_tlb.entries)
        err = replay(all, only, WALK_CACHES_NESTED, "these and the nested TLB");
    return err;
}

int walk_replay_all(struct walk_memory *m, const struct mmu_state *walked,
                    struct walk_answer *answer, struct why *why)
{
    static const struct mmu_profile none;
    const struct replays all = {m, walked, answer, why};
    const struct mmu_profile *profile = m->question->profile;
    struct mmu_profile only = none;
    int err = replay(&all, &none, WALK_CACHES_NONE, "no caches");

    if (err || !profile)
        return err;
    err = replay(&all, profile, WALK_CACHES_EMPTY,
                 "every cache, all empty at the start");
    if (!err)
        err = each_level(&all, &only, &only.psc, &profile->psc, "",
                         walked->levels, leaf_read(answer, false));
    if (m->question->technique == WALK_NESTED) {
        if (!err)
            err = nested_replays(&all, &only);
    } else if (!err && any(&profile->psc)) {
        only.psc = profile->psc;
        err = replay(&all, &only, WALK_CACHES_WALK,
                     "all paging-structure caches");
    }
    only = none;
    only.tlb = profile->tlb;
    if (!err)
        err = replay(&all, &only, WALK_CACHES_TLB, "TLB");
    return err;
}
