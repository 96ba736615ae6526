#include "model/core.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Host-physical memory: tables of the second dimension first, then the
 * guest's memory in one piece. */
#define TABLES_PA     (1ull << 32)
#define PHYSICAL_BITS 52

/* A walk of the guest's tables that an EPT violation ended. */
#define VIOLATED (-EFAULT)

/* What cached entries lead to is host-physical; the guest's walker, which
 * thinks in guest-physical addresses, sees it by this bit. */
#define IS_HOST (1ull << 51)

/* ---- The second dimension ------------------------------------------------ */

static int nested_read(void *arg, uint64_t pa, uint64_t *entry)
{
    struct machine *m = arg;
    const struct ept_arena *arena = &m->nested.arena;

    machine_refer(m, pa);
    *entry = arena->frames[(pa - arena->pa) / sizeof *entry];
    return 0;
}

static int nested_set(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct machine *m = arg;
    const struct ept_arena *arena = &m->nested.arena;

    arena->frames[(pa - arena->pa) / sizeof old] = old | bits;
    return 0;
}

static struct ept_resume nested_resume(struct machine *m, uint64_t gpa)
{
    struct nested *n = &m->nested;
    uint64_t value;
    unsigned level = psc_lookup(&n->psc, gpa, &value);

    if (!level)
        return (struct ept_resume){n->state.levels, n->state.root,
                                   EPT_RWX | EPT_XU};
    m->counts.cycles_walk += n->psc.config.cycles;
    return (struct ept_resume){level - 1, value & PTE_ADDR, EPT_RWX | EPT_XU};
}

/* Tables allow everything (ept/map.h), so that rights need no place. */
static void nested_fill(struct machine *m, uint64_t gpa,
                        const struct ept_translation *t)
{
    struct nested *n = &m->nested;

    for (unsigned i = 0; i + 1 < t->references; i++)
        psc_insert(&n->psc, gpa, t->reference[i].level,
                   t->reference[i].entry & PTE_ADDR);
    if (n->has_tlb)
        tlb_insert(&n->tlb, gpa, t->page_bytes, MMU_READ,
                   t->pa & ~(t->page_bytes - 1), false);
}

static void count_nested(struct machine *m, const struct ept_request *request,
                         const struct ept_translation *t)
{
    for (unsigned i = 0; i < t->references; i++)
        m->counts.nested[t->reference[i].level]++;
    if (request->purpose == EPT_FOR_ACCESS)
        m->counts.nested_for_access += t->references;
    else
        m->counts.nested_for_tables += t->references;
}

static int nested_tables(struct machine *m, const struct ept_request *request,
                         uint64_t *page_bytes)
{
    const struct mmu_memory memory = {nested_read, nested_set, m};
    const struct ept_resume resume = nested_resume(m, request->gpa);
    struct ept_translation t;

    ept_translate_from(&m->nested.state, &memory, request, &resume, &t);
    count_nested(m, request, &t);
    if (t.outcome != EPT_OK) {
        m->nested.violated = request->gpa;
        return VIOLATED;
    }
    *page_bytes = t.page_bytes;
    nested_fill(m, request->gpa, &t);
    return 0;
}

/* Ahn, Jin and Huh, ISCA 2012, section 4: one read, indexed by the guest's
 * frame number. */
static int flat_table(struct machine *m, const struct ept_request *request,
                      uint64_t *page_bytes)
{
    struct nested *n = &m->nested;
    uint64_t page = request->gpa / m->config.host_page_bytes;

    machine_refer(m, n->flat + request->gpa / PAGE_4K * 8);
    m->counts.flat++;
    if (!(n->mapped[page / 64] >> page % 64 & 1)) {
        n->violated = request->gpa;
        return VIOLATED;
    }
    *page_bytes = m->config.host_page_bytes;
    if (n->has_tlb)
        tlb_insert(&n->tlb, request->gpa, *page_bytes, MMU_READ,
                   (n->base + request->gpa) & ~(*page_bytes - 1), false);
    return 0;
}

/* A guest-physical address to a host-physical one: 0, or VIOLATED. */
static int nested_translate(struct machine *m,
                            const struct ept_request *request,
                            uint64_t *page_bytes)
{
    struct nested *n = &m->nested;
    struct tlb_hit hit;

    if (n->has_tlb && tlb_lookup(&n->tlb, request->gpa, MMU_READ, &hit)) {
        m->counts.cycles_walk += hit.cycles;
        *page_bytes = hit.page_bytes;
        return 0;
    }
    return n->flat ? flat_table(m, request, page_bytes)
                   : nested_tables(m, request, page_bytes);
}

/* ---- The host ------------------------------------------------------------ */

/* The host maps the page that was missing, of the size it finds. */
static int map_host_page(struct machine *m)
{
    struct nested *n = &m->nested;
    uint64_t gpa = n->violated, bytes = m->config.host_page_bytes;
    struct ept_range range;
    int err;

    machine_exit(m, REASON_EPT_VIOLATION, m->config.costs->ept_violation);
    if (gpa >= m->guest.ram_bytes)
        return why_set(m->why, EPROTO,
                       "guest-physical address %#llx is beyond the guest's "
                       "memory",
                       (unsigned long long)gpa);
    if (n->flat) {
        n->mapped[gpa / bytes / 64] |= 1ull << gpa / bytes % 64;
        m->counts.mapped[pt_leaf_level(bytes) - 1]++;
        return 0;
    }
    range.bytes = ept_policy_page(&n->policy, gpa);
    range.gpa = gpa & ~(range.bytes - 1);
    range.pa = n->base + range.gpa;
    m->counts.mapped[pt_leaf_level(range.bytes) - 1]++;
    err = ept_map(&n->state, &n->arena, &range, &n->policy);
    return err ? why_set(m->why, -err, "no memory for the host's tables") : 0;
}

/* ---- The guest's dimension ----------------------------------------------- */

static int guest_read(void *arg, uint64_t pa, uint64_t *entry)
{
    struct machine *m = arg;
    const struct ept_request request = {.gpa = pa, .purpose = EPT_FOR_TABLE};
    uint64_t page_bytes;
    int err = 0;

    if (pa & IS_HOST)
        pa = (pa & ~IS_HOST) - m->nested.base;
    else
        err = nested_translate(m, &request, &page_bytes);
    if (err)
        return err;
    machine_refer(m, m->nested.base + pa);
    return tables_read(&m->tables, pa, entry);
}

static int guest_set(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct machine *m = arg;

    if (pa & IS_HOST)
        pa = (pa & ~IS_HOST) - m->nested.base;
    return tables_store(&m->tables, pa, old | bits);
}

static int finish(struct machine *m, const struct mmu_request *request,
                  const struct mmu_walk *walk, struct translation *out)
{
    const struct ept_request access = {.gpa = walk->pa,
                                       .purpose = EPT_FOR_ACCESS,
                                       .access = request->access,
                                       .user_address = walk->user};
    uint64_t page_bytes = 0;

    if (nested_translate(m, &access, &page_bytes))
        return VIOLATED;
    onedim_result(walk, out);
    /* A TLB keeps the smaller of the two pages. */
    if (page_bytes < out->page_bytes)
        out->page_bytes = page_bytes;
    out->value &= ~(PTE_ADDR & (walk->page_bytes - 1));
    out->value = (out->value & ~PTE_ADDR) |
                 ((m->nested.base + walk->pa) & ~(out->page_bytes - 1));
    m->counts.walks++;
    return WALK_OK;
}

static int try_walk(struct machine *m, const struct mmu_request *request,
                    struct translation *out)
{
    const struct mmu_memory memory = {guest_read, guest_set, m};
    const struct onedim dimension = {
        .state = &m->paging,
        .memory = &memory,
        .psc = &m->psc,
        .cached_offset = m->nested.base | IS_HOST,
        .references = m->counts.guest,
    };
    struct mmu_walk walk;

    onedim_walk(m, &dimension, request, &walk);
    switch (walk.outcome) {
    case MMU_OK:
        return finish(m, request, &walk, out);
    case MMU_PAGE_FAULT:
        m->counts.walks_faulted++;
        out->error = walk.error;
        return WALK_FAULT;
    case MMU_NO_MEMORY:
        if (walk.error == VIOLATED)
            return VIOLATED;
        /* fall through */
    default:
        return why_set(m->why, EPROTO,
                       "the guest's tables lead out of its memory, or an "
                       "address is not canonical: %#llx",
                       (unsigned long long)request->va);
    }
}

static int nested_walk(struct machine *m, const struct mmu_request *request,
                       struct translation *out)
{
    int result;

    while ((result = try_walk(m, request, out)) == VIOLATED) {
        m->counts.walks_aborted++;
        result = map_host_page(m);
        if (result)
            return result;
    }
    return result;
}

/* ---- Making -------------------------------------------------------------- */

/* Address space only: the kernel gives frames as they are written. */
static void *reserve(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static uint64_t round_up(uint64_t value, uint64_t step)
{
    return (value + step - 1) / step * step;
}

static int make_tables(struct machine *m, struct why *why)
{
    struct nested *n = &m->nested;
    struct ept_range all = {.bytes = round_up(m->guest.ram_bytes, PAGE_1G)};

    n->arena.pa = TABLES_PA;
    n->arena.frame_count = ept_map_frames(m->config.nested_levels, &all) + 8;
    n->arena.frames = reserve(n->arena.frame_count * PAGE_4K);
    n->base = round_up(TABLES_PA + n->arena.frame_count * PAGE_4K, PAGE_1G);
    all.pa = n->base;
    n->state = (struct ept_state){
        .format = m->config.nested_format,
        .levels = m->config.nested_levels,
        .physical_bits = PHYSICAL_BITS,
        .pages_1g = true,
        .accessed_dirty = true,
        .nxe = true,
    };
    n->policy = (struct ept_policy){
        .page_bytes = m->config.host_page_bytes,
        .large_ppm = m->config.host_large_ppm,
        .seed = m->config.seed,
        .rights = EPT_RWX,
        .memory_type = EPT_TYPE_WB,
    };
    if (!n->arena.frames || ept_map_root(&n->state, &n->arena))
        return why_set(why, ENOMEM, "no address space for the host's tables");
    return 0;
}

static int make_flat(struct machine *m, struct why *why)
{
    struct nested *n = &m->nested;
    uint64_t pages = m->guest.ram_bytes / m->config.host_page_bytes + 1;

    n->flat = TABLES_PA;
    n->base = round_up(TABLES_PA + m->guest.ram_bytes / PAGE_4K * 8, PAGE_1G);
    n->mapped = calloc(pages / 64 + 1, sizeof *n->mapped);
    return n->mapped ? 0 : why_set(why, ENOMEM, "out of memory");
}

int nested_create(struct machine *m, struct why *why)
{
    m->walk = nested_walk;
    m->invlpg = machine_invlpg;
    m->load_cr3 = machine_load_cr3;
    return m->config.technique == MODEL_FLAT ? make_flat(m, why)
                                             : make_tables(m, why);
}

void nested_destroy(struct machine *m)
{
    struct nested *n = &m->nested;

    if (n->arena.frames)
        munmap(n->arena.frames, n->arena.frame_count * PAGE_4K);
    free(n->mapped);
}
