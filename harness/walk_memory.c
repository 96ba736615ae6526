#include "harness/walk_memory.h"

#include <errno.h>
#include <string.h>

/* Guest-physical addresses of the tables by level: apart by more than a large
 * page, as tables are that were made at different times. */
static const uint64_t table_gpa[MMU_LEVELS_MAX + 1] = {
    [1] = 0x27cc6000, [2] = 0x1f059000, [3] = 0x13b82000,
    [4] = 0x0e6f4000, [5] = 0x02a1d000,
};

/* The page, when it is small; larger ones begin below. */
#define PAGE_GPA 0x5c3de000ull

/* Host pages lie apart by more than the largest page. */
#define BACKING_PA   (8 * PAGE_1G)
#define BACKING_STEP 0x8d6a5000ull

const char *walk_level_name(unsigned level)
{
    static const char *const names[] = {"?",     "PTE",   "PDE",
                                        "PDPTE", "PML4E", "PML5E"};

    return names[level <= MMU_LEVELS_MAX ? level : 0];
}

/* ---- Reading and setting ------------------------------------------------- */

int walk_memory_host(struct walk_memory *m, uint64_t gpa, uint64_t *pa)
{
    const uint64_t mask = m->question->host_page - 1;
    struct walk_backing *backing;
    unsigned i = 0;

    if (m->question->technique == WALK_NATIVE) {
        *pa = gpa;
        return 0;
    }
    while (i < m->backings && m->backing[i].gpa != (gpa & ~mask))
        i++;
    if (gpa >= WALK_GUEST_BYTES || i == WALK_BACKINGS_MAX)
        return -EFAULT;
    backing = &m->backing[i];
    if (i == m->backings) {
        backing->gpa = gpa & ~mask;
        backing->pa = (BACKING_PA + (i + 1) * BACKING_STEP) & ~mask;
        m->backings++;
    }
    *pa = backing->pa | (gpa & mask);
    return 0;
}

static uint64_t *guest_entry(struct walk_memory *m, uint64_t gpa)
{
    for (unsigned level = m->leaf; level <= m->guest.levels; level++)
        if (gpa - table_gpa[level] < PAGE_4K)
            return &m->guest_frames[level][(gpa - table_gpa[level]) / 8];
    return NULL;
}

static uint64_t *physical_entry(struct walk_memory *m, uint64_t pa)
{
    const uint64_t in_arena = pa - WALK_ARENA_PA;

    if (m->shadow_arena) {
        if (in_arena < WALK_SHADOW_TABLES_MAX * PAGE_4K)
            return (uint64_t *)m->shadow_arena + in_arena / 8;
    } else if (m->question->technique == WALK_NESTED &&
               in_arena < sizeof m->arena_frames) {
        return &m->arena_frames[0][0] + in_arena / 8;
    }
    for (unsigned level = m->leaf; level <= m->guest.levels; level++) {
        uint64_t table;

        if (!walk_memory_host(m, table_gpa[level], &table) &&
            pa - table < PAGE_4K)
            return &m->guest_frames[level][(pa - table) / 8];
    }
    return NULL;
}

static int read_at(struct walk_log *log, const uint64_t *at, uint64_t pa,
                   uint64_t *entry)
{
    if (!at)
        return -EFAULT;
    *entry = *at;
    if (log->count < WALK_LOG_MAX) {
        log->item[log->count].pa = pa;
        log->item[log->count].entry = *at;
        log->item[log->count++].sets = 0;
    }
    return 0;
}

static int set_at(struct walk_log *log, uint64_t *at, uint64_t pa, uint64_t old,
                  uint64_t bits)
{
    unsigned i = log->count;

    if (!at)
        return -EFAULT;
    if (*at != old)
        return -EAGAIN;
    *at |= bits;
    while (i && log->item[i - 1].pa != pa)
        i--;
    if (i)
        log->item[i - 1].sets |= bits;
    return 0;
}

static int read_physical(void *arg, uint64_t pa, uint64_t *entry)
{
    struct walk_memory *m = arg;

    return read_at(&m->log, physical_entry(m, pa), pa, entry);
}

static int set_physical(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct walk_memory *m = arg;

    return set_at(&m->log, physical_entry(m, pa), pa, old, bits);
}

static int read_guest(void *arg, uint64_t gpa, uint64_t *entry)
{
    struct walk_memory *m = arg;

    return read_at(&m->log, guest_entry(m, gpa), gpa, entry);
}

static int set_guest(void *arg, uint64_t gpa, uint64_t old, uint64_t bits)
{
    struct walk_memory *m = arg;

    return set_at(&m->log, guest_entry(m, gpa), gpa, old, bits);
}

struct mmu_memory walk_memory_physical(struct walk_memory *m)
{
    return (struct mmu_memory){read_physical, set_physical, m};
}

struct mmu_memory walk_memory_guest(struct walk_memory *m)
{
    return (struct mmu_memory){read_guest, set_guest, m};
}

/* ---- Building ------------------------------------------------------------ */

/* Upper entries allow everything; the leaf decides. */
static void build_guest(struct walk_memory *m)
{
    const struct walk_question *q = m->question;
    const uint64_t mask = q->guest_page - 1, va = q->request.va;
    const uint64_t page = PAGE_GPA & ~mask;

    for (unsigned level = m->guest.levels; level > m->leaf; level--)
        m->guest_frames[level][pt_index(va, level)] =
            table_gpa[level - 1] | PTE_P | PTE_RW | PTE_US;
    m->guest_frames[m->leaf][pt_index(va, m->leaf)] =
        page | PTE_P | q->rights | (m->leaf > 1 ? PTE_PS : 0);
    m->guest.cr3 = table_gpa[m->guest.levels];
    m->page_gpa = page | (va & mask);
}

/* Maps the page of the host's that a guest-physical address lies in. */
static int map(struct walk_memory *m, uint64_t gpa, uint64_t rights)
{
    const uint64_t mask = m->question->host_page - 1;
    struct ept_range range = {.gpa = gpa & ~mask, .bytes = mask + 1};
    const struct ept_policy policy = {.page_bytes = mask + 1,
                                      .large_ppm = 1000000,
                                      .rights = rights,
                                      .memory_type = EPT_TYPE_WB};
    int err = walk_memory_host(m, range.gpa, &range.pa);

    return err ? err : ept_map(&m->nested, &m->arena, &range, &policy);
}

static bool shares_a_page(const struct walk_memory *m, uint64_t a, uint64_t b)
{
    return a / m->question->host_page == b / m->question->host_page;
}

/* The tables' pages first; where several lie in one, it is mapped once. */
static int map_all(struct walk_memory *m)
{
    const uint64_t all = EPT_RWX | (m->nested.mbec ? EPT_XU : 0);
    uint64_t before = WALK_GUEST_BYTES;
    int err = ept_map_root(&m->nested, &m->arena);

    for (unsigned level = m->guest.levels; !err && level >= m->leaf; level--) {
        if (!shares_a_page(m, table_gpa[level], before))
            err = map(m, table_gpa[level], all);
        before = table_gpa[level];
    }
    return err ? err : map(m, m->page_gpa, m->question->host_rights);
}

static int build_nested(struct walk_memory *m, struct why *why)
{
    int err;

    m->arena = (struct ept_arena){&m->arena_frames[0][0], WALK_ARENA_PA,
                                  WALK_ARENA_FRAMES, 0};
    if (m->question->pml_full) {
        m->pml = (struct ept_pml){m->pml_log, UINT16_MAX};
        m->nested.pml = &m->pml;
    }
    err = map_all(m);
    return err ? why_set(why, -err,
                         "the second dimension can't be built so: its page "
                         "size or rights are impossible (a writable page is "
                         "also readable)")
               : 0;
}

/* ---- Changes ------------------------------------------------------------- */

static uint64_t *nested_entry(struct walk_memory *m, uint64_t gpa,
                              unsigned level)
{
    uint64_t table = m->nested.root;
    unsigned at = m->nested.levels;

    for (;; at--) {
        uint64_t *entry = physical_entry(m, table + 8ull * pt_index(gpa, at));

        if (at == level || !entry)
            return entry;
        table = *entry & EPT_ADDR;
    }
}

static uint64_t entry_gpa(const struct walk_memory *m, unsigned level)
{
    return level ? table_gpa[level] +
                       8ull * pt_index(m->question->request.va, level)
                 : m->page_gpa;
}

static int change(struct walk_memory *m, const struct walk_change *c,
                  struct why *why)
{
    const unsigned leaf =
        c->nested ? pt_leaf_level(m->question->host_page) : m->leaf;
    const unsigned levels = c->nested ? m->nested.levels : m->guest.levels;
    const unsigned level = c->leaf ? leaf : c->level;
    uint64_t *entry = NULL;

    if (c->nested && m->question->technique != WALK_NESTED)
        return why_set(why, EINVAL,
                       "only nested paging has EPT or NPT entries to change; "
                       "add --technique nested");
    if (level < leaf || level > levels || c->guest_level > m->guest.levels ||
        (c->guest_level && c->guest_level < m->leaf))
        return why_set(why, EINVAL,
                       "this walk reads no %s there: %u levels, and the %s "
                       "maps the page",
                       walk_level_name(level < leaf || level > levels
                                           ? level
                                           : c->guest_level),
                       levels, walk_level_name(leaf));
    if (c->nested)
        entry = nested_entry(m, entry_gpa(m, c->guest_level), level);
    else
        entry =
            &m->guest_frames[level][pt_index(m->question->request.va, level)];
    if (!entry)
        return why_set(why, EINVAL,
                       "an earlier change leads away from that %s; change the "
                       "lower entry first",
                       walk_level_name(level));
    *entry = c->whole ? c->set : (*entry & ~c->clear) | c->set;
    return 0;
}

int walk_memory_build(struct walk_memory *m, const struct walk_question *q,
                      struct why *why)
{
    uint64_t pa;
    int err = 0;

    memset(m, 0, sizeof *m);
    m->question = q;
    m->guest = q->guest;
    m->nested = q->nested;
    m->nested.pml = NULL;
    m->leaf = pt_leaf_level(q->guest_page);
    if (!m->leaf || !pt_leaf_level(q->host_page))
        return why_set(why, EINVAL, "a page is 4K, 2M or 1G");
    if (q->guest.levels < 4 || q->guest.levels > 5 || q->nested.levels < 4 ||
        q->nested.levels > 5)
        return why_set(why, EINVAL, "tables have 4 or 5 levels");
    build_guest(m);
    for (unsigned level = m->guest.levels; level >= m->leaf; level--)
        walk_memory_host(m, table_gpa[level], &pa);
    if (q->technique == WALK_NESTED)
        err = build_nested(m, why);
    for (unsigned i = 0; !err && i < q->changes; i++)
        err = change(m, &q->change[i], why);
    return err;
}
