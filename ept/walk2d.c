#include "ept/walk2d.h"

#include <linux/errno.h>

/* The translation behind each guest entry read: setting its flags uses it
 * again without reading EPT or NPT again. */
struct behind {
    uint64_t gpa;
    struct ept_translation translation;
};

/* One walk in progress: what the guest walk's memory callbacks need. */
struct walking {
    const struct ept_state *nested;
    const struct mmu_memory *memory;
    struct walk2d *walk;
    unsigned level; /* of the guest entry sought next */
    unsigned levels;
    unsigned count;
    struct behind behind[MMU_LEVELS_MAX];
};

static void record(struct walk2d *walk, const struct walk2d_reference *ref)
{
    if (walk->references < WALK2D_REFERENCES_MAX)
        walk->reference[walk->references++] = *ref;
}

static void record_nested(struct walk2d *walk,
                          const struct ept_translation *translation,
                          uint64_t gpa, unsigned guest_level)
{
    for (unsigned i = 0; i < translation->references; i++) {
        const struct mmu_reference *ref = &translation->reference[i];

        record(walk, &(struct walk2d_reference){.dimension = WALK2D_NESTED,
                                                .level = ref->level,
                                                .guest_level = guest_level,
                                                .pa = ref->pa,
                                                .gpa = gpa,
                                                .entry = ref->entry});
    }
}

/* An event of the second dimension ends the walk. A linear address is always
 * behind it here. */
static void fail(struct walk2d *walk, const struct ept_translation *t,
                 uint64_t gpa)
{
    walk->outcome = t->outcome;
    walk->error = t->error;
    walk->qualification = t->qualification;
    if (t->outcome == EPT_VIOLATION)
        walk->qualification |= EPTQ_GLA_VALID;
    walk->exit_info1 = t->exit_info1;
    walk->suppress_ve = t->suppress_ve;
    walk->gpa = gpa;
}

static int guest_read(void *arg, uint64_t gpa, uint64_t *entry)
{
    struct walking *w = arg;
    const struct ept_request request = {.gpa = gpa, .purpose = EPT_FOR_TABLE};
    struct behind *behind;
    int error;

    if (w->count == MMU_LEVELS_MAX || !w->level)
        return -EFAULT;
    behind = &w->behind[w->count];
    behind->gpa = gpa;
    ept_translate(w->nested, w->memory, &request, &behind->translation);
    record_nested(w->walk, &behind->translation, gpa, w->level);
    if (behind->translation.outcome != EPT_OK) {
        fail(w->walk, &behind->translation, gpa);
        return -EFAULT;
    }
    error = w->memory->read(w->memory->arg, behind->translation.pa, entry);
    if (error) {
        w->walk->gpa = gpa;
        return error;
    }
    record(w->walk, &(struct walk2d_reference){.dimension = WALK2D_GUEST,
                                               .level = w->level,
                                               .guest_level = w->level,
                                               .pa = behind->translation.pa,
                                               .gpa = gpa,
                                               .entry = *entry});
    w->count++;
    w->level--;
    return 0;
}

static void start_over(struct walking *w)
{
    w->walk->references = 0;
    w->count = 0;
    w->level = w->levels;
}

static int guest_set(void *arg, uint64_t gpa, uint64_t old, uint64_t bits)
{
    struct walking *w = arg;
    unsigned i = 0;
    int error;

    while (i < w->count && w->behind[i].gpa != gpa)
        i++;
    if (i == w->count)
        return -EFAULT;
    if (!ept_allows_update(w->nested, &w->behind[i].translation)) {
        fail(w->walk, &w->behind[i].translation, gpa);
        return -EFAULT;
    }
    error =
        w->memory->set(w->memory->arg, w->behind[i].translation.pa, old, bits);
    if (error == -EAGAIN)
        start_over(w);
    else if (error)
        w->walk->gpa = gpa;
    return error;
}

/* Advanced information: what the guest's tables say of the linear address
 * (SDM vol. 3C, 28.2.1, bits 11:9), told only of the access itself. */
static uint64_t advanced_bits(const struct mmu_walk *guest)
{
    return (guest->user ? EPTQ_GLA_USER : 0) |
           (guest->writable ? EPTQ_GLA_WRITE : 0) |
           (guest->executable ? 0 : EPTQ_GLA_XD);
}

static void finish(const struct walking *w, const struct mmu_request *request,
                   const struct mmu_walk *guest)
{
    const struct ept_request last = {.gpa = guest->pa,
                                     .purpose = EPT_FOR_ACCESS,
                                     .access = request->access,
                                     .user_address = guest->user};
    struct walk2d *walk = w->walk;
    struct ept_translation t;

    ept_translate(w->nested, w->memory, &last, &t);
    record_nested(walk, &t, guest->pa, 0);
    if (t.outcome != EPT_OK) {
        fail(walk, &t, guest->pa);
        if (t.outcome == EPT_VIOLATION)
            walk->qualification |=
                EPTQ_TRANSLATED |
                (w->nested->advanced ? advanced_bits(guest) : 0);
        return;
    }
    walk->gpa = guest->pa;
    walk->pa = t.pa;
    walk->guest_page_bytes = guest->page_bytes;
    walk->nested_page_bytes = t.page_bytes;
    walk->writable = guest->writable && (t.rights & EPT_W);
    walk->executable =
        guest->executable &&
        (t.rights & (w->nested->mbec && guest->user ? EPT_XU : EPT_X));
    walk->user = guest->user;
    walk->memory_type = t.memory_type;
    walk->ignore_pat = t.ignore_pat;
}

/* By hand: the compiler may turn a whole struct's into a call of memset. */
static void start(struct walk2d *walk)
{
    walk->outcome = EPT_OK;
    walk->error = 0;
    walk->qualification = walk->exit_info1 = 0;
    walk->suppress_ve = walk->ignore_pat = false;
    walk->gpa = walk->pa = 0;
    walk->guest_page_bytes = walk->nested_page_bytes = 0;
    walk->writable = walk->executable = walk->user = false;
    walk->memory_type = 0;
}

void walk2d(const struct mmu_state *guest, const struct ept_state *nested,
            const struct mmu_memory *memory, const struct mmu_request *request,
            struct walk2d *walk)
{
    struct walking w;
    const struct mmu_memory behind = {guest_read, guest_set, &w};
    struct mmu_walk first;

    start(walk);
    w.nested = nested;
    w.memory = memory;
    w.walk = walk;
    w.levels = guest->levels;
    start_over(&w);
    mmu_walk(guest, &behind, request, &first);
    switch (first.outcome) {
    case MMU_OK:
        finish(&w, request, &first);
        break;
    case MMU_PAGE_FAULT:
        walk->outcome = EPT_GUEST_PAGE_FAULT;
        walk->error = first.error;
        break;
    case MMU_NOT_CANONICAL:
        walk->outcome = EPT_NOT_CANONICAL;
        break;
    default:
        if (walk->outcome == EPT_OK) {
            walk->outcome = EPT_NO_MEMORY;
            walk->error = first.error;
        }
    }
}
