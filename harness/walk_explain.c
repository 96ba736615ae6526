#include "harness/walk_explain.h"

#include "harness/walk_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Fixed once, a fault may uncover another: missing, then write-protected. */
#define SHADOW_ROUNDS_MAX 3

void walk_question_default(struct walk_question *q, uint64_t va)
{
    *q = (struct walk_question){
        .request = {.va = va, .access = MMU_READ, .user = true},
        .guest = {.levels = 4,
                  .physical_bits = 46,
                  .wp = true,
                  .nxe = true,
                  .smep = true,
                  .smap = true,
                  .pages_1g = true},
        .nested = {.format = EPT_FORMAT_EPT,
                   .levels = 4,
                   .physical_bits = 46,
                   .pages_1g = true,
                   .accessed_dirty = true,
                   .nxe = true},
        .guest_page = PAGE_4K,
        .host_page = PAGE_4K,
        .rights = PTE_RW | PTE_US,
        .host_rights = EPT_RWX,
    };
}

/* ---- Passes -------------------------------------------------------------- */

static struct walk_pass *next_pass(struct walk_answer *answer, enum walk_by by)
{
    struct walk_pass *pass = &answer->pass[answer->passes++];

    memset(pass, 0, sizeof *pass);
    pass->by = by;
    return pass;
}

/* Flags that were set belong to the latest reads of the entries; a walk that
 * started over has read more than it tells. */
static void take_flags(struct walk_pass *pass, const struct walk_log *log)
{
    unsigned at = log->count;

    for (unsigned i = pass->rows; i--;) {
        struct walk_row *row = &pass->row[i];

        while (at && (log->item[at - 1].pa != row->pa ||
                      log->item[at - 1].entry != row->entry))
            at--;
        if (at)
            row->sets = log->item[--at].sets;
    }
}

static enum walk_end end_of(enum mmu_outcome outcome)
{
    switch (outcome) {
    case MMU_OK:
        return WALK_TRANSLATED;
    case MMU_PAGE_FAULT:
        return WALK_PAGE_FAULT;
    case MMU_NOT_CANONICAL:
        return WALK_NOT_CANONICAL;
    default:
        return WALK_NO_MEMORY;
    }
}

static unsigned positive(int error)
{
    return (unsigned)(error < 0 ? -error : error);
}

static void take_walk(struct walk_pass *pass, const struct mmu_walk *walk,
                      enum walk_tables tables, uint64_t va)
{
    pass->end = end_of(walk->outcome);
    pass->error = positive(walk->error);
    pass->pa = pass->gpa = walk->pa;
    pass->guest_page = pass->host_page = walk->page_bytes;
    pass->writable = walk->writable;
    pass->executable = walk->executable;
    pass->user = walk->user;
    for (unsigned i = 0; i < walk->references; i++) {
        const struct mmu_reference *r = &walk->reference[i];

        pass->row[pass->rows++] =
            (struct walk_row){.tables = tables,
                              .level = r->level,
                              .guest_level = r->level,
                              .index = pt_index(va, r->level),
                              .gpa = r->pa,
                              .pa = r->pa,
                              .entry = r->entry};
    }
}

/* ---- Native -------------------------------------------------------------- */

static void one_dimension(struct walk_memory *m, const struct mmu_state *state,
                          enum walk_tables tables, struct walk_answer *answer)
{
    const struct mmu_memory memory = walk_memory_physical(m);
    const struct mmu_request *request = &m->question->request;
    struct walk_pass *pass = next_pass(answer, WALK_BY_CPU);
    struct mmu_walk walk;

    m->log.count = 0;
    mmu_walk(state, &memory, request, &walk);
    take_walk(pass, &walk, tables, request->va);
    take_flags(pass, &m->log);
}

/* ---- Nested -------------------------------------------------------------- */

static enum walk_end nested_end(enum ept_outcome outcome)
{
    static const enum walk_end ends[] = {
        [EPT_OK] = WALK_TRANSLATED,
        [EPT_GUEST_PAGE_FAULT] = WALK_PAGE_FAULT,
        [EPT_NOT_CANONICAL] = WALK_NOT_CANONICAL,
        [EPT_VIOLATION] = WALK_VIOLATION,
        [EPT_MISCONFIGURATION] = WALK_MISCONFIGURATION,
        [EPT_PML_FULL] = WALK_PML_FULL,
        [EPT_NESTED_FAULT] = WALK_NESTED_FAULT,
        [EPT_NO_MEMORY] = WALK_NO_MEMORY,
    };

    return ends[outcome];
}

static void nested(struct walk_memory *m, struct walk_answer *answer)
{
    const struct mmu_memory memory = walk_memory_physical(m);
    struct walk_pass *pass = next_pass(answer, WALK_BY_CPU);
    struct walk2d walk;

    walk2d(&m->guest, &m->nested, &memory, &m->question->request, &walk);
    pass->end = nested_end(walk.outcome);
    pass->error = positive(walk.error);
    pass->qualification = walk.qualification;
    pass->exit_info1 = walk.exit_info1;
    pass->gpa = walk.gpa;
    pass->pa = walk.pa;
    pass->guest_page = walk.guest_page_bytes;
    pass->host_page = walk.nested_page_bytes;
    pass->writable = walk.writable;
    pass->executable = walk.executable;
    pass->user = walk.user;
    for (unsigned i = 0; i < walk.references; i++) {
        const struct walk2d_reference *r = &walk.reference[i];
        const bool guest = r->dimension == WALK2D_GUEST;

        pass->row[pass->rows++] = (struct walk_row){
            .tables = guest ? WALK_GUEST_TABLES : WALK_NESTED_TABLES,
            .level = r->level,
            .guest_level = r->guest_level,
            .index =
                pt_index(guest ? m->question->request.va : r->gpa, r->level),
            .gpa = r->gpa,
            .pa = r->pa,
            .entry = r->entry};
    }
    take_flags(pass, &m->log);
}

/* ---- Shadow -------------------------------------------------------------- */

static int host_frame(void *arg, uint64_t guest_frame,
                      struct shadow_frame *frame)
{
    struct walk_memory *m = arg;
    uint64_t pa;
    int err = guest_frame > WALK_GUEST_BYTES / PAGE_4K
                  ? -EFAULT
                  : walk_memory_host(m, guest_frame * PAGE_4K, &pa);

    if (err)
        return err;
    *frame = (struct shadow_frame){
        .frame = pa / PAGE_4K,
        .level = pt_leaf_level(m->question->host_page),
        .writable = m->question->host_rights & EPT_W,
        .executable = m->question->host_rights & EPT_X,
    };
    return 0;
}

static void no_flush_page(void *arg, uint64_t va)
{
    (void)arg;
    (void)va;
}

static void no_flush_all(void *arg)
{
    (void)arg;
}

static int make_shadow(struct walk_memory *m, struct shadow **shadow,
                       struct why *why)
{
    const size_t bytes = shadow_arena_bytes(WALK_SHADOW_TABLES_MAX);
    const struct shadow_config config = {
        .policy = SHADOW_UNSYNC, .roots = 1, .tables_pa = WALK_ARENA_PA};
    const struct shadow_ops ops = {.memory = walk_memory_guest(m),
                                   .frame = host_frame,
                                   .flush_page = no_flush_page,
                                   .flush_all = no_flush_all};
    int err;

    m->shadow_arena = aligned_alloc(PAGE_4K, (bytes + PAGE_4K - 1) & ~4095ull);
    if (!m->shadow_arena)
        return why_set(why, ENOMEM, "out of memory");
    err = shadow_init(shadow, m->shadow_arena, bytes, &config, &ops);
    if (!err)
        err = shadow_set_state(*shadow, &m->guest, SHADOW_BOTH);
    return err ? why_set(why, -err, "the shadow MMU refuses this CPU state")
               : 0;
}

/* What the software reads of the guest's tables. */
static void take_software(struct walk_memory *m, struct walk_pass *pass)
{
    const struct walk_log *log = &m->log;
    unsigned level = m->guest.levels;
    bool down = true;

    for (unsigned i = 0; i < log->count && level && down; i++, level--) {
        struct walk_row row = {.tables = WALK_GUEST_TABLES,
                               .level = level,
                               .guest_level = level,
                               .gpa = log->item[i].pa,
                               .entry = log->item[i].entry,
                               .sets = log->item[i].sets};

        row.index = (unsigned)(row.gpa / 8 % PT_ENTRIES);
        walk_memory_host(m, row.gpa, &row.pa);
        pass->row[pass->rows++] = row;
        down = (row.entry & PTE_P) && !(level <= 3 && (row.entry & PTE_PS));
    }
}

static enum walk_end fix(struct walk_memory *m, struct shadow *shadow,
                         unsigned error, struct walk_answer *answer)
{
    static const enum walk_end ends[] = {
        [SHADOW_FIXED] = WALK_HIDDEN_FAULT,
        [SHADOW_TRUE_FAULT] = WALK_TRUE_FAULT,
        [SHADOW_EMULATE_WRITE] = WALK_EMULATE,
        [SHADOW_NO_MEMORY] = WALK_NO_MEMORY,
        [SHADOW_NOT_CANONICAL] = WALK_NOT_CANONICAL,
    };
    struct walk_pass *pass = next_pass(answer, WALK_BY_SHADOW_MMU);
    struct shadow_fault fault = {0};

    m->log.count = 0;
    pass->end =
        ends[shadow_fault(shadow, error, &m->question->request, &fault)];
    pass->gpa = fault.pa;
    if (pass->end == WALK_TRUE_FAULT)
        pass->error = fault.error;
    else if (pass->end == WALK_NO_MEMORY)
        pass->error = EFAULT;
    take_software(m, pass);
    return pass->end;
}

/* The CPU walks the shadow; its fault is an exit to the shadow MMU. The CPU
 * runs with CR0.WP and EFER.NXE set (shadowpt/shadow.h). */
static int shadow(struct walk_memory *m, struct mmu_state *walked,
                  struct walk_answer *answer, struct why *why)
{
    struct shadow *s;
    int err = make_shadow(m, &s, why);

    if (err)
        return err;
    *walked = m->guest;
    walked->wp = walked->nxe = true;
    walked->cr3 = shadow_root(s);
    answer->nested_root = walked->cr3;
    for (unsigned round = 0; round < SHADOW_ROUNDS_MAX; round++) {
        const struct walk_pass *pass;

        one_dimension(m, walked, WALK_SHADOW_TABLES, answer);
        pass = &answer->pass[answer->passes - 1];
        if (pass->end != WALK_PAGE_FAULT ||
            fix(m, s, pass->error, answer) != WALK_HIDDEN_FAULT)
            break;
    }
    return 0;
}

/* ---- All ----------------------------------------------------------------- */

static int explain(struct walk_memory *m, struct walk_answer *answer,
                   struct why *why)
{
    const struct walk_question *q = m->question;
    struct mmu_state walked = m->guest;
    int err = 0;

    answer->root = m->guest.cr3;
    if (q->technique == WALK_NATIVE) {
        one_dimension(m, &walked, WALK_GUEST_TABLES, answer);
    } else if (q->technique == WALK_NESTED) {
        answer->nested_root = m->nested.root;
        nested(m, answer);
    } else {
        err = shadow(m, &walked, answer, why);
    }
    if (err || answer->pass[answer->passes - 1].end != WALK_TRANSLATED)
        return err;
    return walk_replay_all(m, &walked, answer, why);
}

int walk_explain(const struct walk_question *question,
                 struct walk_answer *answer, struct why *why)
{
    struct walk_memory *m = malloc(sizeof *m);
    int err;

    memset(answer, 0, sizeof *answer);
    if (!m)
        return why_set(why, ENOMEM, "out of memory");
    err = walk_memory_build(m, question, why);
    if (!err)
        err = explain(m, answer, why);
    free(m->shadow_arena);
    free(m);
    return err;
}
