#include "ept/translate.h"

#include <linux/errno.h>

int ept_state_load(struct ept_state *state, uint64_t eptp, bool five_levels)
{
    const uint64_t type = eptp & EPTP_TYPE;
    const unsigned levels = (unsigned)(eptp >> EPTP_LENGTH_SHIFT & 7) + 1;
    const uint64_t known = EPTP_TYPE | 7ull << EPTP_LENGTH_SHIFT | EPTP_AD;
    const uint64_t pa = eptp & ~known;

    if (type != EPT_TYPE_UC && type != EPT_TYPE_WB)
        return -EINVAL;
    if (levels != 4 && !(levels == 5 && five_levels))
        return -EINVAL;
    if ((pa & (PAGE_4K - 1)) || pa >> state->physical_bits)
        return -EINVAL;
    state->format = EPT_FORMAT_EPT;
    state->root = pa;
    state->levels = levels;
    state->accessed_dirty = eptp & EPTP_AD;
    return 0;
}

/* By hand: the compiler may turn a whole struct's into a call of memset. */
static void start(struct ept_translation *t)
{
    t->outcome = EPT_OK;
    t->error = 0;
    t->qualification = t->exit_info1 = 0;
    t->suppress_ve = t->ignore_pat = false;
    t->pa = t->page_bytes = t->rights = 0;
    t->memory_type = 0;
    t->references = 0;
}

/* ---- EPT ------------------------------------------------------------------
 */

/* SDM vol. 3C, 29.3.2: bit 10 counts only under MBEC. */
static uint64_t right_bits(const struct ept_state *state)
{
    return EPT_RWX | (state->mbec ? EPT_XU : 0);
}

static uint64_t reserved_bits(const struct ept_state *state, uint64_t entry,
                              unsigned level)
{
    uint64_t reserved = EPT_ADDR & ~((1ull << state->physical_bits) - 1);

    if (!ept_is_leaf(entry, level)) {
        reserved |= EPT_TYPE(7) | EPT_IPAT;
        if (level > 3)
            reserved |= EPT_PS;
    } else if (level > 1) {
        reserved |= ((1ull << pt_shift(level)) - 1) & EPT_ADDR;
        if (level == 3 && !state->pages_1g)
            reserved |= EPT_PS;
    }
    return reserved;
}

/* SDM vol. 3C, 29.3.3.1; `entry` is present. */
static bool misconfigured(const struct ept_state *state, uint64_t entry,
                          unsigned level)
{
    const uint64_t execute = right_bits(state) & (EPT_X | EPT_XU);
    const unsigned type = ept_entry_type(entry);

    if (!(entry & EPT_R)) {
        if (entry & EPT_W)
            return true;
        if ((entry & execute) && !state->execute_only)
            return true;
    }
    if (entry & reserved_bits(state, entry, level))
        return true;
    return ept_is_leaf(entry, level) && (type == 2 || type == 3 || type == 7);
}

/* Where EPT's accessed and dirty flags are on, the CPU's accesses to guest
 * paging structures count as writes (SDM vol. 3C, 29.3.3.2). */
static bool counts_as_write(const struct ept_state *state,
                            const struct ept_request *request)
{
    switch (request->purpose) {
    case EPT_FOR_TABLE:
        return state->accessed_dirty;
    case EPT_FOR_UPDATE:
        return true;
    default:
        return request->access == MMU_WRITE;
    }
}

/* The access as bits 2:0 of the exit qualification. Of a guest table's entry,
 * a write is reported as read and write. */
static uint64_t access_bits(const struct ept_state *state,
                            const struct ept_request *request)
{
    if (request->purpose != EPT_FOR_ACCESS)
        return EPTQ_READ | (counts_as_write(state, request) ? EPTQ_WRITE : 0);
    return request->access == MMU_READ    ? EPTQ_READ
           : request->access == MMU_WRITE ? EPTQ_WRITE
                                          : EPTQ_FETCH;
}

/* The rights the access needs. Bits 2:0 of entry and qualification have the
 * same meaning, but for fetches under MBEC, where the linear address's mode,
 * not the CPL, picks the bit (29.3.3.2). */
static uint64_t needed_rights(const struct ept_state *state,
                              const struct ept_request *request)
{
    const uint64_t bits = access_bits(state, request);

    if (bits == EPTQ_FETCH && state->mbec && request->user_address)
        return EPT_XU;
    return bits;
}

static void violation(const struct ept_state *state,
                      const struct ept_request *request, uint64_t entry,
                      struct ept_translation *t)
{
    t->outcome = EPT_VIOLATION;
    t->suppress_ve = entry & EPT_SUPPRESS_VE;
    t->qualification = access_bits(state, request) |
                       (t->rights & EPT_RWX) << EPTQ_RIGHT_SHIFT |
                       (t->rights & EPT_XU ? EPTQ_USER_EXEC : 0);
}

/* Reads the next entry of the path; true when it is present and well formed. */
static bool ept_read(const struct ept_state *state,
                     const struct mmu_memory *memory,
                     const struct ept_request *request,
                     struct mmu_reference *ref, struct ept_translation *t)
{
    t->error = memory->read(memory->arg, ref->pa, &ref->entry);
    if (t->error) {
        t->outcome = EPT_NO_MEMORY;
        return false;
    }
    t->references++;
    if (!(ref->entry & right_bits(state))) {
        violation(state, request, ref->entry, t);
        return false;
    }
    if (misconfigured(state, ref->entry, ref->level)) {
        t->outcome = EPT_MISCONFIGURATION;
        return false;
    }
    return true;
}

/* True when the path ends in a leaf. A misconfiguration counts before what
 * the entries above it allow, so rights are only gathered here. */
static bool ept_descend(const struct ept_state *state,
                        const struct mmu_memory *memory,
                        const struct ept_request *request,
                        const struct ept_resume *resume,
                        struct ept_translation *t)
{
    uint64_t table = resume->table;
    uint64_t rights = resume->rights & right_bits(state);
    unsigned level = resume->level + 1;
    struct mmu_reference *ref;

    do {
        level--;
        ref = &t->reference[t->references];
        ref->level = level;
        ref->pa = table + 8ull * pt_index(request->gpa, level);
        if (!ept_read(state, memory, request, ref, t))
            return false;
        rights &= ref->entry;
        table = ref->entry & EPT_ADDR;
    } while (level > 1 && !ept_is_leaf(ref->entry, level));
    t->rights = rights;
    return true;
}

static uint64_t missing_flags(const struct ept_translation *t, unsigned i,
                              bool write)
{
    const bool leaf = i + 1 == t->references;
    const uint64_t wanted = EPT_A | (leaf && write ? EPT_D : 0);

    return wanted & ~t->reference[i].entry;
}

/* SDM vol. 3C, 29.3.6: the index is looked at before any accessed or dirty
 * flag is set, and an address is logged when a dirty flag was. */
static int set_flags(const struct ept_state *state,
                     const struct mmu_memory *memory,
                     const struct ept_request *request,
                     struct ept_translation *t)
{
    const bool write = counts_as_write(state, request);
    struct ept_pml *pml = state->pml;

    for (unsigned i = 0; i < t->references; i++) {
        const struct mmu_reference *ref = &t->reference[i];
        const uint64_t bits = missing_flags(t, i, write);

        if (!bits)
            continue;
        if (pml && pml->index >= EPT_PML_ENTRIES) {
            t->outcome = EPT_PML_FULL;
            return 0;
        }
        t->error = memory->set(memory->arg, ref->pa, ref->entry, bits);
        if (t->error)
            return t->error;
        if (pml && (bits & EPT_D))
            pml->log[pml->index--] = request->gpa & ~(PAGE_4K - 1);
    }
    return 0;
}

static void ept_leaf(const struct ept_request *request,
                     struct ept_translation *t)
{
    const struct mmu_reference *leaf = &t->reference[t->references - 1];
    const uint64_t offset = (1ull << pt_shift(leaf->level)) - 1;

    t->page_bytes = offset + 1;
    t->pa = (leaf->entry & EPT_ADDR & ~offset) | (request->gpa & offset);
    t->memory_type = ept_entry_type(leaf->entry);
    t->ignore_pat = leaf->entry & EPT_IPAT;
}

/* Once; -EAGAIN when an entry changed under the walk. */
static int ept_try(const struct ept_state *state,
                   const struct mmu_memory *memory,
                   const struct ept_request *request,
                   const struct ept_resume *resume, struct ept_translation *t)
{
    const uint64_t needed = needed_rights(state, request);

    start(t);
    /* What a 4-level walk can't reach is a violation (29.3.3.2). */
    if (request->gpa >> pt_shift(state->levels + 1)) {
        violation(state, request, 0, t);
        return 0;
    }
    if (!ept_descend(state, memory, request, resume, t))
        return t->error;
    if (needed & ~t->rights) {
        violation(state, request, t->reference[t->references - 1].entry, t);
        return 0;
    }
    ept_leaf(request, t);
    if (!state->accessed_dirty)
        return 0;
    if (set_flags(state, memory, request, t))
        t->outcome = EPT_NO_MEMORY;
    return t->error;
}

bool ept_allows_update(const struct ept_state *state, struct ept_translation *t)
{
    const struct ept_request request = {.purpose = EPT_FOR_UPDATE};

    /* An NPT walk for a guest's table was a write to begin with. */
    if (state->format == EPT_FORMAT_NPT || (t->rights & EPT_W))
        return true;
    violation(state, &request, t->reference[t->references - 1].entry, t);
    return false;
}

/* ---- NPT ------------------------------------------------------------------
 */

/* Bit 47 (56) has no meaning of its own in a guest-physical address: extended,
 * it selects the same entries and passes the walker's canonical check. */
static uint64_t as_linear(uint64_t gpa, unsigned levels)
{
    const unsigned unused = 64 - pt_shift(levels + 1);

    return (uint64_t)((int64_t)(gpa << unused) >> unused);
}

static void npt_fault(const struct ept_request *request, int error,
                      struct ept_translation *t)
{
    t->outcome = EPT_NESTED_FAULT;
    t->exit_info1 =
        (uint64_t)(unsigned)error |
        (request->purpose == EPT_FOR_ACCESS ? NPF_FINAL : NPF_TABLE);
}

static void npt_take(const struct ept_request *request,
                     const struct mmu_walk *walk, struct ept_translation *t)
{
    t->references = walk->references;
    for (unsigned i = 0; i < walk->references; i++)
        t->reference[i] = walk->reference[i];
    switch (walk->outcome) {
    case MMU_OK:
        t->pa = walk->pa;
        t->page_bytes = walk->page_bytes;
        t->rights = EPT_R | (walk->writable ? EPT_W : 0) |
                    (walk->executable ? EPT_X | EPT_XU : 0);
        break;
    case MMU_PAGE_FAULT:
        npt_fault(request, walk->error, t);
        break;
    default:
        t->outcome = EPT_NO_MEMORY;
        t->error = walk->error;
    }
}

/* APM vol. 2, 15.25.5: every nested walk is a user access, so CR0.WP, SMEP
 * and SMAP have no say; one for a guest's table is a user write. */
static void npt_translate(const struct ept_state *state,
                          const struct mmu_memory *memory,
                          const struct ept_request *request,
                          const struct ept_resume *resume,
                          struct ept_translation *t)
{
    const enum mmu_access access =
        request->purpose == EPT_FOR_ACCESS ? request->access : MMU_WRITE;
    const struct mmu_state paging = {.cr3 = state->root,
                                     .levels = state->levels,
                                     .physical_bits = state->physical_bits,
                                     .nxe = state->nxe,
                                     .g_reserved = true,
                                     .pages_1g = state->pages_1g};
    const struct mmu_request nested = {
        .va = as_linear(request->gpa, state->levels),
        .access = access,
        .user = true};
    const struct mmu_resume from = {.level = resume->level,
                                    .table = resume->table,
                                    .writable = resume->rights & EPT_W,
                                    .user = true,
                                    .executable = resume->rights & EPT_X};
    struct mmu_walk walk;

    start(t);
    /* The manual is silent on what 4 levels can't reach: not present. */
    if (request->gpa >> pt_shift(state->levels + 1)) {
        npt_fault(request,
                  PF_U | (access == MMU_WRITE                 ? PF_W
                          : access == MMU_FETCH && state->nxe ? PF_I
                                                              : 0),
                  t);
        return;
    }
    mmu_walk_from(&paging, memory, &nested, &from, &walk);
    npt_take(request, &walk, t);
}

void ept_translate_from(const struct ept_state *state,
                        const struct mmu_memory *memory,
                        const struct ept_request *request,
                        const struct ept_resume *resume,
                        struct ept_translation *translation)
{
    if (state->format == EPT_FORMAT_NPT) {
        npt_translate(state, memory, request, resume, translation);
        return;
    }
    for (unsigned i = 0; i < MMU_ATTEMPTS_MAX; i++)
        if (ept_try(state, memory, request, resume, translation) != -EAGAIN)
            return;
}

void ept_translate(const struct ept_state *state,
                   const struct mmu_memory *memory,
                   const struct ept_request *request,
                   struct ept_translation *translation)
{
    const struct ept_resume root = {.level = state->levels,
                                    .table = state->root,
                                    .rights = EPT_RWX | EPT_XU};

    ept_translate_from(state, memory, request, &root, translation);
}
