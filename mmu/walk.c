#include "mmu/walk.h"

#include <linux/errno.h>

/* Between PAT and the address of a large page lie reserved bits. */
#define LOW_RESERVED(page_bytes) (((page_bytes)-1) & PTE_ADDR & ~PTE_PAT_LARGE)

/* One access and what is known of its translation. */
struct context {
    const struct mmu_state *state;
    const struct mmu_memory *memory;
    const struct mmu_request *request;
    const struct mmu_resume *resume;
    struct mmu_walk *walk;
};

/* System data structures are accessed as a supervisor whatever the CPL
 * (SDM vol. 3A, 4.6). */
static bool user_mode(const struct mmu_request *request)
{
    return request->user && !request->implicit;
}

static void finish(struct mmu_walk *walk, enum mmu_outcome outcome, int error)
{
    walk->outcome = outcome;
    walk->error = error;
}

/* The flags of the error code that describe the access are the same for every
 * cause; I/D stays clear where the CPU has no notion of a denied fetch (SDM
 * vol. 3A, 4.7). */
static void page_fault(const struct context *c, unsigned cause)
{
    const struct mmu_request *request = c->request;

    if (request->access == MMU_WRITE)
        cause |= PF_W;
    if (user_mode(request))
        cause |= PF_U;
    if (request->access == MMU_FETCH && (c->state->nxe || c->state->smep))
        cause |= PF_I;
    finish(c->walk, MMU_PAGE_FAULT, (int)cause);
}

/* What a present entry must not have set (SDM vol. 3A, 4.5.4, tables 4-14 to
 * 4-20). */
static uint64_t reserved_bits(const struct mmu_state *state, unsigned level,
                              uint64_t entry)
{
    uint64_t bits = PTE_ADDR & ~((1ull << state->physical_bits) - 1);

    if (!state->nxe)
        bits |= PTE_XD;
    if (level >= 4 && state->g_reserved)
        bits |= PTE_G;
    if (level == 1 || !(entry & PTE_PS))
        return bits;
    if (level == 2)
        return bits | LOW_RESERVED(PAGE_2M);
    if (level == 3 && state->pages_1g)
        return bits | LOW_RESERVED(PAGE_1G);
    return bits | PTE_PS;
}

/* Reads one entry and narrows the rights by it. False when the walk ended. */
static bool read_entry(const struct context *c, unsigned level, uint64_t pa,
                       uint64_t *entry)
{
    struct mmu_walk *walk = c->walk;
    int rc = c->memory->read(c->memory->arg, pa, entry);

    if (rc < 0) {
        finish(walk, MMU_NO_MEMORY, rc);
        return false;
    }
    walk->reference[walk->references].level = level;
    walk->reference[walk->references].pa = pa;
    walk->reference[walk->references].entry = *entry;
    walk->references++;
    if (!(*entry & PTE_P)) {
        page_fault(c, 0);
        return false;
    }
    if (*entry & reserved_bits(c->state, level, *entry)) {
        page_fault(c, PF_P | PF_RS);
        return false;
    }
    walk->writable &= !!(*entry & PTE_RW);
    walk->user &= !!(*entry & PTE_US);
    walk->executable &= !(*entry & PTE_XD);
    return true;
}

static void take_leaf(struct mmu_walk *walk, unsigned level, uint64_t entry)
{
    walk->page_bytes = 1ull << pt_shift(level);
    walk->global = entry & PTE_G;
    walk->dirty = entry & PTE_D;
    walk->key = (entry & PTE_KEY) >> PTE_KEY_SHIFT;
}

/* From where the walk begins to the entry that maps the page. False when there
 * is none. */
static bool descend(const struct context *c)
{
    uint64_t va = c->request->va;
    uint64_t entry = c->resume->table;
    unsigned level = c->resume->level + 1;

    do {
        level--;
        if (!read_entry(c, level, (entry & PTE_ADDR) | pt_index(va, level) * 8,
                        &entry))
            return false;
    } while (level > 1 && !(entry & PTE_PS));
    take_leaf(c->walk, level, entry);
    return true;
}

/* A key guards data in user pages, from the supervisor too; WD binds the
 * supervisor only as R/W does (SDM vol. 3A, 4.6.2). */
static bool denied_by_key(const struct context *c)
{
    const struct mmu_state *state = c->state;
    unsigned key = c->walk->key;

    if (!state->pke || !c->walk->user || c->request->access == MMU_FETCH)
        return false;
    if (state->pkru & PKRU_AD(key))
        return true;
    return c->request->access == MMU_WRITE && state->pkru & PKRU_WD(key) &&
           (state->wp || user_mode(c->request));
}

/* SDM vol. 3A, 4.6.1. */
static bool denied_by_rights(const struct context *c)
{
    const struct mmu_state *state = c->state;
    const struct mmu_request *request = c->request;
    bool fetch = request->access == MMU_FETCH;

    if (fetch && !c->walk->executable)
        return true;
    if (request->access == MMU_WRITE && !c->walk->writable &&
        (state->wp || user_mode(request)))
        return true;
    if (user_mode(request))
        return !c->walk->user;
    if (!c->walk->user)
        return false;
    if (fetch)
        return state->smep;
    /* EFLAGS.AC is the program's word that it means to; nobody gave it for
     * an implicit access. */
    return state->smap && (request->implicit || !state->ac);
}

/* PK is set whenever the key denies, whatever else does (4.7). */
static bool allowed(const struct context *c)
{
    bool key = denied_by_key(c);

    if (!key && !denied_by_rights(c))
        return true;
    page_fault(c, PF_P | (key ? PF_PK : 0));
    return false;
}

/* Accessed on the whole path, dirty in the leaf of a write (SDM vol. 3A,
 * 4.8). 0, or the callback's error. A table that is reached twice, as with
 * recursive mappings, makes our own update the change that restarts us. */
static int mark(const struct context *c)
{
    struct mmu_walk *walk = c->walk;
    bool write = c->request->access == MMU_WRITE;

    for (unsigned i = 0; i < walk->references; i++) {
        const struct mmu_reference *r = &walk->reference[i];
        bool leaf = i == walk->references - 1;
        uint64_t bits = (PTE_A | (leaf && write ? PTE_D : 0)) & ~r->entry;
        int rc = 0;

        if (bits)
            rc = c->memory->set(c->memory->arg, r->pa, r->entry, bits);
        if (rc < 0)
            return rc;
    }
    walk->dirty |= write;
    return 0;
}

/* By hand: the compiler may turn a whole struct's into a call of memset. */
static void start(struct mmu_walk *walk, const struct mmu_resume *resume)
{
    walk->pa = 0;
    walk->page_bytes = 0;
    walk->writable = resume->writable;
    walk->user = resume->user;
    walk->executable = resume->executable;
    walk->global = walk->dirty = false;
    walk->key = 0;
    walk->references = 0;
}

/* One pass over the tables: false when an entry changed underneath it. */
static bool attempt(const struct context *c)
{
    struct mmu_walk *walk = c->walk;
    uint64_t offset, frame;
    int rc;

    start(walk, c->resume);
    if (!descend(c) || !allowed(c))
        return true;
    rc = mark(c);
    if (rc < 0) {
        finish(walk, MMU_NO_MEMORY, rc);
        return rc != -EAGAIN;
    }
    offset = c->request->va & (walk->page_bytes - 1);
    frame = walk->reference[walk->references - 1].entry & PTE_ADDR;
    walk->pa = (frame & ~(walk->page_bytes - 1)) | offset;
    finish(walk, MMU_OK, 0);
    return true;
}

void mmu_walk_from(const struct mmu_state *state,
                   const struct mmu_memory *memory,
                   const struct mmu_request *request,
                   const struct mmu_resume *resume, struct mmu_walk *walk)
{
    const struct context c = {state, memory, request, resume, walk};

    if (!mmu_canonical(request->va, state->levels)) {
        start(walk, resume);
        finish(walk, MMU_NOT_CANONICAL, 0);
        return;
    }
    for (unsigned i = 0; i < MMU_ATTEMPTS_MAX && !attempt(&c); i++)
        ;
}

void mmu_walk(const struct mmu_state *state, const struct mmu_memory *memory,
              const struct mmu_request *request, struct mmu_walk *walk)
{
    const struct mmu_resume root = {.level = state->levels,
                                    .table = state->cr3,
                                    .writable = true,
                                    .user = true,
                                    .executable = true};

    mmu_walk_from(state, memory, request, &root, walk);
}
