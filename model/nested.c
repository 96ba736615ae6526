#include "model/core.h"

#include <errno.h>
#include <sys/mman.h>

#define PHYSICAL_BITS 52

/* A walk of the guest's tables that an EPT violation ended. */
#define VIOLATED (-EFAULT)

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

static void fill_tlb(struct machine *m, uint64_t gpa, uint64_t page_bytes)
{
    const struct tlb_page page = {page_bytes, page_bytes};

    if (m->nested.has_tlb)
        tlb_fill(&m->nested.tlb, gpa, &page, MMU_READ,
                 (m->host_base + gpa) & ~(page_bytes - 1), false);
}

/* Tables allow everything (ept/map.h), so that rights need no place. */
static void nested_fill(struct machine *m, uint64_t gpa,
                        const struct ept_translation *t)
{
    struct nested *n = &m->nested;

    for (unsigned i = 0; i + 1 < t->references; i++)
        psc_insert(&n->psc, gpa, t->reference[i].level,
                   t->reference[i].entry & PTE_ADDR);
    fill_tlb(m, gpa, t->page_bytes);
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

/* The first frame of the host's page around an address. */
static uint64_t host_page(const struct machine *m, uint64_t gpa,
                          uint64_t *page_bytes)
{
    *page_bytes = ept_policy_page(&m->nested.policy, gpa);
    return (gpa & ~(*page_bytes - 1)) / PAGE_4K;
}

/* Ahn, Jin and Huh, ISCA 2012, section 4: one read, indexed by the guest's
 * frame number. */
static int flat_table(struct machine *m, const struct ept_request *request,
                      uint64_t *page_bytes)
{
    struct nested *n = &m->nested;
    uint64_t page = host_page(m, request->gpa, page_bytes);

    machine_refer(m, n->flat + request->gpa / PAGE_4K * 8);
    m->counts.flat++;
    if (request->gpa >= m->guest.ram_bytes ||
        !(n->mapped[page / 8] >> page % 8 & 1)) {
        n->violated = request->gpa;
        return VIOLATED;
    }
    fill_tlb(m, request->gpa, *page_bytes);
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
    struct ept_range range = {.bytes = 0};
    uint64_t page;
    int err = 0;

    machine_exit(m, REASON_EPT_VIOLATION, m->config.costs->ept_violation);
    if (n->violated >= m->guest.ram_bytes)
        return why_set(m->why, EPROTO,
                       "guest-physical address %#llx is beyond the guest's "
                       "memory",
                       (unsigned long long)n->violated);
    page = host_page(m, n->violated, &range.bytes);
    range.gpa = page * PAGE_4K;
    range.pa = m->host_base + range.gpa;
    m->counts.mapped[pt_leaf_level(range.bytes) - 1]++;
    if (n->flat)
        n->mapped[page / 8] |= (uint8_t)(1u << page % 8);
    else
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
        pa = (pa & ~IS_HOST) - m->host_base;
    else
        err = nested_translate(m, &request, &page_bytes);
    if (err)
        return err;
    machine_refer(m, m->host_base + pa);
    return tables_read(&m->tables, pa, entry);
}

static int guest_set(void *arg, uint64_t pa, uint64_t old, uint64_t bits)
{
    struct machine *m = arg;

    if (pa & IS_HOST)
        pa = (pa & ~IS_HOST) - m->host_base;
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
    if (page_bytes < out->page.within)
        out->page.within = page_bytes;
    out->value = (out->value & ~PTE_ADDR) |
                 ((m->host_base + walk->pa) & ~(out->page.within - 1));
    m->counts.walks++;
    return WALK_OK;
}

static int try_walk(struct machine *m, const struct mmu_request *request,
                    const struct mmu_resume *resume, struct translation *out)
{
    const struct mmu_memory memory = {guest_read, guest_set, m};
    const struct onedim dimension = {
        .state = &m->paging,
        .memory = &memory,
        .psc = &m->psc,
        .cached_offset = m->host_base | IS_HOST,
        .references = m->counts.guest,
    };
    struct mmu_walk walk;

    if (resume)
        onedim_walk_from(&dimension, request, resume, &walk);
    else
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
        return machine_no_table(m, request->va);
    }
}

int nested_walk_from(struct machine *m, const struct mmu_request *request,
                     const struct mmu_resume *resume, struct translation *out)
{
    int result;

    while ((result = try_walk(m, request, resume, out)) == VIOLATED) {
        m->counts.walks_aborted++;
        result = map_host_page(m);
        if (result)
            return result;
    }
    return result;
}

static int nested_walk(struct machine *m, const struct mmu_request *request,
                       struct translation *out)
{
    return nested_walk_from(m, request, NULL, out);
}

/* ---- Making -------------------------------------------------------------- */

static void make_policy(struct machine *m)
{
    m->nested.policy = (struct ept_policy){
        .page_bytes = m->config.host_page_bytes,
        .large_ppm = m->config.host_large_ppm,
        .seed = m->config.seed,
        .rights = EPT_RWX,
        .memory_type = EPT_TYPE_WB,
    };
}

static int make_tables(struct machine *m, uint64_t *host_next, struct why *why)
{
    struct nested *n = &m->nested;
    const struct ept_range all = {.bytes = (m->guest.ram_bytes + PAGE_1G - 1) &
                                           ~(PAGE_1G - 1)};

    n->arena.pa = *host_next;
    n->arena.frame_count = ept_map_frames(m->config.nested_levels, &all) + 8;
    n->arena.frames = machine_reserve(n->arena.frame_count * PAGE_4K);
    *host_next += n->arena.frame_count * PAGE_4K;
    n->state = (struct ept_state){
        .format = m->config.nested_format,
        .levels = m->config.nested_levels,
        .physical_bits = PHYSICAL_BITS,
        .pages_1g = true,
        .accessed_dirty = true,
        .nxe = true,
    };
    if (!n->arena.frames || ept_map_root(&n->state, &n->arena))
        return why_set(why, ENOMEM, "no address space for the host's tables");
    return 0;
}

static int make_flat(struct machine *m, uint64_t *host_next, struct why *why)
{
    struct nested *n = &m->nested;

    n->flat = *host_next;
    *host_next += m->guest.ram_bytes / PAGE_4K * 8;
    n->mapped = machine_reserve(m->guest.ram_bytes / PAGE_4K / 8 + 1);
    return n->mapped
               ? 0
               : why_set(why, ENOMEM, "no address space for the host's tables");
}

int nested_create(struct machine *m, uint64_t *host_next, struct why *why)
{
    m->walk = nested_walk;
    m->invlpg = machine_invlpg;
    m->load_cr3 = machine_load_cr3;
    make_policy(m);
    return m->config.technique == MODEL_FLAT ? make_flat(m, host_next, why)
                                             : make_tables(m, host_next, why);
}

void nested_destroy(struct machine *m)
{
    struct nested *n = &m->nested;

    if (n->arena.frames)
        munmap(n->arena.frames, n->arena.frame_count * PAGE_4K);
    if (n->mapped)
        munmap(n->mapped, m->guest.ram_bytes / PAGE_4K / 8 + 1);
}
